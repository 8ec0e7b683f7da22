"""Crops: where an epoch takes them from, and how they are read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import Generator

from artistid.audio import cache
from artistid.audio.cache import Entries
from artistid.foundation.errors import UserError
from artistid.models import crops
from artistid.models.crops import Crops, MappedSongs, covering, frames_of, n_per_epoch, random_crops

LENGTHS = np.array([25, 3, 10, 11])


@pytest.fixture
def entries(tmp_path: Path, rng: Generator) -> list[Entries]:
    """Songs of LENGTHS frames and 5 bands; the first value of a frame tells its song and place."""
    entries = []
    for song, length in enumerate(LENGTHS):
        frames = rng.normal(size=(length, 5)).astype(np.float16)
        frames[:, 0] = 100 * song + np.arange(length)
        path = tmp_path / f"{song}.safetensors"
        cache.save_entry(path, {"log_mel": frames})
        entries.append((path,))
    return entries


# --- reading -----------------------------------------------------------------------------------


def test_crops_are_read_from_their_start_and_short_songs_repeat(entries: list[Entries]) -> None:
    songs = MappedSongs(entries, "log_mel")
    assert songs.lengths.tolist() == LENGTHS.tolist()
    rows = songs.read(Crops(np.array([0, 1, 3]), np.array([20, 0, 7])), 4)
    assert rows.dtype == torch.float16
    assert rows[:, :, 0].tolist() == [[20, 21, 22, 23], [100, 101, 102, 100], [307, 308, 309, 310]]


def test_sources_stand_side_by_side_and_the_shortest_decides_on_the_length(
    entries: list[Entries],
) -> None:
    both = [(entries[0][0], entries[2][0]), (entries[3][0], entries[3][0])]  # 25 and 10 frames, 11
    songs = MappedSongs(both, "log_mel")
    assert (songs.n_sources, songs.lengths.tolist()) == (2, [10, 11])
    rows = songs.read(Crops(np.array([0, 1]), np.array([8, 2])), 2)
    assert rows.shape == (2, 2, 10)
    assert rows[:, :, 0].tolist() == [[8, 9], [302, 303]]
    assert rows[:, :, 5].tolist() == [[208, 209], [302, 303]]
    resident = crops.resident(songs, torch.device("cpu"))
    assert resident.n_sources == 2
    assert torch.equal(
        resident.read(covering(songs.lengths, 4), 4), songs.read(covering(songs.lengths, 4), 4)
    )


@pytest.mark.parametrize("crop_frames", [2, 4, 12])
def test_songs_in_the_memory_of_a_device_are_the_same(
    entries: list[Entries], rng: Generator, crop_frames: int
) -> None:
    mapped = MappedSongs(entries, "log_mel")
    resident = crops.resident(mapped, torch.device("cpu"))
    for some in (covering(LENGTHS, crop_frames), random_crops(LENGTHS, crop_frames, rng)):
        assert torch.equal(resident.read(some, crop_frames), mapped.read(some, crop_frames))


def test_only_a_gpu_with_room_holds_the_songs(
    entries: list[Entries], monkeypatch: pytest.MonkeyPatch
) -> None:
    n_bytes = LENGTHS.sum() * 5 * 2
    assert isinstance(crops.open_songs(entries, "log_mel", torch.device("cpu")), MappedSongs)
    monkeypatch.setattr(crops, "resident", lambda *_: "resident")
    for free, is_held in ((n_bytes, False), (2 * n_bytes, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 1 << 40))
        songs = crops.open_songs(entries, "log_mel", torch.device("cuda"))
        assert (songs == "resident") == is_held


def test_a_crop_of_any_length_is_at_most_the_longest_song(entries: list[Entries]) -> None:
    songs = MappedSongs(entries, "log_mel")
    assert frames_of(1e308, 62.5, songs) == LENGTHS.max()


def test_a_lost_cache_entry_is_named(entries: list[Entries]) -> None:
    songs = MappedSongs(entries, "log_mel")
    entries[2][0].unlink()
    with pytest.raises(UserError, match=r"2\.safetensors: gone from the cache; run it again"):
        songs.read(Crops(np.array([2]), np.array([0])), 4)


def test_no_songs_have_no_crops() -> None:
    songs = MappedSongs([], "log_mel")
    assert songs.read(covering(songs.lengths, 4), 4).shape == (0, 4, 0)


# --- an epoch ----------------------------------------------------------------------------------


def test_random_crops_lie_within_their_songs(rng: Generator) -> None:
    seen = set()
    for _ in range(300):
        epoch = random_crops(LENGTHS, 4, rng)
        assert (epoch.starts >= 0).all()
        assert (epoch.starts <= np.maximum(LENGTHS[epoch.songs] - 4, 0)).all()
        starts = np.sort(epoch.starts[epoch.songs == 0])
        stretches = np.linspace(0, 22, len(starts) + 1)  # each crop starts in one of its own
        assert (starts >= np.floor(stretches[:-1])).all()
        assert (starts < np.ceil(stretches[1:])).all()
        seen |= set(starts.tolist())
    assert seen == set(range(22))  # every start occurs sooner or later


@pytest.mark.parametrize("crop_frames", [2, 4, 12, 30])
def test_songs_have_crops_in_proportion_to_their_length(rng: Generator, crop_frames: int) -> None:
    whole = np.maximum(LENGTHS, crop_frames) / crop_frames
    epochs = [random_crops(LENGTHS, crop_frames, rng) for _ in range(2000)]
    counts = np.array([np.bincount(epoch.songs, minlength=len(LENGTHS)) for epoch in epochs])
    assert set(counts.sum(axis=1)) == {n_per_epoch(LENGTHS, crop_frames)}
    assert (counts >= 1).all()
    assert (np.abs(counts - whole) < 1.5).all()
    expected = whole * n_per_epoch(LENGTHS, crop_frames) / whole.sum()
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=0.05)


def test_crops_are_in_another_order_in_every_epoch(rng: Generator) -> None:
    first, second = (random_crops(np.full(9, 6), 2, rng).songs.tolist() for _ in range(2))
    assert first != sorted(first)
    assert first != second
    assert sorted(first) == sorted(second)
