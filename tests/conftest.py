"""Small corpora, and ways to run the scripts."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Container, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import soundfile
from filelock import FileLock
from numpy.random import Generator
from numpy.typing import NDArray

from artistid import cli
from artistid.dataset.demo import is_demo_corpus, make_demo_corpus
from artistid.foundation import progress
from artistid.results import figures

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

PROJECT = Path(__file__).resolve().parent.parent
GAMEMUSIC_PLACES = (PROJECT.parent / "shared" / "gamemusic", PROJECT / "gamemusic")
GAMEMUSIC = next((place for place in GAMEMUSIC_PLACES if place.is_dir()), GAMEMUSIC_PLACES[-1])
RATE = 16_000  # Hz
TASKS = {  # options with which each learns the tiny course
    "task1": ("--repeats", 1, "--jobs", 1),
    "task2": ("--epochs", 12, "--batch-size", 8, "--mixup", 0, "--jobs", 1),
    "task2_baseline": ("--epochs", 20, "--batch-size", 4, "--jobs", 1, "--encoder", "musicnn"),
}
MODELS = {
    "task1": "model_task1.skops",
    "task2": "model_task2.safetensors",
    "task2_baseline": "model_task2_baseline.safetensors",
}


def pytest_configure() -> None:
    """Processes that compile librosa's functions into one cache at the same time crash."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    os.environ["NUMBA_CACHE_DIR"] = str(PROJECT / ".pytest_cache" / "numba" / worker)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    """A worker of pytest-xdist ends if what a test has logged cannot be encoded."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(20)


# --- corpora -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def gamemusic() -> Path:
    """118 songs of real music; not part of the project."""
    if not GAMEMUSIC.is_dir():
        pytest.skip("no real music; build it: python3 -m benchmarks.gamemusic gamemusic")
    return GAMEMUSIC


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder once for all workers of pytest-xdist: by whoever asks for it first. In
    SHARED_FIXTURES, if that is set, it is there for the next session, too."""
    base = tmp_path_factory.getbasetemp()
    place = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    place = Path(os.environ.get("SHARED_FIXTURES", place))

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder, is_made = place / name, place / f"{name}.made"
        with FileLock(place / f"{name}.lock"):
            if not is_made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
                folder.mkdir()
                make(folder)
                is_made.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def some_music(gamemusic: Path, once: Once) -> Path:
    """The middle 24 s of the songs of five composers: enough to see that real music is learnt."""
    return once("some_music", partial(make_some_music, gamemusic))


def make_some_music(gamemusic: Path, folder: Path) -> None:
    source = gamemusic / "artist20"
    lists = {name: read(source / f"{name}.json") for name in ("train", "val")}
    chosen = sorted({Path(entry).parts[1] for entry in lists["train"]})[:5]

    def take(entry: str, new_entry: str) -> str:
        path = folder / "artist20" / new_entry
        path.parent.mkdir(parents=True, exist_ok=True)
        song, rate = soundfile.read(source / entry, dtype="float32")
        middle = song[max(0, len(song) // 2 - 12 * rate) :][: 24 * rate]
        with path.open("wb") as file:  # faster than mp3, and the suffix does not matter
            soundfile.write(file, middle, rate, format="WAV")
        return new_entry

    for name, entries in lists.items():
        own = [take(entry, entry) for entry in entries if Path(entry).parts[1] in chosen]
        (folder / "artist20" / f"{name}.json").write_text(json.dumps(own))
    answers = list(enumerate(read(gamemusic / "test_ans.json"), start=1))
    own = [(number, artist) for number, artist in answers if artist in chosen]
    for i, (number, _) in enumerate(own, start=1):
        take(f"test/{number:03d}.mp3", f"test/{i:03d}.mp3")
    (folder / "test_ans.json").write_text(json.dumps([artist for _, artist in own]))


@pytest.fixture(scope="session")
def demo_corpus(once: Once) -> Path:
    """The demo corpus: the one that `make demo` has made, if it is there. Read only."""
    folder = PROJECT / "hw1/demo"
    return folder if is_demo_corpus(folder) else once("demo", make_demo_corpus)


def tone(hz: float, seconds: float, rate: int = RATE) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype("f4")


def hum(artist: int, draw: Generator, seconds: float = 2.0) -> NDArray[np.float32]:
    """Harmonics at a random pitch, balanced in the artist's way, with noise."""
    balance = np.random.default_rng([7, artist]).uniform(0, 1, 6)
    pitch = draw.uniform(120, 360)
    song = sum(a * tone(pitch * (k + 1), seconds) for k, a in enumerate(balance))
    song = song / np.abs(song).max() + draw.normal(0, 0.3, len(song))
    return (0.5 * song / np.abs(song).max()).astype("f4")


def write_audio(path: Path, samples: NDArray[np.floating], rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)


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


@pytest.fixture(scope="session")
def shared_course(once: Once) -> Path:
    """The tiny course, for tests that do not change it."""
    return once("course", make_course) / "tiny"


@pytest.fixture
def course(shared_course: Path, tmp_path: Path) -> Path:
    """A copy of the tiny course that a test may change."""
    return Path(shutil.copytree(shared_course, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def shared_cache(once: Once) -> Path:
    """A cache for all tests of the session: its keys are content and settings."""
    return once("cache", lambda folder: folder)


# --- runs --------------------------------------------------------------------------------------


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def top1_of_songs(metrics: dict[str, Any], split: str) -> float:
    """The fraction of the songs listed in `metrics` whose first artist there is the right one."""
    songs = metrics["songs"][split]
    right = [song for song in songs if song["best"][0][0] == song["artist"]]
    return len(right) / len(songs)


def n_right(metrics: dict[str, Any]) -> int:
    """How many of the 20 songs of val and test in `some_music` are right. Guessing one of its five
    artists gets 4 right, and 9 or more once in a hundred."""
    assert (metrics["val"]["n"], metrics["test"]["n"]) == (10, 10)
    return round(10 * (metrics["val"]["top1"] + metrics["test"]["top1"]))


def command(task: str, data: Path, folder: Path, *options: object) -> list[str]:
    """A task's command line; cache and results go to `folder`."""
    places = ("--data", data, "--cache", folder / "cache", "--out", folder / "out", *options)
    return [sys.executable, *map(str, (PROJECT / f"{task}.py", *places))]


Script = Callable[..., "subprocess.CompletedProcess[str]"]
PNG_END = b"IEND\xaeB`\x82"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw none: most of the time of a run on the tiny course."""
    monkeypatch.setattr(figures, "_png", lambda *_: PNG_END)


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Call a script's module with a command line, in this process and an empty folder: its exit
    status, and what it prints on standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(script: ModuleType, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
        monkeypatch.setattr(progress, "_bars_wanted", True)  # restored after the test
        handler = signal.getsignal(signal.SIGINT)
        status = 0
        try:
            cli.start(script.Settings, script.main, script.__doc__ or "", "run it again")
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        finally:
            signal.signal(signal.SIGINT, handler)
        return status, *capsys.readouterr()

    return run


def run_in(folder: Path, script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, PROJECT / script, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def run_script(tmp_path: Path) -> Script:
    """Run one of the project's scripts in an empty folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    return lambda script, *arguments: run_in(folder, script, *arguments)


class Finished(NamedTuple):
    """A task as a user ran it, on the tiny course. Read only."""

    folder: Path  # the working directory, with result/
    screen: str

    @property
    def model(self) -> Path:
        return next((self.folder / "result").glob("model_*.s*"))


Finish = Callable[[str], Finished]


@pytest.fixture(scope="session")
def finished(shared_course: Path, shared_cache: Path, once: Once) -> Finish:
    """Each task run once per session, when first asked for."""

    def run(task: str, folder: Path) -> None:
        places = ("--data", shared_course, "--cache", shared_cache)
        (folder / "work").mkdir()
        done = run_in(folder / "work", f"{task}.py", *places, *TASKS[task])
        assert (done.returncode, done.stderr) == (0, "")
        (folder / "screen").write_text(done.stdout, encoding="utf-8")

    def get(task: str) -> Finished:
        folder = once(task, partial(run, task))
        return Finished(folder / "work", (folder / "screen").read_text(encoding="utf-8"))

    return get


# --- a browser ---------------------------------------------------------------------------------

CHROMIUM_OPTIONS = [
    "--no-sandbox",  # Chromium refuses to run as root with it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright: pip install playwright"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


class Windows:
    """Windows on one page. A message on a console fails the test, unless its kind is among the
    `ignored` or the test clears `complaints`."""

    def __init__(
        self,
        browser: "Browser",
        url: str,
        timeout_s: float = 20,
        ignored: Container[str] = (),
    ) -> None:
        self._browser, self._url = browser, url
        self._timeout_s, self._ignored = timeout_s, ignored
        self._windows: list[Page] = []
        self.loaded: list[str] = []  # URLs
        self.complaints: list[str] = []

    def open(self, width: int = 1280, **options: Any) -> "Page":
        """A window of `width` pixels."""
        window = self._browser.new_page(viewport={"width": width, "height": 900}, **options)
        self._windows.append(window)
        window.set_default_timeout(1_000 * self._timeout_s)
        window.on("request", lambda request: self.loaded.append(request.url))
        window.on("console", self._listen)
        window.on("pageerror", lambda error: self.complaints.append(str(error)))
        window.goto(self._url)
        return window

    def _listen(self, message: "ConsoleMessage") -> None:
        if message.type not in self._ignored:
            self.complaints.append(message.text)

    def close(self) -> None:
        for window in self._windows:
            window.close()
        assert self.complaints == []
