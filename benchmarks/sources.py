"""What vocals are worth to task 2's network: trained on mix, vocals or both, and tested on each.

    python3 -m benchmarks.sources --data FOLDER --vocals FOLDER [--train-on mix both] [--seeds 3]

Val is scored by networks trained on train, test by networks trained on train and val.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

import task2
from artistid import metrics
from artistid.audio import melspec
from artistid.audio.cache import DEFAULT_CACHE, Entries
from artistid.audio.extraction import extract
from artistid.dataset.corpus import Corpus, Track
from artistid.dataset.read import read_corpus
from artistid.foundation import progress
from artistid.foundation.errors import require_at_least
from artistid.foundation.parallel import Workers
from artistid.models.crops import frames_of, open_songs
from artistid.models.devices import Devices
from artistid.models.networks import Size
from artistid.models.training import Examples, Trainer
from artistid.vocals.heard import Source, SourceSettings, find_voices
from benchmarks import measured
from benchmarks.cross_validation import cnn
from benchmarks.measured import Measured

HEARD: Mapping[Source, tuple[Source, ...]] = {
    "mix": ("mix",),
    "vocals": ("vocals",),
    "both": ("mix", "vocals", "both"),
}

EntriesOf = Mapping[Source, Mapping[Track, Entries]]


@dataclass(frozen=True)
class Settings:
    data: Path
    """The corpus, with its answers for test."""
    vocals: Path
    """Its vocals, under the same names."""
    train_on: tuple[Source, ...] = ("mix", "both", "vocals")
    """What networks are trained on."""
    size: Size = "small"
    """Size of the network."""
    seeds: int = 3
    """Networks of each kind."""
    epochs: int | None = None
    """Epochs of every training; by default those of task 2."""
    cache: Path = DEFAULT_CACHE
    """Folder for log-mels."""

    def __post_init__(self) -> None:
        require_at_least(self, seeds=1)


def log_mels(corpus: Corpus, settings: Settings) -> EntriesOf:
    """Of every track that has vocals."""
    cache, workers = settings.cache, Workers()
    recipe = melspec.recipe(melspec.MelSettings())
    wanted = SourceSettings("vocals", settings.vocals)
    voices = find_voices(corpus.tracks, wanted, cache, workers, skip_bad=False)
    mix = extract(corpus.tracks, recipe, cache, workers).entries
    vocals = extract(corpus.tracks, recipe, cache, workers, voices.files).entries
    return {
        "mix": {track: (mix[track],) for track in mix},
        "vocals": {track: (vocals[track],) for track in mix},
        "both": {track: (mix[track], vocals[track]) for track in mix},
    }


def scored(
    corpus: Corpus,
    entries: EntriesOf,
    settings: Settings,
    trained_on: Source,
    known: Sequence[Track],
    unknown: Sequence[Track],
    seed: int,
) -> Mapping[Source, tuple[float, float]]:
    """Top-1 and top-3 of the `unknown` songs, by what is heard of them."""
    devices = Devices("auto", "auto")
    training = replace(task2.Settings().training, epochs=settings.epochs)

    def examples(tracks: Sequence[Track], source: Source) -> Examples:
        own = [entries[source][track] for track in tracks]
        labels = metrics.labels_of([track.artist for track in tracks], corpus.artists)
        return Examples(open_songs(own, melspec.LOG_MEL, devices.device), labels)

    train = examples(known, trained_on)
    method = cnn(settings.size, len(corpus.artists), trained_on)
    crop_frames = frames_of(training.crop_seconds, method.frames_per_second, train.songs)
    trainer = Trainer(method, train, crop_frames, training, seed, devices)
    for epoch in range(trainer.epochs):
        trainer.train_epoch(epoch)
    scores = {}
    for source in HEARD[trained_on]:
        found = examples(unknown, source)
        hits = metrics.ranking(trainer.posteriors(found.songs)) == found.labels[:, np.newaxis]
        scores[source] = float(hits[:, 0].mean()), float(hits[:, :3].any(axis=1).mean())
    return scores


def measure(settings: Settings) -> Measured:
    corpus = read_corpus(settings.data)
    entries = log_mels(corpus, settings)
    train, val, test = (corpus.split(split) for split in ("train", "val", "test"))
    run = partial(scored, corpus, entries, settings)
    rows = [["trained on", "tested on", "val", "test"]]
    work = [(source, seed) for source in settings.train_on for seed in range(settings.seeds)]
    found: dict[tuple[Source, Source], list[tuple[float, ...]]] = {}
    for source, seed in progress.bar(work, desc="sources", unit="seed"):
        on_val, on_test = run(source, train, val, seed), run(source, train + val, test, seed)
        for heard in HEARD[source]:
            found.setdefault((source, heard), []).append((*on_val[heard], *on_test[heard]))
    for (source, heard), scores in found.items():
        val1, val3, test1, test3 = np.mean(scores, axis=0)
        rows.append([source, heard, f"{val1:.3f}/{val3:.3f}", f"{test1:.3f}/{test3:.3f}"])
    return Measured(
        "Mix, vocals, or both",
        measured.command_of("benchmarks.sources", settings),
        f"Top-1/top-3 of {len(val)} songs of val and {len(test)} of test, mean of "
        f"{settings.seeds} networks ({settings.size}).",
        rows,
    )


if __name__ == "__main__":
    measured.run(Settings, measure, __doc__)
