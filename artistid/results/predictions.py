"""What a model says about songs: in memory, as a line of text, and in files."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from artistid import metrics
from artistid.foundation.errors import printable
from artistid.foundation.files import replacing, write_json

N_NAMED = 3  # artists in a line or a file

# how much a song is like each song of training, by that one's id and artist
Likeness = Mapping[tuple[str, str], float]
Ranked = Sequence[tuple[str, float]]  # artists with their probabilities, most probable first


class Verdict(NamedTuple):
    """What is said of a song."""

    best: Ranked
    familiarity: float
    is_unknown: bool


@dataclass(frozen=True)
class SongPrediction:
    """Of one song and of its excerpts: calibrated posteriors, and how familiar they are, in
    standard deviations from the mean of val (metrics.Calibration)."""

    artists: tuple[str, ...]
    posterior: NDArray[np.float64]  # (artists,), of the whole song
    familiarity: float
    excerpts: NDArray[np.float64]  # (excerpts, artists)
    excerpts_familiarity: NDArray[np.float64]  # (excerpts,)
    starts_s: NDArray[np.float64]  # (excerpts,), seconds
    ends_s: NDArray[np.float64]  # (excerpts,), seconds
    samples: NDArray[np.float32]  # (samples,), what the model listened to
    sample_rate: int  # Hz
    unknown_below: float  # the familiarity that 95% of the songs of val reach
    likeness: Likeness
    note: str = ""  # what to know about the file

    @property
    def is_unknown(self) -> bool:
        """Whether the song may be by none of the artists."""
        return self.familiarity < self.unknown_below

    def top(self, k: int = N_NAMED) -> list[tuple[str, float]]:
        """The `k` most probable artists with their probabilities."""
        return metrics.top_artists(self.posterior, self.artists, k)

    def nearest(self, artist: str, k: int = N_NAMED) -> list[str]:
        """The training songs by `artist` that this one is most like, the first most of all."""
        own = [song for song, by in self.likeness if by == artist]
        return sorted(own, key=lambda song: (-self.likeness[song, artist], song))[:k]

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.top(), self.familiarity, self.is_unknown)


def line(song: Path, verdict: Verdict, width: int) -> str:
    """For the screen; `width` is that of the longest song name."""
    named = ", ".join(f"{artist} {probability:.0%}" for artist, probability in verdict.best)
    mark = "unknown? " if verdict.is_unknown else ""
    return f"{printable(song.name):{width}}  {mark}{printable(named)}"


def write_predictions_json(path: Path, verdicts: Mapping[Path, Verdict]) -> None:
    """{"song.mp3": {"best": [{"artist": ..., "probability": ...}, ...], "score": ..., "unknown":
    false}, ...}"""
    content = {
        str(song): {
            "best": [{"artist": artist, "probability": p} for artist, p in verdict.best],
            "score": verdict.familiarity,
            "unknown": verdict.is_unknown,
        }
        for song, verdict in verdicts.items()
    }
    write_json(path, content)


def write_predictions_csv(path: Path, verdicts: Mapping[Path, Verdict]) -> None:
    """A header, then one row per song: song, artist_1, probability_1, artist_2, ..., score,
    unknown (0 or 1)."""
    header = ["song"]
    for rank in range(1, N_NAMED + 1):
        header += [f"artist_{rank}", f"probability_{rank}"]
    header += ["score", "unknown"]
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(header)
        for song, (best, familiarity, is_unknown) in verdicts.items():
            named = [value for pair in best for value in pair]
            named += [""] * (2 * N_NAMED - len(named))  # of a model of two artists
            rows.writerow([song, *named, familiarity, int(is_unknown)])
