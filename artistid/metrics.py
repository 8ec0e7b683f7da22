"""From posteriors to rankings and scores: top-k accuracy, macro-F1, recall, confusion.

Posteriors are (songs, artists); labels are indices into the list of artists, in its order.
A row of zeros is a song without a prediction: wrong whatever its label. NumPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNKNOWN = -1  # label of an artist that the model was not trained on: never right


@dataclass(frozen=True)
class ArtistScore:
    n: int  # songs
    recall: float
    precision: float
    f1: float


@dataclass(frozen=True)
class Scores:
    """Accuracies are fractions of songs."""

    n: int
    top1: float
    top3: float
    macro_f1: float  # mean F1 of the artists that have a song or a prediction
    per_artist: dict[str, ArtistScore]


def ranking(posteriors: ArrayLike) -> NDArray[np.intp]:
    """Artists of each song, best first: (songs, artists). Ties keep the artists' order."""
    return np.argsort(-np.asarray(posteriors), axis=-1, kind="stable")


def top_k(posteriors: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Fraction of songs whose artist is among the first `k`. Raises ValueError without songs."""
    hits = ranking(posteriors)[:, :k] == np.asarray(labels)[:, np.newaxis]
    if len(hits) == 0:
        raise ValueError("no songs to score")
    return float((hits.any(axis=-1) & _is_predicted(posteriors)).mean())


def confusion(posteriors: ArrayLike, labels: ArrayLike) -> NDArray[np.intp]:
    """Songs by true artist (row) and best guess (column), (artists, artists); songs of unknown
    artists and without a prediction are in no cell."""
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
    guesses = ranking(posteriors)[_is_predicted(posteriors), 0]
    guessed = np.bincount(guesses, minlength=len(artists))
    recall = right / np.maximum(n, 1)
    precision = right / np.maximum(guessed, 1)
    f1 = 2 * right / np.maximum(n + guessed, 1)
    return Scores(
        n=len(labels),
        top1=top_k(posteriors, labels, 1),
        top3=top_k(posteriors, labels, 3),
        macro_f1=float(f1[(n > 0) | (guessed > 0)].mean()),
        per_artist={
            artist: ArtistScore(int(n[i]), float(recall[i]), float(precision[i]), float(f1[i]))
            for i, artist in enumerate(artists)
        },
    )


def _is_predicted(posteriors: ArrayLike) -> NDArray[np.bool_]:
    return np.any(np.asarray(posteriors) != 0, axis=-1)


def labels_of(names: Sequence[str | None], artists: Sequence[str]) -> NDArray[np.intp]:
    """Index of each name in `artists`, UNKNOWN where it is not one of them."""
    index = {artist: i for i, artist in enumerate(artists)}
    return np.array([index.get(name or "", UNKNOWN) for name in names], dtype=np.intp)
