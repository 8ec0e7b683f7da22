"""predict.py, with models that the tasks have saved; test_inference.py tests the models."""

import csv
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PROJECT, Call, Finish, hum, read, write_audio

import artistid
import predict

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(call: Call) -> Command:
    return partial(call, predict)


@pytest.fixture
def songs(shared_course: Path) -> list[Path]:
    return sorted((shared_course / "artist20/test").iterdir())


def test_the_screen_and_the_files_name_the_artists_of_each_song(
    finished: Finish, songs: list[Path], command: Command, tmp_path: Path
) -> None:
    files = ("--json", "new/p.json", "--csv", "p.csv")
    status, printed, errors = command(*songs, "--model", finished("task1").model, *files)
    assert (status, errors) == (0, f"model: {finished('task1').model}, 4 artists\n")
    expected = read(finished("task1").folder / "pred_task1.json")
    predictions = read(tmp_path / "new/p.json")
    assert list(predictions) == [str(path) for path in songs]
    calibration = artistid.load_model(finished("task1").model).card.calibration
    for path, line in zip(songs, printed.splitlines(), strict=True):
        verdict = predictions[str(path)]
        top = verdict["best"]
        assert verdict["unknown"] == (verdict["score"] < calibration.unknown_below)
        assert [entry["artist"] for entry in top] == expected[path.stem]
        probabilities = [entry["probability"] for entry in top]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1 + 1e-9
        named = ", ".join(f"{entry['artist']} {entry['probability']:.0%}" for entry in top)
        assert line == f"{path.name}  {'unknown? ' * verdict['unknown']}{named}"
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["song"] for row in rows] == list(predictions)
    verdicts = list(predictions.values())
    assert [row["artist_3"] for row in rows] == [v["best"][2]["artist"] for v in verdicts]
    assert [float(row["score"]) for row in rows] == [v["score"] for v in verdicts]
    assert [row["unknown"] for row in rows] == [str(int(v["unknown"])) for v in verdicts]


def test_files_folders_and_patterns_name_each_song_once(
    finished: Finish, songs: list[Path], command: Command
) -> None:
    folder = songs[0].parent
    places = (songs[2], folder, f"{folder}/00[12].mp3")
    status, printed, errors = command(*places, "--model", finished("task1").model, "--quiet")
    assert (status, errors) == (0, "")
    names = [line.split("  ")[0] for line in printed.splitlines()]
    assert names == ["003.mp3", "001.mp3", "002.mp3", "004.mp3"]


def test_the_newest_model_in_result_is_the_default(
    finished: Finish, songs: list[Path], command: Command, tmp_path: Path
) -> None:
    status, _, errors = command(songs[0])
    assert status == 2
    assert "predict.py: no model in result or result/demo: train one with task1.py" in errors
    shutil.copytree(finished("task2").folder / "result", tmp_path / "result/demo")
    status, _, errors = command(songs[0], "--device", "cpu")
    assert (status, errors) == (0, "model: result/demo/model_task2.safetensors, 4 artists\n")


def test_songs_that_cannot_be_used_are_listed_and_the_others_predicted(
    finished: Finish, songs: list[Path], command: Command, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_text("no music")
    options = ("--model", finished("task1").model, "--json", "p.json")
    status, printed, errors = command(bad, songs[0], *options)
    assert status == 2
    assert printed.startswith("001.mp3 ")
    assert "predict.py: 1 of 2 files cannot be used\n" in errors
    assert f"{bad}: cannot be decoded" in errors
    assert list(read(tmp_path / "p.json")) == [str(songs[0])]


def test_what_is_odd_about_a_file_is_a_notice(
    finished: Finish, command: Command, tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "song.mp3"
    write_audio(path, hum(1, rng, seconds=4.0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for option, n_notices in ((), 1), (("--quiet",), 0):
        status, _, errors = command(path, "--model", finished("task1").model, *option)
        assert status == 0
        assert errors.count(f"notice: {path}: truncated: ") == n_notices


def test_what_is_done_is_kept_when_it_is_interrupted(
    finished: Finish,
    songs: list[Path],
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(song: Path, *_: Any) -> str:
        if song == songs[2]:
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(predict.predictions, "line", interrupt)
    status, _, errors = command(*songs, "--model", finished("task1").model, "--json", "p.json")
    assert (status, errors.splitlines()[-1][:23]) == (130, "predict.py: interrupted")
    assert list(read(tmp_path / "p.json")) == [str(song) for song in songs[:3]]


@pytest.mark.slow
def test_what_is_done_is_kept_when_the_terminal_is_closed(
    finished: Finish, songs: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(300):
        (folder / f"{i:03d}.mp3").symlink_to(songs[i % len(songs)])
    command = [sys.executable, PROJECT / "predict.py", folder, "--model", finished("task1").model]
    process = subprocess.Popen(
        [*map(str, command), "--json", str(tmp_path / "p.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline().startswith("000.mp3")
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()[-1][:23]) == (130, "predict.py: interrupted")
    assert 1 <= len(read(tmp_path / "p.json")) < 300


def test_folders_are_found_by_links_and_patterns(
    finished: Finish, songs: list[Path], command: Command, tmp_path: Path
) -> None:
    (tmp_path / "linked/x").mkdir(parents=True)
    (tmp_path / "linked/x/album").symlink_to(songs[0].parent)
    (tmp_path / "linked/x/._y.mp3").touch()
    (tmp_path / "linked/x/.z").mkdir()
    for place in ("linked", "linked/*", "linked/x/*"):
        status, printed, errors = command(place, "--model", finished("task1").model)
        assert (status, len(printed.splitlines())) == (0, 4)
        assert errors.count(".z: hidden") == (place != "linked/x/*")


def test_songs_of_one_name_have_timelines_of_their_own(
    finished: Finish, songs: list[Path], command: Command, tmp_path: Path
) -> None:
    places = [tmp_path / name for name in ("x/a.mp3", "y/a.mp3", "a 2.wav", "z/a.ogg")]
    for place in places:
        place.parent.mkdir(exist_ok=True)
        shutil.copy(songs[0], place)
    options = ("--model", finished("task1").model, "--timeline", "--out", "figures")
    assert command(*places, *options)[0] == 0
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["a 2 2.png", "a 2.png", "a 3.png", "a.png"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "which songs? Name files, folders or patterns"),
        (["nowhere.mp3"], "nowhere.mp3: no audio here; name files, folders or patterns"),
        (["SONG", "--model", "nowhere.skops"], "nowhere.skops: no such file; train a model"),
        (
            ["SONG", "--model", "SONG"],
            "not a model; their names end in .skops, .safetensors or .json",
        ),
        (["SONG", "--model", "CNN", "--device", "mps"], "--device mps: not available to this"),
        (["SONG", "--json", "/"], "/: is no ordinary file; name another one"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    songs: list[Path], command: Command, finished: Finish, arguments: list[str], reason: str
) -> None:
    words = {"SONG": songs[0], "CNN": finished("task2").model}
    status, printed, errors = command(*(words.get(word, word) for word in arguments))
    assert (status, printed) == (2, "")
    assert errors.startswith("predict.py: ")
    assert reason in errors
    assert len(errors.splitlines()) == 1
