"""What predict.py says of songs: a line each, and files for other programs."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from artistid import metrics as scoring
from artistid.foundation.errors import printable
from artistid.foundation.files import replacing, write_json

N_NAMED = 3  # artists


@dataclass(frozen=True)
class Prediction:
    song: Path
    best: list[tuple[str, float]]  # artists and their probabilities, best first

    def line(self, width: int) -> str:
        """For people; `width` is that of the longest song's name."""
        named = ", ".join(f"{artist} {probability:.0%}" for artist, probability in self.best)
        return f"{printable(self.song.name):{width}}  {printable(named)}"


def prediction(song: Path, posteriors: NDArray[np.float64], artists: Sequence[str]) -> Prediction:
    """The likeliest of the `artists`; `posteriors`, (artists,), are calibrated."""
    order = scoring.ranking(posteriors)[:N_NAMED]
    return Prediction(song, [(artists[i], float(posteriors[i])) for i in order])


def write(predictions: Sequence[Prediction], json_file: Path | None, csv_file: Path | None) -> None:
    """{"path": [{"artist": ..., "probability": ...}, ...], ...}; and a row for each song."""
    keys = ("artist", "probability")
    if json_file:
        content = {
            str(p.song): [dict(zip(keys, pair, strict=True)) for pair in p.best]
            for p in predictions
        }
        write_json(json_file, content)
    if csv_file:
        header = ["song", *(f"{key}_{n + 1}" for n in range(N_NAMED) for key in keys)]
        with (
            replacing(csv_file) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as f,
        ):
            rows = csv.writer(f)
            rows.writerow(header)
            rows.writerows([p.song, *(x for pair in p.best for x in pair)] for p in predictions)
