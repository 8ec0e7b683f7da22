"""Small corpora and ways to run the scripts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.random import Generator
from numpy.typing import NDArray

from artistid import cli
from artistid.dataset.demo import make_demo_corpus

PROJECT = Path(__file__).resolve().parent.parent
GAMEMUSIC = PROJECT.parent / "shared" / "gamemusic"
RATE = 16_000


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def gamemusic() -> Path:
    """118 songs of real music; not part of the project."""
    if not GAMEMUSIC.is_dir():
        pytest.skip(f"no real music in {GAMEMUSIC}")
    return GAMEMUSIC


@pytest.fixture(scope="session")
def demo_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    make_demo_corpus(folder)
    return folder


def tone(hz: float, seconds: float, rate: int = RATE) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype("f4")


def hum(artist: int, draw: Generator, seconds: float = 2.0) -> NDArray[np.float32]:
    """Harmonics whose balance is the artist's, at a random pitch, under noise."""
    balance = np.random.default_rng([7, artist]).uniform(0, 1, 6)
    pitch = draw.uniform(120, 360)
    song = sum(a * tone(pitch * (k + 1), seconds) for k, a in enumerate(balance))
    song = song / np.abs(song).max() + draw.normal(0, 0.3, len(song))
    return (0.5 * song / np.abs(song).max()).astype("f4")


@pytest.fixture
def course(tmp_path: Path) -> Path:
    return make_course(tmp_path)


def make_course(place: Path, seconds: float = 2.0) -> Path:
    """The course's layout in small: 4 artists, 2 + 1 albums of 2 songs, 4 test songs."""
    folder = place / "tiny"
    root = folder / "artist20"
    draw = np.random.default_rng(3)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for artist in range(4):
        for album in range(3):
            for song in range(2):
                entry = f"./train_val/artist_{artist}/album_{album}/{song}.mp3"
                write_audio(root / entry, hum(artist, draw, seconds))
                lists["train" if album < 2 else "val"].append(entry)
        write_audio(root / f"test/{artist + 1:03d}.mp3", hum(artist, draw, seconds))
    for name, entries in lists.items():
        (root / f"{name}.json").write_text(json.dumps(entries))
    (folder / "test_ans.json").write_text(json.dumps([f"artist_{a}" for a in range(4)]))
    return folder


def write_audio(path: Path, samples: NDArray[np.floating], rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)


def top1_of_songs(metrics: dict[str, Any], split: str) -> float:
    """The fraction of the songs named in `metrics` whose artist is the likeliest there."""
    songs = metrics["songs"][split]
    right = [song for song in songs if song["best"][0][0] == song["artist"]]
    return len(right) / len(songs)


def command(task: str, data: Path, folder: Path, *options: object) -> list[str]:
    """A task's command line, for which `folder` has a cache and results."""
    places = ("--data", data, "--cache", folder / "cache", "--out", folder / "out", *options)
    return [sys.executable, *map(str, (PROJECT / f"{task}.py", *places))]


Script = Callable[..., "subprocess.CompletedProcess[str]"]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Call a script's module with a command line, in this process and an empty folder: its exit
    status, and what it prints as results and as errors."""
    monkeypatch.chdir(tmp_path)

    def run(script: ModuleType, *arguments: object) -> tuple[int, str, str]:
        command = [f"{script.__name__}.py", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        status = 0
        try:
            cli.start(script.Settings, script.main, script.__doc__ or "")
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def run_script(tmp_path: Path) -> Script:
    """Run one of the project's scripts in an empty folder."""
    folder = tmp_path / "work"
    folder.mkdir()

    def run(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, PROJECT / script, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "COLUMNS": "100"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
