"""Decoding and all features, against librosa's functions called one by one on the decoded signal.

    python3 -m benchmarks.features [--data gamemusic] [--songs 50] [--rounds 5]

One thread, in turn. librosa is not charged for decoding.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import tyro
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from artistid.audio.decode import decode as audio
from artistid.audio.features import FeatureSettings, frame_features, song_features
from artistid.dataset.read import read_corpus
from benchmarks.measured import GAMEMUSIC, Measured, Ratio, brief

FEATURES = FeatureSettings()


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus."""
    songs: int = 50
    """Songs of train to use."""
    rounds: int = 5
    """Times that each way goes through all of them."""


def ours(path: Path) -> None:
    song_features(audio.load(path, FEATURES.sample_rate).samples, FEATURES)


def librosa_one_by_one(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(features, frames), as in a notebook: every function makes its own spectrum."""
    rate = FEATURES.sample_rate
    mfcc = librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=FEATURES.n_mfcc)
    return np.vstack(
        [
            mfcc,
            librosa.feature.delta(mfcc),
            librosa.feature.delta(mfcc, order=2),
            librosa.feature.chroma_stft(y=samples, sr=rate),
            librosa.feature.spectral_contrast(y=samples, sr=rate),
            librosa.feature.spectral_centroid(y=samples, sr=rate),
            librosa.feature.spectral_bandwidth(y=samples, sr=rate),
            librosa.feature.spectral_rolloff(y=samples, sr=rate),
            librosa.feature.spectral_flatness(y=samples),
            librosa.feature.zero_crossing_rate(samples),
            librosa.feature.rms(y=samples),
        ]
    )


def seconds(function: Callable[[Any], object], argument: Any) -> float:
    begin = time.perf_counter()
    function(argument)
    return time.perf_counter() - begin


def measure(settings: Settings) -> Measured:
    paths = [track.path for track in read_corpus(settings.data).split("train")[: settings.songs]]
    decoded = [audio.load(path, FEATURES.sample_rate) for path in paths]
    total = sum(song.seconds for song in decoded)
    with threadpool_limits(1):
        ours(paths[0])  # compiles, imports and makes filter banks before anything is timed
        librosa_one_by_one(decoded[0].samples)
        our_rounds, librosa_rounds = [], []
        for _ in tqdm(range(settings.rounds), desc="features", unit="round", disable=None):
            times = [
                (seconds(ours, path), seconds(librosa_one_by_one, song.samples))
                for path, song in zip(paths, decoded, strict=True)
            ]
            our_rounds.append(sum(ours for ours, _ in times))
            librosa_rounds.append(sum(theirs for _, theirs in times))
    ratios = [theirs / ours for ours, theirs in zip(our_rounds, librosa_rounds, strict=True)]
    n_columns = frame_features(decoded[0].samples, FEATURES).shape[1]
    rows = [["way", "s", "times real time"]]
    for name, rounds in (
        ("librosa, 11 calls on the decoded signal", librosa_rounds),
        (f"decoding, {n_columns} features of every frame, statistics", our_rounds),
    ):
        median = statistics.median(rounds)
        rows.append([name, brief(median), brief(total / median)])
    return Measured(
        "Features",
        f"python3 -m benchmarks.features --data {settings.data}",
        f"{len(paths)} songs, {total:,.0f} s of audio, one thread, median of {settings.rounds} "
        "rounds. librosa is asked for the same features but the log-mel bands, and not charged for "
        "decoding.",
        rows,
        [Ratio("features: librosa's calls / task 1", ratios)],
    )


if __name__ == "__main__":
    print(measure(tyro.cli(Settings, description=__doc__)))
