"""Decoding and all features, against librosa's functions called one by one on the decoded signal.

    python3 -m benchmarks.features SONG.mp3 [SONG.mp3 ...]

One thread, in turn, median of 5 rounds over the songs. librosa is not charged for decoding.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from artistid import audio
from artistid.features import FeatureSettings, frame_features, song_features

ROUNDS = 5
SETTINGS = FeatureSettings()


def ours(path: Path) -> None:
    song_features(audio.load(path, SETTINGS.sample_rate).samples, SETTINGS)


def librosa_one_by_one(samples: Any) -> None:
    """As in a notebook: every function makes its own spectrum."""
    rate = SETTINGS.sample_rate
    mfcc = librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=SETTINGS.n_mfcc)
    librosa.feature.delta(mfcc)
    librosa.feature.delta(mfcc, order=2)
    librosa.feature.chroma_stft(y=samples, sr=rate)
    librosa.feature.spectral_contrast(y=samples, sr=rate)
    librosa.feature.spectral_centroid(y=samples, sr=rate)
    librosa.feature.spectral_bandwidth(y=samples, sr=rate)
    librosa.feature.spectral_rolloff(y=samples, sr=rate)
    librosa.feature.spectral_flatness(y=samples)
    librosa.feature.zero_crossing_rate(samples)
    librosa.feature.rms(y=samples)


def seconds(function: Callable[[Any], None], argument: Any) -> float:
    begin = time.perf_counter()
    function(argument)
    return time.perf_counter() - begin


def main(paths: list[Path]) -> None:
    decoded = [audio.load(path, SETTINGS.sample_rate) for path in paths]
    total = sum(song.seconds for song in decoded)
    with threadpool_limits(1):
        ours(paths[0])  # compiles, imports and makes filter banks before anything is timed
        librosa_one_by_one(decoded[0].samples)
        our_rounds, librosa_rounds = [], []
        for _ in tqdm(range(ROUNDS), desc="rounds", disable=None):
            times = [
                (seconds(ours, path), seconds(librosa_one_by_one, song.samples))
                for path, song in zip(paths, decoded, strict=True)
            ]
            our_rounds.append(sum(ours for ours, _ in times))
            librosa_rounds.append(sum(theirs for _, theirs in times))
    ratios = [theirs / ours for ours, theirs in zip(our_rounds, librosa_rounds, strict=True)]
    n_columns = frame_features(decoded[0].samples, SETTINGS).shape[1]
    print(f"{len(paths)} songs, {total:.0f} s of audio, one thread, median of {ROUNDS}")
    for name, rounds in (
        (f"decode + {n_columns} features, whole song and excerpts", our_rounds),
        ("librosa, 11 calls on the decoded signal", librosa_rounds),
    ):
        median = statistics.median(rounds)
        print(f"{name}: {median:.3f} s, {total / median:.0f} x real time")
    print(
        f"librosa / ours: {statistics.median(ratios):.2f} "
        f"(from {min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main([Path(argument) for argument in sys.argv[1:]])
