"""Ctrl-C where it can't be an exception: while libraries load, while processes begin."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def end_at_once() -> None:
    """From now on, Ctrl-C ends the process, until there is something to keep."""
    signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt, as usual."""
    signal.signal(signal.SIGINT, _raise)


@contextmanager
def deferred() -> Iterator[None]:
    """Ctrl-C in this block is heard at its end, and never by the processes that it begins: it
    reaches all of a terminal, and each would print where it was.

    To block the signal is enough for those; here, another thread would be given it, and Python
    raise KeyboardInterrupt in the main one, in the middle of anything."""
    if threading.current_thread() is not threading.main_thread():
        yield  # which is never interrupted
        return
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    can_block = hasattr(signal, "pthread_sigmask")  # not on Windows
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_block else None
    try:
        yield
    finally:
        if blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, handler)
        if heard:
            signal.raise_signal(signal.SIGINT)


def program() -> str:
    """What the user has typed: "task1.py", "python3 -m artistid.dataset"."""
    name, spec = Path(sys.argv[0]).name, sys.modules["__main__"].__spec__
    return f"python3 -m {spec.parent}" if spec and name == "__main__.py" else name


def _raise(_signal: int, _frame: FrameType | None) -> None:
    """What threads of libraries say that are ended in the middle of something is not news. Who
    does not want to wait for the end presses it again."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    threading.excepthook = lambda _: None
    raise KeyboardInterrupt


def _end(_signal: int, _frame: FrameType | None) -> None:
    os.write(2, f"\n{program()}: stopped; nothing was begun\n".encode())
    os._exit(128 + signal.SIGINT)
