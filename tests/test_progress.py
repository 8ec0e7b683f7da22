"""The log: written as it grows, and ended by what stopped the run."""

import errno
import re
from pathlib import Path

import pytest
from tqdm import tqdm

from artistid.foundation.errors import UserError
from artistid.foundation.progress import log, logging_to, say

STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ")


def lines(path: Path) -> list[str]:
    """The log without its time stamps."""
    return [STAMP.sub("", line) for line in path.read_text(encoding="utf-8").splitlines()]


def stopped_by(error: BaseException, path: Path, quiet: bool = True) -> list[str]:
    """The log of a run that this error ends."""

    def run() -> None:
        with logging_to(path, quiet):
            log.info("corpus demo")
            raise error

    with pytest.raises(type(error)):
        run()
    return lines(path)


def test_the_log_is_written_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.txt"
    with logging_to(path, quiet=True):
        log.info("epoch %d", 1)
        assert STAMP.match(path.read_text())
        assert lines(path) == ["epoch 1"]
        log.info("周杰倫 and \udcff")
        assert lines(path) == ["epoch 1", "周杰倫 and \\udcff"]
    log.info("after the run")
    assert lines(path) == ["epoch 1", "周杰倫 and \\udcff"]
    with logging_to(path, quiet=True):
        log.info("another run")
    assert lines(path) == ["another run"]


def test_the_screen_shows_what_the_log_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for quiet in (False, True):
        with logging_to(tmp_path / "log.txt", quiet):
            log.info("epoch 1")
        assert capsys.readouterr().out == ("" if quiet else "epoch 1\n")


class Interrupted:
    """A lock that Ctrl-C comes in the way of, as it is taken."""

    def acquire(self) -> None:
        raise KeyboardInterrupt

    __enter__ = acquire

    def release(self) -> None:
        raise RuntimeError("cannot release un-acquired lock")

    def __exit__(self, *_: object) -> None:
        self.release()


def test_ctrl_c_at_any_moment_of_a_line_is_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tqdm, "_lock", Interrupted(), raising=False)
    with pytest.raises(KeyboardInterrupt):
        say("a line")


def test_a_crash_leaves_its_traceback_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = stopped_by(RuntimeError("shapes differ"), tmp_path / "log.txt", quiet=False)
    assert written[:3] == [
        "corpus demo",
        "stopped by an unexpected error",
        "Traceback (most recent call last):",
    ]
    assert any("in run" in line for line in written)
    assert written[-1] == "RuntimeError: shapes differ"
    assert capsys.readouterr().out == "corpus demo\n"  # Python prints the traceback itself


def test_a_users_mistake_is_one_line_in_the_log(tmp_path: Path) -> None:
    written = stopped_by(UserError("--lr 0: must be above 0"), tmp_path / "log.txt")
    assert written == ["corpus demo", "stopped: --lr 0: must be above 0"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (BrokenPipeError(), "stopped: the reader of the output has left"),
    ],
)
def test_what_is_nobodys_fault_is_one_line_in_the_log(
    tmp_path: Path, error: BaseException, line: str
) -> None:
    assert stopped_by(error, tmp_path / "log.txt") == ["corpus demo", line]


def test_a_full_disk_does_not_hide_what_has_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def run() -> None:
        with logging_to(tmp_path / "log.txt", quiet=True):
            monkeypatch.setattr("logging.FileHandler.emit", full)
            raise UserError("make room")

    with pytest.raises(UserError, match="make room"):
        run()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_stops_the_run_with_the_name_of_the_log() -> None:
    with (
        pytest.raises(OSError, match=r"No space left on device: '/dev/full'"),
        logging_to(Path("/dev/full"), quiet=True),
    ):
        log.info("corpus demo")
