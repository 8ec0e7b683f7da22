"""librosa is the reference."""

import librosa
import numpy as np
import pytest
import torch

from artistid.audio import filterbanks
from musicfm import frontend


@pytest.mark.parametrize(
    ("rate", "n_fft", "n_mels", "low", "high"),
    [
        (16_000, 2_048, 128, 0, None),
        (16_000, 512, 96, 0, None),
        (16_000, 400, 40, 0, None),
        (16_000, 1_024, 96, 20, 7_600),
        (22_050, 2_048, 20, 300, 900),  # below 1 kHz all is linear
        (44_100, 1_024, 30, 2_000, 20_000),  # above it all is logarithmic
    ],
)
def test_mel_bands_are_librosas(
    rate: int, n_fft: int, n_mels: int, low: float, high: float | None
) -> None:
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=low, fmax=high)
    found = filterbanks.mel(rate, n_fft, n_mels, low, high)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert found.dtype == np.float32


@pytest.mark.parametrize("tuning", [-0.5, -0.13, 0, 0.37])
@pytest.mark.parametrize(("rate", "n_fft", "n_chroma"), [(16_000, 2_048, 12), (44_100, 512, 24)])
def test_pitch_classes_are_librosas(rate: int, n_fft: int, n_chroma: int, tuning: float) -> None:
    expected = librosa.filters.chroma(sr=rate, n_fft=n_fft, n_chroma=n_chroma, tuning=tuning)
    found = filterbanks.chroma(rate, n_fft, n_chroma, tuning)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert found.dtype == np.float32


def test_musicfms_mel_bands_are_those_of_htk() -> None:
    rate, n_fft = frontend.SAMPLE_RATE, frontend.N_FFT
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=80, htk=True, norm=None)
    _, found = frontend._constants(80, torch.device("cpu"))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
