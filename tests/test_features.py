"""librosa is the reference: every column must equal its function at the same settings."""

from pathlib import Path

import librosa
import numpy as np
import pytest
from conftest import tone
from numpy.random import Generator
from numpy.typing import NDArray

from artistid.audio import features, source
from artistid.audio.decode import AudioError
from artistid.audio.features import FeatureSettings
from artistid.foundation.errors import UserError

RATE = 16_000
SETTINGS = FeatureSettings()


def librosa_features(y: NDArray[np.float32], s: FeatureSettings) -> dict[str, NDArray[np.floating]]:
    """(columns, frames) of each group, in the order of `frame_feature_names`."""
    rate, stft = s.sample_rate, {"n_fft": s.n_fft, "hop_length": s.hop}
    frame = {"frame_length": s.n_fft, "hop_length": s.hop}
    log_mel = librosa.power_to_db(
        librosa.feature.melspectrogram(y=y, sr=rate, n_mels=s.n_mels, **stft)
    )
    mfcc = librosa.feature.mfcc(y=y, sr=rate, n_mfcc=s.n_mfcc, n_mels=s.n_mels, **stft)
    mode = "interp" if mfcc.shape[1] >= 9 else "nearest"
    return {
        "mfcc": mfcc,
        "delta": librosa.feature.delta(mfcc, mode=mode),
        "delta2": librosa.feature.delta(mfcc, order=2, mode=mode),
        "chroma": librosa.feature.chroma_stft(y=y, sr=rate, **stft),
        "contrast": librosa.feature.spectral_contrast(y=y, sr=rate, **stft),
        "centroid": librosa.feature.spectral_centroid(y=y, sr=rate, **stft),
        "bandwidth": librosa.feature.spectral_bandwidth(y=y, sr=rate, **stft),
        "rolloff": librosa.feature.spectral_rolloff(y=y, sr=rate, **stft),
        "flatness": librosa.feature.spectral_flatness(y=y, **stft),
        "zero_crossing_rate": librosa.feature.zero_crossing_rate(y, **frame),
        "rms": librosa.feature.rms(y=y, **frame),
        "logmel": log_mel,
    }


def assert_agrees_with_librosa(y: NDArray[np.float32], settings: FeatureSettings) -> None:
    ours = features.frame_features(y, settings)
    column = 0
    for name, expected in librosa_features(y, settings).items():
        part = ours[:, column : column + len(expected)]
        column += len(expected)
        if name == "rolloff":  # one bin off where the sum hits the goal to within rounding
            same = np.isclose(part, expected.T, rtol=1e-3)
            assert same.mean() > 0.99, name
            np.testing.assert_allclose(part, expected.T, atol=1.01 * RATE / settings.n_fft)
            continue
        # deltas and decibels pass through zero, so errors are relative to the largest value
        scale = np.abs(expected).max()
        np.testing.assert_allclose(part, expected.T, rtol=1e-3, atol=1e-5 * scale, err_msg=name)
    assert column == ours.shape[1] == len(features.frame_feature_names(settings))


def chirp(draw: Generator, seconds: float) -> NDArray[np.float32]:
    """A gliding chord with tremolo and noise, and a tenth of it digital silence."""
    t = np.arange(int(seconds * RATE)) / RATE
    song = sum(np.sin(2 * np.pi * hz * (t + 0.1 * t**2)) for hz in (233.0, 311.0, 349.0))
    song = 0.2 * song * (1 + 0.3 * np.sin(2 * np.pi * 5 * t)) + draw.normal(0, 0.01, len(t))
    song[len(t) // 2 : len(t) // 2 + len(t) // 10] = 0
    return song.astype("f4")


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, FeatureSettings(n_fft=1024, hop=256), FeatureSettings(n_mels=64, n_mfcc=13)],
    ids=["default", "short frames", "few mels"],
)
def test_values_equal_librosas_on_synthetic_audio(
    rng: Generator, settings: FeatureSettings
) -> None:
    assert_agrees_with_librosa(chirp(rng, 7.3), settings)


def test_values_equal_librosas_on_real_music(gamemusic: Path) -> None:
    for path in sorted(gamemusic.glob("artist20/train_val/*/*/*.mp3"))[::12]:
        assert_agrees_with_librosa(source.load(path, RATE).samples, SETTINGS)


@pytest.mark.parametrize("n_samples", [2_048, 2_559, 2_560, 3_000, 5_000, 33_000])
@pytest.mark.filterwarnings("ignore:Trying to estimate tuning")
def test_values_equal_librosas_at_any_length(rng: Generator, n_samples: int) -> None:
    assert_agrees_with_librosa(chirp(rng, 3)[:n_samples], SETTINGS)


def test_excerpts_are_statistics_of_their_frames_and_no_frame_is_lost(rng: Generator) -> None:
    y = chirp(rng, 12.0)
    frames = features.frame_features(y, SETTINGS)
    made = features.song_features(y, SETTINGS)
    cut = round(5 * RATE / 512)  # 12 s are two excerpts; the second takes the remaining 2 s
    np.testing.assert_array_equal(made.spans, [[0, cut], [cut, len(frames)]])
    for row, part in zip(made.excerpts, (frames[:cut], frames[cut:]), strict=True):
        both = np.concatenate([part.mean(axis=0), part.std(axis=0)])
        np.testing.assert_allclose(row, both, rtol=1e-4, atol=1e-4)
    whole = np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
    np.testing.assert_allclose(made.song, whole, rtol=1e-4, atol=1e-4)


def test_a_remainder_of_half_an_excerpt_is_one_of_its_own(rng: Generator) -> None:
    assert len(features.song_features(chirp(rng, 13), SETTINGS).excerpts) == 3
    assert len(features.song_features(chirp(rng, 1), SETTINGS).excerpts) == 1


def test_an_excerpt_of_any_length_is_at_most_the_song(rng: Generator) -> None:
    y = chirp(rng, 3)
    made = features.song_features(y, FeatureSettings(excerpt_s=1e300))
    np.testing.assert_array_equal(made.excerpts, made.song[np.newaxis])


def test_names_match_columns() -> None:
    """Frequency and level of a pure tone determine the values of these columns."""
    frame_names = features.frame_feature_names(SETTINGS)
    names = [f"{name}_{statistic}" for statistic in ("mean", "std") for name in frame_names]
    song = dict(zip(names, features.song_features(tone(1000, 10), SETTINGS).song, strict=True))
    assert song["rms_mean"] == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert song["centroid_mean"] == pytest.approx(1000, rel=0.01)
    assert song["zero_crossing_rate_mean"] == pytest.approx(2 * 1000 / RATE, rel=0.01)
    chroma = [song[f"chroma_{i}_mean"] for i in range(12)]
    assert int(np.argmax(chroma)) == 11  # 1,000 Hz is nearest to B
    assert len(set(names)) == len(names)


def test_silent_excerpts_are_left_out(rng: Generator) -> None:
    y = chirp(rng, 20)
    y[4 * RATE : 16 * RATE] = 0  # the whole second and third excerpt
    assert len(features.song_features(y, SETTINGS).excerpts) == 2
    assert np.isfinite(features.song_features(y, SETTINGS).excerpts).all()


def test_audio_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(
        AudioError, match="too short: 2047 samples at 16000 Hz, one frame needs 2048"
    ):
        features.frame_features(tone(440, 1)[:2047], SETTINGS)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"hop": 500}, "does not divide"), ({"excerpt_s": 0.1}, "must be at least 0.128")],
)
def test_impossible_settings_are_refused(settings: dict[str, float], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        FeatureSettings(**settings)
