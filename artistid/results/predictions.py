"""What a model says about songs: in memory, as a line of text, and in files."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artistid import metrics
from artistid.foundation.errors import printable
from artistid.foundation.files import replacing, write_json

N_NAMED = 3  # artists in a line or a file

Ranked = Sequence[tuple[str, float]]  # artists with their probabilities, most probable first


@dataclass(frozen=True)
class SongPrediction:
    """Calibrated posteriors of one song, over all of it and by excerpt."""

    artists: tuple[str, ...]
    posterior: NDArray[np.float64]  # (artists,), of the whole song
    excerpts: NDArray[np.float64]  # (excerpts, artists)
    starts_s: NDArray[np.float64]  # (excerpts,), seconds
    ends_s: NDArray[np.float64]  # (excerpts,), seconds
    samples: NDArray[np.float32]  # (samples,), what the model listened to
    sample_rate: int  # Hz
    note: str = ""  # what to know about the file

    def top(self, k: int = N_NAMED) -> list[tuple[str, float]]:
        """The `k` most probable artists with their probabilities."""
        return metrics.top_artists(self.posterior, self.artists, k)


def line(song: Path, top: Ranked, width: int) -> str:
    """For the screen; `width` is that of the longest song name."""
    named = ", ".join(f"{artist} {probability:.0%}" for artist, probability in top)
    return f"{printable(song.name):{width}}  {printable(named)}"


def write_predictions_json(path: Path, predictions: Mapping[Path, Ranked]) -> None:
    """{"song.mp3": [{"artist": ..., "probability": ...}, ...], ...}"""
    content = {
        str(song): [{"artist": artist, "probability": p} for artist, p in top]
        for song, top in predictions.items()
    }
    write_json(path, content)


def write_predictions_csv(path: Path, predictions: Mapping[Path, Ranked]) -> None:
    """A header, then one row per song: song, artist_1, probability_1, artist_2, ..."""
    header = ["song"]
    for rank in range(1, N_NAMED + 1):
        header += [f"artist_{rank}", f"probability_{rank}"]
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(header)
        for song, top in predictions.items():
            rows.writerow([song, *(value for pair in top for value in pair)])
