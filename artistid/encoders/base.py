"""The interface of the pretrained encoders: excerpts of audio in, one embedding each out."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artistid.audio.decode import Audio
from artistid.audio.extraction import Recipe
from artistid.audio.source import at_rate, require_frame
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Place
from musicfm.hub import HubFile, sha256

EMBEDDINGS = "embeddings"  # the array's name in a cache entry
VERSION = 1  # part of every cache key; raise it when embeddings change

log = logging.getLogger("artistid")


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


class Frozen(nn.Module):
    """A network for inference: in a network that trains, too, it stays in eval mode, so that its
    batch statistics stay those of its authors."""

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        return super().train(False)


@dataclass(frozen=True)
class Grid:
    """Which excerpts of a song are embedded: one every `hop_s`, and one that ends with the song."""

    excerpt_s: float
    hop_s: float

    def starts_s(self, n: int, song_s: float) -> NDArray[np.float64]:
        """(n,): where the excerpts of a song begin."""
        return np.minimum(np.arange(n) * self.hop_s, max(song_s - self.excerpt_s, 0.0))

    def centres_s(self, n: int, song_s: float) -> NDArray[np.float64]:
        return self.starts_s(n, song_s) + min(self.excerpt_s, song_s) / 2


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
    hop: ClassVar[int]  # samples from one excerpt to the next
    shortest: ClassVar[int]  # samples that are enough for an embedding

    @abstractmethod
    def load(self) -> nn.Module:
        """The network, in eval mode on `device`."""

    @abstractmethod
    def embed(self, batch: Tensor) -> Tensor:
        """(batch, samples) on `device`, `shortest` samples or more -> (batch, dim) in float32."""

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
    def grid(self) -> Grid:
        return Grid(self.excerpt / self.sample_rate, self.hop / self.sample_rate)

    @property
    def recipe(self) -> Recipe:
        """How `extract` makes and caches EMBEDDINGS, (excerpts, dim), of every song."""
        return Recipe(self.name, VERSION, self.identity, self._arrays, self.place)

    def _arrays(
        self, samples: NDArray[np.float32], _identity: Identity
    ) -> Mapping[str, NDArray[Any]]:
        return {EMBEDDINGS: self.song_embeddings(samples)}

    def embeddings(self, audio: Audio) -> NDArray[np.float32]:
        """As `song_embeddings`, of audio at any rate."""
        return self.song_embeddings(at_rate(audio, self.sample_rate).samples)

    def prepared(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the excerpts are cut from, if it is not the song as it is."""
        return samples

    def song_embeddings(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """(samples,) at `sample_rate` -> (excerpts, dim). The last excerpt ends with the song.

        A song shorter than an excerpt is one excerpt of its own length, without padding. Raises
        AudioError for fewer than `shortest` samples, UserError when a GPU runs out of memory."""
        require_frame(samples, self.shortest, self.sample_rate)
        song = torch.from_numpy(self.prepared(samples))
        last = max(0, len(song) - self.excerpt)
        starts = [*range(0, last, self.hop), last]
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


@dataclass(frozen=True)
class Entry:
    """An encoder as the registry knows it."""

    name: str
    find: Callable[[Path | None, int, torch.device, str], Encoder]
    """Weights, layer, device, precision ("fp32" or "bf16"). Raises UserError if files are missing
    or wrong."""
    knows: str  # what it was trained on
    dim: int
    excerpt_s: float
    licence: str  # of the weights
    cite: str
    download: "Download | None" = None  # None: part of the project


@dataclass(frozen=True)
class Download:
    """Weights that are not part of the project."""

    files: Sequence[HubFile]
    at_hand: Callable[[], bool]
    fetch: Callable[[], Sequence[Path]]  # raises hub.DownloadError


def shipped(name: str, file: Path, sample_rate: int, weights: Path | None) -> Identity:
    """Of an encoder whose weights, in float32, are part of the project; says so in the log.

    Raises UserError if other `weights` are given."""
    if weights is not None:
        raise UserError(f"--weights: {name} has its own; they cannot be replaced")
    digest = sha256(file)
    log.info("encoder: %s; weights %s, SHA-256 %s", name, file.name, digest)
    return Identity(name, digest, stats="", layer=0, precision="fp32", sample_rate=sample_rate)


_LOADING = Lock()  # when several threads need a network, one loads it


# bounded: each layer or precision of an encoder is another entry, with up to 1.3 GB of weights
@lru_cache(maxsize=4)
def _loaded(encoder: Encoder) -> nn.Module:
    return encoder.load()
