"""Time of an epoch of task 2 and its peak memory, for a corpus of artist20's size.

    python3 -m benchmarks.artist20_size [--songs 949] [--steps 200] [--device cuda]

The log-mels are made up, of the right shape: songs of 4 minutes at 16 kHz. Peak memory is that of
the GPU where there is one, else of the process. With `--steps` an epoch is worked out from so many.
"""

import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from artistid import cache, devices, training
from artistid.augmentation import spec_augment
from artistid.cache import Entry
from artistid.excerpts import open_songs
from artistid.melspec import NAME, MelSettings
from artistid.networks import MelCNN, MelCNNSettings

N_ARTISTS = 20
SONG_S = 240.0


@dataclass(frozen=True)
class Settings(training.TrainingSettings):
    songs: int = 949
    """Songs of train."""
    steps: int | None = None
    """Steps to time. Default: a whole epoch."""


def make_entries(folder: Path, n_songs: int, mel: MelSettings) -> list[Path]:
    draw = np.random.default_rng(0)
    shape = (round(SONG_S * mel.frames_per_second), mel.n_mels)
    frames = draw.normal(-40, 10, shape).astype(np.float16)
    paths = [folder / f"{song}.safetensors" for song in range(n_songs)]
    for path in tqdm(paths, desc="log-mels", unit="song", disable=None):
        cache.save_entry(path, Entry({NAME: np.roll(frames, len(path.name))}, {}))
    return paths


def peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(settings: Settings) -> None:
    mel = MelSettings()
    n_frames = round(settings.crop_seconds * mel.frames_per_second)
    with (
        tempfile.TemporaryDirectory() as folder,
        devices.start(settings.device, settings.precision) as place,
    ):
        songs = open_songs(make_entries(Path(folder), settings.songs, mel), NAME, place.device)
        examples = training.Examples(songs, np.arange(settings.songs) % N_ARTISTS)
        widths = MelCNNSettings(N_ARTISTS, mel.n_mels)
        network = training.initialised(MelCNN, widths, settings, place)
        trainer = training.Trainer(
            network, examples, examples, n_frames, settings, place, spec_augment
        )
        n_steps = len(trainer.own_batches(0))
        steps = min(settings.steps or n_steps, n_steps)
        trainer.train_epoch(0, steps=5)
        begin = time.perf_counter()
        trainer.train_epoch(1, steps=steps)
        seconds = (time.perf_counter() - begin) * n_steps / steps
        print(f"{settings.songs} songs of {SONG_S:.0f} s, {type(songs).__name__}, on {place}")
        print(
            f"{trainer.n_crops} crops an epoch: {seconds:.1f} s, {trainer.n_crops / seconds:.0f}/s"
        )
        print(f"peak memory: {peak_mib(place.device):.0f} MiB")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
