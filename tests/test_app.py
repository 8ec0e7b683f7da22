"""The page for songs: a real server, in Chromium."""

import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from conftest import PROJECT, RATE, Finish, Windows, write_audio

import artistid

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
STOPPED_S = 30


class Server(NamedTuple):
    process: "subprocess.Popen[str]"
    url: str
    uploads: Path  # holds the folder of what is uploaded


@pytest.fixture(scope="module")
def server(finished: Finish, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Behind a proxy that answers nothing. At its end by Ctrl-C it deletes what somebody has left
    behind."""
    pytest.importorskip("gradio", reason="no Gradio: pip install 'artistid[app]'")
    uploads = tmp_path_factory.mktemp("uploads")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    models = finished("task1").model.parent
    command = [sys.executable, PROJECT / "app.py", "--models", models, "--port", str(port)]
    environment = {name: os.environ[name] for name in os.environ if name.lower() != "no_proxy"}
    environment |= {"TMPDIR": str(uploads), "HTTP_PROXY": "http://127.0.0.1:1"}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=uploads, env=environment
    )
    assert process.stderr
    url = f"http://127.0.0.1:{port}/"
    assert process.stderr.readline() == f"open {url} in a browser; Ctrl-C ends it\n"
    yield Server(process, url, uploads)
    try:
        with urllib.request.urlopen(upload(url, "left.wav", b"song")):
            assert list(uploads.rglob("left.wav"))
        process.send_signal(signal.SIGINT)
        assert process.wait(STOPPED_S) == 0
        assert [path for path in uploads.rglob("*") if path.is_file()] == []
    finally:
        process.kill()
        process.communicate()


def upload(url: str, name: str, content: bytes) -> urllib.request.Request:
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    return urllib.request.Request(f"{url}gradio_api/upload", body, kind)


@pytest.fixture
def windows(browser: "Browser", server: Server) -> Iterator[Windows]:
    """They must load nothing from elsewhere."""
    ignored = ("debug", "info", "log", "warning")  # of Gradio
    windows = Windows(browser, server.url, timeout_s=30, ignored=ignored)
    yield windows
    windows.close()
    own = (server.url, "data:", f"blob:{server.url}")
    assert [url for url in windows.loaded if not url.startswith(own)] == []


def dropped(window: "Page", song: Path) -> str:
    """What the page says of a song first."""
    window.locator("input[type=file]").wait_for(state="attached")
    window.set_input_files("input[type=file]", song)
    return window.locator("h3").inner_text()


@pytest.mark.parametrize("width", [1280, 400])
def test_a_song_gets_bars_a_timeline_and_its_nearest_songs(
    windows: Windows,
    finished: Finish,
    shared_course: Path,
    width: int,
) -> None:
    song = shared_course / "artist20/test/003.mp3"
    expected = artistid.load_model(finished("task1").model).predict(song)
    ((artist, probability),) = expected.top(1)
    assert not expected.is_unknown
    window = windows.open(width)
    assert dropped(window, song) == artist
    figure = window.locator(".timeline img")
    figure.wait_for()
    assert figure.evaluate("image => image.naturalWidth") > 500
    text = window.locator("body").inner_text()
    assert re.search(rf"Likeliest artists\s+{artist}\s+{probability:.0%}\s", text)
    near = "\n".join(expected.nearest(artist))
    assert f"Nearest training songs by {artist}:\n{near}" in text
    assert window.evaluate("document.scrollingElement.scrollWidth") <= width


def test_a_stranger_is_marked(windows: Windows, finished: Finish, tmp_path: Path) -> None:
    song = tmp_path / "noise.wav"
    write_audio(song, np.random.default_rng(0).normal(0, 0.1, 3 * RATE))
    assert artistid.load_model(finished("task1").model).predict(song).is_unknown
    assert dropped(windows.open(), song).startswith("unknown? artist_")


def test_files_that_cannot_be_used_are_refused_in_words(windows: Windows, tmp_path: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text("no music")
    broken = Path(shutil.copy(text, tmp_path / "broken.mp3"))
    window = windows.open()
    window.locator("input[type=file]").wait_for(state="attached")
    window.set_input_files("input[type=file]", text)
    window.get_by_text("Invalid file type: words.txt").wait_for()
    reason = "cannot be decoded: Format not recognised"
    assert dropped(window, broken) == f"{broken.name}: {reason}"
    assert set(windows.complaints) <= {"Waveform load error: MediaError"}  # the player's
    windows.complaints.clear()


def test_without_gradio_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(PROJECT / "app.py"))
    line = "app.py: needs Gradio: pip install 'gradio>=6,<7'\n"
    assert (exit_.value.code, capsys.readouterr().err) == (2, line)


def test_pages_of_other_sites_are_refused(server: Server) -> None:
    def status(path: str = "", data: bytes | None = None, **headers: str) -> int:
        request = urllib.request.Request(server.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    own = server.url.removesuffix("/")
    assert status() == status(Origin=own) == 200
    assert status(Host="stranger.example") == 403  # a name that its owner has given to 127.0.0.1
    port = own.rpartition(":")[2]
    assert status(Host=f"stranger.example:{port}", Origin=f"http://stranger.example:{port}") == 403
    for origin in ("http://stranger.example", "null", f"http://stranger.example:{port}"):
        assert status(Origin=origin) == 403
        assert status("gradio_api/upload", b"song", Origin=origin) == 403


def test_more_than_100_mb_are_refused(server: Server) -> None:
    request = upload(server.url, "long.mp3", bytes(101 * 2**20))
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    refused.value.close()
    assert refused.value.code == 413


def test_nothing_that_was_uploaded_stays(
    windows: Windows, server: Server, shared_course: Path
) -> None:
    """Once there is another song, or the window is closed; else until the server ends."""
    first, second = (shared_course / f"artist20/test/00{n}.mp3" for n in (1, 2))

    def kept() -> list[str]:
        return [path.name for path in server.uploads.rglob("*.*") if path.is_file()]

    window = windows.open()
    dropped(window, first)
    assert kept() == [first.name]
    window.get_by_label("Clear").first.click()
    window.locator("h3").wait_for(state="detached")
    dropped(window, second)
    assert kept() == [second.name]
    window.close()
    for _ in range(100):
        if not kept():
            break
        windows.open().wait_for_timeout(100)
    assert kept() == []


CLOSED_MEANWHILE = """
import sys
from pathlib import Path
from types import SimpleNamespace
import app

class Closing(app.Models):
    def say(self, name, song):
        functions["delete"](window)
        self.vocals.mkdir()
        (self.vocals / "song.vocals").touch()  # separated only now
        return app.Said()

folder = Path(sys.argv[1])
page = app.page_of(Closing({"model": Path()}, "cpu", folder / "vocals"))
functions = {own.fn.__name__: own.fn for own in page.fns.values() if own.fn}
window = SimpleNamespace(session_hash="one")
(folder / "song.mp3").touch()
functions["answer"](str(folder / "song.mp3"), "model", window)
"""


def test_vocals_do_not_outlive_a_window_that_is_closed_meanwhile(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="no Gradio: pip install 'artistid[app]'")
    command = [sys.executable, "-c", CLOSED_MEANWHILE, str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert (tmp_path / "vocals").is_dir()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
