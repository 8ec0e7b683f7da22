"""The songs that a model was trained on, as it hears them, and how much other songs are like them.

A model makes a vector of every song: the mean hidden units of a network, or the mean log posteriors
of a classical classifier. As with the embeddings of speaker recognition, vectors are compared by
their cosine. What a model has learnt of the songs it knows says more of a stranger than posteriors
do, which name one of the artists in any case (Sun et al. 2022, arXiv 2204.06507).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from artistid.dataset.corpus import Track
from artistid.metrics import Runs

N_NEAREST = 3  # songs that another one is compared with
LEAST_POSTERIOR = 1e-3  # is added to posteriors before their logarithm: smaller ones are noise

Vectors = NDArray[np.floating[Any]]  # (songs, dim)


class Answers(NamedTuple):
    """What a model says of songs, and what it makes of them."""

    runs: Runs  # (seeds, songs, artists), not calibrated
    vectors: Vectors  # (songs, dim)


class KnownSong(NamedTuple):
    id: str  # of its track
    artist: str


@dataclass(frozen=True)
class KnownSongs:
    vectors: NDArray[np.float16]  # (songs, dim), of unit length
    songs: tuple[KnownSong, ...]

    def __post_init__(self) -> None:
        is_whole = self.vectors.ndim == 2 and self.vectors.size and np.isfinite(self.vectors).all()
        if not is_whole or len(self.songs) != len(self.vectors):
            raise ValueError("the known songs are damaged")

    @classmethod
    def of(cls, vectors: ArrayLike, tracks: Sequence[Track]) -> Self:
        songs = tuple(KnownSong(track.id, track.artist or "") for track in tracks)
        return cls(_unit(vectors).astype(np.float16), songs)

    @classmethod
    def restored(cls, vectors: NDArray[Any], names: str) -> Self:
        """From arrays and `names` on disk. Raises ValueError if they are damaged."""
        songs = [KnownSong(*song) for song in json.loads(names)]
        if not all(isinstance(value, str) for song in songs for value in song):
            raise ValueError("the known songs have no names")
        return cls(vectors, tuple(songs))

    @property
    def names(self) -> str:
        """Of the songs and their artists, for `restored`."""
        return json.dumps(self.songs)

    def cosines(self, vectors: ArrayLike) -> NDArray[np.float64]:
        """Of songs, (songs, dim), with each of the known ones: (songs, known songs)."""
        return np.asarray(_unit(vectors) @ self.vectors.astype(np.float64).T)

    def similarity(self, vectors: ArrayLike) -> NDArray[np.float64]:
        """Of songs, (songs, dim), with the N_NEAREST known ones that are most like each: the mean
        cosine, (songs,)."""
        return similarity_of(self.cosines(vectors))


def similarity_of(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the largest N_NEAREST of each row."""
    return np.asarray(np.sort(cosines, axis=1)[:, -N_NEAREST:].mean(axis=1))


def log_odds(posteriors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vectors of rows that a classical classifier gives these (rows, artists): logarithms less
    their mean."""
    logarithms = np.log(posteriors + LEAST_POSTERIOR)
    centred: NDArray[np.float64] = logarithms - logarithms.mean(axis=1, keepdims=True)
    return centred


def _unit(vectors: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float64).tiny))
