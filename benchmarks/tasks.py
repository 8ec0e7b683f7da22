"""Whole tasks, from the command to the last figure, against the way such homeworks do them.

    python3 -m benchmarks.tasks [--data gamemusic] [--rounds 3]

Task 1's homework calls librosa song by song, takes mean and standard deviation over the song, and
searches grids of KNN, random forest and SVM by GridSearchCV on all cores. Task 2's is that of
benchmarks.cnn: an epoch is timed and taken for as many as ours has, and nothing else is charged.
In turn, each in a process of its own, imports included.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import tyro
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from artistid.dataset.read import read_corpus
from artistid.metrics import labels_of
from artistid.results.record import PROJECT
from benchmarks.cnn import homework_epoch
from benchmarks.features import FEATURES, librosa_one_by_one
from benchmarks.measured import GAMEMUSIC, Measured, Ratio, brief, spread
from benchmarks.ways import Way

TASKS = ("task1", "task2", "task2_baseline")
HOMEWORK, FIRST, AGAIN = "homework", "first run", "second run"  # with an empty cache, with a full
PAIRS = (
    ("task1", HOMEWORK, FIRST),
    ("task2", HOMEWORK, FIRST),
    ("task2_baseline", FIRST, AGAIN),
)
GRIDS = (
    (KNeighborsClassifier(), {"n_neighbors": [3, 5, 7, 9], "weights": ["uniform", "distance"]}),
    (RandomForestClassifier(random_state=0), {"n_estimators": [100, 300], "max_depth": [None, 20]}),
    (SVC(), {"C": [0.1, 1, 10, 100], "gamma": ["scale", 0.01, 0.001]}),
)


@dataclass(frozen=True)
class Settings:
    data: Path = GAMEMUSIC
    """The corpus."""
    rounds: int = 3
    """Times that each is run."""


def run_task(task: str, data: Path, cache: Path, out: Path, *options: str) -> dict[str, Any]:
    """Run a task and read its metrics, to which "wall" is added, in seconds."""
    places = ("--data", data.resolve(), "--cache", cache, "--out", out)
    command = [sys.executable, PROJECT / f"{task}.py", "--quiet", *places, *options]
    begin = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True)
    wall = time.perf_counter() - begin
    metrics: dict[str, Any] = json.loads((out / f"metrics_{task}.json").read_bytes())
    return metrics | {"wall": wall}


# --- the homeworks ---------------------------------------------------------------------------


def homework_task1(data: Path) -> Callable[[], list[Any]]:
    def run() -> list[Any]:
        corpus = read_corpus(data)
        train, val, test = (corpus.split(split) for split in ("train", "val", "test"))
        known = np.array([statistics_of(track.path) for track in train])
        labels = labels_of([track.artist for track in train], corpus.artists)
        n_folds = min(5, np.bincount(labels).min())
        unknown = np.array([statistics_of(track.path) for track in val + test])
        searches = [
            GridSearchCV(
                make_pipeline(StandardScaler(), classifier),
                {f"{type(classifier).__name__.lower()}__{k}": v for k, v in grid.items()},
                cv=n_folds,
                n_jobs=-1,
            ).fit(known, labels)
            for classifier, grid in GRIDS
        ]
        return [search.predict(unknown) for search in searches]

    return run


def statistics_of(path: Path) -> NDArray[np.float32]:
    """Means and standard deviations over a song, one librosa function after the other."""
    samples, _ = librosa.load(path, sr=FEATURES.sample_rate)
    rows = librosa_one_by_one(samples)
    return np.concatenate([rows.mean(axis=1), rows.std(axis=1)])


# --- measuring -------------------------------------------------------------------------------


def measure(settings: Settings) -> Measured:
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        for number in tqdm(range(settings.rounds), desc="tasks", unit="round", disable=None):
            for task in TASKS:
                cache, out = (Path(temporary) / f"{name}_{number}" for name in (task, "out"))
                first = run_task(task, settings.data, cache, out)
                times[task, FIRST].append(first["wall"])
                if task in _HOMEWORKS:
                    times[task, HOMEWORK].append(_HOMEWORKS[task](settings.data, first))
                else:
                    again = run_task(task, settings.data, cache, out)
                    times[task, AGAIN].append(again["wall"])
    rows = [["task", "way", "s", "from, to"]]
    for (task, way), seconds in times.items():
        row = [f"{task}.py", way, brief(statistics.median(seconds)), spread(seconds)]
        rows.append(row)
    ratios = []
    for task, slow, fast in PAIRS:
        values = [a / b for a, b in zip(times[task, slow], times[task, fast], strict=True)]
        ratios.append(Ratio(f"{task}.py: {slow} / {fast}", values))
    return Measured(
        "Whole tasks",
        f"python3 -m benchmarks.tasks --data {settings.data}",
        f"With their defaults, imports included, median of {settings.rounds} rounds. The homework "
        "of task 1 is timed whole; that of task 2 has as many epochs as ours, worked out from one, "
        "and neither validates nor is trained anew on train and val, which ours is.",
        rows,
        ratios,
    )


def _time_task1(data: Path, _metrics: dict[str, Any]) -> float:
    begin = time.perf_counter()
    Way(homework_task1, data).run()
    return time.perf_counter() - begin


def _time_task2(data: Path, metrics: dict[str, Any]) -> float:
    corpus = read_corpus(data)
    train = corpus.split("train")
    labels = labels_of([track.artist for track in train], corpus.artists)
    epoch = Way(homework_epoch, train, labels).run()
    return epoch.seconds * len(metrics["curves"]["loss"])


_HOMEWORKS = {"task1": _time_task1, "task2": _time_task2}


if __name__ == "__main__":
    print(measure(tyro.cli(Settings, description=__doc__)))
