"""Rankings, scores and calibrated probabilities from posteriors. NumPy and SciPy only.

Posteriors are (songs, artists); labels are (songs,) indices into the sorted list of artists.
A row of zeros is a song without a prediction: it counts as wrong. UNKNOWN labels an artist who is
not in the list: never right, and left out of calibration.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

UNKNOWN = -1
Z_95 = 1.959964  # two-sided 95% quantile of the normal distribution
MIN_PROBABILITY = 1e-12  # floor under a probability before its logarithm
TEMPERATURE_RANGE = (0.05, 20.0)
N_CALIBRATION_BINS = 10
KNOWN_SHARE = 0.95  # of val's songs, at least, are not taken for songs by somebody else
MIN_SD = 0.01  # of a posterior or a cosine: songs that are all alike tell nothing
N_WEIGHT_STEPS = 500  # of expectation maximisation

Posteriors = NDArray[np.float64]  # (songs, artists)
Runs = NDArray[np.float64]  # (seeds, songs, artists): posteriors of trainings that differ in seed
Labels = NDArray[np.intp]  # (songs,)
Interval = tuple[float, float]


# --- rankings ----------------------------------------------------------------------------------


def ranking(posteriors: ArrayLike) -> NDArray[np.intp]:
    """Artists of each song, best first: (songs, artists). Ties keep the artists' order."""
    return np.argsort(-np.asarray(posteriors), axis=-1, kind="stable")


def top_artists(
    posterior: NDArray[np.float64], artists: Sequence[str], k: int
) -> list[tuple[str, float]]:
    """The `k` most probable artists of one song, (artists,), with their probabilities."""
    return [(artists[i], float(posterior[i])) for i in ranking(posterior)[:k]]


def labels_of(names: Sequence[str | None], artists: Sequence[str]) -> Labels:
    """Index of each name in `artists`, UNKNOWN where it is missing."""
    index = {artist: i for i, artist in enumerate(artists)}
    return np.array([index.get(name or "", UNKNOWN) for name in names], dtype=np.intp)


# --- scores ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArtistScore:
    n: int  # songs
    recall: float
    precision: float
    f1: float


@dataclass(frozen=True)
class SeedScores:
    """Accuracies of trainings that differ in seed: each, mean and standard deviation."""

    top1: list[float]
    top3: list[float]
    top1_mean: float
    top1_sd: float
    top3_mean: float
    top3_sd: float

    def __str__(self) -> str:
        top1 = f"top-1 {self.top1_mean:.3f} ± {self.top1_sd:.3f}"
        top3 = f"top-3 {self.top3_mean:.3f} ± {self.top3_sd:.3f}"
        return f"each of {len(self.top1)} seeds: {top1}, {top3}"


@dataclass(frozen=True)
class Scores:
    """Accuracies are fractions of songs; intervals are 95% Wilson score intervals."""

    n: int
    top1: float
    top3: float
    macro_f1: float  # mean F1 over artists that have a song or a prediction
    top1_interval: Interval
    top3_interval: Interval
    per_artist: dict[str, ArtistScore]
    seeds: SeedScores | None = None  # None for a single training

    @property
    def top1_text(self) -> str:
        """ "0.792 [0.595, 0.908]" """
        return _with_interval(self.top1, self.top1_interval)

    @property
    def top3_text(self) -> str:
        return _with_interval(self.top3, self.top3_interval)


def _with_interval(share: float, interval: Interval) -> str:
    return f"{share:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def wilson_interval(share: float, n: int) -> Interval:
    """95% score interval of a proportion (Wilson 1927), for `share` of `n` songs."""
    centre = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * np.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def top_k(posteriors: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Fraction of songs with their artist among the first `k`. Raises ValueError without songs."""
    hits = ranking(posteriors)[:, :k] == np.asarray(labels)[:, np.newaxis]
    if len(hits) == 0:
        raise ValueError("no songs to score")
    return float((hits.any(axis=-1) & _is_predicted(posteriors)).mean())


class CVScores(NamedTuple):
    """By cross-validation, over all songs of all folds."""

    top1: float
    top3: float

    @property
    def merit(self) -> float:
        """What a choice maximises: the mean of top-1 and top-3, which is less noisy on a small
        corpus than top-1 alone."""
        return (self.top1 + self.top3) / 2

    @property
    def summary(self) -> dict[str, str]:
        """Columns of the log's table."""
        return {"CV top-1": f"{self.top1:.3f}", "CV top-3": f"{self.top3:.3f}"}


def cv_scores(posteriors: ArrayLike, labels: ArrayLike) -> CVScores:
    return CVScores(top_k(posteriors, labels, 1), top_k(posteriors, labels, 3))


def confusion(posteriors: ArrayLike, labels: ArrayLike) -> NDArray[np.intp]:
    """Songs by true artist (row) and top prediction (column), (artists, artists).

    Songs of unknown artists and songs without a prediction are not counted."""
    posteriors, labels = np.asarray(posteriors), np.asarray(labels)
    n_artists = posteriors.shape[1]
    counts = np.zeros((n_artists, n_artists), dtype=np.intp)
    counted = (labels != UNKNOWN) & _is_predicted(posteriors)
    np.add.at(counts, (labels[counted], ranking(posteriors)[counted, 0]), 1)
    return counts


def score(posteriors: ArrayLike, labels: ArrayLike, artists: Sequence[str]) -> Scores:
    """All scores of (songs, artists) `posteriors`. Raises ValueError without songs."""
    labels = np.asarray(labels)
    right = confusion(posteriors, labels).diagonal()
    n = np.bincount(labels[labels != UNKNOWN], minlength=len(artists))
    predicted = ranking(posteriors)[_is_predicted(posteriors), 0]
    n_predicted = np.bincount(predicted, minlength=len(artists))
    recall = right / np.maximum(n, 1)
    precision = right / np.maximum(n_predicted, 1)
    f1 = 2 * right / np.maximum(n + n_predicted, 1)
    top1, top3 = top_k(posteriors, labels, 1), top_k(posteriors, labels, 3)
    return Scores(
        n=len(labels),
        top1=top1,
        top3=top3,
        macro_f1=float(f1[(n > 0) | (n_predicted > 0)].mean()),
        top1_interval=wilson_interval(top1, len(labels)),
        top3_interval=wilson_interval(top3, len(labels)),
        per_artist={
            artist: ArtistScore(int(n[i]), float(recall[i]), float(precision[i]), float(f1[i]))
            for i, artist in enumerate(artists)
        },
    )


def score_seeds(runs: Runs, labels: Labels) -> SeedScores | None:
    """None for a single run."""
    if len(runs) == 1:
        return None
    top1, top3 = (np.array([top_k(run, labels, k) for run in runs]) for k in (1, 3))
    spread = (top1.mean(), top1.std(ddof=1), top3.mean(), top3.std(ddof=1))
    return SeedScores(top1.tolist(), top3.tolist(), *map(float, spread))


def _is_predicted(posteriors: ArrayLike) -> NDArray[np.bool_]:
    return np.any(np.asarray(posteriors) != 0, axis=-1)


# --- calibration -------------------------------------------------------------------------------
# Temperature scaling and the expected calibration error follow Guo et al. 2017, "On Calibration of
# Modern Neural Networks" (arXiv 1706.04599).


def tempered(posteriors: Posteriors, temperature: float) -> Posteriors:
    """Sharper (temperature below 1) or flatter (above 1) posteriors, in the same order."""
    logarithms = np.log(np.maximum(posteriors, MIN_PROBABILITY)) / temperature
    below = np.clip(posteriors / MIN_PROBABILITY, np.finfo(np.float64).tiny, 1)
    logarithms += 1e-9 * np.log(below)  # keeps their order
    powers = np.exp(logarithms - logarithms.max(axis=-1, keepdims=True))
    is_predicted = np.any(posteriors != 0, axis=-1, keepdims=True)
    return np.where(is_predicted, powers / powers.sum(axis=-1, keepdims=True), 0.0)


def fit_temperature(posteriors: Posteriors, labels: Labels) -> float:
    """The temperature that minimises the negative log posterior of the true artists, over the songs
    and one more, like all of them, whose true artist comes second.

    The one more is for a few songs without a mistake: they would allow any certainty."""
    known = labels != UNKNOWN
    if not known.any():
        return 1.0

    def loss(log_temperature: float) -> float:
        calibrated = tempered(posteriors[known], np.exp(log_temperature))
        second = np.partition(calibrated, -2, axis=1)[:, -2]
        mistake = -np.log(np.maximum(second, MIN_PROBABILITY)).mean()
        return float(mistake - log_posteriors(calibrated, labels[known]).sum())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURE_RANGE), method="bounded")
    return float(np.exp(found.x))


@dataclass(frozen=True)
class Spread:
    """Of a number over the songs of val."""

    mean: float
    sd: float  # standard deviation

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Self:
        return cls(float(values.mean()), max(MIN_SD, float(values.std())))

    def standardised(self, values: ArrayLike) -> NDArray[np.float64]:
        return (np.asarray(values, dtype=np.float64) - self.mean) / self.sd


@dataclass(frozen=True)
class Calibration:
    """What val says about a model."""

    temperature: float = 1.0  # of its posteriors
    similarity: Spread = Spread(0.0, 1.0)  # with the songs that it knows
    unknown_below: float = -1e9  # a less familiar song may be by none of the artists
    known_share: float = 1.0  # of val's songs, which are at least as familiar as that

    def familiarity(self, similarity: ArrayLike) -> NDArray[np.float64]:
        """How much songs of this similarity with the known ones are like those of the artists: in
        standard deviations from the mean of val."""
        return self.similarity.standardised(similarity)


def calibrate(
    posteriors: Posteriors, similarity: NDArray[np.float64], labels: Labels
) -> Calibration:
    """From the (songs, artists) of val, not calibrated, and the (songs,) similarity."""
    temperature = fit_temperature(posteriors, labels)
    own = similarity[_is_predicted(posteriors)]
    if not len(own):
        return Calibration(temperature)
    spread = Spread.of(own)
    scores = spread.standardised(own)
    unknown_below = familiarity_of_known(scores)
    return Calibration(temperature, spread, unknown_below, float((scores >= unknown_below).mean()))


def familiarity_of_known(scores: NDArray[np.float64]) -> float:
    """What KNOWN_SHARE of the songs reach, or a few more of them."""
    return float(np.quantile(scores, 1 - KNOWN_SHARE, method="lower"))


def expected_calibration_error(posteriors: Posteriors, labels: Labels) -> float:
    """Mean gap between confidence and accuracy, over bins of the highest posterior."""
    known = (labels != UNKNOWN) & _is_predicted(posteriors)
    if not known.any():
        return 0.0
    confidence = posteriors[known].max(axis=1)
    right = posteriors[known].argmax(axis=1) == labels[known]
    bins = np.minimum((confidence * N_CALIBRATION_BINS).astype(int), N_CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=N_CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / known.sum())


# --- several models as one ---------------------------------------------------------------------


def weighted_mean(members: NDArray[np.float64], weights: NDArray[np.float64]) -> Posteriors:
    """Of (members, songs, artists), by (members,) weights. A song's mean is over the members that
    have a prediction for it."""
    mean: Posteriors = np.einsum("ms,msa->sa", shares(members, weights), members)
    return mean


def shares(members: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each member in what is said of each song, (members, songs): its weight among those that
    have a prediction."""
    own = weights[:, np.newaxis] * _is_predicted(members)
    return own / np.maximum(own.sum(axis=0), np.finfo(np.float64).tiny)


def fit_weights(members: NDArray[np.float64], labels: Labels) -> NDArray[np.float64]:
    """The weights, none negative, whose mean of (members, songs, artists) gives the true artists
    the highest log posterior: maximum likelihood of a mixture, by expectation maximisation. Of the
    songs that all members have a prediction for; equal weights if there are none."""
    n = len(members)
    of_true = members[:, np.arange(len(labels)), labels] + MIN_PROBABILITY  # (members, songs)
    of_true = of_true[:, _is_predicted(members).all(axis=0)]
    weights = np.full(n, 1 / n)
    for _ in range(N_WEIGHT_STEPS if of_true.size else 0):
        shares = weights[:, np.newaxis] * of_true
        weights = (shares / shares.sum(axis=0)).mean(axis=1)
    return weights


def log_posteriors(posteriors: Posteriors, labels: Labels) -> NDArray[np.float64]:
    """Of each song's true artist, (songs,)."""
    return np.log(np.maximum(posteriors[np.arange(len(labels)), labels], MIN_PROBABILITY))


# --- everything about one split ----------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """What a model says about the songs of a split, and how right it is."""

    # the three most probable artists of each song, calibrated; none for one without a prediction
    top: list[list[tuple[str, float]]]
    # None if the artists are not known, as the fields below
    scores: Scores | None
    confusion: NDArray[np.intp] | None  # (artists, artists)
    calibration_error: tuple[float, float] | None  # before and after calibration


def evaluate(
    runs: Runs,
    names: Sequence[str | None],
    artists: Sequence[str],
    temperature: float = 1.0,
) -> Evaluation:
    """Evaluate the mean of `runs`, which `temperature` calibrates; `names` are the songs' artists,
    or None where they are not known."""
    posteriors = runs.mean(axis=0)
    calibrated = tempered(posteriors, temperature)
    top = [
        [(artists[i], float(probabilities[i])) for i in order[:3]] if probabilities.any() else []
        for probabilities, order in zip(calibrated, ranking(posteriors), strict=True)
    ]
    if not names or None in names:
        return Evaluation(top, None, None, None)
    labels = labels_of(names, artists)
    errors = tuple(expected_calibration_error(p, labels) for p in (posteriors, calibrated))
    return Evaluation(
        top,
        replace(score(posteriors, labels, artists), seeds=score_seeds(runs, labels)),
        confusion(posteriors, labels),
        (errors[0], errors[1]),
    )
