"""How loud a song is, second by second."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artistid.audio.cache import opened
from artistid.audio.extraction import Recipe

LEVELS = "power"  # name of the array in a cache entry
VERSION = 1  # raise it when a value changes: it is part of every cache key


@dataclass(frozen=True)
class LevelSettings:
    sample_rate: int = 8_000  # Hz: a singing voice has its power below 4 kHz


def recipe() -> Recipe:
    """How `extract` makes and caches the array LEVELS of every song, (seconds,), silent ones
    included."""
    return Recipe("levels", VERSION, LevelSettings(), _arrays, may_be_silent=True)


def _arrays(
    samples: NDArray[np.float32], settings: LevelSettings
) -> Mapping[str, NDArray[np.float32]]:
    return {LEVELS: powers(samples, settings.sample_rate)}


def powers(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Mean square of each second, the last one of what is left: (samples,) -> (seconds,)."""
    starts = np.arange(0, len(samples), sample_rate)
    sums = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    return (sums / np.diff(starts, append=len(samples))).astype(np.float32)


def load(entry: Path) -> NDArray[np.float32]:
    """LEVELS of a cache entry. Raises UserError if it is gone."""
    with opened(entry) as file:
        levels: NDArray[Any] = file.get_tensor(LEVELS)
    return levels
