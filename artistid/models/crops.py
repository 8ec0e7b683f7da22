"""Crops of cached songs: which ones an epoch trains on, and how they are read.

A song is a (frames, features) array, such as a log-mel or one embedding per excerpt; a crop is a
run of consecutive frames. A song shorter than a crop is repeated to its length.
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

from artistid.audio import cache, excerpts
from artistid.audio.excerpts import Indices

RESIDENT_SHARE = 0.7  # of a GPU's free memory that songs may take; training needs the rest


@dataclass(frozen=True)
class Crops:
    songs: Indices  # (crops,), song numbers
    starts: Indices  # (crops,), first frame within the song

    def __len__(self) -> int:
        return len(self.songs)

    def take(self, which: Any) -> "Crops":
        """A selection, by an index array or a slice."""
        return Crops(self.songs[which], self.starts[which])


def covering(lengths: Indices, crop_frames: int) -> Crops:
    """Every song from start to end, one crop after another; the last one ends with its song."""
    return Crops(*excerpts.covering(lengths, crop_frames))


def n_per_epoch(lengths: Indices, crop_frames: int) -> int:
    """Crops that make up the length of all songs; a song shorter than a crop counts as a whole
    one."""
    return -(-int(np.maximum(lengths, crop_frames).sum()) // crop_frames)


def random_crops(lengths: Indices, crop_frames: int, draw: Generator) -> Crops:
    """One epoch: `n_per_epoch` crops in random order.

    A song of 1.3 crops has one in most epochs and two in the others. Where it has several, each is
    drawn from a stretch of its own, so that no part of it is left out for long."""
    counts = _shares(lengths, crop_frames, draw)
    songs, numbers = excerpts.numbered(counts)
    n_starts = np.maximum(lengths - crop_frames, 0) + 1
    position = (numbers + draw.random(len(songs))) / counts[songs]  # within the song, [0, 1)
    crops = Crops(songs, (position * n_starts[songs]).astype(np.intp))
    return crops.take(draw.permutation(len(crops)))


def _shares(lengths: Indices, crop_frames: int, draw: Generator) -> Indices:
    """(songs,): how many crops of an epoch each song has, one or more, in proportion to its length
    on average. By systematic sampling: equally spaced points along all songs in random order."""
    order = draw.permutation(len(lengths))
    ends = np.cumsum(np.maximum(lengths, crop_frames)[order])
    n = n_per_epoch(lengths, crop_frames)
    points = (np.arange(n) + draw.random()) / n * ends[-1]  # no further apart than a crop
    counts = np.empty_like(lengths)
    counts[order] = np.bincount(np.searchsorted(ends, points, side="right"), minlength=len(ends))
    return counts


class Songs(Protocol):
    """Songs to read crops from."""

    lengths: Indices  # (songs,), frames

    def read(self, crops: Crops, crop_frames: int) -> Tensor:
        """(crops, crop_frames, features), as cached, on the device that holds the songs."""


class MappedSongs:
    """Read from the cache through memory maps, each open for a moment: neither memory nor open
    files grow with the number of songs."""

    def __init__(self, entries: Sequence[Path], array: str) -> None:
        """`array` is the name of the array in each of the cache `entries`."""
        self._entries, self._array = list(entries), array
        self.lengths = np.array([self._length(path) for path in entries], dtype=np.intp)
        self.first_frame = self._first_frame(self._entries[0]) if entries else np.empty((1, 0))

    def _length(self, entry: Path) -> int:
        with cache.opened(entry) as file:
            return int(file.get_slice(self._array).get_shape()[0])

    def _first_frame(self, entry: Path) -> NDArray[Any]:
        """(1, features): tells the type and width of all frames."""
        with cache.opened(entry) as file:
            frame: NDArray[Any] = file.get_slice(self._array)[:1]
        return frame

    def read(self, crops: Crops, crop_frames: int) -> Tensor:
        # allocated at once, so that too large a batch fails at once
        shape = (len(crops), crop_frames, self.first_frame.shape[1])
        rows = np.empty(shape, dtype=self.first_frame.dtype)
        for row, song, start in zip(rows, crops.songs, crops.starts, strict=True):
            stop = min(start + crop_frames, self.lengths[song])
            with cache.opened(self._entries[song]) as file:
                frames = file.get_slice(self._array)[int(start) : int(stop)]
            row[:] = np.resize(frames, row.shape)
        return torch.from_numpy(rows)


def frames_of(seconds: float, frames_per_second: float, songs: Songs) -> int:
    """Frames of a crop of so many seconds, but no more than the longest song has: a song that is
    shorter than the crop is heard again and again."""
    return max(1, min(round(seconds * frames_per_second), int(songs.lengths.max())))


class ResidentSongs:
    """All songs in the memory of one device, where the crops are cut."""

    def __init__(self, frames: Tensor, lengths: Indices) -> None:
        """`frames` is (all frames, features): all songs, one after another."""
        self.lengths, self._frames = lengths, frames
        self._offsets, self._lengths = (
            torch.from_numpy(values).to(frames.device)
            for values in (np.cumsum(lengths) - lengths, lengths)
        )

    def read(self, crops: Crops, crop_frames: int) -> Tensor:
        device = self._frames.device
        songs = torch.from_numpy(crops.songs).to(device)
        starts = torch.from_numpy(crops.starts).to(device)
        within = starts[:, None] + torch.arange(crop_frames, device=device)
        within %= self._lengths[songs][:, None]
        return self._frames[self._offsets[songs][:, None] + within]


def open_songs(entries: Sequence[Path], array: str, device: torch.device) -> Songs:
    """Songs in the memory of `device` if it is a GPU with room for all of them, else mapped."""
    songs = MappedSongs(entries, array)
    if device.type != "cuda":
        return songs
    needed = int(songs.lengths.sum()) * songs.first_frame.nbytes
    free, _ = torch.cuda.mem_get_info(device)
    return resident(songs, device) if needed < RESIDENT_SHARE * free else songs


def resident(songs: MappedSongs, device: torch.device) -> ResidentSongs:
    """The same songs in the memory of `device`."""
    like = torch.from_numpy(songs.first_frame)
    shape = (int(songs.lengths.sum()), like.shape[1])
    frames = torch.empty(shape, dtype=like.dtype, device=device)
    offsets = np.cumsum(songs.lengths) - songs.lengths
    for song, (offset, length) in enumerate(zip(offsets, songs.lengths, strict=True)):
        whole = Crops(np.array([song]), np.array([0]))
        frames[offset : offset + length] = songs.read(whole, length)[0].to(device)
    return ResidentSongs(frames, songs.lengths)
