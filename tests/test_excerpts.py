from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import Generator

from artistid.audio.decode import cache
from artistid.inference import crops as excerpts
from artistid.models.crops import Excerpts, MappedSongs, covering, random_crops

LENGTHS = np.array([25, 3, 10, 11])


@pytest.fixture
def entries(tmp_path: Path, rng: Generator) -> list[Path]:
    """Songs of LENGTHS frames and 5 bands; the first value of a frame says which one it is."""
    paths = []
    for song, length in enumerate(LENGTHS):
        frames = rng.normal(size=(length, 5)).astype(np.float16)
        frames[:, 0] = 100 * song + np.arange(length)
        paths.append(tmp_path / f"{song}.safetensors")
        cache.save_entry(paths[-1], {"log_mel": frames}, {"note": ""})
    return paths


def test_excerpts_are_read_where_they_begin_and_short_songs_repeat(entries: list[Path]) -> None:
    songs = MappedSongs(entries, "log_mel")
    assert songs.lengths.tolist() == LENGTHS.tolist()
    rows = songs.read(Excerpts(np.array([0, 1, 3]), np.array([20, 0, 7])), 4)
    assert rows.dtype == torch.float16
    assert rows[:, :, 0].tolist() == [[20, 21, 22, 23], [100, 101, 102, 100], [307, 308, 309, 310]]


def test_songs_in_the_memory_of_a_device_are_the_same(entries: list[Path], rng: Generator) -> None:
    mapped = MappedSongs(entries, "log_mel")
    resident = excerpts.resident(mapped, torch.device("cpu"))
    for n_frames in (2, 4, 12):
        for some in (covering(LENGTHS, n_frames), random_crops(LENGTHS, n_frames, rng)):
            assert torch.equal(resident.read(some, n_frames), mapped.read(some, n_frames))


def test_only_a_gpu_with_room_holds_the_songs(
    entries: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    n_bytes = LENGTHS.sum() * 5 * 2
    assert isinstance(excerpts.open_songs(entries, "log_mel", torch.device("cpu")), MappedSongs)
    monkeypatch.setattr(excerpts, "resident", lambda *_: "resident")
    for free, held in ((n_bytes, False), (2 * n_bytes, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 1 << 40))
        songs = excerpts.open_songs(entries, "log_mel", torch.device("cuda"))
        assert (songs == "resident") == held


def test_an_entry_that_is_gone_is_named(entries: list[Path]) -> None:
    songs = MappedSongs(entries, "log_mel")
    entries[2].unlink()
    with pytest.raises(ValueError, match=r"2\.safetensors: gone from the cache; run it again"):
        songs.read(Excerpts(np.array([2]), np.array([0])), 4)


@pytest.mark.parametrize("n_frames", [1, 4, 10, 30])
def test_excerpts_cover_every_frame_and_end_with_the_song(n_frames: int) -> None:
    cover = covering(LENGTHS, n_frames)
    for song, length in enumerate(LENGTHS):
        starts = cover.starts[cover.songs == song]
        heard = {int(start) + i for start in starts for i in range(n_frames)}
        assert set(range(length)) <= heard
        if length >= n_frames:
            assert heard == set(range(length))
        assert len(starts) == np.ceil(length / n_frames)


def test_there_is_nothing_to_cover_without_songs() -> None:
    assert len(covering(np.array([], dtype=np.intp), 4)) == 0
    nothing = MappedSongs([], "log_mel")
    assert nothing.read(covering(nothing.lengths, 4), 4).shape == (0, 4, 0)


def test_random_crops_lie_within_their_songs_as_many_as_cover_them(rng: Generator) -> None:
    seen = set()
    for _ in range(200):
        crops = random_crops(LENGTHS, 4, rng)
        assert np.bincount(crops.songs).tolist() == [7, 1, 3, 3]
        assert (crops.starts >= 0).all()
        assert (crops.starts <= np.maximum(LENGTHS[crops.songs] - 4, 0)).all()
        own = np.sort(crops.starts[crops.songs == 0])
        stretches = np.arange(8) * 22 / 7  # each crop begins in its own
        assert (own >= np.floor(stretches[:-1])).all()
        assert (own < np.ceil(stretches[1:])).all()
        seen |= set(crops.starts[crops.songs == 0].tolist())
    assert seen == set(range(22))  # and everywhere, sooner or later


def test_crops_come_in_another_order_each_time(rng: Generator) -> None:
    first, second = (random_crops(LENGTHS, 2, rng).songs.tolist() for _ in range(2))
    assert first != sorted(first)
    assert first != second
    assert sorted(first) == sorted(second)
