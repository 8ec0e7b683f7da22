import json
import logging
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.random import Generator

from artistid.dataset.corpus import Corpus, Track
from artistid.results import record as report
from artistid.results.record import Outputs, Run

ARTISTS = ["abba", "blur", "cher", "dido"]


@dataclass(frozen=True)
class Settings:
    seed: int = 3
    cache: Path = Path("cache")


def corpus(test_artists: list[str | None]) -> Corpus:
    train = [Track(Path("x"), f"x{a}", "train", a, "album") for a in ARTISTS]
    tests = [Track(Path("t"), f"{i + 1:03d}", "test", a) for i, a in enumerate(test_artists)]
    val = [Track(Path("v"), "v", "val", "abba", "album")]
    return Corpus("some", (*train, *val, *tests), ("a warning",))


def make_run(folder: Path, test_artists: list[str | None]) -> Run:
    return Run("task1", Settings(), corpus(test_artists), Outputs(folder, folder / "result"))


def test_predictions_have_one_key_for_each_test_song(tmp_path: Path) -> None:
    run = make_run(tmp_path, [None, None])
    assert run.write_test(np.array([[0.1, 0.2, 0.4, 0.3], [0.7, 0.1, 0.0, 0.2]])) is None
    written = json.loads((tmp_path / "pred_task1.json").read_text())
    assert written == {"001": ["cher", "dido", "blur"], "002": ["abba", "dido", "blur"]}


def test_an_unusable_test_song_has_no_key_and_counts_as_wrong(tmp_path: Path) -> None:
    run = make_run(tmp_path, ["abba", "blur", "abba"])
    lost = run.corpus.split("test")[1]
    run.left_out = {lost: "is empty"}
    run.corpus = run.corpus.without([lost])
    scores = run.write_test(np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.2, 0.4, 0.3]]))
    assert list(json.loads((tmp_path / "pred_task1.json").read_text())) == ["001", "003"]
    assert scores is not None
    assert (scores.n, scores.top1, scores.per_artist["blur"].n) == pytest.approx((3, 1 / 3, 1))


def test_without_test_songs_nothing_is_written_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "artistid"):
        assert make_run(tmp_path, []).write_test(np.zeros((0, 4))) is None
    assert list(tmp_path.iterdir()) == []
    assert "no songs in test: pred_task1.json is not written" in caplog.text


def test_metrics_have_what_others_read(tmp_path: Path) -> None:
    run = make_run(tmp_path, ["abba"])
    test = run.score(np.eye(4)[:1], run.corpus.split("test"))
    run.write_metrics(test, test, best_model="SVM")
    metrics = json.loads((tmp_path / "result/metrics_task1.json").read_text())
    assert {k: metrics[k] for k in ("task", "corpus", "seed", "notices", "best_model")} == {
        "task": "task1",
        "corpus": "some",
        "seed": 3,
        "notices": ["a warning"],
        "best_model": "SVM",
    }
    assert metrics["settings"] == {"seed": 3, "cache": "cache"}
    assert "SVM on statistics of the sound" in (tmp_path / "result/index.html").read_text()
    assert metrics["versions"]["numpy"] == np.__version__
    for split in ("val", "test"):
        assert metrics[split]["n"] == 1
        assert metrics[split]["top1"] == metrics[split]["top3"] == metrics[split]["macro_f1"] == 1
        assert metrics[split]["per_artist"]["abba"]["recall"] == 1
    run.write_metrics(test, None)
    assert "test" not in json.loads((tmp_path / "result/metrics_task1.json").read_text())


def test_metrics_have_the_songs_with_calibrated_probabilities(tmp_path: Path) -> None:
    run = make_run(tmp_path, ["blur", "cher", "abba"])
    music = tmp_path / "music/a #1? 100% ü.mp3"
    tracks = [replace(t, path=music) if t.split == "val" else t for t in run.corpus.tracks]
    run.corpus = replace(run.corpus, tracks=tuple(tracks))
    lost = run.corpus.split("test")[1]
    run.left_out = {lost: "is empty"}
    run.corpus = run.corpus.without([lost])
    val, test = np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([[0, 1, 0, 0], [0.3, 0.1, 0.4, 0.2]])
    songs = json.loads(json.dumps(run.songs(val, test, 0.5)))
    squares = [pytest.approx(square / 30) for square in (16, 9, 4)]  # of 1 to 4 tenths
    (only,) = songs["val"]
    assert only == {
        "id": "v",
        "artist": "abba",
        "file": "../music/a #1? 100% ü.mp3",
        "best": [["dido", squares[0]], ["cher", squares[1]], ["blur", squares[2]]],
    }
    assert [song["id"] for song in songs["test"]] == ["001", "003", "002"]
    assert [song["artist"] for song in songs["test"]] == ["blur", "abba", "cher"]
    assert songs["test"][0]["best"][0] == ["blur", pytest.approx(1)]
    assert "best" not in songs["test"][2]


def test_songs_of_test_are_left_out_where_their_artists_are_not_known(tmp_path: Path) -> None:
    run = make_run(tmp_path, [None])
    assert list(run.songs(np.eye(4)[:1], np.eye(4)[:1], 1.0)) == ["val"]


def test_metrics_name_the_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path, [])
    val = run.corpus.split("val")
    run.draw_confusion("c.png", "SVM", np.eye(4)[:1], val)
    run.draw_curves("d.png", "CNN", {k: [0.5] for k in ("top1", "top3", "loss", "val_loss")}, 0)
    run.write_metrics(run.score(np.eye(4)[:1], val), None)
    assert json.loads((tmp_path / "result/metrics_task1.json").read_text())["figures"] == [
        {"file": "c.png", "model": "SVM", "shows": "confusion matrix"},
        {"file": "d.png", "model": "CNN", "shows": "training curves"},
    ]


def test_the_log_replaces_the_last_one_only_if_the_run_succeeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.txt"
    with report.logging_to(path):
        report.log.info("first run")

    def failing() -> None:
        with report.logging_to(path):
            report.log.info("second run")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        failing()
    assert "first run" in path.read_text()
    assert "second run" not in path.read_text()
    assert list(tmp_path.iterdir()) == [path]
    assert capsys.readouterr().out == "first run\nsecond run\n"


def test_columns_of_a_table_are_aligned() -> None:
    text = report.table([["model", "top-1"], ["a long name", "1"]])
    assert text == "model        top-1\na long name  1"


@pytest.mark.parametrize("n", [2, 20])
def test_the_confusion_matrix_can_be_read(rng: Generator, n: int) -> None:
    """Each count is in its cell, colours are shares of rows, no two labels overlap."""
    counts = rng.integers(0, 13, (n, n))
    counts[-1] = 0
    names = [f"creedence_clearwater_revival_{i}" for i in range(n)]
    figure = report._confusion_figure(counts, names, "title")
    try:
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
    finally:
        plt.close(figure)


def test_a_name_in_chinese_draws_without_complaint(tmp_path: Path) -> None:
    report.draw_confusion(tmp_path / "c.png", np.eye(2, dtype=int), ["周杰倫", "u2"], "title")
    assert (tmp_path / "c.png").stat().st_size > 1_000


def test_the_curves_show_every_epoch_and_mark_the_kept_one(tmp_path: Path) -> None:
    curves = {"top1": [0.2, 0.6, 0.5], "top3": [0.4, 0.8, 0.9], "loss": [2, 1, 0.5]}
    curves["val_loss"] = [2, 1.5, 1.6]
    figure = report._curves_figure(curves, 1, "MelCNN")
    try:
        accuracy, loss = figure.axes
        lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
        named = ("top-1", "top-3", "train (crops, augmented)", "val (songs)")
        assert [list(lines[name].get_ydata()) for name in named] == list(curves.values())
        assert all(list(lines[name].get_xdata()) == [1, 2, 3] for name in named)
        for axes in (accuracy, loss):
            assert [2, 2] in [list(line.get_xdata()) for line in axes.get_lines()]  # the mark
        assert accuracy.get_title() == "MelCNN, val: 0.600 / 0.800 kept (epoch 2)"
        figure.draw_without_rendering()
    finally:
        plt.close(figure)
    run = make_run(tmp_path, [])
    run.draw_curves("curve.png", "MelCNN", {name: [0.5] for name in curves}, 0)
    assert (tmp_path / "result/curve.png").stat().st_size > 1_000


def test_only_what_is_in_use_is_reported_as_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(report.sys.modules, "torch", raising=False)
    versions = report.provenance()["versions"]
    assert "torch" not in versions
    assert versions["numpy"] == np.__version__
