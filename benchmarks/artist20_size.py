"""Time of an epoch of task 2 and its peak memory, for a corpus of artist20's size.

    python3 -m benchmarks.artist20_size [--songs 949] [--steps 200] [--device cuda]

The log-mels are made up, of the right shape: songs of 4 minutes at 16 kHz.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from artistid.audio.decode import cache
from artistid.audio.melspec import NAME, MelSettings
from artistid.inference import devices, training
from artistid.models.augmentation import spec_augment
from artistid.models.crops import open_songs
from artistid.models.devices import DeviceName, Precision
from artistid.models.networks import MelCNN, MelCNNSettings
from benchmarks.measured import Measured, brief
from benchmarks.ways import Way, peak_mib

N_ARTISTS = 20
SONG_S = 240.0


@dataclass(frozen=True)
class Settings:
    songs: int = 949
    """Songs of train."""
    steps: int = 200
    """Steps to time, of which an epoch is worked out."""
    device: DeviceName = "auto"
    """Where to compute."""
    precision: Precision = "auto"
    """bf16, fp32, or auto."""


def make_entries(folder: Path, n_songs: int, mel: MelSettings) -> list[Path]:
    draw = np.random.default_rng(0)
    shape = (round(SONG_S * mel.frames_per_second), mel.n_mels)
    frames = draw.normal(-40, 10, shape).astype(np.float16)
    paths = [folder / f"{song}.safetensors" for song in range(n_songs)]
    for path in tqdm(paths, desc="log-mels", unit="song", disable=None):
        cache.save_entry(path, {NAME: np.roll(frames, len(path.name))})
    return paths


def peak_of(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_mib()


@dataclass(frozen=True)
class Epoch:
    conditions: str
    crops: int
    seconds: float
    peak_mib: float


def epoch_of(settings: Settings) -> Callable[[], Epoch]:
    def run() -> Epoch:
        mel, train = MelSettings(), training.TrainingSettings()
        n_frames = round(train.crop_seconds * mel.frames_per_second)
        with (
            tempfile.TemporaryDirectory() as folder,
            devices.start(settings.device, settings.precision) as place,
        ):
            songs = open_songs(make_entries(Path(folder), settings.songs, mel), NAME, place.device)
            examples = training.Examples(songs, np.arange(settings.songs) % N_ARTISTS)
            widths = MelCNNSettings(N_ARTISTS, mel.n_mels)
            network = training.initialised(MelCNN, widths, train, place)
            trainer = training.Trainer(
                network, examples, None, n_frames, train, place, spec_augment
            )
            n_steps = len(trainer.own_batches(0))
            steps = min(settings.steps, n_steps)
            trainer.train_epoch(0, steps=5)
            begin = time.perf_counter()
            trainer.train_epoch(1, steps=steps)
            seconds = (time.perf_counter() - begin) * n_steps / steps
            where = f"{type(songs).__name__}, on {place}"
            return Epoch(where, trainer.n_crops, seconds, peak_of(place.device))

    return run


def measure(settings: Settings) -> Measured:
    epoch = Way(epoch_of, settings).run().value
    return Measured(
        "An epoch of artist20's size",
        f"python3 -m benchmarks.artist20_size --songs {settings.songs}",
        f"Task 2 on {settings.songs} made-up songs of {SONG_S:.0f} s ({epoch.conditions}); an "
        f"epoch worked out from {settings.steps} steps. Memory is the GPU's where there is "
        "one, else the process'.",
        [
            ["crops an epoch", "s an epoch", "crops a second", "peak memory, MiB"],
            [
                f"{epoch.crops:,}",
                brief(epoch.seconds),
                brief(epoch.crops / epoch.seconds),
                f"{epoch.peak_mib:,.0f}",
            ],
        ],
    )


if __name__ == "__main__":
    print(measure(tyro.cli(Settings, description=__doc__)))
