"""What the entry scripts share: their common settings, the corpus, errors as one line."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import tyro

from artistid.dataset.corpus import Corpus
from artistid.dataset.demo import ensure_demo_corpus, is_demo_corpus
from artistid.dataset.library import LibrarySettings
from artistid.dataset.read import read_corpus
from artistid.foundation import interrupts, parallel, progress
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import IS_MAIN_PROCESS, Workers
from artistid.results import record as report
from artistid.results.record import PROJECT, Outputs, Run

COURSE = PROJECT / "hw1"
DEMO = COURSE / "demo"
DEMO_NOTICE = (
    "this is the synthetic demo corpus, made for trying and testing: its scores say nothing "
    "about music. For real results put artist20 into hw1/ (see hw1/readme.md) or use --data DIR"
)


@dataclass(frozen=True)
class ScreenSettings:
    """Of every command."""

    quiet: bool = False
    """Nothing on the screen but results and errors."""


@dataclass(frozen=True)
class SharedSettings(ScreenSettings):
    """Of every command that goes through many files."""

    jobs: int = -1
    """Processes that work at once; -1: one per core."""
    dask: str | None = None
    """Address of a Dask scheduler (tcp://MACHINE:8786), whose workers replace local processes.
    All machines must share the corpus and the cache, by the same names."""

    def check(self) -> None:
        """Raise UserError for a value that can't be used."""
        if self.jobs == 0:
            raise UserError("--jobs 0: use a number of processes, or -1 for one a core")

    @property
    def workers(self) -> Workers:
        return Workers(self.jobs, self.dask)


@dataclass(frozen=True)
class CommonSettings(SharedSettings, LibrarySettings):
    # after Ctrl-C
    how_to_go_on: ClassVar[str] = "what was extracted is cached; run it again to go on"

    data: Path | None = None
    """The corpus: a folder with artist20/ in it, or a library <artist>/<album>/<track>.
    Default: hw1/ where hw1/artist20 is there, else the synthetic demo corpus."""
    out: Path | None = None
    """Folder for everything the run writes.
    Default: log and predictions here, the rest in result/; for the demo all in result/demo/."""
    cache: Path = PROJECT / "cache"
    """Folder for what is extracted from the audio; may be deleted at any time."""
    seed: int = 0
    """Seed of everything random: the same one gives the same numbers."""
    skip_bad: bool = False
    """Leave out files that can't be used, instead of stopping with a list of them."""

    def check(self) -> None:
        """Raise UserError for a value that can't be used."""
        SharedSettings.check(self)
        LibrarySettings.check(self)
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed}: must be from 0 to {2**32 - 1}")


class CheckedSettings(Protocol):
    """Of a script: a frozen dataclass."""

    how_to_go_on: ClassVar[str]

    @property
    def quiet(self) -> bool: ...

    def check(self) -> None: ...


Settings = TypeVar("Settings", bound=CheckedSettings)


def start(settings: type[Settings], main: Callable[[Settings], None], description: str) -> None:
    """Call `main` with the command line's settings and exit: 0, 2 for what the user can mend,
    130 for Ctrl-C. A traceback means a fault of ours."""
    program = interrupts.program()
    for stream in (sys.stdout, sys.stderr):  # a file's name may be of another encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        interrupts.raise_again()
        chosen = tyro.cli(settings, prog=program, description=description)
        chosen.check()
        progress.show_bars(not chosen.quiet)
        main(chosen)
        sys.stdout.flush()
    except UserError as error:
        _exit(f"{program}: {error}", 2)
    except BrokenPipeError:  # whoever read the results, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _exit(f"{program}: {error.filename or 'file system'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        parallel.kill_workers()
        _exit(f"\n{program}: stopped; {settings.how_to_go_on}", 130)


def _exit(message: str, status: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(status)


@contextmanager
def open_run(task: str, log_name: str, settings: CommonSettings) -> Iterator[Run]:
    """Choose the corpus and where to write; the log takes its name when the block succeeds.

    Of several processes of one run only the main one has a log."""
    corpus, is_demo = _choose_corpus(settings)
    outputs = _choose_outputs(settings.out, is_demo)
    path = outputs.texts / log_name
    with report.logging_to(path, settings.quiet) if IS_MAIN_PROCESS else nullcontext():
        run = Run(task, settings, corpus, outputs)
        run.log_start()
        yield run


def _choose_corpus(settings: CommonSettings) -> tuple[Corpus, bool]:
    """The corpus of `--data`, else the course's, else the demo; and whether it is the demo."""
    folder = settings.data or COURSE
    if settings.data is None and not (COURSE / "artist20").exists():
        folder = DEMO
        if IS_MAIN_PROCESS and not settings.quiet:
            print(f"no {COURSE / 'artist20'} and no --data: using the demo corpus, {DEMO}")
    if folder.resolve() == DEMO:
        ensure_demo_corpus(DEMO, jobs=settings.jobs)
    corpus = read_corpus(folder, settings.seed, settings)
    if not is_demo_corpus(folder):
        return corpus, False
    return corpus.with_warning(DEMO_NOTICE), True


def _choose_outputs(out: Path | None, is_demo: bool) -> Outputs:
    """A run on the demo corpus must not overwrite results about music."""
    if out is None and not is_demo:
        return Outputs(Path(), Path("result"))
    folder = out or Path("result/demo")
    return Outputs(folder, folder)
