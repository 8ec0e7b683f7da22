"""Which bins of a power spectrum make up a mel band or a pitch class, as matrices.

Definitions and values are those of librosa 0.11, `librosa.filters.mel` and `.chroma`.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Slaney's mel scale (Auditory Toolbox, 1998): linear up to 1 kHz, then logarithmic
MELS_PER_HZ = 3 / 200
KNEE_HZ, KNEE_MEL = 1_000.0, 15.0
MELS_PER_NEPER = 27 / np.log(6.4)

A4_HZ = 440.0
CHROMA_CENTRE, CHROMA_WIDTH = 5.0, 2.0  # octaves above 27.5 Hz, A0: which count most


def mel(
    sample_rate: int, n_fft: int, n_mels: int, fmin_hz: float = 0, fmax_hz: float | None = None
) -> Array:
    """(mels, bins): triangles that overlap by half, equally wide in mel, of unit area in Hz."""
    top_hz = sample_rate / 2 if fmax_hz is None else fmax_hz
    bottom_mel, top_mel = _mel(np.array([fmin_hz, top_hz]))
    edges = _hz(np.linspace(bottom_mel, top_mel, n_mels + 2))
    low, centre, high = (edges[i : i + n_mels, np.newaxis] for i in range(3))
    hz = np.fft.rfftfreq(n_fft, 1 / sample_rate)
    triangles = np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre))
    heights = triangles.clip(min=0).astype(np.float32)  # here, as librosa does: the same bits
    return (heights * (2 / (high - low))).astype(np.float32)


def chroma(sample_rate: int, n_fft: int, n_chroma: int, tuning: float = 0) -> Array:
    """(pitch classes, bins), from C upwards; `tuning` is the deviation from A4 = 440 Hz, in pitch
    classes.

    A bin belongs to the pitch classes near its own by a Gaussian as wide as the bin; bins of the
    middle octaves count most (Ellis 2007, chroma feature analysis and synthesis)."""
    hz = np.arange(1, n_fft) * sample_rate / n_fft
    pitch = n_chroma * np.log2(hz / (A4_HZ * 2 ** (tuning / n_chroma) / 16))
    pitch = np.insert(pitch, 0, pitch[0] - 1.5 * n_chroma)  # of the first bin, 0 Hz: far below
    width = np.append(np.diff(pitch).clip(min=1), 1)
    half = round(n_chroma / 2)
    distance = pitch - np.arange(n_chroma)[:, np.newaxis]
    distance = (distance + half) % n_chroma - half  # to the nearest octave's
    weights = np.exp(-0.5 * (2 * distance / width) ** 2)
    weights /= np.linalg.norm(weights, axis=0)
    weights *= np.exp(-0.5 * ((pitch / n_chroma - CHROMA_CENTRE) / CHROMA_WIDTH) ** 2)
    a_to_c = 3 * (n_chroma // 12)
    return np.roll(weights, -a_to_c, axis=0)[:, : 1 + n_fft // 2].astype(np.float32)


def _mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    above = KNEE_MEL + MELS_PER_NEPER * np.log(np.maximum(hz, KNEE_HZ) / KNEE_HZ)
    return np.where(hz < KNEE_HZ, hz * MELS_PER_HZ, above)


def _hz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    above = KNEE_HZ * np.exp((mels - KNEE_MEL) / MELS_PER_NEPER)
    return np.where(mels < KNEE_MEL, mels / MELS_PER_HZ, above)
