"""What the usual mistakes of this homework cost, or seem to gain.

    python3 -m benchmarks.mistakes [--data gamemusic] [--repeats 3]

Each is made on purpose, and compared with the right way by cross-validation of train and val
together, in 5 folds drawn several times, the same for both; test is not touched. By the SVM of
task 1 (the best point of its grid, each way), or the MLP of task 2's baseline on musicnn. MusicFM's
mistake, 16 kHz where 24 are expected, is made with musicnn in the same proportion: it hears
everything 1.5 times faster and higher. Splits by song and by album are compared on the demo corpus,
since there must be several albums.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

import task2_baseline
from artistid import metrics as scoring
from artistid.audio.decode import decode as audio
from artistid.audio.decode import features
from artistid.cli import DEMO
from artistid.dataset.corpus import Track
from artistid.dataset.demo import ensure_demo_corpus
from artistid.dataset.read import read_corpus
from artistid.encoders.registry import musicnn
from artistid.encoders.registry import registry as encoders
from artistid.foundation.parallel import Workers
from artistid.inference import classical, networks, training
from artistid.models.classical import Folds, SongClassifier, Songs
from artistid.models.crops import ResidentSongs
from artistid.models.devices import Devices
from benchmarks.cross_validation import N_FOLDS, best_of, folds_of
from benchmarks.measured import GAMEMUSIC, Measured

HOMEWORK_S = 30.0  # of a song that are heard
WRONG_BY = 24 / 16  # MusicFM's rate to the course's

Rows = NDArray[np.float32]  # of a song: (excerpts, columns)


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus."""
    repeats: int = 3
    """Times that the 5 folds are drawn anew."""


class UnscaledLater(SongClassifier):
    """Scales the songs that it is trained on, and no others."""

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        self.row_classifier_.set_params(scale="passthrough")
        return super().predict_proba(X)


# --- what is heard ---------------------------------------------------------------------------


def statistics(paths: Sequence[Path], most_s: float | None = None) -> list[Rows]:
    """Of each song, or of the first seconds of it."""
    settings = features.FeatureSettings()
    most = None if most_s is None else round(most_s * settings.sample_rate)
    found = []
    for path in tqdm(paths, desc="features", unit="song", disable=None, leave=False):
        samples = audio.load(path, settings.sample_rate).samples[:most]
        song = features.song_features(samples, settings)
        found.append(np.vstack([song.excerpts, song.song]))
    return found


def embeddings(paths: Sequence[Path], wrong_by: float = 1.0) -> list[Rows]:
    """musicnn's, of audio that has another rate than it says."""
    cpu = torch.device("cpu")
    found = encoders.find("musicnn", None, 0, cpu, "fp32")
    encoder = encoders.encoder(found.settings, found.source)
    rate = round(encoder.sample_rate / wrong_by)
    bar = tqdm(paths, desc="musicnn", unit="song", disable=None, leave=False)
    return [encoders.song_embeddings(audio.load(path, rate).samples, encoder, cpu) for path in bar]


# --- how right it is -------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    top1: list[float]  # one for each draw of the folds
    top3: list[float]


def by_svm(
    songs: Songs,
    labels: NDArray[np.intp],
    folds: Sequence[Folds],
    kind: type[SongClassifier] = SongClassifier,
) -> Scored:
    """Of the grid point that is best over all folds."""
    families = classical.families_for(songs, folds[0], seed=0)
    svm = next(family for family in families if family.name == "SVM")
    svm = svm._replace(classifier=kind(svm.classifier.row_classifier))
    drawn = [classical.cross_validate(svm, songs, labels, each, Workers()) for each in folds]
    best = best_of(drawn)
    return Scored([one.top1 for one in best], [one.top3 for one in best])


def by_mlp(rows: Sequence[Rows], labels: NDArray[np.intp], folds: Sequence[Folds]) -> Scored:
    found = Scored([], [])
    bar = tqdm(folds, desc="MLP", unit="draw", disable=None, leave=False)
    for seed, drawn in enumerate(bar):
        posteriors = np.zeros((len(rows), int(labels.max()) + 1))
        for known, held_out in drawn.pairs:
            trainer = _mlp(_examples(rows, labels, known), seed)
            for epoch in range(trainer.epochs):
                trainer.train_epoch(epoch)
            posteriors[held_out] = trainer.posteriors(_examples(rows, labels, held_out).songs)
        found.top1.append(scoring.top_k(posteriors, labels, 1))
        found.top3.append(scoring.top_k(posteriors, labels, 3))
    return found


def _examples(rows: Sequence[Rows], labels: NDArray[np.intp], which: Any) -> training.Examples:
    own = [rows[i] for i in which]
    songs = ResidentSongs(torch.from_numpy(np.vstack(own)), np.array([len(song) for song in own]))
    return training.Examples(songs, labels[which])


def _mlp(examples: training.Examples, seed: int) -> training.Trainer:
    settings, devices = task2_baseline.Settings(seed=seed), Devices("cpu", "auto")
    widths = networks.EmbeddingMLPSettings(int(examples.labels.max()) + 1, musicnn.POOLED)
    network = training.initialised(networks.EmbeddingMLP, widths, settings, devices)
    n_rows = round(settings.crop_seconds * musicnn.SAMPLE_RATE / musicnn.PATCH_SAMPLES)
    return training.Trainer(
        network, examples, None, n_rows, settings, devices, lambda rows, _: rows
    )


# --- the mistakes ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    mistake: str
    by: str
    right: Scored
    wrong: Scored


def on_music(data: Path, repeats: int) -> Iterator[Compared]:
    tracks, labels = _known(data)
    paths, folds = [track.path for track in tracks], folds_of(labels, repeats)
    songs = classical.as_songs(statistics(paths))
    right, by = by_svm(songs, labels, folds), f"SVM, {data.name}"
    wrong = by_svm(songs, labels, folds, UnscaledLater)
    yield Compared("features scaled for training, not for test", by, right, wrong)
    wrong = by_svm(classical.as_songs(statistics(paths, HOMEWORK_S)), labels, folds)
    yield Compared(f"only the first {HOMEWORK_S:.0f} s of a song heard", by, right, wrong)
    right = by_mlp(embeddings(paths), labels, folds)
    wrong = by_mlp(embeddings(paths, WRONG_BY), labels, folds)
    by = f"MLP on musicnn, {data.name}"
    yield Compared("audio at another rate than the encoder's", by, right, wrong)


def on_albums(repeats: int) -> Compared:
    ensure_demo_corpus(DEMO)
    tracks, labels = _known(DEMO)
    songs = classical.as_songs(statistics([track.path for track in tracks]))
    albums = [track.album_key for track in tracks]
    right = by_svm(songs, labels, folds_of(labels, repeats, albums))
    wrong = by_svm(songs, labels, folds_of(labels, repeats))
    return Compared("songs of an album on both sides", "SVM, demo (synthetic)", right, wrong)


def _known(data: Path) -> tuple[list[Track], NDArray[np.intp]]:
    """Songs of train and val, and their labels."""
    corpus = read_corpus(data)
    tracks = corpus.split("train") + corpus.split("val")
    return tracks, scoring.labels_of([track.artist for track in tracks], corpus.artists)


def measure(settings: Settings) -> Measured:
    rows = [["mistake", "by", "right: top-1", "top-3", "wrong: top-1", "top-3"]]
    for found in (*on_music(settings.data, settings.repeats), on_albums(settings.repeats)):
        row = [found.mistake, found.by]
        for scored in (found.right, found.wrong):
            row += [_words(scored.top1), _words(scored.top3)]
        rows.append(row)
    return Measured(
        "Mistakes",
        f"python3 -m benchmarks.mistakes --data {settings.data}",
        f"Cross-validation of train and val together in {N_FOLDS} folds, drawn {settings.repeats} "
        "times: mean, and least to most. The last mistake's scores are too good to be true, the "
        "others' are what is left.",
        rows,
    )


def _words(scores: Sequence[float]) -> str:
    return f"{np.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})"


if __name__ == "__main__":
    print(measure(tyro.cli(Settings, description=__doc__)))
