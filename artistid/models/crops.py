"""Excerpts of cached songs: where they begin, and how they are read.

A song is an array of (frames, features), such as a log-mel or the embeddings of its parts; an
excerpt is some of its consecutive frames. A song shorter than an excerpt is repeated to its length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from artistid.audio.decode import cache

Indices = NDArray[np.intp]

RESIDENT_SHARE = 0.7  # of a GPU's free memory that songs may take; the rest is for training


@dataclass(frozen=True)
class Excerpts:
    songs: Indices  # (excerpts,), the number of the song
    starts: Indices  # (excerpts,), its first frame in the song

    def __len__(self) -> int:
        return len(self.songs)

    def take(self, which: Any) -> "Excerpts":
        """Some of them: `which` is an index array or a slice."""
        return Excerpts(self.songs[which], self.starts[which])


class Songs(Protocol):
    """Songs to read excerpts from."""

    lengths: Indices  # (songs,), frames

    def read(self, excerpts: Excerpts, n_frames: int) -> Tensor:
        """(excerpts, n_frames, features), as cached, on the device where the songs are."""


class MappedSongs:
    """Read from the cache by memory maps, each open for a moment: neither memory nor open files
    grow with the number of songs."""

    def __init__(self, entries: Sequence[Path], name: str) -> None:
        """`name` is that of the array in each of the cache's `entries`."""
        self._entries, self._name = list(entries), name
        self.lengths = np.array([self._length(path) for path in entries], dtype=np.intp)
        self.frame = self._first_frame(self._entries[0]) if entries else np.empty((1, 0))

    def _length(self, entry: Path) -> int:
        with cache.opened(entry) as file:
            return int(file.get_slice(self._name).get_shape()[0])

    def _first_frame(self, entry: Path) -> NDArray[Any]:
        """(1, features): what all frames are like."""
        with cache.opened(entry) as file:
            frame: NDArray[Any] = file.get_slice(self._name)[:1]
        return frame

    def read(self, excerpts: Excerpts, n_frames: int) -> Tensor:
        # all at once, so that too much is refused at once
        shape = (len(excerpts), n_frames, self.frame.shape[1])
        rows = np.empty(shape, dtype=self.frame.dtype)
        for row, song, start in zip(rows, excerpts.songs, excerpts.starts, strict=True):
            stop = min(start + n_frames, self.lengths[song])
            with cache.opened(self._entries[song]) as file:
                frames = file.get_slice(self._name)[int(start) : int(stop)]
            row[:] = np.resize(frames, row.shape)
        return torch.from_numpy(rows)


class ResidentSongs:
    """All songs in the memory of a device, where the excerpts are cut."""

    def __init__(self, frames: Tensor, lengths: Indices) -> None:
        """`frames` (all frames, features) are those of all songs, one after the other."""
        self.lengths, self._frames = lengths, frames
        self._offsets, self._lengths = (
            torch.from_numpy(values).to(frames.device)
            for values in (np.cumsum(lengths) - lengths, lengths)
        )

    def read(self, excerpts: Excerpts, n_frames: int) -> Tensor:
        device = self._frames.device
        songs = torch.from_numpy(excerpts.songs).to(device)
        starts = torch.from_numpy(excerpts.starts).to(device)
        within = starts[:, None] + torch.arange(n_frames, device=device)
        within %= self._lengths[songs][:, None]
        return self._frames[self._offsets[songs][:, None] + within]


def resident(songs: MappedSongs, device: torch.device) -> ResidentSongs:
    """The same songs in the memory of `device`."""
    like = torch.from_numpy(songs.frame)
    shape = (int(songs.lengths.sum()), like.shape[1])
    frames = torch.empty(shape, dtype=like.dtype, device=device)
    offsets = np.cumsum(songs.lengths) - songs.lengths
    for song, (offset, length) in enumerate(zip(offsets, songs.lengths, strict=True)):
        whole = Excerpts(np.array([song]), np.array([0]))
        frames[offset : offset + length] = songs.read(whole, length)[0].to(device)
    return ResidentSongs(frames, songs.lengths)


def open_songs(entries: Sequence[Path], name: str, device: torch.device) -> Songs:
    """In the memory of `device` where it is a GPU with room for all of them, else mapped."""
    songs = MappedSongs(entries, name)
    if device.type != "cuda":
        return songs
    needed = int(songs.lengths.sum()) * songs.frame.nbytes
    free, _ = torch.cuda.mem_get_info(device)
    return resident(songs, device) if needed < RESIDENT_SHARE * free else songs


def covering(lengths: Indices, n_frames: int) -> Excerpts:
    """Every song from beginning to end, one excerpt after the other; the last one ends with its
    song, so that it may overlap the one before."""
    songs, numbers, _ = _numbered(lengths, n_frames)
    last = np.maximum(lengths - n_frames, 0)
    return Excerpts(songs, np.minimum(numbers * n_frames, last[songs]))


def random_crops(lengths: Indices, n_frames: int, draw: Generator) -> Excerpts:
    """An epoch: as many crops of each song as cover it, all in random order.

    Each is drawn from a stretch of its own, so that no part of a song is left out for long."""
    songs, numbers, counts = _numbered(lengths, n_frames)
    n_starts = np.maximum(lengths - n_frames, 0) + 1
    place = (numbers + draw.random(len(songs))) / counts[songs]  # in [0, 1), of the song
    crops = Excerpts(songs, (place * n_starts[songs]).astype(np.intp))
    return crops.take(draw.permutation(len(crops)))


def _numbered(lengths: Indices, n_frames: int) -> tuple[Indices, Indices, Indices]:
    """Song of each excerpt, its number within the song, and how many each song has."""
    counts = -(-lengths // n_frames)
    songs = np.repeat(np.arange(len(lengths)), counts)
    first = np.cumsum(counts) - counts
    return songs, np.arange(len(songs)) - first[songs], counts
