"""Frame features of a song and their statistics over excerpts, in NumPy.

One short-time Fourier transform feeds every feature. Definitions and values are librosa's
(0.11, same settings); only the order of the work differs: frames are rows, a block of frames is
finished while it is still in the processor's cache, and no spectrum is computed twice.

Conventions: audio is float32 mono in [-1, 1]; frames are centred, the signal padded with zeros
(zero crossings: with its edge values); feature matrices are (frames, columns) float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

# By name and at once: librosa compiles its modules when they are first loaded, and processes that
# do so at the same time can spoil the compiled files for good (numba's issue 10128). Here it
# happens once, before there are other processes.
import librosa.filters
import librosa.util.utils
import numpy as np
import scipy.fft
import scipy.signal
import scipy.sparse
from numpy.typing import NDArray

from artistid.audio.cache import opened
from artistid.audio.decode import require_frame
from artistid.audio.extraction import Recipe
from artistid.dataset.corpus import Track
from artistid.foundation.errors import UserError

Array = NDArray[np.float32]

VERSION = 1  # raise it when a value changes: it is part of every cache key
N_CHROMA = 12
DELTA_WIDTH = 9  # frames, librosa.feature.delta's default
CONTRAST_FMIN_HZ = 200.0
N_CONTRAST_OCTAVES = 6  # plus the band below fmin: 7 columns
CONTRAST_QUANTILE = 0.02
ROLLOFF_SHARE = 0.85
SILENT_RMS = 1e-4  # -80 dB of full scale
TINY = float(np.finfo(np.float32).tiny)  # a frame whose sum is below it is not normalised
AMIN = 1e-10  # floor under a power before its logarithm
TOP_DB = 80.0  # dynamic range kept below a song's loudest value
TUNING_RANGE_HZ = (150.0, 4000.0)
TUNING_PEAK_SHARE = 0.1  # of the frame's maximum: what counts as a spectral peak
SPECTRAL_NAMES = ("centroid", "bandwidth", "rolloff", "flatness", "zero_crossing_rate", "rms")
BLOCK_FRAMES = 64  # 64 x 2,048 samples in float64: 1 MB, about the second-level cache


@dataclass(frozen=True)
class FeatureSettings:
    """What the values depend on; the defaults are those of the course's corpus."""

    sample_rate: int = 16_000  # Hz; every file is resampled to it
    n_fft: int = 2_048  # samples, Hann window
    hop: int = 512  # samples; must divide n_fft
    n_mels: int = 128
    n_mfcc: int = 20
    excerpt_s: float = 5.0  # seconds

    def __post_init__(self) -> None:
        if self.n_fft % self.hop:
            raise UserError(f"hop {self.hop} does not divide n_fft {self.n_fft}")
        if not self.excerpt_s * self.sample_rate >= self.n_fft:  # also for NaN
            raise UserError(
                f"an excerpt of {self.excerpt_s} s is shorter than a frame; "
                f"use at least {self.n_fft / self.sample_rate} s"
            )


class SongFeatures(NamedTuple):
    """Means of all frame features, then their standard deviations."""

    excerpts: Array  # (excerpts, columns), of those that are not silent
    song: Array  # (columns,)
    spans: NDArray[np.intp]  # (excerpts, 2): the first frame of each, and the one after its last


def recipe(settings: FeatureSettings) -> Recipe:
    """How `extract` makes and caches "excerpts" and "song" of a `SongFeatures`."""
    return Recipe("features", VERSION, settings, _arrays)


def _arrays(audio: Array, settings: FeatureSettings) -> dict[str, Array]:
    found = song_features(audio, settings)
    return {"excerpts": found.excerpts, "song": found.song}


@dataclass(frozen=True)
class SongLoader:
    """Reads from the cache what a classifier hears of a song."""

    entries: Mapping[Track, Path]

    def __call__(self, track: Track, most_excerpts: int | None = None) -> Array:
        """The song's excerpts, at most so many, evenly spread, and a row for all of it:
        (rows, columns). Raises UserError where the cache has lost it."""
        with opened(self.entries[track]) as file:
            excerpts, song = file.get_tensor("excerpts"), file.get_tensor("song")
        if most_excerpts is not None and len(excerpts) > most_excerpts:
            excerpts = excerpts[np.arange(most_excerpts) * len(excerpts) // most_excerpts]
        return np.vstack([excerpts, song])


def frame_feature_names(settings: FeatureSettings) -> list[str]:
    """Names of the columns of `frame_features`."""
    mfcc = [f"mfcc_{i}" for i in range(settings.n_mfcc)]
    return [
        *mfcc,
        *(f"{name}_delta" for name in mfcc),
        *(f"{name}_delta2" for name in mfcc),
        *(f"chroma_{i}" for i in range(N_CHROMA)),
        *(f"contrast_{i}" for i in range(N_CONTRAST_OCTAVES + 1)),
        *SPECTRAL_NAMES,
        *(f"logmel_{i}" for i in range(settings.n_mels)),
    ]


def song_features(audio: Array, settings: FeatureSettings) -> SongFeatures:
    """Statistics of the whole song `audio` (samples,), excerpt by excerpt and over all of it.

    Silent excerpts are left out. Raises AudioError where the audio is shorter than a frame.
    """
    frames = frame_features(audio, settings)
    starts = excerpt_starts(len(frames), settings)
    excerpts = mean_and_std(frames, starts)
    loudness = excerpts[:, frame_feature_names(settings).index("rms")]
    audible = loudness >= min(SILENT_RMS, loudness.max())
    song = mean_and_std(frames, np.zeros(1, dtype=np.intp))[0]
    spans = np.stack([starts, np.append(starts[1:], len(frames))], axis=1)
    return SongFeatures(excerpts[audible], song, spans[audible])


def excerpt_starts(n_frames: int, settings: FeatureSettings) -> NDArray[np.intp]:
    """First frame of each excerpt. The end of the song is an excerpt of its own where it is at
    least half as long as the others, else part of the last: no frame is dropped."""
    per_excerpt = max(1, round(settings.excerpt_s * settings.sample_rate / settings.hop))
    n_excerpts = max(1, int(n_frames / per_excerpt + 0.5))
    return np.arange(n_excerpts, dtype=np.intp) * per_excerpt


def mean_and_std(frames: Array, starts: NDArray[np.intp]) -> Array:
    """Mean and standard deviation of `frames` (frames, columns) between consecutive `starts`.

    Returns (len(starts), 2 x columns)."""
    counts = np.diff(starts, append=len(frames))[:, np.newaxis]
    mean = np.add.reduceat(frames, starts, axis=0, dtype=np.float64) / counts
    # from the deviations, not the squares: exact also where the values are far from zero
    deviation = frames - np.repeat(mean, counts[:, 0], axis=0)
    variance = np.add.reduceat(np.square(deviation), starts, axis=0) / counts
    return np.hstack([mean, np.sqrt(variance)]).astype(np.float32)


def frame_features(audio: Array, settings: FeatureSettings) -> Array:
    """All features of every frame of `audio` (samples,): (frames, columns).

    Raises AudioError where the audio is shorter than a frame.
    """
    require_frame(audio, settings.n_fft, settings.sample_rate)
    n_frames = 1 + len(audio) // settings.hop
    padded = np.pad(audio, settings.n_fft // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, settings.n_fft)[:: settings.hop]
    power = np.empty((n_frames, settings.n_fft // 2 + 1), dtype=np.float32)
    mel = np.empty((n_frames, settings.n_mels), dtype=np.float32)
    valley = np.empty((n_frames, N_CONTRAST_OCTAVES + 1), dtype=np.float32)
    peak = np.empty_like(valley)
    spectral = np.empty((n_frames, len(SPECTRAL_NAMES)), dtype=np.float32)
    tones = []
    for start in range(0, n_frames, BLOCK_FRAMES):
        block = slice(start, start + BLOCK_FRAMES)
        spectrum = scipy.fft.rfft(windows[block] * _window(settings.n_fft), axis=-1)
        power[block] = spectrum.real**2 + spectrum.imag**2
        magnitude = np.sqrt(power[block])
        mel[block] = (_mel_filters(settings) @ power[block].T).T
        valley[block], peak[block] = _valley_and_peak(magnitude, settings)
        spectral[block, :4] = _spectral_shape(magnitude, power[block], settings)
        tones.append(_tones(power[block], settings))
    spectral[:, 4] = _zero_crossing_rate(audio, settings)
    spectral[:, 5] = _rms(padded, settings)
    log_mel = _decibels(mel)
    mfcc = scipy.fft.dct(log_mel, type=2, norm="ortho", axis=-1)[:, : settings.n_mfcc]
    return np.hstack(
        [
            mfcc,
            _delta(mfcc, order=1),
            _delta(mfcc, order=2),
            _chroma(power, _tuning(np.hstack(tones)), settings),
            _decibels(peak) - _decibels(valley),
            spectral,
            log_mel,
        ]
    )


def _decibels(power: Array) -> Array:
    decibels = 10 * np.log10(np.maximum(power, AMIN))
    return np.maximum(decibels, decibels.max() - TOP_DB)


def _delta(mfcc: Array, order: int) -> Array:
    """Local slope (order 1) or curvature (order 2) over time, by Savitzky-Golay."""
    mode = "interp" if len(mfcc) >= DELTA_WIDTH else "nearest"
    return scipy.signal.savgol_filter(
        mfcc, DELTA_WIDTH, polyorder=order, deriv=order, axis=0, mode=mode
    )


def _valley_and_peak(magnitude: Array, settings: FeatureSettings) -> tuple[Array, Array]:
    """Mean of the weakest and of the strongest bins of each octave band (Jiang et al. 2002)."""
    valleys, peaks = [], []
    for band, n_extreme in _contrast_bands(settings):
        bins = np.sort(magnitude[:, band], axis=-1)
        valleys.append(bins[:, :n_extreme].mean(axis=-1))
        peaks.append(bins[:, -n_extreme:].mean(axis=-1))
    return np.stack(valleys, axis=-1), np.stack(peaks, axis=-1)


def _spectral_shape(magnitude: Array, power: Array, settings: FeatureSettings) -> Array:
    """Centroid, bandwidth, roll-off (Hz) and flatness of each frame: (frames, 4)."""
    hz = _bin_hz(settings)
    # moments in float64: the variance is a small difference of large numbers
    total, first, second = (magnitude.astype(np.float64) @ np.stack([hz**0, hz, hz**2], axis=-1)).T
    total = np.maximum(total, TINY)
    centroid = first / total
    bandwidth = np.sqrt(np.maximum(second / total - centroid**2, 0))
    rolloff = hz[_first_bin_reaching(magnitude, ROLLOFF_SHARE)]
    floored = np.maximum(power, AMIN)
    flatness = np.exp(np.log(floored).mean(axis=-1)) / floored.mean(axis=-1)
    return np.stack([centroid, bandwidth, rolloff, flatness], axis=-1).astype(np.float32)


def _first_bin_reaching(magnitude: Array, share: float) -> NDArray[np.intp]:
    """First bin of each frame up to which the sum is at least `share` of the frame's: (frames,).

    Sums of 32 bins say which 32 to look into: a third of the time of one long cumulative sum."""
    n_bins = magnitude.shape[1]
    size = 32
    group_sums = np.add.reduceat(magnitude, np.arange(0, n_bins, size), axis=-1)
    below = np.cumsum(group_sums, axis=-1)
    goal = share * below[:, -1:]
    group = np.argmax(below >= goal, axis=-1)[:, np.newaxis]
    bins = np.minimum(group * size + np.arange(size), n_bins - 1)
    before = np.take_along_axis(below, group, -1) - np.take_along_axis(group_sums, group, -1)
    inside = before + np.cumsum(np.take_along_axis(magnitude, bins, -1), axis=-1)
    reached = inside >= goal
    reached[:, -1] = True  # rounding may keep the last one a hair below
    return np.take_along_axis(bins, np.argmax(reached, axis=-1)[:, np.newaxis], -1)[:, 0]


def _tones(power: Array, settings: FeatureSettings) -> NDArray[np.float32]:
    """Frequency (Hz) and height of every spectral peak, refined by a parabola: (2, peaks)."""
    hz = _bin_hz(settings)
    low, high = np.searchsorted(hz, TUNING_RANGE_HZ)
    floor = TUNING_PEAK_SHARE * power.max(axis=-1, keepdims=True)
    left, centre, right = (power[:, low + step : high + step] for step in (-1, 0, 1))
    is_peak = (centre > floor) & (centre > left) & (centre >= right)
    frame, bin_ = np.divmod(np.flatnonzero(is_peak), high - low)  # faster than np.nonzero
    bin_ += low
    left, centre, right = (power[frame, bin_ + step] for step in (-1, 0, 1))
    slope = (right - left) / 2
    curvature = left + right - 2 * centre
    inside = np.abs(slope) < np.abs(curvature)
    shift = np.where(inside, -slope / np.where(inside, curvature, 1), 0)
    return np.stack(
        [(bin_ + shift) * settings.sample_rate / settings.n_fft, centre + slope * shift / 2]
    ).astype(np.float32)


def _tuning(tones: NDArray[np.float32]) -> float:
    """Deviation from A440 in semitones, [-0.5, 0.5), the mode of the louder half of `tones`."""
    if tones.size == 0:
        return 0.0
    frequency, height = tones
    frequency = frequency[height >= np.median(height)]
    deviation = np.mod(N_CHROMA * np.log2(frequency.astype(np.float64) / 440), 1.0)
    deviation[deviation >= 0.5] -= 1.0
    counts, edges = np.histogram(deviation, np.linspace(-0.5, 0.5, 101))
    return float(edges[np.argmax(counts)])


def _chroma(power: Array, tuning: float, settings: FeatureSettings) -> Array:
    chroma = power @ _chroma_filters(settings, tuning)
    loudest = chroma.max(axis=-1, keepdims=True)
    return np.asarray(chroma / np.where(loudest < TINY, 1, loudest), dtype=np.float32)


def _zero_crossing_rate(audio: Array, settings: FeatureSettings) -> Array:
    padded = np.pad(audio, settings.n_fft // 2, mode="edge")
    negative = padded < -1e-10  # librosa's threshold: anything nearer to zero counts as positive
    crossing = np.diff(negative, prepend=negative[0])
    inside = _sum_over_frames(crossing, settings)
    # a crossing into a frame's first sample is no crossing inside the frame
    first = crossing[:: settings.hop][: len(inside)]
    return np.asarray((inside - first) / settings.n_fft, dtype=np.float32)


def _rms(padded: Array, settings: FeatureSettings) -> Array:
    power = _sum_over_frames(padded**2, settings) / settings.n_fft
    return np.asarray(np.sqrt(power), dtype=np.float32)


def _sum_over_frames(values: NDArray[Any], settings: FeatureSettings) -> NDArray[Any]:
    """Sum of `values` (padded samples,) within each frame: sums of hops, then of their runs."""
    n_hops = len(values) // settings.hop
    hops = values[: n_hops * settings.hop].reshape(n_hops, settings.hop)
    sums = hops.sum(axis=-1, dtype=np.float32)
    hops_per_frame = settings.n_fft // settings.hop
    return np.lib.stride_tricks.sliding_window_view(sums, hops_per_frame).sum(axis=-1)


def _bin_hz(settings: FeatureSettings) -> NDArray[Any]:
    return np.fft.rfftfreq(settings.n_fft, 1 / settings.sample_rate)


@lru_cache
def _window(n_fft: int) -> NDArray[np.float64]:
    # float64, as librosa's: in float32 the quiet bins above an encoder's cut-off are rounding noise
    return scipy.signal.get_window("hann", n_fft)


@lru_cache
def _mel_filters(settings: FeatureSettings) -> scipy.sparse.csr_array:
    """(mels, bins); sparse, since each bin is in two filters at most."""
    return scipy.sparse.csr_array(
        librosa.filters.mel(sr=settings.sample_rate, n_fft=settings.n_fft, n_mels=settings.n_mels)
    )


@lru_cache(maxsize=128)  # a tuning is one of 100 values
def _chroma_filters(settings: FeatureSettings, tuning: float) -> Array:
    """(bins, pitch classes)"""
    return np.ascontiguousarray(
        librosa.filters.chroma(
            sr=settings.sample_rate, n_fft=settings.n_fft, tuning=tuning, n_chroma=N_CHROMA
        ).T
    )


@lru_cache
def _contrast_bands(settings: FeatureSettings) -> list[tuple[slice, int]]:
    """Bins of each octave band and how many of them make its valley and its peak."""
    hz = _bin_hz(settings)
    edges = CONTRAST_FMIN_HZ * 2.0 ** np.arange(N_CONTRAST_OCTAVES + 1)
    bands = []
    for k, (low, high) in enumerate(zip([0.0, *edges[:-1]], edges, strict=True)):
        first = int(np.searchsorted(hz, low)) - (k > 0)  # a band starts one bin early,
        stop = int(np.searchsorted(hz, high, side="right"))
        if k == N_CONTRAST_OCTAVES:
            stop = len(hz)  # the last one takes the rest,
        n_extreme = max(1, round(CONTRAST_QUANTILE * (stop - first)))
        if k < N_CONTRAST_OCTAVES:
            stop -= 1  # the others leave their last bin to the next
        bands.append((slice(first, stop), n_extreme))
    return bands
