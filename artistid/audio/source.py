"""A song as one channel: a path and a rate in, mono samples out."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from artistid.audio.decode import Audio, AudioError, Samples, decode

MIN_PEAK_TO_PEAK = 1e-4  # -80 dB of full scale: anything below is silence
MAX_PEAK = 1e10  # of full scale; integers kept as floating-point numbers reach 2^31
MIN_RATE = 1_000  # Hz


def load(
    path: Path,
    sample_rate: int | None,
    may_be_silent: bool = False,
    longest_s: float = math.inf,
) -> Audio:
    """The whole song at `path`, mixed to mono and resampled; None keeps the file's own rate.

    Raises AudioError for a file that cannot be decoded, is silent, is longer than `longest_s`
    seconds, or has samples or a rate that cannot be meant.
    """
    return at_rate(_usable(decode(path, to_mono, longest_s), may_be_silent), sample_rate)


def from_samples(samples: NDArray[Any], own_rate: int, sample_rate: int | None) -> Audio:
    """The same from memory: floating-point (samples,) or (samples, channels) at `own_rate`."""
    if not np.issubdtype(samples.dtype, np.floating) or samples.ndim not in (1, 2):
        raise AudioError(
            f"needs floating-point samples in [-1, 1], (samples,) or (samples, channels), not "
            f"{samples.dtype} {samples.shape}"
        )
    if samples.size == 0:
        raise AudioError("no samples")
    columns = samples.reshape(len(samples), -1).astype(np.float32)
    audio = Audio(to_mono(columns), own_rate, "", "samples", columns.shape[1])
    return at_rate(_usable(audio), sample_rate)


def _usable(audio: Audio, may_be_silent: bool = False) -> Audio:
    lowest, highest = float(audio.samples.min()), float(audio.samples.max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise AudioError("contains samples that are not numbers (NaN or infinite)")
    if (peak := max(-lowest, highest)) > MAX_PEAK:
        raise AudioError(f"damaged: a sample of {peak:.0e}, where 1 is full scale")
    if not MIN_RATE <= audio.sample_rate < math.inf:
        raise AudioError(f"damaged: its sample rate is {audio.sample_rate} Hz")
    if not may_be_silent and highest - lowest < MIN_PEAK_TO_PEAK:
        mixed = " when mixed to mono" if audio.channels > 1 else ""
        raise AudioError(f"silent from start to end{mixed}")
    return audio


def at_rate(audio: Audio, sample_rate: int | None) -> Audio:
    """The same, resampled; None keeps its rate."""
    if sample_rate in (None, audio.sample_rate):
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
