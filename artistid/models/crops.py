"""Crops of cached songs: which ones an epoch trains on, and how they are read.

A song is a (frames, features) array, such as a log-mel or one embedding per excerpt; a crop is a
run of consecutive frames. A song shorter than a crop is repeated to its length. Of a song that is
heard from several sources, mix and vocals, the features of all stand side by side in every frame.
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
from artistid.audio.cache import Entries
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
    n_sources: int  # side by side in every frame

    def read(self, crops: Crops, crop_frames: int) -> Tensor:
        """(crops, crop_frames, features of all sources), as cached, on the device that holds the
        songs."""


class MappedSongs:
    """Read from the cache through memory maps, each open for a moment: neither memory nor open
    files grow with the number of songs."""

    def __init__(self, entries: Sequence[Entries], array: str) -> None:
        """`array` is the name of the array in the cache entries of each song. Of several sources,
        the shortest decides on the song's length."""
        self._entries, self._array = list(entries), array
        lengths = [min(map(self._length, own)) for own in entries]
        self.lengths = np.array(lengths, dtype=np.intp)
        self.n_sources = len(entries[0]) if entries else 1
        self.first_frame = self._frames(0, 0, 1) if entries else np.empty((1, 0))

    def _length(self, entry: Path) -> int:
        with cache.opened(entry) as file:
            return int(file.get_slice(self._array).get_shape()[0])

    def _frames(self, song: int, start: int, stop: int) -> NDArray[Any]:
        """(frames, features of all sources)"""
        parts = []
        for entry in self._entries[song]:
            with cache.opened(entry) as file:
                parts.append(file.get_slice(self._array)[start:stop])
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    def read(self, crops: Crops, crop_frames: int) -> Tensor:
        # allocated at once, so that too large a batch fails at once
        shape = (len(crops), crop_frames, self.first_frame.shape[1])
        rows = np.empty(shape, dtype=self.first_frame.dtype)
        for row, song, start in zip(rows, crops.songs, crops.starts, strict=True):
            stop = min(start + crop_frames, self.lengths[song])
            row[:] = np.resize(self._frames(int(song), int(start), int(stop)), row.shape)
        return torch.from_numpy(rows)


def frames_of(seconds: float, frames_per_second: float, songs: Songs) -> int:
    """Frames of a crop of so many seconds, but no more than the longest song has: a song that is
    shorter than the crop is heard again and again."""
    return max(1, round(min(seconds * frames_per_second, int(songs.lengths.max()))))


class ResidentSongs:
    """All songs in the memory of one device, where the crops are cut."""

    def __init__(self, frames: Tensor, lengths: Indices, n_sources: int = 1) -> None:
        """`frames` is (all frames, features): all songs, one after another."""
        self.lengths, self._frames, self.n_sources = lengths, frames, n_sources
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


def open_songs(entries: Sequence[Entries], array: str, device: torch.device) -> Songs:
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
    return ResidentSongs(frames, songs.lengths, songs.n_sources)
