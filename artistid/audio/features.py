"""Frame features of a song and their statistics over excerpts, in NumPy.

Definitions and values are those of librosa 0.11 at the same settings. It is faster because one
short-time Fourier transform feeds every feature, and because all features of a block of frames
are computed while its spectrum is in the processor's cache.

Audio is float32 mono in [-1, 1]. Frames are centred; the signal is padded with zeros (for zero
crossings, with its edge values). Feature matrices are (frames, columns) float32.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
import scipy.signal
import scipy.sparse
from numpy.typing import NDArray

from artistid.audio import filterbanks
from artistid.audio.cache import Entries, opened
from artistid.audio.extraction import Recipe
from artistid.audio.source import require_frame
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
TINY = float(np.finfo(np.float32).tiny)  # a frame whose sum is smaller is not normalised
AMIN = 1e-10  # floor for power before taking the logarithm
TOP_DB = 80.0  # dynamic range below the loudest value of a song
TUNING_RANGE_HZ = (150.0, 4000.0)
TUNING_PEAK_SHARE = 0.1  # of the frame's maximum; lower peaks do not count
SPECTRAL_NAMES = ("centroid", "bandwidth", "rolloff", "flatness", "zero_crossing_rate", "rms")
BLOCK_FRAMES = 64  # 64 x 2,048 float64 samples are 1 MB, about the size of a second-level cache


@dataclass(frozen=True)
class FeatureSettings:
    """All that features depend on besides the audio; the defaults suit the course's corpus."""

    sample_rate: int = 16_000  # Hz; every file is resampled to it
    n_fft: int = 2_048  # samples, Hann window
    hop: int = 512  # samples; must divide n_fft
    n_mels: int = 128
    n_mfcc: int = 20
    excerpt_s: float = 5.0  # seconds

    def __post_init__(self) -> None:
        if self.n_fft % self.hop:
            raise UserError(f"hop {self.hop} does not divide n_fft {self.n_fft}")
        frame_s = self.n_fft / self.sample_rate
        if not frame_s <= self.excerpt_s < math.inf:
            raise UserError(
                f"--excerpt-seconds {self.excerpt_s}: must be at least {frame_s}, and finite"
            )


class SongFeatures(NamedTuple):
    """Means of all frame features, followed by their standard deviations."""

    excerpts: Array  # (excerpts, columns), without silent excerpts
    song: Array  # (columns,), over the whole song
    spans: NDArray[np.intp]  # (excerpts, 2): first frame, last frame + 1


def recipe(settings: FeatureSettings) -> Recipe:
    """How `extract` makes and caches "excerpts" and "song" of a `SongFeatures`."""
    return Recipe("features", VERSION, settings, _arrays)


def _arrays(audio: Array, settings: FeatureSettings) -> dict[str, Array]:
    found = song_features(audio, settings)
    return {"excerpts": found.excerpts, "song": found.song}


@dataclass(frozen=True)
class SongLoader:
    """Reads a song's rows for a classifier from the cache."""

    entries: Mapping[Track, Entries]

    def __call__(self, track: Track, most_excerpts: int | None = None) -> Array:
        """(rows, columns): up to `most_excerpts` evenly spread excerpts, then the whole song; of
        several sources, one after the other.

        Raises UserError if an entry is gone from the cache."""
        rows = []
        entries = self.entries[track]
        for entry in entries:
            with opened(entry) as file:
                excerpts, song = file.get_tensor("excerpts"), file.get_tensor("song")
            if most_excerpts is not None:
                most = max(1, most_excerpts // len(entries))
                if len(excerpts) > most:
                    excerpts = excerpts[np.arange(most) * len(excerpts) // most]
            rows += [excerpts, song]
        return np.vstack(rows)


def frame_feature_names(settings: FeatureSettings) -> list[str]:
    """Names of the columns of `frame_features`, in order."""
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
    """Statistics of `audio` (samples,), excerpt by excerpt and over the whole song.

    Excerpts follow each other without overlap. What remains at the end is an excerpt of its own if
    it is at least half as long as the others, and part of the last one otherwise. (Crops and
    encoders need equal lengths, so theirs overlap instead: `audio.excerpts.covering`.) Silent
    excerpts are left out. Raises AudioError if the audio is shorter than a frame.
    """
    frames = frame_features(audio, settings)
    wanted = settings.excerpt_s * settings.sample_rate / settings.hop
    per_excerpt = max(1, round(min(wanted, len(frames))))
    n_excerpts = max(1, int(len(frames) / per_excerpt + 0.5))
    starts = np.arange(n_excerpts, dtype=np.intp) * per_excerpt
    excerpts = mean_and_std(frames, starts)
    loudness = excerpts[:, frame_feature_names(settings).index("rms")]
    audible = loudness >= min(SILENT_RMS, loudness.max())
    song = mean_and_std(frames, np.zeros(1, dtype=np.intp))[0]
    spans = np.stack([starts, np.append(starts[1:], len(frames))], axis=1)
    return SongFeatures(excerpts[audible], song, spans[audible])


def mean_and_std(frames: Array, starts: NDArray[np.intp]) -> Array:
    """Mean and standard deviation of `frames` (frames, columns) from each start to the next:
    (len(starts), 2 x columns)."""
    counts = np.diff(starts, append=len(frames))[:, np.newaxis]
    mean = np.add.reduceat(frames, starts, axis=0, dtype=np.float64) / counts
    # squares of deviations, not of values: accurate even if the values are far from zero
    deviation = frames - np.repeat(mean, counts[:, 0], axis=0)
    variance = np.add.reduceat(np.square(deviation), starts, axis=0) / counts
    return np.hstack([mean, np.sqrt(variance)]).astype(np.float32)


def frame_features(audio: Array, settings: FeatureSettings) -> Array:
    """All features of every frame of `audio` (samples,): (frames, columns).

    Raises AudioError if the audio is shorter than a frame.
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
    """Slope (order 1) or curvature (order 2) over time, by a Savitzky-Golay filter."""
    mode = "interp" if len(mfcc) >= DELTA_WIDTH else "nearest"
    return scipy.signal.savgol_filter(
        mfcc, DELTA_WIDTH, polyorder=order, deriv=order, axis=0, mode=mode
    )


def _valley_and_peak(magnitude: Array, settings: FeatureSettings) -> tuple[Array, Array]:
    """Means of the weakest and of the strongest bins of each octave band: twice (frames, bands).

    Spectral contrast is their difference (Jiang et al. 2002)."""
    valleys, peaks = [], []
    for band, n_extreme in _contrast_bands(settings):
        bins = np.sort(magnitude[:, band], axis=-1)
        valleys.append(bins[:, :n_extreme].mean(axis=-1))
        peaks.append(bins[:, -n_extreme:].mean(axis=-1))
    return np.stack(valleys, axis=-1), np.stack(peaks, axis=-1)


def _spectral_shape(magnitude: Array, power: Array, settings: FeatureSettings) -> Array:
    """Centroid, bandwidth, roll-off (Hz) and flatness of each frame: (frames, 4)."""
    hz = _bin_hz(settings)
    # in float64: the variance is a small difference of large moments
    total, first, second = (magnitude.astype(np.float64) @ np.stack([hz**0, hz, hz**2], axis=-1)).T
    total = np.maximum(total, TINY)
    centroid = first / total
    bandwidth = np.sqrt(np.maximum(second / total - centroid**2, 0))
    rolloff = hz[_first_bin_reaching(magnitude, ROLLOFF_SHARE)]
    floored = np.maximum(power, AMIN)
    flatness = np.exp(np.log(floored).mean(axis=-1)) / floored.mean(axis=-1)
    return np.stack([centroid, bandwidth, rolloff, flatness], axis=-1).astype(np.float32)


def _first_bin_reaching(magnitude: Array, share: float) -> NDArray[np.intp]:
    """First bin at which a frame's cumulative sum reaches `share` of its total: (frames,).

    Sums over groups of 32 bins narrow the search down to one group, which takes a third of the
    time of a cumulative sum over all bins."""
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
    reached[:, -1] = True  # rounding may leave the last sum just short of the goal
    return np.take_along_axis(bins, np.argmax(reached, axis=-1)[:, np.newaxis], -1)[:, 0]


def _tones(power: Array, settings: FeatureSettings) -> NDArray[np.float32]:
    """Frequency (Hz) and height of all spectral peaks, by parabolic interpolation: (2, peaks)."""
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
    """Deviation from A440 in semitones, [-0.5, 0.5): the mode over the louder half of `tones`."""
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
    negative = padded < -1e-10  # librosa's threshold; values nearer to zero count as positive
    crossing = np.diff(negative, prepend=negative[0])
    inside = _sum_over_frames(crossing, settings)
    # a crossing between the sample before a frame and its first sample lies outside the frame
    first = crossing[:: settings.hop][: len(inside)]
    return np.asarray((inside - first) / settings.n_fft, dtype=np.float32)


def _rms(padded: Array, settings: FeatureSettings) -> Array:
    power = _sum_over_frames(padded**2, settings) / settings.n_fft
    return np.asarray(np.sqrt(power), dtype=np.float32)


def _sum_over_frames(values: NDArray[Any], settings: FeatureSettings) -> NDArray[Any]:
    """(padded samples,) -> (frames,): sums over hops first, then over the hops of each frame."""
    n_hops = len(values) // settings.hop
    hops = values[: n_hops * settings.hop].reshape(n_hops, settings.hop)
    sums = hops.sum(axis=-1, dtype=np.float32)
    hops_per_frame = settings.n_fft // settings.hop
    return np.lib.stride_tricks.sliding_window_view(sums, hops_per_frame).sum(axis=-1)


def _bin_hz(settings: FeatureSettings) -> NDArray[Any]:
    return np.fft.rfftfreq(settings.n_fft, 1 / settings.sample_rate)


@lru_cache
def _window(n_fft: int) -> NDArray[np.float64]:
    # float64, as in librosa: in float32, bins above an mp3's cut-off would be rounding noise
    return scipy.signal.get_window("hann", n_fft)


@lru_cache
def _mel_filters(settings: FeatureSettings) -> scipy.sparse.csr_array:
    """(mels, bins); sparse because a bin belongs to two filters at most."""
    return scipy.sparse.csr_array(
        filterbanks.mel(settings.sample_rate, settings.n_fft, settings.n_mels)
    )


@lru_cache(maxsize=128)  # there are 100 tunings
def _chroma_filters(settings: FeatureSettings, tuning: float) -> Array:
    """(bins, pitch classes)"""
    filters = filterbanks.chroma(settings.sample_rate, settings.n_fft, N_CHROMA, tuning)
    return np.ascontiguousarray(filters.T)


@lru_cache
def _contrast_bands(settings: FeatureSettings) -> list[tuple[slice, int]]:
    """Bins of each octave band, and how many of them make up its valley and its peak.

    The edges are librosa's: a band starts one bin early and leaves its last bin to the next; the
    highest band takes all that remain."""
    hz = _bin_hz(settings)
    edges = CONTRAST_FMIN_HZ * 2.0 ** np.arange(N_CONTRAST_OCTAVES + 1)
    bands = []
    for k, (low, high) in enumerate(zip([0.0, *edges[:-1]], edges, strict=True)):
        first = int(np.searchsorted(hz, low)) - (k > 0)
        stop = int(np.searchsorted(hz, high, side="right"))
        if k == N_CONTRAST_OCTAVES:
            stop = len(hz)
        n_extreme = max(1, round(CONTRAST_QUANTILE * (stop - first)))
        if k < N_CONTRAST_OCTAVES:
            stop -= 1
        bands.append((slice(first, stop), n_extreme))
    return bands
