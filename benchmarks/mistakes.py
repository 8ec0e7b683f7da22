"""What common mistakes in solutions of this homework cost, or seem to gain.

    python3 -m benchmarks.mistakes [--data gamemusic] [--repeats 3]

Each mistake is made on purpose and compared with the right way on the same folds of train and val;
test is not used. Models are task 1's SVM, at the best point of its grid each time, and the MLP of
task 2's baseline on musicnn and GE2E. The mistake usually made with MusicFM, 16 kHz audio where
24 kHz is expected, is made with these in the same ratio: all sounds 1.5 times faster and higher.
Splits by song and by album are compared on the demo corpus, which has several albums per artist.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artistid.dataset.demo import ensure_demo_corpus
from artistid.experiment import DEMO
from artistid.foundation.errors import require_at_least
from artistid.models.classical import SongClassifier
from artistid.models.grid_search import Candidate
from benchmarks import measured
from benchmarks.cross_validation import (
    by_family,
    by_mlp,
    draw_folds,
    embeddings,
    known_tracks,
    statistics,
    with_spread,
)
from benchmarks.measured import GAMEMUSIC, Measured

N_FOLDS = 5
HOMEWORK_S = 30.0  # of every song
WRONG_BY = 24 / 16  # MusicFM's sample rate over the course's


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus."""
    repeats: int = 3
    """Times that the folds are drawn."""

    def __post_init__(self) -> None:
        require_at_least(self, repeats=1)


class UnscaledLater(SongClassifier):
    """Scales the songs it is trained on, but not those it predicts."""

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        self.row_classifier_.set_params(scale="passthrough")
        return super().predict_proba(X)


# --- the mistakes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    mistake: str
    model: str
    right: list[Candidate]  # one per draw of the folds
    wrong: list[Candidate]

    @property
    def row(self) -> list[str]:
        scores = [(c.cv.top1 for c in self.right), (c.cv.top3 for c in self.right)]
        scores += [(c.cv.top1 for c in self.wrong), (c.cv.top3 for c in self.wrong)]
        return [self.mistake, self.model, *(with_spread(list(values)) for values in scores)]


def on_music(data: Path, repeats: int) -> list[Compared]:
    tracks, labels = known_tracks(data)
    draws = draw_folds(tracks, N_FOLDS, repeats)
    svm, mlp = f"SVM, {data.name}", f"MLP on embeddings, {data.name}"
    rows, first = statistics(tracks), statistics(tracks, HOMEWORK_S)
    right = by_family("SVM", rows, labels, draws)
    unscaled = by_family("SVM", rows, labels, draws, UnscaledLater)
    cut = by_family("SVM", first, labels, draws)
    at_its_rate = by_mlp(embeddings(tracks), labels, draws)
    at_another = by_mlp(embeddings(tracks, wrong_by=WRONG_BY), labels, draws)
    return [
        Compared("features scaled for training but not for test", svm, right, unscaled),
        Compared(f"only the first {HOMEWORK_S:.0f} s of a song used", svm, right, cut),
        Compared("audio at a rate other than the encoder's", mlp, at_its_rate, at_another),
    ]


def on_albums(data: Path, repeats: int) -> Compared:
    tracks, labels = known_tracks(data)
    right, wrong = (
        by_family("SVM", statistics(tracks), labels, draw_folds(tracks, N_FOLDS, repeats, of))
        for of in ("albums", "songs")
    )
    model = f"SVM, {data.name} (synthetic)"
    return Compared("songs of an album in training and validation", model, right, wrong)


def measure(settings: Settings) -> Measured:
    ensure_demo_corpus(DEMO)
    found = [*on_music(settings.data, settings.repeats), on_albums(DEMO, settings.repeats)]
    header = ["mistake", "model", "right: top-1", "top-3", "wrong: top-1", "top-3"]
    return Measured(
        "Mistakes",
        measured.command_of("benchmarks.mistakes", settings),
        f"Cross-validation over train and val together in {N_FOLDS} folds, drawn "
        f"{settings.repeats} times: mean (minimum to maximum). The last mistake inflates the "
        "scores; the others lower them.",
        [header, *(one.row for one in found)],
    )


if __name__ == "__main__":
    measured.run(Settings, measure, __doc__)
