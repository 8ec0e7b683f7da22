"""What of a song is heard: a path and a rate in, mono samples out.

The mix of all channels is the only source so far; `decode` hands out every channel, so that a
separator that needs stereo can stand here beside it.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import soxr

from artistid.audio.decode import Audio, AudioError, Samples, decode

MIN_PEAK_TO_PEAK = 1e-4  # -80 dB of full scale: anything below is silence


def load(path: Path, sample_rate: int | None) -> Audio:
    """The whole song at `path`, mixed to mono and resampled; None keeps the file's own rate.

    Raises AudioError for a file that cannot be decoded, is silent, or has samples that are not
    finite.
    """
    audio = decode(path, to_mono)
    if not np.isfinite(audio.samples).all():
        raise AudioError("contains samples that are not numbers (NaN or infinite)")
    if np.ptp(audio.samples) < MIN_PEAK_TO_PEAK:
        raise AudioError("silent from start to end")
    return resampled(audio, sample_rate or audio.sample_rate)


def resampled(audio: Audio, sample_rate: int) -> Audio:
    if audio.sample_rate == sample_rate:
        return audio
    samples = soxr.resample(audio.samples, audio.sample_rate, sample_rate)
    return replace(audio, samples=samples, sample_rate=sample_rate)


def to_mono(block: Samples) -> Samples:
    """(samples, channels) -> (samples,): the mean of all channels."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def require_frame(samples: Samples, n_fft: int, sample_rate: int) -> None:
    """Raise AudioError if `samples` are too few for one frame."""
    if len(samples) < n_fft:
        raise AudioError(
            f"too short: {len(samples)} samples at {sample_rate} Hz, one frame needs {n_fft}"
        )
