"""What common mistakes in solutions of this homework cost, or seem to gain.

    python3 -m benchmarks.mistakes [--data gamemusic] [--repeats 3]

Each mistake is made on purpose and compared with the right way on the same folds of train and val;
test is not used. Models are task 1's SVM, at the best point of its grid each time, and the MLP of
task 2's baseline on musicnn. The mistake usually made with MusicFM, 16 kHz audio where 24 kHz is
expected, is made with musicnn in the same ratio: everything sounds 1.5 times faster and higher.
Splits by song and by album are compared on the demo corpus, which has several albums per artist.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import task2_baseline
from artistid import metrics
from artistid.audio import source
from artistid.audio.features import FeatureSettings, song_features
from artistid.dataset.corpus import Track
from artistid.dataset.demo import ensure_demo_corpus
from artistid.dataset.read import read_corpus
from artistid.encoders import musicnn
from artistid.encoders.base import EMBEDDINGS
from artistid.experiment import DEMO
from artistid.foundation import progress
from artistid.foundation.parallel import Workers
from artistid.metrics import Labels
from artistid.models.classical import SongClassifier, as_songs, families
from artistid.models.crops import ResidentSongs
from artistid.models.devices import Devices
from artistid.models.grid_search import Candidate, Folds, cross_validate, make_folds
from artistid.models.networks import EmbeddingMLP, EmbeddingMLPSettings
from artistid.models.training import Examples, Method, Trainer
from benchmarks import measured
from benchmarks.measured import GAMEMUSIC, Measured

N_FOLDS = 5
HOMEWORK_S = 30.0  # of every song
WRONG_BY = 24 / 16  # MusicFM's sample rate over the course's

Rows = NDArray[np.float32]  # of a song, (excerpts, columns)


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus."""
    repeats: int = 3
    """Times that the folds are drawn."""


class UnscaledLater(SongClassifier):
    """Scales the songs it is trained on, but not those it predicts."""

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        self.row_classifier_.set_params(scale="passthrough")
        return super().predict_proba(X)


def known_tracks(data: Path) -> tuple[list[Track], Labels]:
    """The tracks of train and val, and their labels."""
    corpus = read_corpus(data)
    tracks = corpus.split("train") + corpus.split("val")
    return tracks, metrics.labels_of([track.artist for track in tracks], corpus.artists)


def draw_folds(tracks: Sequence[Track], repeats: int) -> list[Folds]:
    return [make_folds(tracks, N_FOLDS, 1, seed) for seed in range(repeats)]


def statistics(tracks: Sequence[Track], most_s: float | None = None) -> list[Rows]:
    """Task 1's rows of every song, or of its first `most_s` seconds."""
    settings = FeatureSettings()
    n_samples = None if most_s is None else round(most_s * settings.sample_rate)
    rows = []
    for track in progress.bar(tracks, desc="features", unit="song", leave=False):
        audio = source.load(track.path, settings.sample_rate)
        song = song_features(audio.samples[:n_samples], settings)
        rows.append(np.vstack([song.excerpts, song.song]))
    return rows


def embeddings(tracks: Sequence[Track], wrong_by: float = 1.0) -> list[Rows]:
    """musicnn's, of audio at 1 / `wrong_by` of the sample rate that musicnn expects."""
    encoder = musicnn.find(None, 0, torch.device("cpu"), "fp32")
    rate = round(encoder.sample_rate / wrong_by)
    return [
        encoder.song_embeddings(source.load(track.path, rate).samples)
        for track in progress.bar(tracks, desc="musicnn", unit="song", leave=False)
    ]


# --- scores for each draw of the folds ---------------------------------------------------------


def by_svm(
    rows: Sequence[Rows],
    labels: Labels,
    draws: Sequence[Folds],
    kind: type[SongClassifier] = SongClassifier,
) -> list[Candidate]:
    """Of the grid point that is best over all draws."""
    n_rows = sum(map(len, rows))  # the SVM's grid does not depend on it
    (svm,) = (f for f in families(n_rows, rows[0].shape[1], seed=0) if f.name == "SVM")
    svm = svm._replace(classifier=kind(svm.classifier.row_classifier))
    grids = [cross_validate(svm, as_songs(rows), labels, folds, Workers()) for folds in draws]
    merits = np.mean([[point.merit for point in grid] for grid in grids], axis=0)
    return [grid[int(merits.argmax())] for grid in grids]


def by_mlp(rows: Sequence[Rows], labels: Labels, draws: Sequence[Folds]) -> list[Candidate]:
    settings, devices = task2_baseline.Settings().training, Devices("cpu", "auto")
    per_second = musicnn.SAMPLE_RATE / musicnn.PATCH_SAMPLES
    n_excerpts = round(settings.crop_seconds * per_second)
    widths = EmbeddingMLPSettings(int(labels.max()) + 1, musicnn.POOLED)
    method = Method(EmbeddingMLP, widths, EMBEDDINGS, None, n_excerpts, per_second)

    def songs(which: NDArray[np.intp]) -> ResidentSongs:
        own = [rows[i] for i in which]
        return ResidentSongs(torch.from_numpy(np.vstack(own)), np.array(list(map(len, own))))

    found = []
    for seed, folds in enumerate(progress.bar(draws, desc="MLP", unit="draw", leave=False)):
        posteriors = np.zeros((len(rows), widths.n_artists))
        for trained, scored in folds.pairs:
            train = Examples(songs(trained), labels[trained])
            trainer = Trainer(method, train, settings, seed, devices)
            for epoch in range(trainer.epochs):
                trainer.train_epoch(epoch)
            posteriors[scored] = trainer.posteriors(songs(scored))
        top1, top3 = (metrics.top_k(posteriors, labels, k) for k in (1, 3))
        found.append(Candidate({}, top1, top3))
    return found


# --- the mistakes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    mistake: str
    model: str
    right: list[Candidate]  # one per draw of the folds
    wrong: list[Candidate]

    @property
    def row(self) -> list[str]:
        scores = [(c.top1 for c in self.right), (c.top3 for c in self.right)]
        scores += [(c.top1 for c in self.wrong), (c.top3 for c in self.wrong)]
        return [self.mistake, self.model, *(_with_spread(list(values)) for values in scores)]


def _with_spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def on_music(data: Path, repeats: int) -> list[Compared]:
    tracks, labels = known_tracks(data)
    draws = draw_folds(tracks, repeats)
    svm, mlp = f"SVM, {data.name}", f"MLP on musicnn, {data.name}"
    rows, first = statistics(tracks), statistics(tracks, HOMEWORK_S)
    right = by_svm(rows, labels, draws)
    unscaled = by_svm(rows, labels, draws, UnscaledLater)
    cut = by_svm(first, labels, draws)
    at_its_rate = by_mlp(embeddings(tracks), labels, draws)
    at_another = by_mlp(embeddings(tracks, WRONG_BY), labels, draws)
    return [
        Compared("features scaled for training but not for test", svm, right, unscaled),
        Compared(f"only the first {HOMEWORK_S:.0f} s of a song used", svm, right, cut),
        Compared("audio at a rate other than the encoder's", mlp, at_its_rate, at_another),
    ]


def on_albums(data: Path, repeats: int) -> Compared:
    tracks, labels = known_tracks(data)
    rows = statistics(tracks)
    right = by_svm(rows, labels, draw_folds(tracks, repeats))
    single = [replace(track, album=None) for track in tracks]  # so that folds are of songs
    wrong = by_svm(rows, labels, draw_folds(single, repeats))
    model = f"SVM, {data.name} (synthetic)"
    return Compared("songs of an album in training and validation", model, right, wrong)


def measure(settings: Settings) -> Measured:
    ensure_demo_corpus(DEMO)
    found = [*on_music(settings.data, settings.repeats), on_albums(DEMO, settings.repeats)]
    header = ["mistake", "model", "right: top-1", "top-3", "wrong: top-1", "top-3"]
    return Measured(
        "Mistakes",
        f"python3 -m benchmarks.mistakes --data {settings.data}",
        f"Cross-validation over train and val together in {N_FOLDS} folds, drawn "
        f"{settings.repeats} times: mean (minimum to maximum). The last mistake inflates the "
        "scores; the others lower them.",
        [header, *(one.row for one in found)],
    )


if __name__ == "__main__":
    measured.run(Settings, measure, __doc__)
