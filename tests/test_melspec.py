from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from conftest import tone
from numpy.random import Generator
from numpy.typing import NDArray

from artistid.audio import melspec, source
from artistid.audio.decode import AudioError
from artistid.audio.melspec import LogMel, MelSettings, power_spectrum, song_log_mel
from artistid.foundation.errors import UserError

SETTINGS = [
    MelSettings(),
    MelSettings(sample_rate=22_050, n_fft=2_048, hop=300, n_mels=64, fmin_hz=30, fmax_hz=11_000),
]


def librosas(samples: NDArray[np.float32], settings: MelSettings) -> NDArray[np.float64]:
    """librosa's mel spectrogram (power), (frames, mels), computed in float64."""
    return librosa.feature.melspectrogram(
        y=samples.astype(np.float64),
        sr=settings.sample_rate,
        n_fft=settings.n_fft,
        hop_length=settings.hop,
        n_mels=settings.n_mels,
        fmin=settings.fmin_hz,
        fmax=settings.fmax_hz,
        pad_mode="constant",
    ).T


def power(decibels: torch.Tensor) -> NDArray[np.float64]:
    return 10 ** (decibels.double().numpy() / 10)


@pytest.mark.parametrize("settings", SETTINGS, ids=["default", "other"])
def test_power_equals_librosas(rng: Generator, settings: MelSettings) -> None:
    noise = rng.normal(0, 0.1, (2, 30_001)).astype(np.float32)
    noise[0] += tone(440, 2)[:30_001]
    ours = LogMel(settings)(torch.from_numpy(noise))
    for row, samples in zip(ours, noise, strict=True):
        np.testing.assert_allclose(power(row), librosas(samples, settings), rtol=1e-4)


def test_power_equals_librosas_on_real_music(gamemusic: Path) -> None:
    settings = MelSettings()
    song = source.load(sorted(gamemusic.rglob("*.mp3"))[0], settings.sample_rate).samples
    theirs = librosas(song, settings)
    ours = power(LogMel(settings)(torch.from_numpy(song)))
    audible = theirs > 1e-7 * theirs.max()  # below that, float32 has no digits left
    assert audible.mean() > 0.5
    np.testing.assert_allclose(ours[audible], theirs[audible], rtol=1e-4)


def test_power_spectrum_equals_numpys(rng: Generator) -> None:
    noise = rng.normal(0, 0.1, (2, 1_000)).astype(np.float32)
    window = rng.uniform(0, 1, 256).astype(np.float32)
    ours = power_spectrum(torch.from_numpy(noise), torch.from_numpy(window), 100)
    frames = np.lib.stride_tricks.sliding_window_view(noise, 256, axis=-1)[:, ::100]
    theirs = np.abs(np.fft.rfft(frames.astype(np.float64) * window)) ** 2
    assert ours.shape == (2, 8, 129)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-5 * theirs.max())


def test_autocast_changes_nothing(rng: Generator) -> None:
    noise = torch.from_numpy(rng.normal(0, 0.1, 8_000).astype(np.float32))
    log_mel = LogMel(MelSettings())
    with torch.autocast("cpu", torch.bfloat16):
        under = log_mel(noise)
    assert under.dtype == torch.float32
    assert torch.equal(under, log_mel(noise))


def test_the_gradient_equals_the_slope(rng: Generator) -> None:
    log_mel = LogMel(MelSettings(n_fft=256, hop=64, n_mels=8))
    noise, step = (torch.from_numpy(rng.normal(0, s, 1_000).astype("f4")) for s in (0.1, 1e-3))
    noise.requires_grad_()
    log_mel(noise).mean().backward()
    assert noise.grad is not None
    with torch.no_grad():
        slope = (log_mel(noise + step).mean() - log_mel(noise - step).mean()) / 2
    assert float(noise.grad @ step) == pytest.approx(float(slope), rel=1e-2)


def test_a_song_in_blocks_equals_the_whole(rng: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = MelSettings()
    noise = rng.normal(0, 0.1, 50_000).astype(np.float32)
    whole = LogMel(settings)(torch.from_numpy(noise))
    monkeypatch.setattr(melspec, "BLOCK_FRAMES", 7)
    blocks = song_log_mel(noise, settings)
    assert blocks.dtype == np.float16
    assert blocks.shape == (1 + 50_000 // settings.hop, settings.n_mels)
    np.testing.assert_allclose(blocks, whole.numpy(), atol=1 / 32)


def test_silence_is_at_the_floor() -> None:
    silence = LogMel(MelSettings())(torch.zeros(4_000))
    torch.testing.assert_close(silence, torch.full_like(silence, melspec.FLOOR_DB))


def test_audio_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(AudioError, match="too short: 1000 samples at 16000 Hz, one frame needs"):
        song_log_mel(np.ones(1_000, dtype=np.float32), MelSettings())


def test_bands_beyond_the_sample_rate_are_refused() -> None:
    with pytest.raises(UserError, match=r"to 8000.0 Hz must lie between 0 and 4000.0 Hz"):
        MelSettings(sample_rate=8_000)
