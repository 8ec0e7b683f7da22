"""Several encoders as one: their embeddings of the same excerpts, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artistid.audio.decode import Audio
from artistid.audio.extraction import Recipe
from artistid.encoders.base import EMBEDDINGS, Encoder, Grid

VERSION = 1  # part of every cache key; raise it when joined embeddings change

Embeddings = NDArray[np.float32]  # (excerpts, dim)


@dataclass(frozen=True)
class JointIdentity:
    """Everything that joined embeddings depend on besides the audio.

    Part of cache keys and of model cards: never rename a field."""

    name: str
    parts: tuple[Mapping[str, Any], ...]  # fields of each encoder's Identity, in order


@dataclass(frozen=True)
class JointEncoder:
    """The encoder with the longest hop decides on the excerpts. The others hear the song at their
    own rates, and what they say within an excerpt is averaged.

    Each also has its own cache entry, so that it embeds a song once, whatever it is joined with."""

    parts: tuple[Encoder, ...]

    @property
    def name(self) -> str:
        return "+".join(part.name for part in self.parts)

    @property
    def identity(self) -> JointIdentity:
        return JointIdentity(self.name, tuple(asdict(part.identity) for part in self.parts))

    @property
    def dim(self) -> int:
        return sum(part.dim for part in self.parts)

    @property
    def grid(self) -> Grid:
        return max((part.grid for part in self.parts), key=lambda grid: grid.hop_s)

    @property
    def recipe(self) -> Recipe:
        """How `extract` makes and caches EMBEDDINGS, (excerpts, dim), of every song."""
        parts = tuple(part.recipe for part in self.parts)
        return Recipe(self.name, VERSION, self.identity, self._arrays, parts=parts)

    def embeddings(self, audio: Audio) -> Embeddings:
        """Of audio at any rate, (excerpts, dim). Raises AudioError if it is too short."""
        return self._joined([part.embeddings(audio) for part in self.parts])

    def _arrays(
        self, parts: Sequence[Mapping[str, NDArray[Any]]], _identity: JointIdentity
    ) -> Mapping[str, NDArray[Any]]:
        return {EMBEDDINGS: self._joined([arrays[EMBEDDINGS] for arrays in parts])}

    def _joined(self, embeddings: Sequence[Embeddings]) -> Embeddings:
        return side_by_side(embeddings, [part.grid for part in self.parts])


def side_by_side(embeddings: Sequence[Embeddings], grids: Sequence[Grid]) -> Embeddings:
    """Embeddings of one song on several grids -> (excerpts, sum of dims) on the coarsest of them.

    Of a finer grid, the excerpts whose centre lies in one of the coarsest are averaged; where there
    are none, the nearest one is taken."""
    # a song is at most as long as its excerpts say; cache entries do not have its exact length
    both = list(zip(embeddings, grids, strict=True))
    song_s = min(grid.excerpt_s + grid.hop_s * (len(own) - 1) for own, grid in both)
    coarsest, n = max(((grid, len(own)) for own, grid in both), key=lambda pair: pair[0].hop_s)
    wanted = coarsest.centres_s(n, song_s)
    columns = []
    for own, grid in both:
        if grid == coarsest:
            columns.append(own)
            continue
        distance = np.abs(wanted[:, np.newaxis] - grid.centres_s(len(own), song_s))
        chosen = distance <= coarsest.excerpt_s / 2
        chosen[np.arange(n), distance.argmin(axis=1)] = True
        weights = chosen / chosen.sum(axis=1, keepdims=True)
        columns.append((weights @ own).astype(np.float32))
    return np.hstack(columns)
