"""Probabilities that mean something: of songs given 70%, 70% should be right.

Temperature scaling and the expected calibration error are those of Guo et al. 2017, "On
Calibration of Modern Neural Networks" (arXiv 1706.04599). Posteriors are (songs, artists); rows of
zeros are songs without a prediction. Labels of unknown artists (-1) are left out.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

TINY = 1e-12  # least probability, before its logarithm
RANGE = (0.05, 20.0)  # of temperatures
N_BINS = 10

Posteriors = NDArray[np.float64]
Labels = NDArray[np.intp]


def tempered(posteriors: Posteriors, temperature: float) -> Posteriors:
    """Sharper (below 1) or flatter (above 1), in the same order."""
    logarithms = np.log(np.maximum(posteriors, TINY)) / temperature
    powers = np.exp(logarithms - logarithms.max(axis=-1, keepdims=True))
    is_predicted = np.any(posteriors != 0, axis=-1, keepdims=True)
    return np.where(is_predicted, powers / powers.sum(axis=-1, keepdims=True), 0.0)


def fit_temperature(posteriors: Posteriors, labels: Labels) -> float:
    """The temperature of the least mean -log posterior of the songs' artists."""
    known = labels >= 0
    if not known.any():
        return 1.0

    right = np.arange(known.sum()), labels[known]

    def loss(logarithm: float) -> float:
        probabilities = tempered(posteriors[known], np.exp(logarithm))[right]
        return float(-np.log(np.maximum(probabilities, TINY)).mean())

    found = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded")
    return float(np.exp(found.x))


def expected_calibration_error(posteriors: Posteriors, labels: Labels) -> float:
    """Mean distance between how sure and how often right, over bins of the highest posterior."""
    known = labels >= 0
    if not known.any():
        return 0.0
    sure = posteriors[known].max(axis=1)
    right = posteriors[known].argmax(axis=1) == labels[known]
    bins = np.minimum((sure * N_BINS).astype(int), N_BINS - 1)
    gaps = np.bincount(bins, weights=right - sure, minlength=N_BINS)
    return float(np.abs(gaps).sum() / known.sum())
