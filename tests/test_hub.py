"""Downloads from a hub that is served on this machine."""

import errno
import hashlib
import re
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars

from musicfm import hub
from musicfm.hub import DownloadError, HubFile

CONTENT = bytes(range(256)) * 400
FILE = HubFile(
    "authors/encoder",
    "1" * 40,
    "weights.ckpt",
    len(CONTENT),
    hashlib.sha256(CONTENT).hexdigest(),
)


class Hub(ThreadingHTTPServer):
    """Serves `content` as FILE, but breaks off each answer after `limit` bytes."""

    content, limit = CONTENT, len(CONTENT)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.sent: list[int] = []  # bytes, of each download


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.begin(0)

    def do_GET(self) -> None:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        part = self.begin(int(found[1]) if found else 0)[: self.server.limit]
        self.server.sent.append(len(part))  # before the client can have all of it
        self.wfile.write(part)

    def begin(self, first: int) -> bytes:
        assert self.path == f"/{FILE.repository}/resolve/{FILE.revision}/{FILE.name}"
        part = self.server.content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hashlib.sha256(self.server.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", FILE.revision)
        self.end_headers()
        return part

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
        server.shutdown()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_once(served: Hub, tmp_path: Path) -> None:
    path = hub.fetch(FILE, tmp_path)
    assert path == tmp_path / "weights.ckpt"
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["weights.ckpt"]
    assert hub.fetch(FILE, tmp_path) == path
    assert served.sent == [len(CONTENT)]


def test_a_file_with_other_content_is_replaced(served: Hub, tmp_path: Path) -> None:
    (tmp_path / "weights.ckpt").write_bytes(CONTENT[::-1])  # of the same size
    hub.fetch(FILE, tmp_path)
    assert (tmp_path / "weights.ckpt").read_bytes() == CONTENT
    assert len(served.sent) == 1


def test_a_wrong_digest_leaves_what_was_there(served: Hub, tmp_path: Path) -> None:
    (tmp_path / "weights.ckpt").write_bytes(b"own")
    served.content = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match=r"^weights.ckpt: what the hub sent differs from the "):
        hub.fetch(FILE, tmp_path)
    assert (tmp_path / "weights.ckpt").read_bytes() == b"own"
    assert names(tmp_path) == ["weights.ckpt"]


def test_a_download_that_breaks_off_leaves_nothing(served: Hub, tmp_path: Path) -> None:
    served.limit = 10_000
    with pytest.raises(DownloadError, match=r"^weights.ckpt cannot be downloaded \(.*try again"):
        hub.fetch(FILE, tmp_path)
    assert len(served.sent) > 1
    assert [path for path in tmp_path.rglob("*.ckpt*") if path.stat().st_size > 0] == []
    served.limit = len(CONTENT)
    assert hub.fetch(FILE, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["weights.ckpt"]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", full)
    with pytest.raises(DownloadError, match=r"cannot be downloaded \(No space left on device\)"):
        hub.fetch(FILE, tmp_path)


def test_nothing_is_shown_if_nothing_is_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        assert are_progress_bars_disabled()
        raise OSError

    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", fails)
    try:
        with pytest.raises(DownloadError):
            hub.fetch(FILE, tmp_path, bars=False)
    finally:
        enable_progress_bars()


def test_without_a_network_the_message_says_what_to_copy_where(served: Hub, tmp_path: Path) -> None:
    served.shutdown()
    served.server_close()
    words = f"get it from the hub repository authors/encoder and copy it into {tmp_path}$"
    with pytest.raises(DownloadError, match=words):
        hub.fetch(FILE, tmp_path)
