"""What all tasks have in common: choose the corpus, extract, train, validate, refit, report."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from artistid import cli, metrics
from artistid.audio.cache import Entries, content_digest
from artistid.audio.extraction import Recipe, extract, require_usable
from artistid.cli import DataSettings
from artistid.dataset.corpus import SPLITS, Corpus, Split, Track, listing
from artistid.dataset.demo import ensure_demo_corpus, is_demo_corpus
from artistid.dataset.library import LibrarySettings, split_lists
from artistid.dataset.read import read_corpus
from artistid.foundation import progress
from artistid.foundation.errors import printable
from artistid.foundation.parallel import IS_MAIN_PROCESS, Workers
from artistid.metrics import Calibration, Evaluation, Posteriors
from artistid.models.card import ModelCard
from artistid.models.known_songs import Answers, KnownSongs
from artistid.results import record
from artistid.results.posteriors import (
    SCORED,
    RunPosteriors,
    SavedModel,
    posteriors_file,
    to_npz,
)
from artistid.results.record import Candidate, Outputs, Provenance, Record, Task
from artistid.vocals.heard import SourceSettings, Voices, find_voices

COURSE = cli.HOME / "hw1"
DEMO = COURSE / "demo"
MODEL_SUFFIXES = (".skops", ".safetensors", ".json")
DEMO_NOTICE = (
    "this is the synthetic demo corpus, for trying and testing: its scores say nothing about "
    "music. For real results put artist20 into hw1/ (see hw1/readme.md) or use --data FOLDER"
)

log = logging.getLogger("artistid")


class Fitted(Protocol):
    """A trained model."""

    @property
    def name(self) -> str: ...
    @property
    def card(self) -> ModelCard:
        """Not calibrated yet."""

    @property
    def summary(self) -> Mapping[str, str]:
        """Further columns of the log's table."""

    @property
    def details(self) -> Mapping[str, Any]:
        """For the metrics."""

    @property
    def known(self) -> KnownSongs:
        """The songs that it was trained on."""

    def answers(self, tracks: Sequence[Track]) -> Answers: ...

    def save(self, path: Path, card: ModelCard) -> set[Path]:
        """Write it to `path`, with the suffixes of its kind; returns the files."""


F = TypeVar("F", bound=Fitted)


class Learner(Protocol[F]):
    """How a task trains."""

    @property
    def chosen_by(self) -> str:
        """Why the chosen model is the one that predicts."""

    def choose(self, models: Sequence[F]) -> int:
        """The number of the model that predicts, without looking at val."""

    def fit(self, train: Sequence[Track], val: Sequence[Track]) -> Sequence[F]:
        """The models worth validating."""

    def refit(self, models: Sequence[F], tracks: Sequence[Track]) -> Sequence[F]:
        """The same models, trained anew on `tracks`."""

    def clean_up(self) -> None:
        """Delete what was kept for resuming."""


@dataclass(frozen=True)
class Run:
    """A task at work on a corpus, as it was started."""

    task: Task
    settings: Mapping[str, Any]
    data: DataSettings
    source: SourceSettings
    workers: Workers
    corpus: Corpus
    outputs: Outputs
    provenance: Provenance
    clock: "Clock" = field(default_factory=lambda: Clock())


class Clock:
    """Wall time by stage."""

    def __init__(self) -> None:
        self._stages: dict[str, float] = {}
        self._begin = self._last = time.perf_counter()

    def lap(self, stage: str) -> float:
        """End a stage; returns its seconds."""
        now = time.perf_counter()
        self._stages[stage] = round(now - self._last, 2)
        self._last = now
        return self._stages[stage]

    @property
    def seconds(self) -> dict[str, float]:
        return {**self._stages, "total": round(self._last - self._begin, 2)}


@dataclass(frozen=True)
class Extracted:
    """The usable part of a corpus, and where its features are cached."""

    corpus: Corpus
    entries: Mapping[Track, Entries]
    left_out: Mapping[Track, str]  # with the reason
    without_singer: Sequence[Track]  # of those that are heard by their vocals

    @property
    def scored(self) -> dict[Split, list[Track]]:
        """The songs of val, and those of test, of which unusable ones come last."""
        unusable = [track for track in self.left_out if track.split == "test"]
        return {"val": self.corpus.split("val"), "test": self.corpus.split("test") + unusable}


# --- start -------------------------------------------------------------------------------------


@contextmanager
def started(
    task: Task,
    settings: Any,
    data: DataSettings,
    source: SourceSettings,
    library: LibrarySettings,
    workers: Workers,
) -> Iterator[Run]:
    """Choose the corpus and where to write, and open the log for the length of the block.

    Of several processes of one run only the main one has a log."""
    corpus, is_demo = _choose_corpus(data, library, workers)
    outputs = _choose_outputs(data.out, is_demo)
    path = outputs.texts / task.log
    options = cli.flat(settings)
    log_file = progress.logging_to(path, data.quiet, append=options.get("resume", False))
    with log_file if IS_MAIN_PROCESS else nullcontext():
        made = record.provenance()
        run = Run(task, options, data, source, workers, corpus, outputs, made)
        record.log_start(task, run.settings, made)
        sizes = ", ".join(f"{len(corpus.split(split))} {split}" for split in SPLITS)
        log.info("corpus %s: %d artists; songs: %s", corpus.name, len(corpus.artists), sizes)
        for warning in corpus.warnings:
            log.info("notice: %s", warning)
        yield run


def _choose_corpus(
    data: DataSettings, library: LibrarySettings, workers: Workers
) -> tuple[Corpus, bool]:
    """The corpus of --data, else the course's, else the demo; and whether it is the demo."""
    folder = data.data or COURSE
    if data.data is None and not (COURSE / "artist20").exists():
        folder = DEMO
        if IS_MAIN_PROCESS and not data.quiet:
            print(f"no {COURSE / 'artist20'} and no --data: using the demo corpus, {DEMO}")
    if folder.resolve() == DEMO.resolve():
        ensure_demo_corpus(DEMO, jobs=workers.jobs)
    corpus = read_corpus(folder, data.seed, library)
    if not is_demo_corpus(folder):
        return corpus, False
    return corpus.with_warning(DEMO_NOTICE), True


def _choose_outputs(out: Path | None, is_demo: bool) -> Outputs:
    """A run on the demo corpus must not overwrite results about music."""
    if out is None and not is_demo:
        return Outputs(Path(), Path("result"))
    folder = out or Path("result/demo")
    return Outputs(folder, folder)


# --- extraction --------------------------------------------------------------------------------


def extracted(run: Run, recipe: Recipe) -> Extracted:
    """Extract every track of the corpus, from what is heard of it. Unusable tracks are left out
    with --skip-bad, and stop the run without it."""
    corpus, heard, skip_bad = run.corpus, run.source.source, run.data.skip_bad
    voices = Voices({})
    if heard != "mix":
        voices = find_voices(corpus.tracks, run.source, run.data.cache, run.workers, skip_bad)
        run.clock.lap("vocals")
    notes, refused = dict(voices.notes), dict(voices.refused)
    mix: Mapping[Track, Path] = {track: track.path for track in corpus.tracks}
    found = []
    for files in {"mix": [mix], "vocals": [voices.files], "both": [mix, voices.files]}[heard]:
        tracks = [track for track in corpus.tracks if track not in refused]
        found.append(extract(tracks, recipe, run.data.cache, run.workers, files))
        notes = {**found[-1].notes, **notes}
        refused |= found[-1].refused
    for track, note in notes.items():
        log.info("notice: %s: %s", printable(track.path), note)
    if not skip_bad:
        require_usable(corpus.tracks, refused)
    left_out = {track: refused[track] for track in corpus.tracks if track in refused}
    if run.corpus.is_split_here:  # the course's lists are not ours to change
        for track in run.corpus.orphaned_by(left_out):
            left_out[track] = f"{track.artist} has no usable training tracks left"
    for track, reason in left_out.items():
        unpredicted = "; it gets no prediction" if track.split == "test" else ""
        log.info("left out: %s: %s%s", printable(track.path), printable(reason), unpredicted)
    seconds = run.clock.lap(recipe.name)
    decoded_s = sum(extraction.decoded_s for extraction in found)
    if decoded_s:
        words = "%s: %.1f h of audio, %.0f times faster than real time"
        log.info(words, recipe.name, decoded_s / 3600, decoded_s / seconds)
    usable = corpus.without(left_out)
    entries = {track: tuple(one.entries[track] for one in found) for track in usable.tracks}
    alone = [track for track in voices.without_singer if track in entries]
    if alone:
        names = listing([track.id for track in alone], 10)
        log.info("notice: no singer in %d songs, whose mix is heard: %s", len(alone), names)
    return Extracted(usable, entries, left_out, alone)


# --- train, validate, refit, report ------------------------------------------------------------


class _Heard(NamedTuple):
    """A model, and what it says of songs."""

    model: Fitted
    answers: Answers

    @property
    def similarity(self) -> NDArray[np.float64]:
        return self.model.known.similarity(self.answers.vectors)


class _Answer(NamedTuple):
    """What a model says of val and test."""

    candidate: Candidate
    final: Fitted  # is saved
    calibration: Calibration
    posteriors: Mapping[Split, Posteriors]  # calibrated
    familiarity: Mapping[Split, NDArray[np.float64]]
    test: Evaluation


def train_and_report(
    run: Run,
    data: Extracted,
    learner: Learner[F],
    refit: bool,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Train on train and validate on val; predict test with the best model; write the models, the
    predictions, the metrics and the figures. If `refit`, models are trained again on both before
    they predict test and are saved."""
    train, val, test = (data.corpus.split(split) for split in SPLITS)
    models = list(learner.fit(train, val))
    number = learner.choose(models)
    validated = [_Heard(model, model.answers(val)) for model in models]
    if refit:
        names = ", ".join(model.name for model in models)
        log.info("training %s again, on train and val, to predict test and to be saved", names)
        models = list(learner.refit(models, train + val))
    final = [_Heard(model, model.answers(test)) for model in models]
    if not IS_MAIN_PROCESS:
        return
    run.clock.lap("training")

    answers = [_evaluated(data, *pair) for pair in zip(validated, final, strict=True)]
    best = answers[number]
    record.log_candidates([answer.candidate for answer in answers])
    if len(answers) > 1:
        name = best.candidate.name
        log.info("%s, and so the one that predicts: %s", learner.chosen_by, name)
    saved = _saved(run, data, answers, number)
    path = posteriors_file(run.outputs.results, run.task.name)
    posteriors = to_npz(saved, path.parent)
    run.clock.lap("evaluation")
    unheard = {"without_singer": [track.id for track in data.without_singer]}
    result = Record(
        task=run.task,
        settings=run.settings,
        provenance=run.provenance,
        corpus=data.corpus.name,
        artists=data.corpus.artists,
        notices=data.corpus.warnings,
        left_out=data.left_out,
        split_lists=split_lists(run.corpus) if run.corpus.is_split_here else {},
        tracks=data.scored,
        candidates=[answer.candidate for answer in answers],
        best=best.candidate,
        test=best.test,
        calibration=best.calibration,
        extra={**(extra or {}), **(unheard if run.source.source != "mix" else {})},
        seconds=run.clock.seconds,
    )
    record.write(result, run.outputs, {path: posteriors})
    learner.clean_up()


def _evaluated(data: Extracted, validated: _Heard, final: _Heard) -> _Answer:
    artists = data.corpus.artists
    names = {split: [track.artist for track in own] for split, own in data.scored.items()}
    runs = {"val": validated.answers.runs, "test": final.answers.runs}
    n_unusable = len(names["test"]) - runs["test"].shape[1]
    runs["test"] = np.pad(runs["test"], ((0, 0), (0, n_unusable), (0, 0)))  # without prediction
    similarity = {"val": validated.similarity, "test": np.pad(final.similarity, (0, n_unusable))}
    posteriors = {split: own.mean(axis=0) for split, own in runs.items()}
    labels = metrics.labels_of(names["val"], artists)
    calibration = metrics.calibrate(posteriors["val"], similarity["val"], labels)
    temperature = calibration.temperature
    val, test = (metrics.evaluate(runs[s], names[s], artists, temperature) for s in SCORED)
    model = validated.model
    return _Answer(
        Candidate(model.name, val, model.summary, model.details),
        final.model,
        calibration,
        {split: metrics.tempered(posteriors[split], temperature) for split in SCORED},
        {split: calibration.familiarity(similarity[split]) for split in SCORED},
        test,
    )


def _saved(run: Run, data: Extracted, answers: Sequence[_Answer], chosen: int) -> RunPosteriors:
    """Saves the model that predicts as model_<task>, the others as members/<task>/<name>. Those of
    an earlier run that are not replaced are deleted."""
    folder, task = run.outputs.results, run.task.name
    others = folder / "members" / task
    models, written = [], set()
    for i, answer in enumerate(answers):
        path = folder / f"model_{task}" if i == chosen else others / answer.candidate.name
        model = answer.final
        files = model.save(path, model.card.calibrated(answer.calibration))
        file = next(file for file in files if file.suffix != ".json")
        place, digest = file.relative_to(folder).as_posix(), content_digest(file)
        models.append(SavedModel(model.name, place, digest, answer.posteriors, answer.familiarity))
        written |= files
    own = {folder / f"model_{task}{suffix}" for suffix in MODEL_SUFFIXES}
    own |= {path for path in others.glob("*") if path.suffix in MODEL_SUFFIXES}
    for old in own - written:
        if old.is_file() and "." not in old.stem:  # else a copy of somebody's, or being written
            old.unlink(missing_ok=True)
    return RunPosteriors(
        task,
        run.corpus.name,
        run.corpus.split_digest,
        data.corpus.warnings,
        data.corpus.artists,
        data.scored,
        models,
        chosen,
    )
