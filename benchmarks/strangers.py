"""How well songs by artists that a model does not know are told from songs by those that it knows.

    python3 -m benchmarks.strangers --data FOLDER [--draws 6]

A quarter of the artists is left out, and every task is trained on train of the others. Their songs
in val are the known ones; the strangers are the left-out artists' songs in train and val. Test is
not used. Scores: the largest posterior, calibrated on the known songs, and its distance from the
second largest; and what predict.py goes by, the similarity with the songs of train. That of the
ensemble is the mean of its members', each in standard deviations from the mean of the known songs.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import task2
import task2_baseline
from artistid import metrics
from artistid.audio import features, melspec
from artistid.audio.cache import DEFAULT_CACHE, Entries
from artistid.audio.extraction import Recipe, extract
from artistid.dataset.corpus import Corpus, Track
from artistid.dataset.read import read_corpus
from artistid.encoders import registry
from artistid.foundation.errors import require_at_least
from artistid.foundation.parallel import Workers
from artistid.metrics import Labels, Posteriors
from artistid.models.card import ModelCard
from artistid.models.classical import families
from artistid.models.crops import frames_of, open_songs
from artistid.models.devices import Devices
from artistid.models.grid_search import GridSearch, SearchSettings
from artistid.models.known_songs import KnownSongs
from artistid.models.training import Examples, Method, Trainer, TrainingSettings
from benchmarks import measured
from benchmarks.cross_validation import cnn, encoder_called
from benchmarks.measured import Measured


@dataclass(frozen=True)
class Settings:
    data: Path
    """The corpus."""
    draws: int = 6
    """Times that a quarter of the artists is left out."""
    epochs: int | None = None
    """Epochs of the networks; by default those of the tasks."""
    cache: Path = DEFAULT_CACHE
    """Folder for what is extracted."""

    def __post_init__(self) -> None:
        require_at_least(self, draws=1)


@dataclass(frozen=True)
class Draw:
    """Who is left out, and whose songs are which."""

    artists: Sequence[str]  # that are learnt
    train: Sequence[Track]
    known: Sequence[Track]
    strangers: Sequence[Track]

    @property
    def scored(self) -> list[Track]:
        return [*self.known, *self.strangers]

    def labels(self, tracks: Sequence[Track]) -> Labels:
        return metrics.labels_of([track.artist for track in tracks], self.artists)


def draw_artists(corpus: Corpus, seed: int) -> Draw:
    train, val = corpus.split("train"), corpus.split("val")
    order = np.random.default_rng(seed).permutation(corpus.artists)
    left_out = set(order[: round(len(order) / 4)])
    return Draw(
        [artist for artist in corpus.artists if artist not in left_out],
        [track for track in train if track.artist not in left_out],
        [track for track in val if track.artist not in left_out],
        [track for track in train + val if track.artist in left_out],
    )


# --- what a task says --------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """Of the known songs, then of the strangers."""

    posteriors: Posteriors  # (songs, artists), not calibrated
    similarity: NDArray[np.float64]  # (songs,)


def said_by_statistics(draw: Draw, entries: Mapping[Track, Entries]) -> Said:
    """By the best of task 1's classifiers in cross-validation on train."""
    card = ModelCard("task1", tuple(draw.artists), {})
    load = features.SongLoader(entries)
    search = GridSearch(card, families, load, SearchSettings(), 0, Workers())
    trials = search.fit(draw.train, draw.known)
    best = trials[search.choose(trials)]
    runs, vectors = best.answers(draw.scored)
    return Said(runs[0], best.known.similarity(vectors))


def said_by_network(
    draw: Draw, entries: Mapping[Track, Entries], method: Method, training: TrainingSettings
) -> Said:
    devices = Devices("auto", "auto")

    def songs(tracks: Sequence[Track]) -> Any:
        own = [entries[track] for track in tracks]
        return open_songs(own, method.array, devices.device)

    train = Examples(songs(draw.train), draw.labels(draw.train))
    crop_frames = frames_of(training.crop_seconds, method.frames_per_second, train.songs)
    trainer = Trainer(method, train, crop_frames, training, 0, devices)
    for epoch in range(trainer.epochs):
        trainer.train_epoch(epoch)
    known = KnownSongs.of(trainer.outputs(train.songs).vectors, draw.train)
    posteriors, vectors = trainer.outputs(songs(draw.scored))
    return Said(posteriors, known.similarity(vectors))


# --- how well strangers are told ---------------------------------------------------------------


class Scored(NamedTuple):
    """Of the known songs, then of the strangers."""

    posteriors: Posteriors  # calibrated
    familiarity: NDArray[np.float64]
    scores: Mapping[str, NDArray[np.float64]]  # by name


def scored(draw: Draw, said: Said) -> Scored:
    n_known = len(draw.known)
    labels = draw.labels(draw.known)
    calibration = metrics.calibrate(said.posteriors[:n_known], said.similarity[:n_known], labels)
    calibrated = metrics.tempered(said.posteriors, calibration.temperature)
    second, first = np.sort(calibrated, axis=1)[:, -2:].T
    scores = {
        "largest posterior": first,
        "margin": first - second,
        "similarity": said.similarity,
    }
    return Scored(calibrated, calibration.familiarity(said.similarity), scores)


def together(members: Sequence[Scored]) -> Said:
    """The ensemble, with equal weights."""
    return Said(
        np.mean([member.posteriors for member in members], axis=0),
        np.mean([member.familiarity for member in members], axis=0),
    )


def auroc_and_caught(draw: Draw, scores: NDArray[np.float64]) -> tuple[float, float]:
    """The area under the curve, and the share of strangers below 95% of the known songs."""
    n_known = len(draw.known)
    is_known = np.arange(len(scores)) < n_known
    caught = (scores[n_known:] < metrics.familiarity_of_known(scores[:n_known])).mean()
    return float(roc_auc_score(is_known, scores)), float(caught)


def extracted(corpus: Corpus, settings: Settings) -> Mapping[str, Mapping[Track, Entries]]:
    """By task, of every song in train and val."""
    tracks = corpus.split("train") + corpus.split("val")
    recipes: Mapping[str, Recipe] = {
        "task1": features.recipe(features.FeatureSettings()),
        "task2": melspec.recipe(melspec.MelSettings()),
        "task2_baseline": encoder_called(registry.WITHOUT_DOWNLOAD).recipe,
    }
    return {
        task: {
            track: (entry,)
            for track, entry in extract(tracks, recipe, settings.cache, Workers()).entries.items()
        }
        for task, recipe in recipes.items()
    }


def said_by_all(
    draw: Draw, entries: Mapping[str, Mapping[Track, Entries]], settings: Settings
) -> dict[str, Said]:
    n = len(draw.artists)
    baseline = task2_baseline.Settings()
    encoder = encoder_called(registry.WITHOUT_DOWNLOAD)
    mlp = task2_baseline.mlp_on(encoder, n, baseline.head.mixup)
    networks = {
        "task2": (cnn("small", n), task2.Settings().training),
        "task2_baseline": (mlp, baseline.training),
    }
    said = {"task1": said_by_statistics(draw, entries["task1"])}
    for task, (method, training) in networks.items():
        own = replace(training, epochs=settings.epochs)
        said[task] = said_by_network(draw, entries[task], method, own)
    return said


def measure(settings: Settings) -> Measured:
    corpus = read_corpus(settings.data)
    entries = extracted(corpus, settings)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in range(settings.draws):
        draw = draw_artists(corpus, seed)
        models = {
            task: scored(draw, said) for task, said in said_by_all(draw, entries, settings).items()
        }
        models["ensemble"] = scored(draw, together([*models.values()]))
        for task, model in models.items():
            for name, scores in model.scores.items():
                own = found.setdefault((task, name), [])
                own.append(auroc_and_caught(draw, scores))
                line = f"draw {seed + 1}: {task}, {name}: {own[-1][0]:.3f}"
                print(line, file=sys.stderr, flush=True)  # it takes long
    rows = [["model", "score", "AUROC", "from, to", "strangers caught"]]
    for (task, name), values in found.items():
        auroc, caught = zip(*values, strict=True)
        row = [task, name, f"{np.mean(auroc):.3f}", f"{min(auroc):.3f}, {max(auroc):.3f}"]
        rows.append([*row, f"{np.mean(caught):.3f}"])
    return Measured(
        "Unknown artists",
        measured.command_of("benchmarks.strangers", settings),
        f"A quarter of {len(corpus.artists)} artists left out, {settings.draws} draws: mean. "
        "Strangers caught: share of their songs whose score lies below what 95% of the known "
        "artists' songs reach.",
        rows,
    )


if __name__ == "__main__":
    measured.run(Settings, measure, __doc__)
