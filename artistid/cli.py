"""How a script starts: its settings from the command line, and its errors as one line.

The settings of a script are a frozen dataclass of groups, one per concern, and each group is a
frozen dataclass that checks itself. `flat` has all of them by option name.
"""

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from artistid.audio.cache import DEFAULT_CACHE
from artistid.foundation import parallel, progress
from artistid.foundation.errors import UserError
from artistid.foundation.files import checkout

HOME = checkout() or Path()  # of hw1/ and cache/: the checkout, else the working directory

# Before torch is loaded: OpenMP's threads sleep while they wait for each other. Spinning, they are
# no faster on two free cores, and five times slower where another program needs one of them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class DataSettings:
    """Data and output."""

    data: Annotated[
        Path | None,
        arg(metavar="FOLDER", help_behavior_hint="(default: hw1/ with artist20, else the demo)"),
    ] = None
    """The corpus: a folder that holds artist20/, or a library <artist>/<album>/<track>."""
    out: Annotated[
        Path | None,
        arg(metavar="FOLDER", help_behavior_hint="(default: here and result/, or result/demo/)"),
    ] = None
    """Folder for everything the run writes."""
    skip_bad: bool = False
    """Leave out unusable files, instead of stopping with a list of them."""
    cache: Annotated[
        Path, arg(metavar="FOLDER", help_behavior_hint="(default: cache/ of the project)")
    ] = DEFAULT_CACHE
    """Folder for what is extracted from the audio; may be deleted at any time."""
    seed: int = 0
    """Seed of everything random; the same seed gives the same numbers."""
    quiet: bool = False
    """Show only errors; the log file has the rest."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed}: must be from 0 to {2**32 - 1}")
        if self.data and self.out and self.data.resolve() == self.out.resolve():
            raise UserError(f"--out {self.out}: the corpus is there; name another folder")


def flat(settings: Any) -> dict[str, Any]:
    """All options by name, paths as text, relative to the project where they are inside it."""
    values: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            values |= flat(value)
        elif isinstance(value, Path):
            inside = value.is_relative_to(HOME)
            values[field.name] = str(value.relative_to(HOME) if inside else value)
        else:
            values[field.name] = value
    return values


def start(
    settings: type[Settings],
    main: Callable[[Settings], None],
    description: str,
    after_interrupt: str,
) -> None:
    """Call `main` with the settings from the command line, and exit: 0, 2 for a mistake the user
    can fix, 130 for Ctrl-C, followed by the advice `after_interrupt`. A traceback is our fault."""
    program = _program()
    for stream in (sys.stdout, sys.stderr):  # a file name may be in another encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for number in _ends():
        signal.signal(number, _interrupt)
    try:
        chosen = tyro.cli(
            settings,
            prog=program,
            description=description,
            config=(OmitArgPrefixes, FlagCreatePairsOff),
        )
        progress.show_bars(not flat(chosen)["quiet"])
        main(chosen)
        sys.stdout.flush()
    except UserError as error:
        stop(f"{program}: {error}")
    except BrokenPipeError:  # the reader of the results, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        stop(f"{program}: {error.filename or 'file system'}: {error.strerror or error}")
    except KeyboardInterrupt:
        parallel.kill_workers()
        stop(f"\n{program}: interrupted; {after_interrupt}", 130)


def _program() -> str:
    """As the user typed it: "task1.py", "python3 -m artistid.dataset"."""
    name, spec = Path(sys.argv[0]).name, sys.modules["__main__"].__spec__
    return f"python3 -m {spec.parent}" if spec and name == "__main__.py" else name


def _ends() -> list[int]:
    """Signals that end the work in order: Ctrl-C, and where this is the only process of its run,
    those of `kill` and of a terminal that is closed, unless they are ignored, as nohup has it."""
    further = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    wanted = [n for n in further if n is not None and signal.getsignal(n) is signal.SIG_DFL]
    return [signal.SIGINT, *(wanted if "RANK" not in os.environ else [])]


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; a second signal ends the process at once. Library threads that are
    cut off meanwhile need not report it."""
    signal.signal(number, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    threading.excepthook = lambda _: None
    raise KeyboardInterrupt


def stop(message: str, status: int = 2) -> NoReturn:
    """Exit with one line on standard error."""
    print(message, file=sys.stderr)
    sys.exit(status)
