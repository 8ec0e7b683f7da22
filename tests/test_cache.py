from pathlib import Path

import numpy as np
import pytest

from artistid.audio import cache, features, melspec
from artistid.foundation.errors import UserError

DIGEST = "d" * 16


PINNED = {  # as the first caches have them; test_encoders.py pins those of encoders
    "features": (features.recipe(features.FeatureSettings()), "b852c3a410b804f5"),
    "logmel": (melspec.recipe(melspec.MelSettings()), "396f1253f6b3d13e"),
}


@pytest.mark.parametrize("name", PINNED)
def test_keys_stay_the_same_or_every_user_extracts_again(name: str) -> None:
    recipe, digest = PINNED[name]
    assert recipe.name == name
    assert recipe.digest == digest


def test_keys_of_content_and_settings_stay_the_same(tmp_path: Path) -> None:
    (tmp_path / "song").write_bytes(b"first")
    content = cache.content_digest(tmp_path / "song")
    assert content == "3687d4b1197a3e20cef23d2495e7f5dd93ceb157"
    settings = {"sample_rate": 16_000, "n_fft": 2_048, "hop": 512}
    settings |= {"n_mels": 128, "n_mfcc": 20, "excerpt_s": 5.0}
    assert cache.settings_digest(settings) == "23ded0c9717ef594"
    entry = cache.entry_path(tmp_path, content, "23ded0c9717ef594")
    assert entry == tmp_path / "36" / f"{content}-23ded0c9717ef594.safetensors"


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
    cache.save_entry(path, {"x": array.T}, {"note": "truncated: 周"})
    with cache.opened(path) as file:
        np.testing.assert_array_equal(file.get_tensor("x"), array.T)
        np.testing.assert_array_equal(file.get_slice("x")[1:2], [[1, 4]])
    assert cache.load_notes(path) == {"note": "truncated: 周"}


@pytest.mark.parametrize("size", [0, 5, 40, 90])
def test_a_truncated_entry_counts_as_missing(tmp_path: Path, size: int) -> None:
    path = tmp_path / "entry.safetensors"
    assert cache.load_notes(path) is None
    cache.save_entry(path, {"x": np.zeros((4, 4), dtype=np.float32)})
    assert cache.load_notes(path) == {}
    path.write_bytes(path.read_bytes()[:size])
    assert cache.load_notes(path) is None
    with pytest.raises(UserError, match="gone from the cache"), cache.opened(path):
        pass
