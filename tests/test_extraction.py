import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tone, write_audio
from numpy.typing import NDArray

from artistid.audio import cache, extraction, source
from artistid.audio.decode import Audio
from artistid.audio.extraction import (
    Extraction,
    Recipe,
    UnusableFilesError,
    extract,
    require_usable,
)
from artistid.dataset.corpus import Track
from artistid.foundation import parallel
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers


@dataclass(frozen=True)
class Loudness:
    sample_rate: int = 16_000
    power: int = 2


def loudness(samples: NDArray[np.float32], settings: Loudness) -> dict[str, NDArray[np.floating]]:
    return {"loudness": np.mean(np.abs(samples) ** settings.power, keepdims=True)}


def recipe(**settings: int) -> Recipe:
    return Recipe("loudness", 1, Loudness(**settings), loudness)


@pytest.fixture
def tracks(tmp_path: Path) -> list[Track]:
    """Seven songs of different loudness; three of them cannot be used."""
    made = []
    for i in range(7):
        path = tmp_path / f"album_{i}" / "01-Intro.wav"
        write_audio(path, tone(440, 0.5) * (i + 1) / 7)
        made.append(Track(path, f"{i}", "train", "a", "b"))
    made[1].path.write_bytes(b"")
    made[3].path.unlink()
    made[5].path.write_bytes(b"not audio at all")
    return made


@pytest.fixture
def good(tracks: list[Track]) -> list[Track]:
    return [tracks[i] for i in (0, 2, 4, 6)]


def values(found: Extraction) -> dict[str, float]:
    read = {}
    for track, path in found.entries.items():
        with cache.opened(path) as file:
            read[track.id] = float(file.get_tensor("loudness")[0])
    return read


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_good_song_gets_its_own_value_and_every_bad_one_its_reason(
    tmp_path: Path, tracks: list[Track], jobs: int
) -> None:
    found = extract(tracks, recipe(), tmp_path / "cache", Workers(jobs))
    expected = {str(i): (0.5 * (i + 1) / 7) ** 2 / 2 for i in (0, 2, 4, 6)}
    assert list(values(found)) == list(expected)
    assert values(found) == pytest.approx(expected, rel=1e-3)
    assert [(track.id, why) for track, why in found.refused.items()] == [
        ("1", "empty file (0 bytes)"),
        ("3", "cannot be read: No such file or directory"),
        ("5", "cannot be decoded: Format not recognised"),
    ]
    with pytest.raises(UnusableFilesError, match=r"^3 of 7 files cannot be .*--skip-bad") as error:
        require_usable(tracks, found.refused)
    lines = str(error.value).splitlines()[1:]
    assert lines == [f"{track.path}: {why}" for track, why in found.refused.items()]


def run(tracks: Sequence[Track], folder: Path, **settings: int) -> Extraction:
    return extract(tracks, recipe(**settings), folder / "cache", Workers(1))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files decoded so far, in this process."""
    paths = []
    load = source.load

    def spy(path: Path, rate: int, may_be_silent: bool) -> Audio:
        paths.append(path)
        return load(path, rate, may_be_silent)

    monkeypatch.setattr(source, "load", spy)
    return paths


def test_a_second_run_decodes_only_what_changed(
    tmp_path: Path, good: list[Track], decoded: list[Path]
) -> None:
    first = run(good, tmp_path)
    assert decoded == [track.path for track in good]
    assert first.decoded_s == 2.0
    assert run(good, tmp_path) == replace(first, decoded_s=0.0)
    assert len(decoded) == 4
    write_audio(good[1].path, tone(220, 0.5))  # same name, other music
    again = run(good, tmp_path)
    assert decoded[4:] == [good[1].path]
    assert again.decoded_s == 0.5
    assert list(again.entries) == good
    run(good, tmp_path, power=1)  # other settings
    assert decoded[5:] == [track.path for track in good]


def test_every_file_is_hashed_once_and_only_uncached_ones_are_sent_out(
    tmp_path: Path, good: list[Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run([good[0], good[3]], tmp_path)
    hashed: list[Path] = []
    sent: list[Path] = []
    digest, run_parallel = extraction.content_digest, parallel.run

    def spy_on_digest(path: Path) -> str:
        hashed.append(path)
        return digest(path)

    def spy_on_run(function: Any, items: Sequence[Any], **options: Any) -> Any:
        sent.extend(item.file for item in items)
        return run_parallel(function, items, **options)

    monkeypatch.setattr(extraction, "content_digest", spy_on_digest)
    monkeypatch.setattr(parallel, "run", spy_on_run)
    second = run(good, tmp_path)
    assert hashed == [track.path for track in good]
    assert sent == [good[1].path, good[2].path]
    assert list(second.entries) == good
    assert first.entries.items() < second.entries.items()


def test_no_process_is_started_where_everything_is_cached(
    tmp_path: Path, good: list[Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(good, tmp_path)
    monkeypatch.setattr(parallel, "run", None)
    again = extract(good, recipe(), tmp_path / "cache", Workers(2))
    assert again.entries == first.entries


def test_copies_of_a_song_are_decoded_once(
    tmp_path: Path, good: list[Track], decoded: list[Path]
) -> None:
    good[2].path.write_bytes(good[0].path.read_bytes())
    found = run(good, tmp_path)
    assert decoded == [good[i].path for i in (0, 1, 3)]
    assert found.decoded_s == 1.5
    assert list(found.entries) == good
    assert found.entries[good[2]] == found.entries[good[0]]


def test_a_damaged_entry_is_made_again(
    tmp_path: Path, good: list[Track], decoded: list[Path]
) -> None:
    first = run(good[:1], tmp_path)
    expected = values(first)
    (entry,) = first.entries.values()
    entry.write_bytes(entry.read_bytes()[:20])
    assert values(run(good[:1], tmp_path)) == expected
    assert decoded == [good[0].path] * 2


def test_a_note_about_a_file_comes_back_from_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    write_audio(path, tone(440, 10))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    track = Track(path, "song", "train", "a", "b")
    notes = [run([track], tmp_path).notes[track] for _ in range(2)]
    assert notes == ["truncated: 4.8 s of the 10.0 s in its header"] * 2


def test_a_cache_that_cannot_be_written_to_is_one_line(
    tmp_path: Path, good: list[Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"/file/cache: Not a directory; make room .*--cache"):
        run(good, tmp_path / "file")

    def fail(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(extraction, "save_entry", fail)
    with pytest.raises(UserError, match=r"\.safetensors: No space left on device; make room"):
        run(good, tmp_path)


def test_a_fault_in_the_computation_is_not_blamed_on_the_cache(
    tmp_path: Path, good: list[Track]
) -> None:
    def fail(*_: object) -> dict[str, Any]:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "weights")

    broken = Recipe("broken", 1, Loudness(), fail)
    with pytest.raises(FileNotFoundError, match="weights"):
        extract(good, broken, tmp_path / "cache", Workers(1))
