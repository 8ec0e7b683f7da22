"""Speed of decoding and feature extraction, against one librosa call per feature.

    python3 -m benchmarks.features [--data gamemusic] [--songs 50] [--rounds 5]

One thread. librosa gets decoded samples.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from artistid.audio import source
from artistid.audio.features import FeatureSettings, frame_feature_names, song_features
from artistid.dataset.read import read_corpus
from artistid.foundation import progress
from artistid.foundation.errors import require_at_least
from benchmarks import measured
from benchmarks.measured import GAMEMUSIC, Measured, Ratio, brief, seconds_of

FEATURES = FeatureSettings()
DECODING, LIBROSA, OURS = (
    "decoding alone",
    "librosa, 11 calls on the decoded signal",
    f"decoding, {len(frame_feature_names(FEATURES))} features of every frame, statistics",
)


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus."""
    songs: int = 50
    """Training songs to use."""
    rounds: int = 5
    """Times that every song is processed."""

    def __post_init__(self) -> None:
        require_at_least(self, songs=1, rounds=1)


def ours(path: Path) -> None:
    song_features(source.load(path, FEATURES.sample_rate).samples, FEATURES)


def librosa_one_by_one(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(features, frames), as in a typical notebook: every call computes its own spectrum."""
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


def measure(settings: Settings) -> Measured:
    paths = [track.path for track in read_corpus(settings.data).split("train")[: settings.songs]]
    decoded = [source.load(path, FEATURES.sample_rate) for path in paths]
    audio_s = sum(song.seconds for song in decoded)
    rounds: dict[str, list[float]] = {DECODING: [], LIBROSA: [], OURS: []}
    with threadpool_limits(1):
        ours(paths[0])  # warm up: imports, compilation, filter banks
        librosa_one_by_one(decoded[0].samples)
        for _ in progress.bar(range(settings.rounds), desc="features", unit="round"):
            spent = dict.fromkeys(rounds, 0.0)
            for path, song in zip(paths, decoded, strict=True):
                spent[DECODING] += seconds_of(source.load, path, FEATURES.sample_rate)
                spent[LIBROSA] += seconds_of(librosa_one_by_one, song.samples)
                spent[OURS] += seconds_of(ours, path)
            for name, seconds in spent.items():
                rounds[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    ratios = [theirs / ours for ours, theirs in zip(rounds[OURS], rounds[LIBROSA], strict=True)]
    return Measured(
        "Features",
        measured.command_of("benchmarks.features", settings),
        f"{len(paths)} songs, {audio_s:,.0f} s of audio, one thread, median of {settings.rounds} "
        "rounds. librosa computes the same features except the log-mel bands, and its time does "
        "not include decoding.",
        [
            ["method", "s", "times real time"],
            *(
                [name, brief(seconds), brief(audio_s / seconds)]
                for name, seconds in medians.items()
            ),
        ],
        [Ratio("features: librosa's calls / task 1", ratios)],
    )


if __name__ == "__main__":
    measured.run(Settings, measure, __doc__)
