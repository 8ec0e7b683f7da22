"""Scores and time of each model by cross-validation over train and val together.

    python3 -m benchmarks.cross_validation [--data gamemusic] [--models SVM small MLP]
    python3 -m benchmarks.cross_validation --models small --epochs 10 20 40
    python3 -m benchmarks.cross_validation --data FOLDER --models SVM small --folds-of albums songs
    python3 -m benchmarks.cross_validation --models MLP --encoder musicnn

Test is not used. Folds are of whole albums where every artist has two or more, as in task 1;
`--folds-of songs` puts songs of one album into training and validation, which shows how much a
model knows of albums. Models are the families of task 1, each at the best point of its grid, the
two sizes of task 2's network, and the MLP of its baseline.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache as memoised
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

import task2
import task2_baseline
from artistid import metrics
from artistid.audio import melspec
from artistid.audio import source as one_channel
from artistid.audio.features import FeatureSettings, song_features
from artistid.dataset.corpus import Track
from artistid.dataset.read import read_corpus
from artistid.encoders import musicnn, registry
from artistid.foundation import progress
from artistid.foundation.errors import require_at_least
from artistid.foundation.parallel import Workers
from artistid.metrics import Labels, Posteriors
from artistid.models.classical import SongClassifier, as_songs, families
from artistid.models.crops import ResidentSongs, frames_of
from artistid.models.devices import Devices
from artistid.models.grid_search import Candidate, Folds, cross_validate, make_folds
from artistid.models.networks import Size
from artistid.models.training import Examples, Method, Trainer, TrainingSettings
from artistid.vocals.heard import Source
from benchmarks import measured
from benchmarks.measured import GAMEMUSIC, Measured, brief

ENCODERS_HZ = musicnn.SAMPLE_RATE  # and GE2E's

Arrays = Sequence[NDArray[Any]]  # one (rows, columns) array per song
FoldsOf = Literal["albums", "songs"]
Family = Literal["KNN", "RandomForest", "SVM", "LDA", "LogisticRegression"]
Model = Family | Size | Literal["MLP"]


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus."""
    models: tuple[Model, ...] = ("SVM", "small", "MLP")
    """Families of task 1; small, large: task 2's network; MLP: its baseline."""
    encoder: str = registry.WITHOUT_DOWNLOAD
    """What the MLP is put on: an encoder for audio of 16 kHz, or several, joined by "+"."""
    epochs: tuple[int, ...] = ()
    """Epochs of the networks; by default those that the tasks would train."""
    folds: int = 5
    """Folds of the cross-validation; fewer if an artist has fewer albums."""
    repeats: int = 3
    """Times that the folds are drawn, with other seeds."""
    folds_of: tuple[FoldsOf, ...] = ("albums",)
    """albums: of songs, too, where an artist has one album."""

    def __post_init__(self) -> None:
        require_at_least(self, folds=2, repeats=1)


# --- songs -------------------------------------------------------------------------------------


def known_tracks(data: Path) -> tuple[tuple[Track, ...], Labels]:
    """The tracks of train and val, and their labels."""
    corpus = read_corpus(data)
    tracks = corpus.split("train") + corpus.split("val")
    labels = metrics.labels_of([track.artist for track in tracks], corpus.artists)
    return tuple(tracks), labels


def draw_folds(
    tracks: Sequence[Track], n_folds: int, repeats: int, of: FoldsOf = "albums"
) -> list[Folds]:
    if of == "songs":
        tracks = [replace(track, album=None) for track in tracks]
    return [make_folds(tracks, n_folds, 1, seed) for seed in range(repeats)]


@memoised
def statistics(tracks: tuple[Track, ...], most_s: float | None = None) -> Arrays:
    """Task 1's rows of every song, or of its first `most_s` seconds."""
    settings = FeatureSettings()
    n_samples = None if most_s is None else round(most_s * settings.sample_rate)
    rows = []
    for track in progress.bar(tracks, desc="features", unit="song", leave=False):
        audio = one_channel.load(track.path, settings.sample_rate)
        song = song_features(audio.samples[:n_samples], settings)
        rows.append(np.vstack([song.excerpts, song.song]))
    return rows


@memoised
def log_mels(tracks: tuple[Track, ...]) -> Arrays:
    settings = melspec.MelSettings()
    return [
        melspec.song_log_mel(one_channel.load(track.path, settings.sample_rate).samples, settings)
        for track in progress.bar(tracks, desc="log-mel", unit="song", leave=False)
    ]


@memoised
def embeddings(
    tracks: tuple[Track, ...], name: str = registry.WITHOUT_DOWNLOAD, wrong_by: float = 1.0
) -> Arrays:
    """By an encoder that takes audio of 16 kHz / `wrong_by` for 16 kHz."""
    encoder = encoder_called(name)
    found = []
    for track in progress.bar(tracks, desc=encoder.name, unit="song", leave=False):
        audio = one_channel.load(track.path, round(ENCODERS_HZ / wrong_by))
        found.append(encoder.embeddings(replace(audio, sample_rate=ENCODERS_HZ)))
    return found


@memoised
def encoder_called(name: str) -> registry.AnyEncoder:
    return registry.find(registry.EncoderSettings(name), torch.device("cpu"), "fp32")


# --- scores for each draw of the folds ---------------------------------------------------------


def by_family(
    name: Family,
    rows: Arrays,
    labels: Labels,
    draws: Sequence[Folds],
    kind: type[SongClassifier] = SongClassifier,
) -> list[Candidate]:
    """Of the grid point that is best over all draws."""
    known = {family.name: family for family in families(sum(map(len, rows)), rows[0].shape[1], 0)}
    family = known[name]._replace(classifier=kind(known[name].classifier.row_classifier))
    grids = [cross_validate(family, as_songs(rows), labels, folds, Workers()) for folds in draws]
    merits = np.mean([[point.cv.merit for point in grid] for grid in grids], axis=0)
    return [grid[int(merits.argmax())] for grid in grids]


def by_network(
    method: Method,
    settings: TrainingSettings,
    arrays: Arrays,
    labels: Labels,
    draws: Sequence[Folds],
) -> list[Candidate]:
    """Trained for all epochs, without a validation that could choose one."""
    devices = Devices("auto", "auto")

    def songs(which: NDArray[np.intp]) -> ResidentSongs:
        frames = torch.from_numpy(np.vstack([arrays[i] for i in which]))
        return ResidentSongs(frames.to(devices.device), np.array([len(arrays[i]) for i in which]))

    crop_frames = frames_of(
        settings.crop_seconds, method.frames_per_second, songs(np.arange(len(arrays)))
    )
    name = method.network.__name__
    found = []
    for seed, folds in enumerate(draws):
        posteriors: Posteriors = np.zeros((len(arrays), method.widths.n_artists))
        for trained, scored in progress.bar(folds.pairs, desc=name, unit="training", leave=False):
            train = Examples(songs(trained), labels[trained])
            trainer = Trainer(method, train, crop_frames, settings, seed, devices)
            for epoch in range(trainer.epochs):
                trainer.train_epoch(epoch)
            posteriors[scored] = trainer.posteriors(songs(scored))
        found.append(Candidate({}, metrics.cv_scores(posteriors, labels)))
        scores = f"{found[-1].cv.top1:.3f} / {found[-1].cv.top3:.3f}"
        print(f"{name}, draw {seed + 1}: {scores}", file=sys.stderr, flush=True)  # it takes long
    return found


def cnn(size: Size, n_artists: int, source: Source = "mix") -> Method:
    """Task 2's."""
    return task2.cnn_on(melspec.MelSettings(), n_artists, task2.NetworkSettings(), size, source)


def by_cnn(
    size: Size, log_mels: Arrays, labels: Labels, draws: Sequence[Folds], epochs: int | None = None
) -> list[Candidate]:
    settings = replace(task2.Settings().training, epochs=epochs)
    method = cnn(size, int(labels.max()) + 1)
    return by_network(method, settings, log_mels, labels, draws)


def by_mlp(
    embeddings: Arrays,
    labels: Labels,
    draws: Sequence[Folds],
    encoder: str = registry.WITHOUT_DOWNLOAD,
    epochs: int | None = None,
) -> list[Candidate]:
    """The MLP of task 2's baseline."""
    defaults = task2_baseline.Settings()
    settings = replace(defaults.training, epochs=epochs)
    n_artists = int(labels.max()) + 1
    method = task2_baseline.mlp_on(encoder_called(encoder), n_artists, defaults.head.mixup)
    return by_network(method, settings, embeddings, labels, draws)


# --- the table ---------------------------------------------------------------------------------


def with_spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def score(
    model: Model,
    encoder: str,
    epochs: int | None,
    tracks: tuple[Track, ...],
    labels: Labels,
    draws: Sequence[Folds],
) -> list[Candidate]:
    """One for each draw of the folds."""
    if model == "small" or model == "large":
        return by_cnn(model, log_mels(tracks), labels, draws, epochs)
    if model == "MLP":
        return by_mlp(embeddings(tracks, encoder), labels, draws, encoder, epochs)
    return by_family(model, statistics(tracks), labels, draws)


def measure(settings: Settings) -> Measured:
    tracks, labels = known_tracks(settings.data)
    rows = [["model", "folds of", "epochs", "top-1", "top-3", "seconds per training"]]
    drawn: dict[str, None] = {}
    for of, model in product(settings.folds_of, settings.models):
        draws = draw_folds(tracks, settings.folds, settings.repeats, of)
        drawn[draws[0].description.partition(", ")[0]] = None
        has_epochs = model in ("small", "large", "MLP")
        for epochs in (settings.epochs or (None,)) if has_epochs else (None,):
            begin = time.perf_counter()
            found = score(model, settings.encoder, epochs, tracks, labels, draws)
            seconds = time.perf_counter() - begin
            scores = (
                with_spread([c.cv.top1 for c in found]),
                with_spread([c.cv.top3 for c in found]),
            )
            n_trainings = sum(len(folds.pairs) for folds in draws)
            rows.append([model, of, str(epochs or ""), *scores, brief(seconds / n_trainings)])
            print("  ".join(rows[-1]), file=sys.stderr, flush=True)  # it takes long
    return Measured(
        "Cross-validation",
        measured.command_of("benchmarks.cross_validation", settings),
        f"{len(tracks)} songs of train and val in {' and '.join(drawn)}, drawn "
        f"{settings.repeats} time(s): mean (minimum to maximum). Seconds include the features, "
        "once.",
        rows,
    )


if __name__ == "__main__":
    measured.run(Settings, measure, __doc__)
