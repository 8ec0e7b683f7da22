"""Log-mel spectrograms in torch: of batches on any device, and of whole songs for the cache.

Audio is float32 mono in [-1, 1]. A log-mel is (frames, mels), in decibels of mel power, never
below FLOOR_DB. Frames are centred on multiples of the hop; the signal is padded with zeros.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from artistid.audio import filterbanks
from artistid.audio.extraction import Recipe
from artistid.audio.source import require_frame
from artistid.foundation.errors import UserError

LOG_MEL = "log_mel"  # name of the array in a cache entry
VERSION = 1  # raise it when a value changes: it is part of every cache key
FLOOR_DB = -100.0
BLOCK_FRAMES = 4_096  # computed at a time, so that memory does not grow with a song's length


@dataclass(frozen=True)
class MelSettings:
    """All that a log-mel depends on besides the audio; the defaults suit the course's corpus."""

    sample_rate: int = 16_000  # Hz; every file is resampled to it
    n_fft: int = 1_024  # samples, Hann window
    hop: int = 256  # samples
    n_mels: int = 96
    fmin_hz: float = 0.0
    fmax_hz: float = 8_000.0

    @property
    def frames_per_second(self) -> float:
        return self.sample_rate / self.hop

    def __post_init__(self) -> None:
        if not 0 <= self.fmin_hz < self.fmax_hz <= self.sample_rate / 2:
            raise UserError(
                f"mel bands from {self.fmin_hz} to {self.fmax_hz} Hz must lie between 0 and "
                f"{self.sample_rate / 2} Hz, half the sample rate"
            )


def power_spectrum(audio: Tensor, window: Tensor, hop: int) -> Tensor:
    """Power of the frames that lie entirely within `audio`: (batch, samples) -> (batch, frames,
    bins). A frame has as many samples as `window`; `hop` is in samples."""
    spectrum = torch.stft(
        audio, len(window), hop, window=window, center=False, return_complex=True
    )  # (batch, bins, frames)
    return torch.view_as_real(spectrum).square().sum(-1).transpose(-1, -2)


def mel_power(audio: Tensor, settings: MelSettings) -> Tensor:
    """The power in mel bands of the frames that lie entirely within `audio`: (batch, samples) ->
    (batch, frames, mels)."""
    window, filters = _on(audio.device, settings)
    return power_spectrum(audio, window, settings.hop) @ filters


@cache
def _on(device: torch.device, settings: MelSettings) -> tuple[Tensor, Tensor]:
    window, filters = _window_and_filters(settings)
    return window.to(device), filters.to(device)


def _window_and_filters(settings: MelSettings) -> tuple[Tensor, Tensor]:
    """(n_fft,) and (bins, mels)"""
    filters = filterbanks.mel(
        settings.sample_rate,
        settings.n_fft,
        settings.n_mels,
        settings.fmin_hz,
        settings.fmax_hz,
    )
    return torch.hann_window(settings.n_fft), torch.from_numpy(filters.T.copy())


class LogMel(nn.Module):
    """(..., samples) -> (..., frames, mels), frames = 1 + samples // hop.

    Differentiable. Computed in float32 even under autocast: power has a wider range than half
    precision."""

    window: Tensor  # (n_fft,)
    filters: Tensor  # (bins, mels)

    def __init__(self, settings: MelSettings) -> None:
        super().__init__()
        self.settings = settings
        window, filters = _window_and_filters(settings)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        return self.of_frames(F.pad(audio, [self.settings.n_fft // 2] * 2))

    def of_frames(self, padded: Tensor) -> Tensor:
        """The same for audio that is padded already: (..., samples) -> (..., frames, mels), of
        all frames that lie entirely within it."""
        with torch.autocast(padded.device.type, enabled=False):
            batch = padded.float().reshape(-1, padded.shape[-1])
            mel = power_spectrum(batch, self.window, self.settings.hop) @ self.filters
            decibels = 10 * torch.log10(mel.clamp(min=10 ** (FLOOR_DB / 10)))
        return decibels.reshape(*padded.shape[:-1], *decibels.shape[-2:])


def recipe(settings: MelSettings) -> Recipe:
    """How `extract` makes and caches the array LOG_MEL of every song, (frames, mels) float16."""
    return Recipe("logmel", VERSION, settings, _arrays)


def _arrays(audio: NDArray[np.float32], settings: MelSettings) -> dict[str, NDArray[np.float16]]:
    return {LOG_MEL: song_log_mel(audio, settings)}


def song_log_mel(audio: NDArray[np.float32], settings: MelSettings) -> NDArray[np.float16]:
    """(samples,) -> (frames, mels). The steps of half precision are at most 1/16 dB.

    Raises AudioError if the audio is shorter than a frame."""
    require_frame(audio, settings.n_fft, settings.sample_rate)
    log_mel = LogMel(settings)
    padded = torch.from_numpy(np.pad(audio, settings.n_fft // 2))
    n_frames = 1 + (len(padded) - settings.n_fft) // settings.hop
    blocks = []
    for first in range(0, n_frames, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, n_frames) - 1
        block = padded[first * settings.hop : last * settings.hop + settings.n_fft]
        with torch.inference_mode():
            blocks.append(log_mel.of_frames(block).half())
    return torch.cat(blocks).numpy()
