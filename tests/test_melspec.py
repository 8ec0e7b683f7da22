from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from conftest import tone
from numpy.random import Generator
from numpy.typing import NDArray

from artistid.audio.decode import AudioError, melspec
from artistid.audio.decode import decode as audio
from artistid.audio.melspec import LogMel, MelSettings, song_log_mel

SETTINGS = [
    MelSettings(),
    MelSettings(sample_rate=22_050, n_fft=2_048, hop=300, n_mels=64, fmin_hz=30, fmax_hz=11_000),
]


def librosas(samples: NDArray[np.float32], settings: MelSettings) -> NDArray[np.float64]:
    """The power of librosa's mel spectrogram, (frames, mels), computed in float64."""
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
def test_the_power_is_librosas(rng: Generator, settings: MelSettings) -> None:
    noise = rng.normal(0, 0.1, (2, 30_001)).astype(np.float32)
    noise[0] += tone(440, 2)[:30_001]
    ours = LogMel(settings)(torch.from_numpy(noise))
    for row, samples in zip(ours, noise, strict=True):
        np.testing.assert_allclose(power(row), librosas(samples, settings), rtol=1e-4)


def test_the_power_is_librosas_in_real_music(gamemusic: Path) -> None:
    settings = MelSettings()
    song = audio.load(sorted(gamemusic.rglob("*.mp3"))[0], settings.sample_rate).samples
    theirs = librosas(song, settings)
    ours = power(LogMel(settings)(torch.from_numpy(song)))
    heard = theirs > 1e-7 * theirs.max()  # below it float32 has no digits left
    assert heard.mean() > 0.5
    np.testing.assert_allclose(ours[heard], theirs[heard], rtol=1e-4)


def test_autocast_does_not_change_it(rng: Generator) -> None:
    noise = torch.from_numpy(rng.normal(0, 0.1, 8_000).astype(np.float32))
    log_mel = LogMel(MelSettings())
    with torch.autocast("cpu", torch.bfloat16):
        under = log_mel(noise)
    assert under.dtype == torch.float32
    assert torch.equal(under, log_mel(noise))


def test_its_gradient_is_its_slope(rng: Generator) -> None:
    log_mel = LogMel(MelSettings(n_fft=256, hop=64, n_mels=8))
    noise, step = (torch.from_numpy(rng.normal(0, s, 1_000).astype("f4")) for s in (0.1, 1e-3))
    noise.requires_grad_()
    log_mel(noise).mean().backward()
    assert noise.grad is not None
    with torch.no_grad():
        slope = (log_mel(noise + step).mean() - log_mel(noise - step).mean()) / 2
    assert float(noise.grad @ step) == pytest.approx(float(slope), rel=1e-2)


def test_a_song_in_blocks_is_a_song(rng: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = MelSettings()
    noise = rng.normal(0, 0.1, 50_000).astype(np.float32)
    whole = LogMel(settings)(torch.from_numpy(noise))
    monkeypatch.setattr(melspec, "BLOCK_FRAMES", 7)
    blocks = song_log_mel(noise, settings)
    assert blocks.dtype == np.float16
    assert blocks.shape == (1 + 50_000 // settings.hop, settings.n_mels)
    np.testing.assert_allclose(blocks, whole.numpy(), atol=1 / 32)


def test_silence_is_the_floor() -> None:
    silence = LogMel(MelSettings())(torch.zeros(4_000))
    torch.testing.assert_close(silence, torch.full_like(silence, melspec.FLOOR_DB))


def test_what_is_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(AudioError, match="shorter than a frame: 1000 samples at 16000 Hz, of 1024"):
        song_log_mel(np.ones(1_000, dtype=np.float32), MelSettings())


def test_bands_beyond_the_sample_rate_are_refused() -> None:
    with pytest.raises(ValueError, match=r"to 8000.0 Hz do not lie within 0 to 4000.0 Hz"):
        MelSettings(sample_rate=8_000)
