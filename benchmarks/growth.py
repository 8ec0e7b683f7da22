"""Time and peak memory by the number of songs: is the one linear, and is the other flat?

    python3 -m benchmarks.growth [--songs 100 1000 10000]

Songs are 2 s of noise, so that what a song costs besides its length is seen. Each stage of task 1
and of task 2 in a process of its own: from files to the cache, what is made of the cache to train
on (task 1: the rows; task 2: an epoch's crops, read), and predictions by an untrained network or by
LDA. Peak memory is that of the process, or of its largest worker where that has more.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tyro
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm

from artistid.audio.decode import features, melspec
from artistid.audio.extraction import Recipe, extract
from artistid.dataset.corpus import Track
from artistid.foundation.parallel import Workers
from artistid.inference import classical, training
from artistid.metrics import labels_of
from artistid.models.augmentation import spec_augment
from artistid.models.crops import open_songs
from artistid.models.devices import Devices
from artistid.models.networks import MelCNN, MelCNNSettings
from benchmarks.measured import Measured, Ratio, brief
from benchmarks.ways import peak_mib

RATE, SONG_S = 16_000, 2.0
ARTISTS = [f"artist_{number:02}" for number in range(20)]
RECIPES = {
    "task 1": features.recipe(features.FeatureSettings()),
    "task 2": melspec.recipe(melspec.MelSettings()),
}


@dataclass(frozen=True)
class Settings:
    songs: tuple[int, ...] = (100, 1_000, 10_000)
    """Numbers of songs."""


@dataclass(frozen=True)
class Cost:
    seconds: float
    mib: float  # peak memory


def make_songs(folder: Path, n_songs: int) -> list[Track]:
    """Of 20 artists in turn, no two alike."""
    draw = np.random.default_rng(0)
    tracks = []
    for number in tqdm(range(n_songs), desc="songs", unit="song", disable=None, leave=False):
        path = folder / f"{number}.wav"
        noise = draw.standard_normal(round(SONG_S * RATE), dtype=np.float32)
        soundfile.write(path, 0.1 * noise, RATE)
        tracks.append(Track(path, path.name, "train", ARTISTS[number % len(ARTISTS)]))
    return tracks


# --- the stages, each called in a process of its own -----------------------------------------


def extraction(tracks: list[Track], recipe: Recipe, cache: Path) -> None:
    extract(tracks, recipe, cache, Workers()).require_all()


def rows_to_train_on(tracks: list[Track], load: Any) -> tuple[Any, Any]:
    return classical.training_songs(tracks, ARTISTS, load, max_excerpts=10_000)


def predictions_of_lda(tracks: list[Track], load: Any) -> None:
    classifier = classical.SongClassifier().fit(*rows_to_train_on(tracks[:100], load))
    classical.posteriors(classifier, tracks, load)


def epoch_of_crops(tracks: list[Track], entries: list[Path]) -> None:
    trainer = _trainer(tracks, entries)
    for crops in trainer.own_batches(0):
        trainer.train.songs.read(crops, trainer.n_frames)


def predictions_of_network(tracks: list[Track], entries: list[Path]) -> None:
    trainer = _trainer(tracks, entries)
    trainer.posteriors(trainer.train.songs)


def _trainer(tracks: list[Track], entries: list[Path]) -> training.Trainer:
    devices, settings = Devices("auto", "auto"), training.TrainingSettings()
    mel = melspec.MelSettings()
    songs = open_songs(entries, melspec.NAME, devices.device)
    examples = training.Examples(songs, labels_of([track.artist for track in tracks], ARTISTS))
    widths = MelCNNSettings(len(ARTISTS), mel.n_mels)
    network = training.initialised(MelCNN, widths, settings, devices)
    n_frames = round(SONG_S / 2 * mel.frames_per_second)
    return training.Trainer(network, examples, None, n_frames, settings, devices, spec_augment)


def cost(stage: Callable[..., Any], arguments: tuple[Any, ...]) -> Cost:
    begin = time.perf_counter()
    stage(*arguments)
    seconds = time.perf_counter() - begin
    processes = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
    mib = max(peak_mib(pid) for pid in processes)
    get_reusable_executor().shutdown(wait=True)  # else this process waits for its idle workers
    return Cost(seconds, mib)


def alone(stage: Callable[..., Any], *arguments: Any) -> Cost:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(cost, stage, arguments).result()


# --- measuring -------------------------------------------------------------------------------


def measure(settings: Settings) -> Measured:
    costs: dict[str, list[Cost]] = {}
    for n_songs in settings.songs:
        with tempfile.TemporaryDirectory() as temporary:
            for stage, found in _costs(make_songs(Path(temporary), n_songs), Path(temporary)):
                costs.setdefault(stage, []).append(found)
    *_, fewer, most = settings.songs
    rows = [["stage"]]
    rows[0] += [f"{n:,} songs, s" for n in settings.songs]
    rows[0] += [f"ms a song, of {most:,}", *(f"{n:,} songs, MiB" for n in settings.songs)]
    ratios = []
    for stage, found in costs.items():
        a_song = found[-1].seconds / most * 1_000
        row = [stage, *(brief(cost.seconds) for cost in found), brief(a_song)]
        rows.append([*row, *(f"{cost.mib:,.0f}" for cost in found)])
        growth = found[-1].seconds / found[-2].seconds
        ratios.append(Ratio(f"{stage}: time of {most:,} songs / of {fewer:,}", [growth]))
    growths = [found[-1].mib / found[-2].mib for found in costs.values()]
    ratios.append(Ratio(f"each stage: memory of {most:,} songs / of {fewer:,}", growths))
    return Measured(
        "Growth",
        f"python3 -m benchmarks.growth --songs {' '.join(map(str, settings.songs))}",
        f"Songs of {SONG_S:g} s, made up; each stage once, in a process of its own, with what it "
        "needs of libraries already loaded. Memory is the peak of the process or of its largest "
        "worker, libraries included.",
        rows,
        ratios,
    )


def _costs(tracks: list[Track], folder: Path) -> Any:
    """The name of each stage and what it costs."""
    cache = folder / "cache"
    entries = {}
    for task, recipe in RECIPES.items():
        yield f"{task}: extraction", alone(extraction, tracks, recipe, cache)
        yield f"{task}: the same again, cached", alone(extraction, tracks, recipe, cache)
        entries[task] = extract(tracks, recipe, cache, Workers()).entries
    load = features.SongLoader(entries["task 1"])
    yield "task 1: rows to train on", alone(rows_to_train_on, tracks, load)
    yield "task 1: prediction", alone(predictions_of_lda, tracks, load)
    paths = list(entries["task 2"].values())
    yield "task 2: an epoch's crops", alone(epoch_of_crops, tracks, paths)
    yield "task 2: prediction", alone(predictions_of_network, tracks, paths)


if __name__ == "__main__":
    print(measure(tyro.cli(Settings, description=__doc__)))
