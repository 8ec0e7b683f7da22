"""What a benchmark has measured, in Markdown, and on which machine."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from artistid.results.record import PROJECT

GAMEMUSIC = Path("gamemusic")  # where the README has it made
CACHE = PROJECT / "cache"


@dataclass(frozen=True)
class Ratio:
    """How two things that were done in turn compare."""

    what: str
    values: Sequence[float]  # one a round

    @property
    def median(self) -> str:
        return brief(statistics.median(self.values))

    @property
    def spread(self) -> str:
        return spread(self.values)


@dataclass(frozen=True)
class Measured:
    title: str
    command: str  # that measures it again
    conditions: str  # what was compared on what, in sentences
    rows: list[list[str]]  # a header, then values
    ratios: Sequence[Ratio] = ()

    def __str__(self) -> str:
        return f"## {self.title}\n\n`{self.command}`\n\n{self.conditions}\n\n{markdown(self.rows)}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    header, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([header, "| --- " * len(rows[0]) + "|", *rest])


def brief(value: float) -> str:
    """Three digits, or all those before the point."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """From the least to the most; nothing where all are the same."""
    return f"{brief(min(values))} to {brief(max(values))}" if len(set(values)) > 1 else ""


def machine() -> str:
    """What computed, and by which versions."""
    packages = ("numpy", "librosa", "scikit-learn", "torch", "transformers")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{n_cores} cores of {_cpu()}{gpu}; Python {platform.python_version()}, {versions}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
