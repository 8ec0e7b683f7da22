"""Where excerpts of equal length begin."""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


def covering(lengths: Indices, size: int) -> tuple[Indices, Indices]:
    """Excerpts of `size` that cover every song, one after another: song number and start of each.

    `lengths` is (songs,), in the same unit as `size`. The last excerpt ends with its song, so it
    may overlap the one before; a song shorter than `size` is one excerpt."""
    songs, numbers = numbered(-(-lengths // size))
    return songs, np.minimum(numbers * size, np.maximum(lengths - size, 0)[songs])


def numbered(counts: Indices) -> tuple[Indices, Indices]:
    """For `counts` excerpts of each song: song number of each, and its number within the song."""
    songs = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return songs, np.arange(len(songs)) - first[songs]
