"""What benchmarks share: a result as Markdown, the machine it came from, how to run and time it."""

import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from joblib.externals.loky import get_reusable_executor

from artistid import cli
from artistid.foundation.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
GAMEMUSIC = Path("gamemusic")  # python3 -m benchmarks.gamemusic gamemusic

S = TypeVar("S")


# --- results -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """How two alternatives compare that were run in turn."""

    what: str
    values: Sequence[float]  # one per round

    @property
    def median(self) -> str:
        return brief(statistics.median(self.values))

    @property
    def spread(self) -> str:
        return spread(self.values)


@dataclass(frozen=True)
class Measured:
    title: str
    command: str  # repeats the measurement
    conditions: str  # what was compared, and on what
    rows: list[list[str]]  # a header, then values
    ratios: Sequence[Ratio] = ()

    def __str__(self) -> str:
        parts = [f"## {self.title}", f"`{self.command}`", self.conditions, markdown(self.rows)]
        if self.ratios:
            rows = [[ratio.what, ratio.median, ratio.spread] for ratio in self.ratios]
            parts.append(markdown([["", "ratio", "from, to"], *rows]))
        return "\n\n".join(parts)


def command_of(module: str, settings: Any) -> str:
    """The command that measures with `settings`: the data, and what differs from the defaults."""
    words = [f"python3 -m {module}"]
    for option in fields(settings):
        value = getattr(settings, option.name)
        if option.name == "data" or (value != option.default and option.name != "cache"):
            several = value if isinstance(value, tuple) else (value,)
            words += [f"--{option.name.replace('_', '-')}", *map(str, several)]
    return " ".join(words)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    header, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([header, "| --- " * len(rows[0]) + "|", *rest])


def brief(value: float) -> str:
    """Three significant digits, and every digit before the point."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """ "1 to 3": minimum and maximum; empty if all values are equal."""
    return f"{brief(min(values))} to {brief(max(values))}" if len(set(values)) > 1 else ""


def machine() -> str:
    """Processor, cores, GPU and versions of the packages that compute."""
    packages = ("numpy", "librosa", "scikit-learn", "torch")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
        names = [value.strip() for name, _, value in fields if name.strip() == "model name"]
        processor = names[0] if names else processor
    return f"{n_cores} cores of {processor}{gpu}; Python {platform.python_version()}, {versions}"


# --- running and timing ------------------------------------------------------------------------


def run(settings: type[S], measure: Callable[[S], object], description: str | None) -> None:
    """Print what `measure` returns for the settings from the command line."""
    try:
        print(measure(tyro.cli(settings, description=description)))
    except UserError as error:
        cli.stop(str(error))


def seconds_of(function: Callable[..., object], *arguments: Any) -> float:
    """Wall time of a call."""
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Cost:
    seconds: float  # wall time
    mib: float  # peak memory of the process, or of its largest worker if that needed more


def alone(function: Callable[..., object], *arguments: Any) -> Cost:
    """Cost of a call in a new process, after the imports of the function's module."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_cost, function, arguments).result()


def _cost(function: Callable[..., object], arguments: tuple[Any, ...]) -> Cost:
    seconds = seconds_of(function, *arguments)
    workers = [worker.pid for worker in multiprocessing.active_children()]
    mib = max(_peak_mib(pid) for pid in (os.getpid(), *workers))
    get_reusable_executor().shutdown(wait=True)  # idle workers would keep this process alive
    return Cost(seconds, mib)


def _peak_mib(pid: int | None) -> float:
    """Peak memory of a process so far; of this process where there is no /proc.

    On Linux, getrusage is of no use: a process inherits the peak of the one that started it."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = status.read_text(encoding="utf-8").splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) / 2**10
