"""The interface of the pretrained encoders: excerpts of audio in, one embedding each out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artistid.audio.excerpts import covering
from artistid.audio.extraction import Recipe
from artistid.audio.source import require_frame
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Place

EMBEDDINGS = "embeddings"  # the array's name in a cache entry
VERSION = 1  # part of every cache key; raise it when embeddings change


@dataclass(frozen=True)
class Identity:
    """Everything that embeddings depend on besides the audio.

    Part of cache keys and of model cards: never rename a field."""

    name: str
    weights: str  # SHA-256
    stats: str  # SHA-256 of MusicFM's statistics, else empty
    layer: int  # of MusicFM, else 0
    precision: str  # "fp32" or "bf16"
    sample_rate: int  # Hz


@dataclass(frozen=True)
class Encoder(ABC):
    """A frozen network and where it runs.

    Holds no weights, so it is cheap to send to other processes: the network is loaded on first
    use, once per process."""

    identity: Identity
    device: torch.device
    dim: int
    at_once: int  # excerpts per batch
    place: Place  # where extraction runs
    excerpt: ClassVar[int]  # samples
    n_fft: ClassVar[int]  # samples of the shortest excerpt

    @abstractmethod
    def load(self) -> nn.Module:
        """The network, in eval mode on `device`."""

    @abstractmethod
    def embed(self, batch: Tensor) -> Tensor:
        """(batch, samples) on `device`, `n_fft` samples or more -> (batch, dim) in float32."""

    @property
    def network(self) -> Any:
        """What `load` returns, loaded once per process."""
        with _LOADING:
            return _loaded(self)

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def sample_rate(self) -> int:
        """Hz"""
        return self.identity.sample_rate

    @property
    def excerpt_s(self) -> float:
        return self.excerpt / self.sample_rate

    @property
    def recipe(self) -> Recipe:
        """How `extract` makes and caches EMBEDDINGS, (excerpts, dim), of every song."""
        return Recipe(self.name, VERSION, self.identity, self._arrays, self.place)

    def _arrays(
        self, samples: NDArray[np.float32], _identity: Identity
    ) -> Mapping[str, NDArray[Any]]:
        return {EMBEDDINGS: self.song_embeddings(samples)}

    def song_embeddings(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """(samples,) at `sample_rate` -> (excerpts, dim), for the excerpts of `covering`.

        A song shorter than an excerpt is one excerpt of its own length, without padding. Raises
        AudioError for fewer than `n_fft` samples, UserError when a GPU runs out of memory."""
        require_frame(samples, self.n_fft, self.sample_rate)
        _, starts = covering(np.array([len(samples)]), self.excerpt)
        song = torch.from_numpy(samples)
        excerpts = [song[start : start + self.excerpt] for start in starts]
        rows = []
        with torch.inference_mode():
            for first in range(0, len(excerpts), self.at_once):
                batch = torch.stack(excerpts[first : first + self.at_once])
                try:
                    rows.append(self.embed(batch.to(self.device)).cpu())
                except torch.OutOfMemoryError as error:
                    raise UserError(f"out of memory on {self.device}; use --device cpu") from error
        return torch.cat(rows).numpy()


_LOADING = Lock()  # when several threads need a network, one loads it


# bounded: each layer or precision of an encoder is another entry, with up to 1.3 GB of weights
@lru_cache(maxsize=4)
def _loaded(encoder: Encoder) -> nn.Module:
    return encoder.load()
