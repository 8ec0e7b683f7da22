"""The record of a run: everything it found out, and the files written from it."""

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from artistid import metrics
from artistid.dataset.corpus import Corpus, Split, Track
from artistid.dataset.library import split_lists
from artistid.foundation.files import checkout, write_json
from artistid.metrics import Labels, Posteriors, Scores
from artistid.results import figures, page

PACKAGES = {  # that compute, by module name; those in use are recorded
    "numpy": "numpy",
    "scipy": "scipy",
    "librosa": "librosa",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "sklearn": "scikit-learn",
    "safetensors": "safetensors",
    "torch": "torch",
    "accelerate": "accelerate",
}

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class Task:
    """The name of a task and the names of its files."""

    name: str
    log: str
    confusion: str  # pattern with {model}
    curves: str = ""  # empty: nothing is trained by epochs


@dataclass(frozen=True)
class Outputs:
    """Where a run writes."""

    texts: Path  # log and predictions
    results: Path  # metrics, figures, models


@dataclass(frozen=True)
class Provenance:
    versions: Mapping[str, str]
    git_commit: str  # with "+" if the code differs from it; empty where there is no checkout


@dataclass(frozen=True)
class Candidate:
    """A model that was validated."""

    name: str
    val: Posteriors  # not calibrated
    scores: Scores  # on val
    summary: Mapping[str, str]  # for the log's table
    details: Mapping[str, Any]  # for the metrics


@dataclass(frozen=True)
class Record:
    task: Task
    settings: Mapping[str, Any]  # flat, as on the command line
    provenance: Provenance
    whole: Corpus
    corpus: Corpus  # without the tracks that were left out
    left_out: Mapping[Track, str]
    candidates: Sequence[Candidate]
    best: Candidate  # the one that predicts
    test: Posteriors  # (test songs, artists), not calibrated
    temperature: float  # fitted on val
    extra: Mapping[str, Any]  # what only this task knows, for the metrics
    seconds: Mapping[str, float]  # wall time by stage

    @property
    def tests(self) -> list[Track]:
        return self.corpus.split("test")

    @property
    def unusable_tests(self) -> list[Track]:
        return [track for track in self.left_out if track.split == "test"]

    @property
    def has_answers(self) -> bool:
        """Whether the artists of the test songs are known."""
        return bool(self.tests) and all(track.artist for track in self.tests)

    def labels(self, tracks: Sequence[Track]) -> Labels:
        return metrics.labels_of([track.artist for track in tracks], self.corpus.artists)

    def test_scores(self) -> Scores | None:
        """None without answers. Test songs that could not be used count as wrong."""
        if not self.has_answers:
            return None
        tracks = [*self.tests, *self.unusable_tests]
        missing = np.zeros((len(self.unusable_tests), self.test.shape[1]))
        posteriors = np.vstack([self.test, missing])
        return metrics.score(posteriors, self.labels(tracks), self.corpus.artists)

    def calibration(self) -> dict[str, Any]:
        """The temperature, and what it does to the expected calibration error."""
        splits = {"val": (self.best.val, self.labels(self.corpus.split("val")))}
        if self.has_answers:
            splits["test"] = self.test, self.labels(self.tests)
        return {
            "temperature": self.temperature,
            **{split: self._calibration_errors(*pair) for split, pair in splits.items()},
        }

    def _calibration_errors(self, posteriors: Posteriors, labels: Labels) -> dict[str, float]:
        calibrated = metrics.tempered(posteriors, self.temperature)
        return {
            "ece_before": metrics.expected_calibration_error(posteriors, labels),
            "ece_after": metrics.expected_calibration_error(calibrated, labels),
        }


def provenance() -> Provenance:
    """Versions of the packages in use, and the commit of the code."""
    used = {name: version(name) for module, name in PACKAGES.items() if module in sys.modules}
    return Provenance({"python": platform.python_version(), **used}, _git_commit())


def _git_commit() -> str:
    folder = checkout()
    head = _git(folder, "rev-parse", "--short=12", "HEAD") if folder else ""
    return f"{head}+" if head and _git(folder, "status", "--porcelain", "--", "*.py") else head


def _git(folder: Path | None, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git
        return ""


# --- files -------------------------------------------------------------------------------------


def write(record: Record, outputs: Outputs) -> None:
    """Write figures, predictions, metrics, the split of a library, and the page of all tasks."""
    drawn = _save_figures(record, outputs.results)
    _write_predictions(record, outputs.texts / f"pred_{record.task.name}.json")
    test = record.test_scores()
    if test is not None:
        log.info("test: %s", test)
    path = page.metrics_file(outputs.results, record.task.name)
    write_json(path, _metrics(record, test, drawn, outputs.results))
    if record.whole.is_split_here:
        for name, entries in split_lists(record.whole).items():
            write_json(outputs.results / name, entries)
        log.info("split lists, to repeat this split with --split: %s", outputs.results)
    page.refresh(outputs.results)
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in record.seconds.items())
    log.info("metrics and figures: %s (%s)", outputs.results, stages)
    log.info("all tasks compared: %s", outputs.results / page.PAGE)


def _save_figures(record: Record, folder: Path) -> list[dict[str, str]]:
    """Draw all figures; returns file, model and content of each, for the metrics."""
    drawn, artists, val = [], record.corpus.artists, record.corpus.split("val")
    if record.task.curves:
        name, details = record.best.name, record.best.details
        kept = details["kept_epoch"] - 1
        figures.save_curves(folder / record.task.curves, details["curves"], kept, name)
        drawn.append({"file": record.task.curves, "model": name, "shows": "training curves"})
    for candidate in record.candidates:
        file = record.task.confusion.format(model=candidate.name)
        counts = metrics.confusion(candidate.val, record.labels(val))
        top1 = metrics.with_interval(candidate.scores.top1, candidate.scores.top1_interval)
        title = f"{candidate.name} on val: top-1 {top1} of {len(val)} songs"
        figures.save_confusion(folder / file, counts, artists, title)
        drawn.append({"file": file, "model": candidate.name, "shows": "confusion matrix"})
    return drawn


def _write_predictions(record: Record, path: Path) -> None:
    """{"001": ["first", "second", "third"], ...}; a test song that was left out has no key."""
    tests, artists = record.tests, record.corpus.artists
    if not tests:
        log.info("no test songs: %s is not written", path.name)
        return
    ranked = (metrics.top_artists(row, artists, 3) for row in record.test)
    predictions = {
        track.id: [artist for artist, _ in top] for track, top in zip(tests, ranked, strict=True)
    }
    write_json(path, predictions)
    log.info("predictions for %d test songs: %s", len(tests), path)


def _metrics(
    record: Record, test: Scores | None, drawn: list[dict[str, str]], folder: Path
) -> dict[str, Any]:
    songs = {"val": _songs(record, "val", record.best.val, folder)}
    if record.has_answers:
        songs["test"] = _songs(record, "test", record.test, folder)
        songs["test"] += [_song(track, folder) for track in record.unusable_tests]
    scores = {"val": record.best.scores} | ({} if test is None else {"test": test})
    return {
        "task": record.task.name,
        "corpus": record.corpus.name,
        "seed": record.settings["seed"],
        "settings": dict(record.settings),
        **asdict(record.provenance),
        "notices": list(record.corpus.warnings),
        "left_out": {track.id: why for track, why in record.left_out.items()},
        **{split: asdict(score) for split, score in scores.items()},
        "best_model": record.best.name,
        **_models(record),
        **record.extra,
        "calibration": record.calibration(),
        "songs": songs,
        "figures": drawn,
        "seconds": dict(record.seconds),
    }


def _models(record: Record) -> Mapping[str, Any]:
    """The details of the only model, or of each with its scores on val."""
    if len(record.candidates) == 1:
        return record.best.details
    return {
        "models": {
            candidate.name: {**candidate.details, "val": asdict(candidate.scores)}
            for candidate in record.candidates
        }
    }


def _songs(
    record: Record, split: Split, posteriors: Posteriors, folder: Path
) -> list[dict[str, Any]]:
    """Each song with its artist, its file and its three most probable artists."""
    calibrated = metrics.tempered(posteriors, record.temperature)
    return [
        {**_song(track, folder), "best": metrics.top_artists(row, record.corpus.artists, 3)}
        for track, row in zip(record.corpus.split(split), calibrated, strict=True)
    ]


def _song(track: Track, folder: Path) -> dict[str, Any]:
    file = Path(os.path.relpath(track.path, folder)).as_posix()
    return {"id": track.id, "artist": track.artist, "file": file}
