"""From audio to encoder frames: log-mel spectrogram and convolutions.

Follows the official code, github.com/minzwon/musicfm, modules/features.py and conv.py.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from musicfm.linear import Linear

SAMPLE_RATE = 24_000  # Hz
N_FFT, HOP = 2_048, 240  # samples
FLOOR = 1e-10  # lowest power of a mel band
STRIDE = 4  # spectrogram frames per encoder frame


def log_mel(audio: Tensor, n_mels: int) -> Tensor:
    """(batch, samples) at 24 kHz -> (batch, n_mels, samples // 240), in dB, float32."""
    window, filters = _constants(n_mels, audio.device)
    with torch.autocast(audio.device.type, enabled=False):
        spectrum = torch.stft(
            audio.float(), N_FFT, HOP, window=window, pad_mode="reflect", return_complex=True
        )[..., :-1]  # (batch, bins, frames)
        power = torch.view_as_real(spectrum).square().sum(-1)
        return 10 * torch.log10((filters @ power).clamp(min=FLOOR))


@cache
def _constants(n_mels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Window, (n_fft,), and mel filters, (n_mels, bins), always in float32."""
    edges = mel_edges_hz(SAMPLE_RATE, n_mels)
    low, centre, high = (edges[i : i + n_mels, np.newaxis] for i in range(3))
    hz = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE)
    triangles = np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)).clip(min=0)
    filters = torch.from_numpy(triangles.astype(np.float32))
    return torch.hann_window(N_FFT, device=device), filters.to(device)


def mel_edges_hz(sample_rate: int, n_mels: int) -> NDArray[np.float64]:
    """(n_mels + 2,): equally spaced in mel by HTK's formula, from 0 Hz to half the rate."""
    highest = 2595 * np.log10(1 + sample_rate / 2 / 700)  # mel
    edges: NDArray[np.float64] = 700 * (10 ** (np.linspace(0, highest, n_mels + 2) / 2595) - 1)
    return edges


class Residual(nn.Module):
    """(batch, channels, mels, frames) -> (batch, n_out, mels / 2, frames / 2), rounded up.

    The weights of each convolution include its batch normalisation. `entry` is two convolutions of
    the same input in one: the first of the block and that of its shortcut."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.entry = nn.Conv2d(n_in, 2 * n_out, 3, stride=2, padding=1)
        self.body = nn.Conv2d(n_out, n_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner, shortcut = self.entry(x).chunk(2, dim=1)
        return F.relu(self.body(F.relu(inner)).add_(shortcut), inplace=True)


class Subsampling(nn.Module):
    """Normalised log-mel (batch, n_mels, frames) -> (batch, frames / 4, dim), rounded up twice."""

    def __init__(self, n_mels: int, channels: int, dim: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residual(1, channels), Residual(channels, channels))
        self.linear = Linear(channels * n_mels // STRIDE, dim)

    def forward(self, mel: Tensor) -> Tensor:
        image = self.blocks(mel.unsqueeze(1).to(self.linear.weight.dtype))
        # (batch, channels, mels, frames) -> (batch, frames, channels x mels)
        features: Tensor = self.linear(image.permute(0, 3, 1, 2).flatten(2))
        return features
