"""Ctrl-C while a script is loading its libraries, which takes seconds: a line, not a traceback."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType


def end_at_once() -> None:
    """From now on, Ctrl-C ends the process, until there is something to keep."""
    signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt, as usual."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(_signal: int, _frame: FrameType | None) -> None:
    os.write(2, f"\n{Path(sys.argv[0]).name}: stopped; nothing was begun\n".encode())
    os._exit(128 + signal.SIGINT)
