from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tone, write_audio
from numpy.typing import NDArray

from artistid.audio.decode import cache
from artistid.audio.decode import decode as audio
from artistid.audio.extraction import Extraction, Recipe, UnusableFilesError, extract
from artistid.dataset.corpus import Track
from artistid.foundation import parallel
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
    """Six songs, each of its own loudness; two of them are broken."""
    made = []
    for i in range(6):
        path = tmp_path / f"album_{i}" / "01-Intro.wav"
        write_audio(path, tone(440, 0.5) * (i + 1) / 6)
        made.append(Track(path, f"{i}", "train", "a", "b"))
    made[1].path.write_bytes(b"")
    made[4].path.write_bytes(b"not audio at all")
    return made


def values(extraction: Extraction) -> dict[str, float]:
    found = {}
    for track, path in extraction.entries.items():
        with cache.opened(path) as file:
            found[track.id] = float(file.get_tensor("loudness")[0])
    return found


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_good_song_gets_its_own_value_and_every_bad_one_its_reason(
    tmp_path: Path, tracks: list[Track], jobs: int
) -> None:
    extraction = extract(tracks, recipe(), tmp_path / "cache", Workers(jobs))
    expected = {str(i): (0.5 * (i + 1) / 6) ** 2 / 2 for i in (0, 2, 3, 5)}
    assert values(extraction) == pytest.approx(expected, rel=1e-3)
    reasons = {track.id: why for track, why in extraction.refused.items()}
    assert reasons == {"1": "is empty (0 bytes)", "4": "can't be decoded: Format not recognised"}
    with pytest.raises(UnusableFilesError, match=r"2 of 6 files .*--skip-bad") as error:
        extraction.require_all()
    assert all(str(tracks[i].path) in str(error.value) for i in (1, 4))


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths that are decoded from now on."""
    paths = []
    load = audio.load

    def spy(path: Path, rate: int) -> audio.Audio:
        paths.append(path)
        return load(path, rate)

    monkeypatch.setattr(audio, "load", spy)
    return paths


def run_again(tracks: Sequence[Track], made: Recipe, folder: Path) -> Extraction:
    return extract(tracks, made, folder, workers=Workers(1))


def test_a_second_run_decodes_only_what_changed(
    tmp_path: Path, tracks: list[Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [tracks[i] for i in (0, 2, 3, 5)]
    first = run_again(good, recipe(), tmp_path / "cache")
    paths = decoded(monkeypatch)
    assert first.heard_s == 2.0
    assert run_again(good, recipe(), tmp_path / "cache") == replace(first, heard_s=0.0)
    assert paths == []
    write_audio(good[1].path, tone(220, 0.5))  # same name, other music
    run_again(good, recipe(), tmp_path / "cache")
    assert paths == [good[1].path]
    run_again(good, recipe(power=1), tmp_path / "cache")  # other settings
    assert len(paths) == 1 + len(good)


def test_processes_begin_where_the_cache_ends(
    tmp_path: Path, tracks: list[Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [tracks[i] for i in (0, 2, 3, 5)]
    first = run_again([good[0], good[1], good[3]], recipe(), tmp_path / "cache")
    sent = []
    run = parallel.run

    def spy(function: Any, items: Sequence[Path], **more: Any) -> Any:
        sent.extend(items)
        return run(function, items, **more)

    monkeypatch.setattr(parallel, "run", spy)
    again = run_again(good, recipe(), tmp_path / "cache")
    assert sent == [good[2].path, good[3].path]  # none for the first two
    assert {track: again.entries[track] for track in first.entries} == first.entries
    assert len(values(again)) == 4


def test_a_damaged_entry_is_made_again(
    tmp_path: Path, tracks: list[Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_again(tracks[:1], recipe(), tmp_path / "cache")
    (entry,) = first.entries.values()
    entry.write_bytes(entry.read_bytes()[:20])
    paths = decoded(monkeypatch)
    assert values(run_again(tracks[:1], recipe(), tmp_path / "cache")) == values(first)
    assert paths == [tracks[0].path]


def test_what_is_said_of_a_file_is_said_again_from_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    write_audio(path, tone(440, 10))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    track = Track(path, "song", "train", "a", "b")
    notes = [run_again([track], recipe(), tmp_path / "cache").notes[track] for _ in range(2)]
    assert "is cut short" in notes[0]
    assert notes[0] == notes[1]
