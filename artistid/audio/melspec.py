"""Log-mel spectrograms, in torch: of batches on any device, and of whole songs for the cache.

Audio is float32 mono in [-1, 1]; a log-mel is (frames, mels), in decibels of the power of a frame,
with the floor FLOOR_DB. Frames are centred on multiples of the hop, the signal padded with zeros.
"""

from collections.abc import Iterator
from dataclasses import dataclass

# by name and before there are workers, for the reason given in features.py
import librosa.filters
import librosa.util.utils
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from artistid.audio.decode import require_frame
from artistid.audio.extraction import Recipe
from artistid.foundation.errors import UserError

NAME = "log_mel"  # of the array in a cache entry
VERSION = 1  # raise it when a value changes: it is part of every cache key
FLOOR_DB = -100.0  # of the power of a frame, before its logarithm
BLOCK_FRAMES = 4_096  # of a song at a time: memory does not grow with its length


@dataclass(frozen=True)
class MelSettings:
    """What the values depend on; the defaults are those of the course's corpus."""

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
                f"mel bands from {self.fmin_hz} to {self.fmax_hz} Hz do not lie within 0 to "
                f"{self.sample_rate / 2} Hz"
            )


class LogMel(nn.Module):
    """(..., samples) -> (..., frames, mels), where frames = 1 + samples // hop.

    Differentiable; computed in float32 also under autocast, since a power has more range than
    half precision."""

    window: Tensor  # (n_fft,)
    filters: Tensor  # (bins, mels)

    def __init__(self, settings: MelSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("window", torch.hann_window(settings.n_fft), persistent=False)
        filters = librosa.filters.mel(
            sr=settings.sample_rate,
            n_fft=settings.n_fft,
            n_mels=settings.n_mels,
            fmin=settings.fmin_hz,
            fmax=settings.fmax_hz,
        )
        self.register_buffer("filters", torch.from_numpy(filters.T.copy()), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        return self.of_frames(F.pad(audio, [self.settings.n_fft // 2] * 2))

    def of_frames(self, padded: Tensor) -> Tensor:
        """The same of audio that was padded: (..., samples) -> (..., whole frames in it, mels)."""
        with torch.autocast(padded.device.type, enabled=False):
            spectrum = torch.stft(
                padded.float().reshape(-1, padded.shape[-1]),
                self.settings.n_fft,
                self.settings.hop,
                window=self.window,
                center=False,
                return_complex=True,
            )  # (batch, bins, frames)
            power = torch.view_as_real(spectrum).square().sum(-1)
            mel = power.transpose(-1, -2) @ self.filters  # (batch, frames, mels)
            decibels = 10 * torch.log10(mel.clamp(min=10 ** (FLOOR_DB / 10)))
        return decibels.reshape(*padded.shape[:-1], *decibels.shape[-2:])


def recipe(settings: MelSettings) -> Recipe:
    """How `extract` makes and caches "log_mel", (frames, mels) in float16, of every song."""
    return Recipe("logmel", VERSION, settings, _arrays)


def _arrays(audio: NDArray[np.float32], settings: MelSettings) -> dict[str, NDArray[np.float16]]:
    return {NAME: song_log_mel(audio, settings)}


def song_log_mel(audio: NDArray[np.float32], settings: MelSettings) -> NDArray[np.float16]:
    """`audio` (samples,) -> (frames, mels). Half precision keeps steps of 1/16 dB or less.

    Raises AudioError where the audio is shorter than a frame."""
    require_frame(audio, settings.n_fft, settings.sample_rate)
    log_mel = LogMel(settings)
    padded = torch.from_numpy(np.pad(audio, settings.n_fft // 2))
    with torch.inference_mode():
        blocks = [log_mel.of_frames(block).half() for block in _blocks(padded, settings)]
    return torch.cat(blocks).numpy()


def _blocks(padded: Tensor, settings: MelSettings) -> Iterator[Tensor]:
    """Samples of BLOCK_FRAMES frames each; neighbours share what their frames share."""
    n_frames = 1 + (len(padded) - settings.n_fft) // settings.hop
    for first in range(0, n_frames, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, n_frames) - 1
        yield padded[first * settings.hop : last * settings.hop + settings.n_fft]
