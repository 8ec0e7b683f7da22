"""What a run shows while it works: progress bars, lines above them, and the log file."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from artistid.foundation.errors import UserError

log = logging.getLogger("artistid")

_bars_wanted = True


def show_bars(wanted: bool) -> None:
    """Whether bars made from now on are shown."""
    global _bars_wanted
    _bars_wanted = wanted


def bars_wanted() -> bool:
    """For libraries that have bars of their own."""
    return _bars_wanted


def bar(items: Iterable[Any] | None = None, *, hidden: bool = False, **options: Any) -> "tqdm[Any]":
    """A tqdm bar, shown on terminals only (`disable=None`), and never with --quiet."""
    return tqdm(items, disable=True if hidden or not _bars_wanted else None, **options)


def say(line: str, stream: TextIO | None = None) -> None:
    """Print above the bars, at once; to standard output by default."""
    # tqdm itself would release even a lock that Ctrl-C has kept it from taking: a RuntimeError
    with tqdm.get_lock():
        tqdm.write(line, stream, nolock=True)
    (stream or sys.stdout).flush()


@contextmanager
def decoders_silenced() -> Iterator[None]:
    """Hide what libraries write to file descriptor 2 in the block; `sys.stderr` still works.

    libmpg123 reports every oddity of a stream there, for three of four mp3s found in the wild, and
    libsndfile has no switch for it. Bars must be made inside the block."""
    stderr, screen = sys.stderr, os.dup(2)
    silence_decoders()
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        sys.stderr = stderr


def silence_decoders() -> None:
    """The same, until the process ends."""
    if sys.__stderr__ is not None and sys.stderr is sys.__stderr__:
        sys.stderr.flush()
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


class _Screen(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


class _File(logging.FileHandler):
    def handleError(self, _record: logging.LogRecord) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            error.filename = error.filename or self.baseFilename  # a full disk has no name
        raise  # do not carry on without a log


@contextmanager
def logging_to(path: Path, quiet: bool, append: bool = False) -> Iterator[None]:
    """Send the log to the file at `path`, line by line, and to the screen unless `quiet`. What the
    file has is kept if `append`.

    Whatever ends the block early is the last entry of the file: one line for a user's mistake,
    Ctrl-C or a closed pipe, the traceback for everything else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _File(path, mode="a" if append else "w", encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    screen: list[logging.Handler] = [] if quiet else [_Screen()]
    log.setLevel(logging.INFO)
    for handler in (file, *screen):
        log.addHandler(handler)
    try:
        yield
    except BaseException as error:
        for handler in screen:
            log.removeHandler(handler)  # the screen gets its line, or the traceback, at the top
        with suppress(OSError):  # of a full disk: the error on its way says more
            if isinstance(error, UserError):
                log.error("stopped: %s", error)
            elif isinstance(error, KeyboardInterrupt):
                log.error("interrupted")
            elif isinstance(error, BrokenPipeError):
                log.error("stopped: the reader of the output has left")
            else:
                log.error("stopped by an unexpected error", exc_info=error)
        raise
    finally:
        for handler in (file, *screen):
            log.removeHandler(handler)
            with suppress(OSError):  # a full disk has been reported already
                handler.close()
