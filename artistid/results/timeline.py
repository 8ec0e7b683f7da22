"""A figure of a song over time: its waveform, and which artist each stretch of it sounds like."""

from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from artistid import metrics as scoring
from artistid.inference import Heard
from artistid.results.record import shortened, write_figure

MOST_ROWS = 12  # artists; those that no stretch sounds like are left out first
N_COLUMNS = 1_000  # of the waveform


def path_for(song: Path, folder: Path, drawn: set[str]) -> Path:
    """Where in `folder` its figure goes. `drawn` are the names that are taken, to which its own is
    added: songs of one name have numbers."""
    numbered = (f"{song.stem} {number}" for number in count(2))
    name = next(name for name in chain([song.stem], numbered) if name not in drawn)
    drawn.add(name)
    return folder / f"{name}.png"


def draw(path: Path, heard: Heard, artists: Sequence[str], name: str) -> None:
    """Write the figure to `path`; `name` is the song's."""
    write_figure(path, lambda: _figure(heard, artists, name), bounds=None)


def _figure(heard: Heard, artists: Sequence[str], name: str) -> Figure:
    rows = _rows(heard)
    seconds = len(heard.samples) / heard.sample_rate
    figure, ((wave, nothing), (map_, scale)) = plt.subplots(
        2,
        2,
        figsize=(7, 1.9 + 0.22 * len(rows)),
        height_ratios=[1, 0.25 * len(rows)],
        width_ratios=[1, 0.02],
        layout="constrained",
    )
    nothing.axis("off")
    lowest, highest = _envelope(heard.samples)
    at = np.linspace(0, seconds, len(lowest))
    wave.fill_between(at, lowest, highest, linewidth=0, color="0.4")
    wave.set_yticks([])
    wave.set_xticks([])
    best = int(heard.song.argmax())
    song = shortened(name, 50)
    wave.set_title(f"{song}: {shortened(artists[best], 30)} {heard.song[best]:.0%}")
    edges, columns = _columns(heard)
    colours = map_.pcolormesh(
        edges, np.arange(len(rows) + 1), columns[:, rows].T, vmin=0, vmax=1, cmap="Blues"
    )
    map_.set_yticks(np.arange(len(rows)) + 0.5, [shortened(artists[row], 18) for row in rows])
    map_.invert_yaxis()
    map_.set_xlabel("seconds")
    for axes in (wave, map_):
        axes.set_xlim(0, seconds)
    figure.colorbar(colours, cax=scale, label="posterior")
    return figure


def _rows(heard: Heard) -> NDArray[np.intp]:
    """The artists to show, that of the whole song first."""
    if len(heard.song) <= MOST_ROWS:
        return scoring.ranking(heard.song)
    sounded = np.argsort(-heard.excerpts.max(axis=0), kind="stable")[:MOST_ROWS]
    shown = set(sounded[: MOST_ROWS - 1]) | {int(heard.song.argmax())}
    return np.array([row for row in scoring.ranking(heard.song) if row in shown])


def _columns(heard: Heard) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where columns of the map begin, and where the last one ends, in seconds, (columns + 1,); and
    their posteriors, (columns, artists): NaN where no excerpt was heard. Of excerpts that overlap,
    the later one is seen."""
    before = np.flatnonzero(heard.starts_s[1:] > heard.ends_s[:-1] + 1e-6)  # gaps
    starts = np.insert(heard.starts_s, before + 1, heard.ends_s[before])
    columns = np.insert(heard.excerpts, before + 1, np.nan, axis=0)
    return np.append(starts, heard.ends_s[-1]), columns


def _envelope(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest sample of each column of the picture."""
    starts = np.unique(np.linspace(0, len(samples), N_COLUMNS, endpoint=False, dtype=int))
    return np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
