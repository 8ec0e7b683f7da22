"""The figures, as matplotlib draws them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.random import Generator

from artistid.results import figures
from artistid.results.predictions import SongPrediction

CURVES = {
    "top1": [0.2, 0.6, 0.5],
    "top3": [0.4, 0.8, 0.9],
    "loss": [2, 1, 0.5],
    "val_loss": [2, 1.5, 1.6],
}


# --- confusion matrix --------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 20])
def test_the_confusion_matrix_can_be_read(rng: Generator, n: int) -> None:
    """Each count is in its cell, colours are shares of rows, no two labels overlap."""
    counts = rng.integers(0, 13, (n, n))
    counts[-1] = 0
    names = [f"creedence_clearwater_revival_{i}" for i in range(n)]
    figure = figures._draw_confusion(counts, names, "title")
    (axes,) = figure.axes
    figure.draw_without_rendering()
    cells = {tuple(map(int, t.get_position()[::-1])): t.get_text() for t in axes.texts}
    assert cells == {(i, j): str(counts[i, j]) for i, j in np.argwhere(counts)}
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares[:-1].sum(axis=1), 1)
    np.testing.assert_allclose(shares[-1], 0)
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    steps = np.diff([t.get_position()[0] for t in axes.get_xticklabels()])
    pixels = axes.transData.transform([[1, 0]])[0, 0] - axes.transData.transform([[0, 0]])[0, 0]
    # slanted by 60 degrees, neighbours are a cell's width times sin 60 apart
    height = axes.get_yticklabels()[0].get_window_extent().height
    assert (steps * pixels * np.sin(np.pi / 3) > height).all()
    cell_width = max(text.get_window_extent().width for text in axes.texts)
    assert cell_width < pixels


def test_a_large_confusion_matrix_has_colours_only() -> None:
    n = figures.MAX_LABELLED + 1
    (axes,) = figures._draw_confusion(np.eye(n, dtype=int), ["abba"] * n, "title").axes
    assert not axes.texts
    assert np.array_equal(axes.images[0].get_array(), np.eye(n))


def test_a_dollar_is_no_mathematics() -> None:
    names = ["Joey Bada$$", "$uicideboy$", r"$\x$"]
    figures.confusion_png(np.eye(3, dtype=int), names, "Ma$e & 100% Co$t")


def test_a_chinese_name_draws_without_a_warning() -> None:
    png = figures.confusion_png(np.eye(2, dtype=int), ["周杰倫", "u2"], "title")
    assert png.startswith(b"\x89PNG")


# --- curves ------------------------------------------------------------------------------------


def test_the_curves_show_every_epoch_and_mark_the_kept_one() -> None:
    other = {name: values[::-1] for name, values in CURVES.items()}
    figure = figures._draw_curves(CURVES, 1, "MelCNN", [other])
    accuracy, loss = figure.axes
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    labels = ("top-1", "top-3", "train (crops, augmented)", "val (songs)")
    assert [list(lines[label].get_ydata()) for label in labels] == list(CURVES.values())
    assert all(list(lines[label].get_xdata()) == [1, 2, 3] for label in labels)
    for axes in (accuracy, loss):
        assert len(axes.get_legend().get_texts()) == 2  # another seed is drawn, and has no label
        assert len(axes.get_lines()) == 5
        assert [2, 2] in [list(line.get_xdata()) for line in axes.get_lines()]  # the mark
    kept = "val 0.600 / 0.800, epoch 2 kept"
    assert accuracy.get_title() == f"MelCNN, the first of 2 seeds:\n{kept}"
    alone = figures._draw_curves(CURVES, 1, "MelCNN", []).axes[0]
    assert alone.get_title() == f"MelCNN: {kept}"


def test_a_single_epoch_is_drawn() -> None:
    curves = {name: values[:1] for name, values in CURVES.items()}
    assert figures.curves_png(curves, 0, "MelCNN").startswith(b"\x89PNG")


# --- timeline ----------------------------------------------------------------------------------


def predicted(
    posterior: np.ndarray, excerpts: np.ndarray, starts_s: list[float], ends_s: list[float]
) -> SongPrediction:
    seconds = int(ends_s[-1])
    samples = np.random.default_rng(1).normal(0, 0.1, seconds * 8_000).astype(np.float32)
    artists = tuple(f"artist {i}" for i in range(len(posterior)))
    starts, ends = np.array(starts_s), np.array(ends_s)
    scores = excerpts.max(axis=1)
    return SongPrediction(
        artists,
        posterior,
        float(posterior.max()),
        excerpts,
        scores,
        starts,
        ends,
        samples,
        8_000,
        unknown_below=0.0,
        likeness={},
    )


@pytest.mark.parametrize("n", [5, 30])
def test_the_timeline_shows_every_excerpt(rng: Generator, n: int) -> None:
    posterior, excerpts = rng.dirichlet(np.ones(n)), rng.dirichlet(np.full(n, 0.1), 5)
    prediction = predicted(posterior, excerpts, [0, 3, 6, 9, 10], [3, 6, 9, 12, 13])
    figure = figures._draw_timeline(prediction, "song " * 30)
    figure.draw_without_rendering()
    wave, grid = (axes for axes in figure.axes if axes.get_xlim() == (0, 13))
    best = posterior.argmax()
    assert wave.get_title().endswith(f"…: artist {best} {posterior[best]:.0%}")
    labels = [label.get_text() for label in grid.get_yticklabels()]
    assert labels[0] == f"artist {best}"
    assert len(labels) == n or n > figures.MAX_TIMELINE_ROWS >= len(labels)
    rows = [prediction.artists.index(label) for label in labels]
    assert list(posterior[rows]) == sorted(posterior[rows], reverse=True)
    if n > figures.MAX_TIMELINE_ROWS:  # nobody with a stronger excerpt is left out
        others = np.delete(excerpts.max(axis=0), rows)
        assert np.delete(excerpts.max(axis=0)[rows], 0).min() >= others.max()
    drawn = grid.collections[0].get_array()
    np.testing.assert_array_equal(np.asarray(drawn), excerpts[:, rows].T)


def test_excerpts_that_may_be_by_somebody_else_are_grey() -> None:
    excerpts = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
    prediction = predicted(np.array([0.55, 0.45]), excerpts, [0, 5, 10], [5, 10, 15])
    figure = figures._draw_timeline(replace(prediction, unknown_below=0.6), "song")
    wave, grid = (axes for axes in figure.axes if axes.get_xlim() == (0, 15))
    assert wave.get_title() == "song: unknown? artist 0 55%"
    blue, grey = (np.asarray(c.get_array().filled(np.nan)) for c in grid.collections)
    assert [c.get_cmap().name for c in grid.collections] == ["Blues", "Greys"]
    expected = excerpts.T.copy()
    expected[:, 1] = np.nan
    np.testing.assert_array_equal(blue, expected)
    np.testing.assert_array_equal(grey[:, 1], [0.5, 0.5])
    assert np.isnan(grey[:, [0, 2]]).all()


def test_the_timeline_leaves_silence_blank() -> None:
    excerpts = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
    prediction = predicted(np.array([0.5, 0.5]), excerpts, [0, 5, 20], [5, 10, 25])
    edges, columns, is_unknown = figures._timeline_columns(prediction)
    assert list(edges) == [0, 5, 10, 20, 25]
    np.testing.assert_array_equal(columns[[0, 1, 3]], excerpts)
    assert np.isnan(columns[2]).all()
    assert not is_unknown.any()
    assert figures.timeline_png(prediction, "song").startswith(b"\x89PNG")


def test_long_and_odd_names_stay_on_one_line() -> None:
    assert figures.shortened("a\nb" + "c" * 20, 8) == "a\\nbccc…"
    assert figures.shortened("short", 8) == "short"
