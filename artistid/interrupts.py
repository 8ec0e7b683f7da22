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


def program() -> str:
    """What the user has typed: "task1.py", "python3 -m artistid.dataset"."""
    name, spec = Path(sys.argv[0]).name, sys.modules["__main__"].__spec__
    return f"python3 -m {spec.parent}" if spec and name == "__main__.py" else name


def _end(_signal: int, _frame: FrameType | None) -> None:
    os.write(2, f"\n{program()}: stopped; nothing was begun\n".encode())
    os._exit(128 + signal.SIGINT)
