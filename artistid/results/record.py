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
from typing import Any, NamedTuple

from artistid.dataset.corpus import Split, Track
from artistid.foundation.files import checkout, to_json, write_all
from artistid.metrics import Calibration, Evaluation
from artistid.results import figures, page

PACKAGES = {  # that compute, by module name; those in use are recorded
    "numpy": "numpy",
    "scipy": "scipy",
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
    val: Evaluation
    summary: Mapping[str, str]  # for the log's table
    details: Mapping[str, Any]  # for the metrics


@dataclass(frozen=True)
class Record:
    """Everything a run found out. A test song that was left out has no prediction."""

    task: Task
    settings: Mapping[str, Any]  # flat, as on the command line
    provenance: Provenance
    corpus: str
    artists: Sequence[str]
    notices: Sequence[str]
    left_out: Mapping[Track, str]  # with the reason
    split_lists: Mapping[str, list[str]]  # of a library; empty for the course's corpus
    tracks: Mapping[Split, Sequence[Track]]  # of val and test, in the order of their evaluations
    candidates: Sequence[Candidate]
    best: Candidate  # the one that predicts
    test: Evaluation
    calibration: Calibration  # fitted on val
    extra: Mapping[str, Any]  # what only this task knows, for the metrics
    seconds: Mapping[str, float]  # wall time by stage

    @property
    def by_epochs(self) -> Candidate:
        """The candidate that was trained by epochs, in a task that has one."""
        return next(candidate for candidate in self.candidates if "curves" in candidate.details)


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


def log_start(task: Task, settings: Mapping[str, Any], made: Provenance) -> None:
    log.info("%s, git commit %s", task.name, made.git_commit or "unknown")
    log.info("versions: %s", ", ".join(f"{k} {v}" for k, v in made.versions.items()))
    log.info("settings: %s", ", ".join(f"{k}={v}" for k, v in settings.items()))


def log_candidates(candidates: Sequence[Candidate]) -> None:
    """Their scores on val with 95% intervals, as a table."""
    columns = list(dict.fromkeys(name for candidate in candidates for name in candidate.summary))
    rows = [["model", "val top-1", "val top-3", "macro-F1", *columns]]
    for candidate in candidates:
        scores = candidate.val.scores
        assert scores is not None
        values = (candidate.summary.get(column, "") for column in columns)
        row = [candidate.name, scores.top1_text, scores.top3_text, f"{scores.macro_f1:.3f}"]
        rows.append([*row, *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    log.info("accuracy on val, with 95%% intervals:\n%s", "\n".join(lines))
    for candidate in candidates:
        if candidate.val.scores and candidate.val.scores.seeds:
            log.info("%s on val, %s", candidate.name, candidate.val.scores.seeds)


# --- files -------------------------------------------------------------------------------------


def write(record: Record, outputs: Outputs, further: Mapping[Path, bytes]) -> None:
    """Write metrics, figures, predictions, the split of a library, `further` files, and the page
    of all tasks."""
    drawn = _figures(record)
    shown = [{"file": f.file, "model": f.model, "shows": f.shows} for f in drawn]
    metrics_file = page.metrics_file(outputs.results, record.task.name)
    files = {metrics_file: to_json(_metrics(record, shown, outputs.results))}
    files |= {outputs.results / figure.file: figure.png for figure in drawn}
    files |= further
    files |= {outputs.results / name: to_json(ids) for name, ids in record.split_lists.items()}
    predictions = {
        track.id: [artist for artist, _ in top]
        for track, top in zip(record.tracks["test"], record.test.top, strict=True)
        if top
    }
    path = outputs.texts / f"pred_{record.task.name}.json"
    if predictions:
        files[path] = to_json(predictions)
        log.info("predictions for %d test songs: %s", len(predictions), path)
    else:
        log.info("no test songs to predict")
    if record.test.scores:
        s = record.test.scores
        log.info("test: top-1 %s, top-3 %s of %d songs", s.top1_text, s.top3_text, s.n)
        if s.seeds:
            log.info("test, %s", s.seeds)
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in record.seconds.items())
    log.info("metrics and figures: %s (%s)", outputs.results, stages)
    write_all(files)
    if not predictions:
        path.unlink(missing_ok=True)  # of a run that had test songs
    page.refresh(outputs.results)
    log.info("all tasks compared: %s", outputs.results / page.PAGE)


class _Figure(NamedTuple):
    file: str
    model: str
    shows: str
    png: bytes


def _figures(record: Record) -> list[_Figure]:
    drawn = []
    if record.task.curves:
        name, details = record.by_epochs.name, record.by_epochs.details
        further = [run["curves"] for run in details.get("further_seeds", ())]
        png = figures.curves_png(details["curves"], details["kept_epoch"] - 1, name, further)
        drawn.append(_Figure(record.task.curves, name, "training curves", png))
    for candidate in record.candidates:
        if candidate != record.best and "{model}" not in record.task.confusion:
            continue
        name, val = candidate.name, candidate.val
        assert val.scores is not None
        assert val.confusion is not None
        title = f"{name}, {val.scores.n} songs of val\ntop-1 {val.scores.top1_text}"
        png = figures.confusion_png(val.confusion, record.artists, title)
        file = record.task.confusion.format(model=name)
        drawn.append(_Figure(file, name, "confusion matrix", png))
    return drawn


def _metrics(record: Record, shown: list[dict[str, str]], folder: Path) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    songs: dict[str, Any] = {}
    calibration: dict[str, Any] = asdict(record.calibration)
    evaluated: dict[Split, Evaluation] = {"val": record.best.val, "test": record.test}
    for split, evaluation in evaluated.items():
        if evaluation.scores and evaluation.calibration_error:
            scores[split] = asdict(evaluation.scores)
            calibration[split] = dict(
                zip(("ece_before", "ece_after"), evaluation.calibration_error, strict=True)
            )
            songs[split] = [
                {
                    "id": track.id,
                    "artist": track.artist,
                    "file": Path(os.path.relpath(track.path, folder)).as_posix(),
                    **({"best": top} if top else {}),
                }
                for track, top in zip(record.tracks[split], evaluation.top, strict=True)
            ]
    details = dict(record.by_epochs.details) if record.task.curves else {}
    if len(record.candidates) > 1:
        details.pop("cv", None)
        details["models"] = {
            candidate.name: {
                **{k: v for k, v in candidate.details.items() if k not in details},
                "val": asdict(candidate.val.scores),
            }
            for candidate in record.candidates
            if candidate.val.scores
        }
    return {
        "task": record.task.name,
        "corpus": record.corpus,
        "best_model": record.best.name,
        **details,
        **record.extra,
        "seed": record.settings.get("seed"),
        "settings": dict(record.settings),
        **asdict(record.provenance),
        "notices": list(record.notices),
        "left_out": {track.id: reason for track, reason in record.left_out.items()},
        **scores,
        "calibration": calibration,
        "songs": songs,
        "figures": shown,
        "seconds": dict(record.seconds),
    }
