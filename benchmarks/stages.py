"""Where the time of a task goes.

    python3 -m benchmarks.stages [--data gamemusic]

Each task from the empty cache to the page, in a process of its own and there without others
(--jobs 1), so that a stopwatch can be held at each function; torch has all cores.
"""

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from artistid.audio.decode import cache, features, melspec
from artistid.audio.decode import decode as audio
from artistid.encoders.registry import registry as encoders
from artistid.inference import classical, training
from artistid.inference import crops as excerpts
from artistid.results import page
from artistid.results import record as report
from artistid.results.record import PROJECT
from benchmarks.measured import GAMEMUSIC, Measured, brief
from benchmarks.tasks import TASKS
from benchmarks.ways import Way

PLACES: dict[str, list[tuple[Any, str]]] = {  # stage: the functions whose time is its
    "decode": [(audio, "load")],
    "features": [
        (features, "song_features"),
        (melspec, "song_log_mel"),
        (encoders, "song_embeddings"),
    ],
    "hash, write cache": [(cache, "content_digest")],
    "read crops, rows": [(excerpts.MappedSongs, "read"), (features.SongLoader, "__call__")],
    "fit": [
        (classical, "grid_search"),
        (classical.Trial, "trained_on"),
        (training.Trainer, "train_epoch"),
    ],
    "score": [(classical, "posteriors"), (training.Trainer, "posteriors")],
    "figures, page": [
        (report.Run, "draw_confusion"),
        (report.Run, "draw_curves"),
        (page, "refresh"),
    ],
}


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus."""


class Stopwatch:
    """Each stage's time, without that of others within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []  # of each stage that is under way: time of others within

    def around(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            self._inner.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                spent = time.perf_counter() - begin
                self.seconds[stage] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent

        return timed


def task(name: str, data: Path, folder: Path) -> Callable[[], dict[str, float]]:
    """What runs the task and returns the seconds of each stage."""
    watch = Stopwatch()
    for stage, functions in PLACES.items():
        for owner, function in functions:
            setattr(owner, function, watch.around(stage, getattr(owner, function)))
    module = import_module(name)

    def run() -> dict[str, float]:
        settings = module.Settings(
            quiet=True, jobs=1, data=data, cache=folder / "cache", out=folder / "out"
        )
        watch.around("rest", module.main)(settings)
        return dict(watch.seconds)

    return run


def measure(settings: Settings) -> Measured:
    stages = ["start", *PLACES, "rest"]
    rows = [["task", "s", *(f"{stage}, %" for stage in stages)]]
    for name in tqdm(TASKS, desc="stages", unit="task", disable=None):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {name}"], cwd=PROJECT, check=True)
        seconds = {"start": time.perf_counter() - begin}
        with tempfile.TemporaryDirectory() as folder:
            seconds |= Way(task, name, settings.data, Path(folder)).run().value
        total = sum(seconds.values())
        shares = (f"{100 * seconds.get(stage, 0) / total:.0f}" for stage in stages)
        rows.append([f"{name}.py", brief(total), *shares])
    return Measured(
        "Where the time goes",
        f"python3 -m benchmarks.stages --data {settings.data}",
        "Each task from an empty cache, in one process, torch on all cores; a stage's time is that "
        "without others within it. With --jobs left alone, decoding, features and task 1's fits "
        "are shared by as many processes as there are cores.",
        rows,
    )


if __name__ == "__main__":
    print(measure(tyro.cli(Settings, description=__doc__)))
