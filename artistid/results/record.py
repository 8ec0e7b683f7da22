"""What a run leaves behind: log, predictions, metrics, figures, and how they came about."""

import logging
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")
import matplotlib.font_manager
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from artistid import calibration
from artistid import metrics as scoring
from artistid.audio.extraction import Recipe, extract
from artistid.dataset.corpus import SPLITS, Corpus, Split, Track
from artistid.dataset.library import split_lists
from artistid.foundation import progress
from artistid.foundation.errors import printable
from artistid.foundation.files import replacing, write_json
from artistid.metrics import Scores
from artistid.results import page
from artistid.results.predictions import prediction

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = {  # that compute or store, by the module's name; those in use are reported
    "numpy": "numpy",
    "scipy": "scipy",
    "librosa": "librosa",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "sklearn": "scikit-learn",
    "skops": "skops",
    "safetensors": "safetensors",
    "torch": "torch",
    "accelerate": "accelerate",
}
EAST_ASIAN_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK TC",
    "PingFang TC",
    "Microsoft JhengHei",
    "WenQuanYi Zen Hei",
)
MOST_LABELLED = 60  # artists in a figure; with more, names and counts would overlap

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class Outputs:
    """Where a run writes."""

    texts: Path  # log and predictions
    results: Path  # metrics, figures, models


class _Screen(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        progress.say(self.format(record))


class _LogFile(logging.FileHandler):
    def handleError(self, _record: logging.LogRecord) -> None:
        raise  # a full disk is no reason to go on without a log


@contextmanager
def logging_to(path: Path, quiet: bool = False) -> Iterator[None]:
    """Send the log to the screen, unless `quiet`, and to a file, which takes its name when the run
    succeeds."""
    log.setLevel(logging.INFO)
    with replacing(path) as temporary:
        file = _LogFile(temporary, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
        handlers: list[logging.Handler] = [file] if quiet else [_Screen(), file]
        for handler in handlers:
            log.addHandler(handler)
        try:
            yield
        finally:
            for handler in handlers:
                log.removeHandler(handler)
                handler.flush()
            file.close()


class Run:
    """A task at work on a corpus: what it is doing, and where the results go."""

    def __init__(self, task: str, settings: Any, corpus: Corpus, outputs: Outputs) -> None:
        self.task = task
        self.settings = settings
        self.corpus = corpus  # less what `extract` had to leave out
        self._whole = corpus
        self.outputs = outputs
        self.seconds: dict[str, float] = {}  # wall time by stage
        self.left_out: Mapping[Track, str] = {}  # unusable tracks, and why
        self.figures: list[dict[str, str]] = []  # drawn so far: file, model, what it shows
        self._begin = self._last = time.perf_counter()

    def stage_done(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds.pop("total", None)  # it comes last
        self.seconds[stage] = round(now - self._last, 2)
        self.seconds["total"] = round(now - self._begin, 2)
        self._last = now

    def log_start(self) -> None:
        made = provenance()
        log.info("%s, git commit %s", self.task, made["git_commit"] or "unknown")
        log.info("versions: %s", ", ".join(f"{k} {v}" for k, v in made["versions"].items()))
        log.info("settings: %s", ", ".join(f"{k}={v}" for k, v in plain(self.settings).items()))
        sizes = [f"{len(self.corpus.split(split))} {split}" for split in SPLITS]
        artists = len(self.corpus.artists)
        log.info("corpus %s: %d artists; songs: %s", self.corpus.name, artists, ", ".join(sizes))
        for warning in self.corpus.warnings:
            log.info("notice: %s", warning)

    def extract(self, recipe: Recipe) -> Mapping[Track, Path]:
        """The cached entry of every usable track; the others leave the corpus, or stop the run."""
        settings = self.settings
        found = extract(self.corpus.tracks, recipe, settings.cache, settings.workers)
        for track, note in found.notes.items():
            log.info("notice: %s %s; what is there is used", printable(track.path), note)
        if not settings.skip_bad:
            found.require_all()
        refused = dict(found.refused)
        if self._whole.is_split_here:  # a course's lists are not ours to change
            for track in self.corpus.orphaned_by(refused):
                refused[track] = f"is by {track.artist}, of whom nothing is left to train on"
        for track, why in refused.items():
            unpredicted = "; it gets no prediction" if track.split == "test" else ""
            log.info("left out: %s %s%s", printable(track.path), printable(why), unpredicted)
        self.left_out = refused
        self.corpus = self.corpus.without(refused)
        self.stage_done(recipe.name)
        if found.heard_s:
            speed = found.heard_s / self.seconds[recipe.name]
            words = "%s: %.1f h of audio, %.0f times faster than real time"
            log.info(words, recipe.name, found.heard_s / 3600, speed)
        return found.entries

    def write_test(self, posteriors: NDArray[Any]) -> Scores | None:
        """Write the predictions for the test songs; score them where their artists are known.

        A test song that could not be used has no key, and counts as wrong."""
        tests = self.corpus.split("test")
        path = self.outputs.texts / f"pred_{self.task}.json"
        if not tests:
            log.info("no songs in test: %s is not written", path.name)
            return None
        write_predictions(path, [track.id for track in tests], posteriors, self.corpus.artists)
        log.info("predictions for %d test songs: %s", len(tests), path)
        if not self._test_is_labelled():
            return None
        unusable = self._unusable_tests()
        nothing = np.zeros((len(unusable), posteriors.shape[1]))
        scores = self.score(np.vstack([posteriors, nothing]), [*tests, *unusable])
        log.info("test: top-1 %.3f, top-3 %.3f of %d songs", scores.top1, scores.top3, scores.n)
        return scores

    def _test_is_labelled(self) -> bool:
        tests = self.corpus.split("test")
        return bool(tests) and all(track.artist for track in tests)

    def _unusable_tests(self) -> list[Track]:
        return [track for track in self.left_out if track.split == "test"]

    def songs(
        self, val: NDArray[Any], test: NDArray[Any], temperature: float
    ) -> dict[str, list[dict[str, Any]]]:
        """For the metrics, of each song of val, and of test where its artists are known: whose it
        is, its file, and the likeliest artists with their probabilities. Posteriors are (songs,
        artists), not yet calibrated. A test song that could not be used has no "best"."""
        songs = {"val": self._songs("val", val, temperature)}
        if self._test_is_labelled():
            unusable = [self._song(track) for track in self._unusable_tests()]
            songs["test"] = self._songs("test", test, temperature) + unusable
        return songs

    def _songs(
        self, split: Split, posteriors: NDArray[Any], temperature: float
    ) -> list[dict[str, Any]]:
        artists = self.corpus.artists
        rows = calibration.tempered(posteriors, temperature)
        return [
            {**self._song(track), "best": prediction(track.path, row, artists).best}
            for track, row in zip(self.corpus.split(split), rows, strict=True)
        ]

    def _song(self, track: Track) -> dict[str, Any]:
        file = Path(os.path.relpath(track.path, self.outputs.results)).as_posix()
        return {"id": track.id, "artist": track.artist, "file": file}

    def score(self, posteriors: NDArray[Any], tracks: Sequence[Track]) -> Scores:
        """All scores of (tracks, artists) `posteriors`."""
        return scoring.score(posteriors, self.labels(tracks), self.corpus.artists)

    def labels(self, tracks: Sequence[Track]) -> NDArray[np.intp]:
        """(tracks,): indices into the corpus' artists; UNKNOWN where it has no such artist."""
        return scoring.labels_of([track.artist for track in tracks], self.corpus.artists)

    def draw_confusion(
        self, file_name: str, model: str, posteriors: NDArray[Any], tracks: Sequence[Track]
    ) -> None:
        """The confusion matrix of one model on labelled tracks."""
        labels = self.labels(tracks)
        right = scoring.top_k(posteriors, labels, 1)
        draw_confusion(
            self.outputs.results / file_name,
            scoring.confusion(posteriors, labels),
            self.corpus.artists,
            f"{model}, {tracks[0].split}: {right:.1%} of {len(tracks)} songs right",
        )
        self.figures.append({"file": file_name, "model": model, "shows": "confusion matrix"})

    def draw_curves(
        self, file_name: str, model: str, curves: Mapping[str, Sequence[float]], kept: int
    ) -> None:
        """How training went; see `draw_curves`."""
        draw_curves(self.outputs.results / file_name, curves, kept, model)
        self.figures.append({"file": file_name, "model": model, "shows": "training curves"})

    def calibrate(self, val: NDArray[Any], test: NDArray[Any]) -> tuple[float, dict[str, Any]]:
        """The temperature that makes probabilities of the posteriors of val, and for the metrics
        what it does to the expected calibration error, also on test where its artists are known."""
        labels = self.labels(self.corpus.split("val"))
        temperature = calibration.fit_temperature(val, labels)
        splits = {"val": (val, labels)}
        if self._test_is_labelled():
            splits["test"] = test, self.labels(self.corpus.split("test"))
        errors = {
            split: {
                "ece_before": calibration.expected_calibration_error(posteriors, truth),
                "ece_after": calibration.expected_calibration_error(
                    calibration.tempered(posteriors, temperature), truth
                ),
            }
            for split, (posteriors, truth) in splits.items()
        }
        return temperature, {"temperature": temperature, **errors}

    def write_metrics(self, val: Scores, test: Scores | None, **more: Any) -> None:
        """Write them, and the page of all tasks with them. Accuracies are fractions of songs."""
        scores = {"val": val} if test is None else {"val": val, "test": test}
        values = {
            "task": self.task,
            "corpus": self.corpus.name,
            "seed": self.settings.seed,
            "settings": plain(self.settings),
            **provenance(),
            "notices": list(self.corpus.warnings),
            "left_out": {track.id: why for track, why in self.left_out.items()},
            **{split: asdict(score) for split, score in scores.items()},
            **more,
            "figures": self.figures,
            "seconds": self.seconds,
        }
        path = page.metrics_file(self.outputs.results, self.task)
        write_json(path, values)
        if self._whole.is_split_here:
            for name, entries in split_lists(self._whole).items():
                write_json(self.outputs.results / name, entries)
            log.info("the split, for --split: %s", self.outputs.results)
        page.refresh(path.parent)
        stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self.seconds.items())
        log.info("metrics and figures: %s (%s)", path.parent, stages)
        log.info("all tasks compared: %s", path.parent / page.NAME)


def plain(settings: Any) -> dict[str, Any]:
    """The fields of a settings dataclass, paths as text, short where they are the project's."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {k: _short(v) if isinstance(v, Path) else v for k, v in values.items()}


def _short(path: Path) -> str:
    return str(path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path)


def provenance() -> dict[str, Any]:
    """Versions of what computes, and the commit of the code (empty where git knows none)."""
    used = {name: version(name) for module, name in PACKAGES.items() if module in sys.modules}
    versions = {"python": platform.python_version(), **used}
    return {"versions": versions, "git_commit": _git_commit()}


def _git_commit() -> str:
    """The commit, with "+" where the code differs from it; empty where there is no git."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return f"{head}+" if head and _git("status", "--porcelain", "--", "*.py") else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


# --- predictions and metrics -----------------------------------------------------------------


def write_predictions(
    path: Path, ids: Sequence[str], posteriors: NDArray[Any], artists: Sequence[str]
) -> None:
    """{"001": ["first", "second", "third"], ...}"""
    best = scoring.ranking(posteriors)[:, :3]
    named = [[artists[i] for i in row] for row in best]
    write_json(path, dict(zip(ids, named, strict=True)))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows with their columns aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


# --- figures ---------------------------------------------------------------------------------


def draw_confusion(
    path: Path, counts: NDArray[np.intp], artists: Sequence[str], title: str
) -> None:
    """Songs by true artist (rows) and best guess; colour is the share of the row, so that artists
    with many and with few songs can be compared."""
    write_figure(path, lambda: _confusion_figure(counts, artists, title))


def write_figure(
    path: Path, draw: Callable[[], Figure], bounds: Literal["tight"] | None = "tight"
) -> None:
    """Write to `path` what `draw` makes; without `bounds` in the size that it was made in."""
    with plt.rc_context({"font.family": _fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # no font here has it: a box stands for it
        figure = draw()
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=130, bbox_inches=bounds)
        plt.close(figure)


def _fonts() -> list[str]:
    """The usual font, then those at hand for names in Chinese, Japanese and Korean."""
    known = set(matplotlib.font_manager.get_font_names())
    return ["DejaVu Sans", *(font for font in EAST_ASIAN_FONTS if font in known)]


def shortened(name: str, most: int) -> str:
    """`name` on one line of at most so many characters."""
    name = printable(name)
    return name if len(name) <= most else name[: most - 1] + "…"


def _confusion_figure(counts: NDArray[np.intp], artists: Sequence[str], title: str) -> Figure:
    n = len(artists)
    side = min(1.5 + 0.25 * n, 20)  # inches: a cell is not much larger than its number
    figure, axes = plt.subplots(figsize=(side, side))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if n <= MOST_LABELLED:
        names = [shortened(artist, 18) for artist in artists]
        axes.set_xticks(range(n), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted (number of songs; colour: share of the row)")
    axes.set_ylabel("true artist")
    axes.set_title(title)
    return figure


def draw_curves(path: Path, curves: Mapping[str, Sequence[float]], kept: int, title: str) -> None:
    """Training by epoch: `curves` has top1, top3, loss and val_loss, `kept` is an index of them."""
    write_figure(path, lambda: _curves_figure(curves, kept, title))


def _curves_figure(curves: Mapping[str, Sequence[float]], kept: int, title: str) -> Figure:
    epochs = np.arange(1, len(curves["loss"]) + 1)
    figure, (accuracy, loss) = plt.subplots(2, 1, figsize=(4.5, 5), sharex=True)
    for axes, name, label in (
        (accuracy, "top1", "top-1"),
        (accuracy, "top3", "top-3"),
        (loss, "loss", "train (crops, augmented)"),
        (loss, "val_loss", "val (songs)"),
    ):
        axes.plot(epochs, curves[name], marker="." if len(epochs) < 50 else "", label=label)
    for axes in (accuracy, loss):
        axes.axvline(kept + 1, color="0.5", linestyle="--", linewidth=1, zorder=0)
        axes.grid(color="0.9", linewidth=0.5)
    accuracy.set_ylim(0, 1.03)
    accuracy.set_ylabel("accuracy on val")
    accuracy.legend(loc="lower right")
    scores = f"{curves['top1'][kept]:.3f} / {curves['top3'][kept]:.3f}"
    accuracy.set_title(f"{title}, val: {scores} kept (epoch {kept + 1})")
    loss.set_ylim(bottom=0)
    loss.set_ylabel("loss")
    loss.set_xlabel("epoch")
    loss.xaxis.get_major_locator().set_params(integer=True)
    loss.legend(loc="upper right")
    figure.tight_layout()
    return figure
