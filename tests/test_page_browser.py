"""The page in a real browser: the Chromium that comes with Qt, without a screen."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import tone, write_audio
from test_page import ARTISTS, TASKS, scores, song, write_metrics

from artistid.results import page
from artistid.results import record as report

PATIENCE_S = 30
SONGS = (
    'the "best" of 100% #1? été & \N{GUITAR}.wav',
    b"caf\xe9.wav".decode(errors="surrogateescape"),
)


@pytest.fixture(scope="module")
def qt() -> Iterator[SimpleNamespace]:
    """Qt's modules; `application` is the one that a process may have."""
    names = ("QtCore", "QtWebEngineCore", "QtWidgets", "QtWebEngineWidgets", "QtTest")
    reason = (
        "no browser: pip install PySide6_WebEngine; on Debian also apt-get install libnss3 libegl1"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QT_QPA_PLATFORM", "offscreen")
        patch.setenv("QTWEBENGINE_DISABLE_SANDBOX", "1")  # which does not start for root
        patch.setenv("QTWEBENGINE_CHROMIUM_FLAGS", "--disable-gpu --disable-audio-output")
        core, engine, widgets, views, testing = (
            pytest.importorskip(f"PySide6.{name}", reason=reason, exc_type=ImportError)
            for name in names
        )
        application = widgets.QApplication(["browser"])
        yield SimpleNamespace(
            core=core, engine=engine, views=views, testing=testing, application=application
        )


class Browser:
    """A window with a page; it notes what the page fetches and what it writes to the console."""

    def __init__(self, qt: SimpleNamespace) -> None:
        self._qt = qt
        self.fetched: list[str] = []
        self.console: list[str] = []
        browser = self

        class Guard(qt.engine.QWebEngineUrlRequestInterceptor):
            def interceptRequest(self, request: Any) -> None:
                browser.fetched.append(request.requestUrl().toString())

        class Page(qt.engine.QWebEnginePage):
            def javaScriptConsoleMessage(self, _: Any, text: str, line: int, __: str) -> None:
                browser.console.append(f"line {line}: {text}")

        self._profile, self._guard = qt.engine.QWebEngineProfile(), Guard()
        self._profile.setUrlRequestInterceptor(self._guard)
        self._page = Page(self._profile)
        self._view = qt.views.QWebEngineView()
        self._view.setPage(self._page)
        self._view.show()

    def open(self, path: Path, width: int) -> None:
        """Load a file into a window of that many pixels."""
        self._view.resize(width, 800)
        loaded: list[bool] = []
        self._page.loadFinished.connect(loaded.append)
        self._page.load(self._qt.core.QUrl.fromLocalFile(str(path)))
        self.wait_for(lambda: bool(loaded))
        assert loaded == [True]
        self.wait_for(lambda: self.ask("innerWidth") == width)

    def ask(self, expression: str) -> Any:
        """Its value in JavaScript, of any kind that JSON has."""
        answers: list[str] = []
        self._page.runJavaScript(f"JSON.stringify({expression}) ?? 'null'", 0, answers.append)
        self.wait_for(lambda: bool(answers))
        return json.loads(answers[0])

    def press(self, key: str) -> None:
        """A key of the keyboard, by Qt's name for it."""
        target, code = self._view.focusProxy(), getattr(self._qt.core.Qt.Key, f"Key_{key}")
        self._qt.testing.QTest.keyClick(target, code)

    def wait_for(self, is_done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not is_done():
            assert time.monotonic() < end, f"the browser is silent; its console: {self.console}"
            self._qt.application.processEvents()
            time.sleep(0.01)

    def close(self) -> None:
        """In this order: a page must not outlive its profile."""
        self._view.setPage(None)
        for thing in (self._view, self._page, self._profile):
            thing.deleteLater()
            self._qt.application.sendPostedEvents(thing, self._qt.core.QEvent.Type.DeferredDelete)


@pytest.fixture
def browser(qt: SimpleNamespace) -> Iterator[Browser]:
    opened = Browser(qt)
    yield opened
    opened.close()


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """The page of three tasks with figures, long names, and songs that can be played."""
    results = tmp_path / "some results"
    results.mkdir()
    artists = [*ARTISTS, "Everything_But_the_Girl_" * 4]
    report.draw_confusion(results / "c.png", np.eye(4, dtype=int), artists, "a matrix")
    curves = {name: [0.2, 0.5] for name in ("top1", "top3", "loss", "val_loss")}
    report.draw_curves(results / "a.png", curves, 1, "a curve")
    figures = [
        {"file": "c.png", "model": "SVM", "shows": "confusion matrix"},
        {"file": "c.png", "model": "KNN", "shows": "confusion matrix"},
        {"file": "a.png", "model": "SVM", "shows": "training curves"},
    ]
    for name in SONGS:
        write_audio(tmp_path / "music/tone.wav", tone(440, 0.5))
        (tmp_path / "music/tone.wav").rename(tmp_path / "music" / name)
    songs = [song(name, artists[3], artists[0], file=f"../music/{name}") for name in SONGS]
    for i, task in enumerate(TASKS):
        own = scores(0.5, artists)
        for artist, value in zip(artists, (0.25, 1.0, 0.0, 0.5), strict=True):
            own["per_artist"][artist] = {**own["per_artist"][artist], "recall": value / (i + 1)}
        write_metrics(results, task, val=own, test=own, songs={"val": songs}, figures=figures)
    page.refresh(results)
    return results / page.NAME


@pytest.mark.parametrize("width", [400, 1280])
def test_it_loads_without_a_complaint_and_fits(browser: Browser, shown: Path, width: int) -> None:
    browser.open(shown, width)
    assert browser.console == []
    fetched = [url for url in browser.fetched if not url.startswith("data:")]
    assert fetched == [f"file://{shown}"]  # no song before it is played
    are_drawn = browser.ask("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert are_drawn == 9 * [True]
    for state in ("false", "true"):
        browser.ask(f"document.querySelectorAll('details').forEach(d => d.open = {state})")
        assert browser.ask("document.scrollingElement.scrollWidth") <= width


TABLE = "document.querySelector('.sortable')"
COLUMN = f"[...{TABLE}.tBodies[0].rows].map(row => row.cells[{{}}].textContent)"
HEADER = f"{TABLE}.tHead.rows[1].cells[{{}}]"


def test_a_click_on_a_header_sorts_and_another_one_turns_it_round(
    browser: Browser, shown: Path
) -> None:
    browser.open(shown, 1280)
    before = browser.ask(COLUMN.format(0))
    for index, ascending in (
        (2, ["0.00", "0.25", "0.50", "1.00"]),
        (0, sorted(before, key=str.lower)),
    ):
        for order, expected in (("ascending", ascending), ("descending", ascending[::-1])):
            browser.ask(HEADER.format(index) + ".querySelector('button').click()")
            assert browser.ask(COLUMN.format(index)) == expected
            assert browser.ask(HEADER.format(index) + ".ariaSort") == order
    assert browser.ask("document.querySelectorAll('[aria-sort]').length") == 1
    assert browser.console == []


def test_it_sorts_by_the_keyboard_too(browser: Browser, shown: Path) -> None:
    browser.open(shown, 400)
    browser.ask(HEADER.format(2) + ".querySelector('button').focus()")
    order = HEADER.format(2) + ".ariaSort"
    browser.press("Space")
    browser.wait_for(lambda: browser.ask(order) == "ascending")
    browser.press("Space")
    browser.wait_for(lambda: browser.ask(order) == "descending")


LOAD_SONGS = "document.querySelectorAll('audio').forEach(song => song.preload = 'auto')"


def test_songs_play_from_where_they_are(browser: Browser, shown: Path) -> None:
    browser.open(shown, 400)
    browser.ask(LOAD_SONGS)
    durations = "[...document.querySelectorAll('audio')].map(a => a.duration || 0)"
    browser.wait_for(lambda: min(browser.ask(durations)) > 0)
    assert browser.ask(durations) == pytest.approx(len(SONGS) * [0.5])
    assert len({url for url in browser.fetched if url.endswith(".wav")}) == len(SONGS)


def test_a_song_that_is_gone_is_said_to_be(browser: Browser, shown: Path) -> None:
    (shown.parent.parent / "music" / SONGS[0]).unlink()
    browser.open(shown, 400)
    browser.ask(LOAD_SONGS)
    notes = "[...document.querySelectorAll('.song .gone')].map(p => p.textContent)"
    browser.wait_for(lambda: browser.ask(notes) != [])
    (note,) = browser.ask(notes)
    assert note.startswith("It can't be played from ../music/the%20%22best%22")
