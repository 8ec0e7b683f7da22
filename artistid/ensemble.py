"""Models of several tasks as one: the weighted mean of their calibrated posteriors."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from artistid import metrics
from artistid.audio.cache import content_digest
from artistid.dataset.corpus import Split, Track
from artistid.foundation.errors import UserError
from artistid.foundation.files import to_json
from artistid.metrics import Evaluation, Labels, Posteriors
from artistid.models.card import MemberCard, ensemble_card
from artistid.results import record
from artistid.results.posteriors import (
    SCORED,
    RunPosteriors,
    SavedModel,
    posteriors_file,
    read_posteriors,
)
from artistid.results.record import Candidate, Outputs, Record, Task

MODEL = "model_ensemble.json"
TASKS = ("task1", "task2", "task2_baseline")
N_FOLDS = 10  # of val, to compare fitted weights with equal ones

Weighting = Literal["auto", "equal", "fitted"]

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class Member:
    run: RunPosteriors
    model: SavedModel

    @property
    def name(self) -> str:
        """ "task1:SVM" """
        return f"{self.run.task}:{self.model.name}"

    @property
    def val(self) -> Evaluation:
        """Alone."""
        return evaluated(self.model.posteriors["val"], self.run.tracks["val"], self.run.artists)


class Songs(NamedTuple):
    """The songs of a split, and what every member says of them."""

    tracks: list[Track]
    posteriors: NDArray[np.float64]  # (members, songs, artists)
    familiarity: NDArray[np.float64]  # (members, songs)


# --- members -----------------------------------------------------------------------------------


def find_outputs(out: Path | None) -> Outputs:
    """Where the tasks have written: `out`, else by default, else on the demo corpus."""
    usual, demo = Outputs(Path(), Path("result")), Path("result/demo")
    if out is not None:
        return Outputs(out, out)
    has_run = any(posteriors_file(usual.results, task).exists() for task in TASKS)
    return usual if has_run else Outputs(demo, demo)


def find_members(folder: Path, names: Sequence[str]) -> list[Member]:
    """The models called "task", for the one that predicts, or "task:model"; by default those that
    predict of all tasks that have run. They come in the order of the tasks.

    Raises UserError unless they are two or more that were made from the same songs."""
    runs = {
        task: read_posteriors(path)
        for task in TASKS
        if (path := posteriors_file(folder, task)).exists()
    }
    members = [_member(name, runs, folder) for name in names or runs]
    members.sort(key=lambda member: TASKS.index(member.run.task))
    if len({member.name for member in members}) < len(members):
        raise UserError(f"--members {' '.join(names)}: names a model twice")
    if len(members) < 2:
        missing = " or ".join(f"{task}.py" for task in TASKS if task not in runs)
        found = members[0].run.task if members else "no task"
        raise UserError(
            f"an ensemble has two models or more; in {folder} {found} has run: "
            f"run {missing or 'another task'} on the same songs, or name more members"
        )
    for member in members[1:]:
        _require_same(members[0].run, member.run, folder)
    for member in members:
        path = folder / member.model.file
        if not path.exists() or content_digest(path) != member.model.digest:
            what = "is not of the run that" if path.exists() else "is missing, of the run that"
            raise UserError(
                f"{path}: {what} left {posteriors_file(folder, member.run.task).name}; "
                f"run {member.run.task}.py again"
            )
    return members


def _member(name: str, runs: dict[str, RunPosteriors], folder: Path) -> Member:
    task, _, model = name.partition(":")
    if task not in TASKS:
        raise UserError(f"--members {name}: not one of {', '.join(TASKS)}, or one of its models")
    if task not in runs:
        path = posteriors_file(folder, task)
        raise UserError(f"{path}: no such file; run {task}.py on the same songs first")
    run = runs[task]
    return Member(run, run.model(model) if model else run.models[run.chosen])


def _require_same(one: RunPosteriors, other: RunPosteriors, folder: Path) -> None:
    remedy = f"run {other.task}.py again as {one.task}.py, or name other --members"
    if one.corpus != other.corpus:
        words = f"{one.task} has run on {one.corpus}, {other.task} on {other.corpus}"
    elif one.split != other.split:
        words = f"{one.task} and {other.task} have run on different splits of {one.corpus}"
    elif one.artists != other.artists:
        words = f"{one.task} and {other.task} have learnt different lists of artists"
    else:
        return
    raise UserError(f"{folder}: {words}; {remedy}")


def _listed(members: Sequence[Member]) -> str:
    return ", ".join(member.name for member in members)


def songs_of(members: Sequence[Member], split: Split) -> Songs:
    """Every song that a member has been given; a row of zeros where another has not."""
    tracks = {track.id: track for member in members for track in member.run.tracks[split]}
    places = {id_: i for i, id_ in enumerate(tracks)}
    posteriors = np.zeros((len(members), len(tracks), len(members[0].run.artists)))
    familiarity = np.zeros(posteriors.shape[:2])
    for i, member in enumerate(members):
        own = [places[track.id] for track in member.run.tracks[split]]
        posteriors[i, own] = member.model.posteriors[split]
        familiarity[i, own] = member.model.familiarity[split]
    return Songs(list(tracks.values()), posteriors, familiarity)


def evaluated(
    posteriors: Posteriors, tracks: Sequence[Track], artists: Sequence[str], temperature: float = 1
) -> Evaluation:
    names = [track.artist for track in tracks]
    return metrics.evaluate(posteriors[np.newaxis], names, artists, temperature)


# --- weights -----------------------------------------------------------------------------------


def choose_weights(
    members: NDArray[np.float64], labels: Labels, weighting: Weighting
) -> NDArray[np.float64]:
    """One for each member, summing to 1, from what the (members, songs, artists) say of val.

    "auto" takes fitted weights if they are better than equal ones on songs that they were not
    fitted on, by more than a standard error."""
    equal = np.full(len(members), 1 / len(members))
    if weighting == "equal":
        return equal
    fitted = metrics.fit_weights(members, labels)
    if weighting == "fitted":
        return fitted
    gain = _held_out_gain(members, labels, equal)
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    is_better = gain.mean() > error
    log.info(
        "weights fitted on val: %s; on songs that they were not fitted on, the mean log posterior "
        "of the artist is %+.3f (standard error %.3f) against equal weights: %s",
        ", ".join(f"{weight:.2f}" for weight in fitted),
        *(gain.mean(), error, "fitted weights are used" if is_better else "equal weights are used"),
    )
    return fitted if is_better else equal


def _held_out_gain(
    members: NDArray[np.float64], labels: Labels, equal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """By how much the log posterior of each song's artist is higher with weights fitted on the
    songs of the other folds than with equal ones, (songs,)."""
    gain = np.zeros(len(labels))
    if len(labels) < 2:
        return gain
    folds = KFold(min(N_FOLDS, len(labels)), shuffle=True, random_state=0)
    for fitted_on, scored in folds.split(labels):
        weights = metrics.fit_weights(members[:, fitted_on], labels[fitted_on])
        own = members[:, scored]
        with_fitted, with_equal = (
            metrics.log_posteriors(metrics.weighted_mean(own, w), labels[scored])
            for w in (weights, equal)
        )
        gain[scored] = with_fitted - with_equal
    return gain


# --- the answer of all -------------------------------------------------------------------------


def combine_and_report(
    task: Task,
    members: Sequence[Member],
    weighting: Weighting,
    settings: Mapping[str, Any],
    outputs: Outputs,
) -> None:
    """Score the ensemble on val, predict test, and write both, the model, and the figures."""
    begin, made = time.perf_counter(), record.provenance()
    corpus, artists = members[0].run.corpus, members[0].run.artists
    val, test = (songs_of(members, split) for split in SCORED)
    record.log_start(task, settings, made)
    log.info("corpus %s: %d artists; members: %s", corpus, len(artists), _listed(members))
    labels = metrics.labels_of([track.artist for track in val.tracks], artists)
    weights = choose_weights(val.posteriors, labels, weighting)
    on_val = metrics.weighted_mean(val.posteriors, weights)
    familiarity = (metrics.shares(val.posteriors, weights) * val.familiarity).sum(axis=0)
    calibration = metrics.calibrate(on_val, familiarity, labels)
    temperature = calibration.temperature
    own = Candidate("ensemble", evaluated(on_val, val.tracks, artists, temperature), {}, {})
    others = [
        Candidate(member.name, member.val, {"weight": f"{weight:.2f}"}, {"weight": float(weight)})
        for member, weight in zip(members, weights, strict=True)
    ]
    record.log_candidates([own, *others])
    on_test = metrics.weighted_mean(test.posteriors, weights)
    cards = [
        MemberCard(m.run.task, m.model.name, m.model.file, m.model.digest, float(weight))
        for m, weight in zip(members, weights, strict=True)
    ]
    card = ensemble_card(tuple(artists), cards, calibration)
    result = Record(
        task=task,
        settings=settings,
        provenance=made,
        corpus=corpus,
        artists=artists,
        notices=list(dict.fromkeys(notice for m in members for notice in m.run.notices)),
        left_out={},
        split_lists={},
        tracks={"val": val.tracks, "test": test.tracks},
        candidates=[own, *others],
        best=own,
        test=evaluated(on_test, test.tracks, artists, temperature),
        calibration=calibration,
        extra={"members": [asdict(card) for card in cards]},
        seconds={"total": round(time.perf_counter() - begin, 2)},
    )
    record.write(result, outputs, {outputs.results / MODEL: to_json(card.to_json())})
