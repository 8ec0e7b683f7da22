"""All figures: confusion matrices, training curves, and the timeline of a song."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import matplotlib.font_manager
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from artistid import metrics
from artistid.foundation.errors import printable
from artistid.results.predictions import SongPrediction

EAST_ASIAN_FONTS = (  # of Linux, macOS and Windows; the first have Chinese, Japanese and Korean
    *("Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Sans CJK SC", "Noto Sans CJK KR"),
    *("Source Han Sans", "Droid Sans Fallback", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Arial Unicode MS", "PingFang TC", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo"),
    *("Microsoft JhengHei", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
)
MAX_LABELLED = 60  # artists in a confusion matrix; with more, names and counts would overlap
MAX_TIMELINE_ROWS = 12  # artists in a timeline: the most probable ones
N_WAVEFORM_COLUMNS = 1_000


def _png(draw: Callable[[], Figure], bounds: Literal["tight"] | None) -> bytes:
    """The figure that `draw` makes; without `bounds` in the size it was made in."""
    known = set(matplotlib.font_manager.get_font_names())
    fonts = ["DejaVu Sans", *(font for font in EAST_ASIAN_FONTS if font in known)]
    # no mathematics: a name may be Joey Bada$$
    with (
        matplotlib.rc_context({"font.family": fonts, "text.parse_math": False}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph")  # no font has it: it becomes a box
        figure = draw()
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=130, bbox_inches=bounds)
    return png.getvalue()


def shortened(name: str, max_length: int) -> str:
    """`name` on one line of at most `max_length` characters."""
    name = printable(name)
    return name if len(name) <= max_length else name[: max_length - 1] + "…"


# --- confusion matrix --------------------------------------------------------------------------


def confusion_png(counts: NDArray[np.intp], artists: Sequence[str], title: str) -> bytes:
    """Songs by true artist (rows) and predicted artist (columns), (artists, artists); colours are
    shares of the row, so that artists with many and with few songs compare."""
    return _png(lambda: _draw_confusion(counts, artists, title), "tight")


def _draw_confusion(counts: NDArray[np.intp], artists: Sequence[str], title: str) -> Figure:
    n = len(artists)
    side = min(1.5 + 0.25 * n, 20)  # inches: a cell is little larger than its number
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if n <= MAX_LABELLED:
        names = [shortened(artist, 18) for artist in artists]
        axes.set_xticks(range(n), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted artist (cells: songs; colour: share of the row)")
    axes.set_ylabel("true artist")
    axes.set_title(title)
    return figure


# --- training curves ---------------------------------------------------------------------------


Curves = Mapping[str, Sequence[float]]


def curves_png(curves: Curves, kept: int, title: str, further: Sequence[Curves] = ()) -> bytes:
    """Training by epoch: `curves` has top1, top3, loss and val_loss; `kept` is the number of the
    kept epoch, from 0. The curves of `further` seeds are faint."""
    return _png(lambda: _draw_curves(curves, kept, title, further), "tight")


def _draw_curves(curves: Curves, kept: int, title: str, further: Sequence[Curves]) -> Figure:
    epochs = np.arange(1, len(curves["loss"]) + 1)
    figure = Figure(figsize=(4.5, 5))
    accuracy, loss = figure.subplots(2, 1, sharex=True)
    for axes, name, label in (
        (accuracy, "top1", "top-1"),
        (accuracy, "top3", "top-3"),
        (loss, "loss", "train (crops, augmented)"),
        (loss, "val_loss", "val (songs)"),
    ):
        marker = "." if len(epochs) < 50 else ""
        (line,) = axes.plot(epochs, curves[name], marker=marker, label=label)
        for other in further:
            axes.plot(epochs, other[name], color=line.get_color(), alpha=0.35, linewidth=1)
    for axes in (accuracy, loss):
        axes.axvline(kept + 1, color="0.5", linestyle="--", linewidth=1, zorder=0)
        axes.grid(color="0.9", linewidth=0.5)
    accuracy.set_ylim(0, 1.03)
    accuracy.set_ylabel("accuracy on val")
    accuracy.legend()
    scores = f"{curves['top1'][kept]:.3f} / {curves['top3'][kept]:.3f}"
    which = f"{title}, the first of {1 + len(further)} seeds:\n" if further else f"{title}: "
    accuracy.set_title(f"{which}val {scores}, epoch {kept + 1} kept")
    loss.set_ylim(bottom=0)
    loss.set_ylabel("loss")
    loss.set_xlabel("epoch")
    loss.xaxis.get_major_locator().set_params(integer=True)
    loss.legend()
    figure.tight_layout()
    return figure


# --- timeline ----------------------------------------------------------------------------------


def timeline_png(prediction: SongPrediction, name: str) -> bytes:
    """The waveform of the song called `name`, and the posterior of each excerpt below it, which is
    grey where it is not like the songs of any artist."""
    return _png(lambda: _draw_timeline(prediction, name), bounds=None)


def _draw_timeline(prediction: SongPrediction, name: str) -> Figure:
    rows = _timeline_rows(prediction)
    names = [shortened(prediction.artists[row], 18) for row in rows]
    seconds = len(prediction.samples) / prediction.sample_rate
    figure = Figure(figsize=(7, 1.9 + 0.22 * len(rows)), layout="constrained")
    ((wave, unused), (grid, scale)) = figure.subplots(
        2, 2, height_ratios=[1, 0.25 * len(rows)], width_ratios=[1, 0.02]
    )
    unused.axis("off")
    n_samples = len(prediction.samples)
    starts = np.unique(np.linspace(0, n_samples, N_WAVEFORM_COLUMNS, endpoint=False, dtype=int))
    lowest = np.minimum.reduceat(prediction.samples, starts)
    highest = np.maximum.reduceat(prediction.samples, starts)
    at = np.linspace(0, seconds, len(lowest))
    wave.fill_between(at, lowest, highest, linewidth=0, color="0.4")
    wave.set_yticks([])
    wave.set_xticks([])
    ((best, probability),) = prediction.top(1)
    mark = "unknown? " if prediction.is_unknown else ""
    wave.set_title(f"{shortened(name, 50)}: {mark}{shortened(best, 30)} {probability:.0%}")
    edges, columns, is_unknown = _timeline_columns(prediction)
    colours, _ = (
        grid.pcolormesh(
            edges,
            np.arange(len(rows) + 1),
            np.where(kind, columns[:, rows].T, np.nan),
            vmin=0,
            vmax=1,
            cmap=cmap,
        )
        for kind, cmap in ((~is_unknown, "Blues"), (is_unknown, "Greys"))
    )
    grid.set_yticks(np.arange(len(rows)) + 0.5, names)
    grid.invert_yaxis()
    grid.set_xlabel("seconds")
    for axes in (wave, grid):
        axes.set_xlim(0, seconds)
    figure.colorbar(colours, cax=scale, label="posterior")
    return figure


def _timeline_rows(prediction: SongPrediction) -> NDArray[np.intp]:
    """The artists shown, most probable for the whole song first."""
    order = metrics.ranking(prediction.posterior)
    if len(order) <= MAX_TIMELINE_ROWS:
        return order
    strongest = np.argsort(-prediction.excerpts.max(axis=0), kind="stable")
    chosen = {order[0], *strongest[: MAX_TIMELINE_ROWS - 1]}
    return np.array([row for row in order if row in chosen])


def _timeline_columns(
    prediction: SongPrediction,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Edges of the columns in seconds, (columns + 1,), their posteriors, (columns, artists), NaN
    between excerpts, and whether they may be by none of the artists. Of overlapping excerpts the
    later one is shown."""
    starts_s, ends_s = prediction.starts_s, prediction.ends_s
    gaps = np.flatnonzero(starts_s[1:] > ends_s[:-1] + 1e-6)
    starts = np.insert(starts_s, gaps + 1, ends_s[gaps])
    columns = np.insert(prediction.excerpts, gaps + 1, np.nan, axis=0)
    familiarity = np.insert(prediction.excerpts_familiarity, gaps + 1, np.nan)
    return np.append(starts, ends_s[-1]), columns, familiarity < prediction.unknown_below
