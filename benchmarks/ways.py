"""Ways to do the same, each in a process of its own as it would be, timed in turn."""

import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Timed:
    seconds: float  # of wall time
    cpu_seconds: float  # of all threads
    value: Any  # what came out


class Way:
    """What `prepare(*arguments)` returns is what `run` calls and times."""

    def __init__(self, prepare: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._process.submit(_prepare, prepare, arguments).result()

    def run(self, *arguments: Any) -> Timed:
        return self._process.submit(_run, arguments).result()


_calls: list[Callable[..., Any]] = []  # of this process


def _prepare(prepare: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
    _calls[:] = [prepare(*arguments)]


def _run(arguments: tuple[Any, ...]) -> Timed:
    begin, cpu = time.perf_counter(), os.times()
    value = _calls[0](*arguments)
    now = os.times()
    spent = now.user + now.system - cpu.user - cpu.system
    return Timed(time.perf_counter() - begin, spent, value)


def peak_mib(pid: int | None = None) -> float:
    """The most memory that a process has had so far, by default this one.

    Not by getrusage on Linux, where a process inherits the peak of the one that started it. Where
    it is not Linux, that is what there is, and of this process only."""
    status = Path(f"/proc/{pid or 'self'}/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = status.read_text(encoding="utf-8").splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kib) / 2**10
