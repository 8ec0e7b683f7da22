from pathlib import Path

import numpy as np
import pytest

from artistid.audio.decode import cache

DIGEST = "d" * 16


def test_one_name_in_two_albums_is_two_entries_and_a_copy_is_one(tmp_path: Path) -> None:
    paths = [tmp_path / album / "01-Intro.mp3" for album in "abc"]
    for path, content in zip(paths, (b"first", b"second", b"first"), strict=True):
        path.parent.mkdir()
        path.write_bytes(content)
    first, second, copy = (cache.content_digest(path) for path in paths)
    assert first != second
    assert first == copy


def test_any_setting_changes_the_key() -> None:
    settings = {"n_fft": 2048, "hop": 512}
    digests = {cache.settings_digest({**settings, **new}) for new in ({}, {"hop": 256}, {"x": 1})}
    assert len(digests) == 3
    assert cache.settings_digest({"hop": 512, "n_fft": 2048}) == cache.settings_digest(settings)


def test_arrays_and_notes_come_back(tmp_path: Path) -> None:
    path = cache.entry_path(tmp_path, "ab12", DIGEST)
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    cache.save_entry(path, {"x": array.T}, {"note": "cut short: 周"})
    with cache.opened(path) as file:
        np.testing.assert_array_equal(file.get_tensor("x"), array.T)
    assert cache.load_notes(path) == {"note": "cut short: 周"}


@pytest.mark.parametrize("size", [0, 5, 40, 90])
def test_a_damaged_entry_is_none(tmp_path: Path, size: int) -> None:
    path = tmp_path / "entry.safetensors"
    assert cache.load_notes(path) is None
    cache.save_entry(path, {"x": np.zeros((4, 4), dtype=np.float32)})
    path.write_bytes(path.read_bytes()[:size])
    assert cache.load_notes(path) is None
    with pytest.raises(ValueError, match="gone from the cache"), cache.opened(path):
        pass


def test_notes_and_slices_are_read_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "entry.safetensors"
    assert cache.load_notes(path) is None
    cache.save_entry(path, {"x": np.arange(12).reshape(6, 2)}, {"note": "周"})
    assert cache.load_notes(path) == {"note": "周"}
    with cache.opened(path) as file:
        np.testing.assert_array_equal(file.get_slice("x")[2:4], [[4, 5], [6, 7]])
