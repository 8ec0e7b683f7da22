"""python3 -m artistid.encoders"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artistid.encoders import __main__, registry
from artistid.encoders.base import Download
from musicfm.hub import DownloadError


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | None:
    monkeypatch.setattr(sys, "argv", ["artistid.encoders", *arguments])
    try:
        __main__.main()
    except SystemExit as exit_:
        return exit_.code
    return 0


def with_fetch(monkeypatch: pytest.MonkeyPatch, fetch: Any) -> None:
    entry = replace(registry.ENCODERS["ecapa"], download=Download((), lambda: False, fetch))
    monkeypatch.setitem(registry.ENCODERS, "ecapa", entry)


def test_the_list_says_where_each_comes_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch) == 0
    listed = dict(zip(registry.ENCODERS, capsys.readouterr().out.split("\n\n"), strict=False))
    for name, entry in registry.ENCODERS.items():
        for words in (name, str(entry.dim), entry.licence, entry.cite):
            assert words in listed[name]
    assert "part of the project" in listed["ge2e"]
    assert "83 MB" in listed["ecapa"]


def test_what_the_list_says_is_what_the_encoders_do() -> None:
    import torch

    for name in ("musicnn", "ge2e"):
        found = registry.find(registry.EncoderSettings(name), torch.device("cpu"), "fp32")
        assert registry.ENCODERS[name].dim == found.dim
        assert registry.ENCODERS[name].excerpt_s == pytest.approx(found.grid.excerpt_s, abs=0.02)


def test_a_download_prints_where_the_file_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_fetch(monkeypatch, lambda: [Path("there/weights.ckpt")])
    assert called(monkeypatch, "download", "ecapa") == 0
    assert capsys.readouterr().out == "there/weights.ckpt\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [(DownloadError("no network"), 2), (OSError("disk full"), 2), (KeyboardInterrupt(), 130)],
)
def test_a_failed_download_is_one_line(
    error: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    with_fetch(monkeypatch, fail)
    assert called(monkeypatch, "download", "ecapa") == status
    message = capsys.readouterr().err
    assert message.strip().count("\n") == 0
    assert str(error) in message
    assert "Traceback" not in message


def test_what_is_part_of_the_project_cannot_be_downloaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "download", "ge2e") == 2
    assert "musicfm" in capsys.readouterr().err
