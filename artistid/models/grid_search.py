"""How classical classifiers are trained: a grid search by cross-validation on train."""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from tyro.conf import arg

from artistid import metrics
from artistid.audio.features import FeatureSettings
from artistid.dataset.corpus import Track
from artistid.foundation import parallel
from artistid.foundation.errors import UserError, require_at_least
from artistid.foundation.parallel import Workers
from artistid.metrics import CVScores, Labels, Posteriors
from artistid.models.card import ModelCard
from artistid.models.classical import (
    Family,
    Parameters,
    SongClassifier,
    Songs,
    as_songs,
    describe,
    save_model,
)
from artistid.models.known_songs import Answers, KnownSongs

BATCH_SONGS = 100  # in memory at a time when predicting

Load = Callable[..., NDArray[np.float32]]  # a track's rows: audio.features.SongLoader
Families = Callable[[int, int, int], Sequence[Family]]  # as classical.families

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class SearchSettings:
    """Grid search."""

    excerpt_seconds: Annotated[float, arg(metavar="SECONDS")] = 5.0
    """Length of the excerpts that are classified."""
    max_excerpts: int = 10_000
    """Excerpts to train on, evenly spread over all songs."""
    folds: int = 5
    """Folds of the cross-validation; fewer if an artist has fewer albums."""
    repeats: int = 2
    """Repeats of the cross-validation, each with other folds."""
    refit: Annotated[bool, arg(help_behavior_hint="(default: train again on train and val)")] = True
    """Predict test with the model trained on train alone."""

    def __post_init__(self) -> None:
        FeatureSettings(excerpt_s=self.excerpt_seconds)  # checks it
        require_at_least(self, max_excerpts=1, folds=2, repeats=1)


# --- folds -------------------------------------------------------------------------------------


class Folds(NamedTuple):
    pairs: list[tuple[NDArray[np.intp], NDArray[np.intp]]]  # songs to train on, songs to score
    description: str


def make_folds(tracks: Sequence[Track], n_folds: int, repeats: int, seed: int) -> Folds:
    """Folds of whole albums if every artist has at least two, else of songs.

    Raises UserError unless two artists have at least two tracks each."""
    artists = np.array([track.artist for track in tracks])
    albums = np.array([track.album_key for track in tracks])
    _, counts = np.unique(artists, return_counts=True)
    if np.sum(counts >= 2) < 2:
        raise UserError("train: cross-validation needs two artists with two tracks each; add some")
    fewest_albums = min(len(set(albums[artists == artist])) for artist in set(artists))
    by_album = fewest_albums >= 2
    kind: Any = StratifiedGroupKFold if by_album else StratifiedKFold
    n_folds = min(n_folds, fewest_albums if by_album else int(counts.max()))
    pairs = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        for repeat in range(repeats):
            split = kind(n_folds, shuffle=True, random_state=(seed + repeat) % 2**32)
            pairs += split.split(artists, artists, groups=albums if by_album else None)
    what = "whole albums" if by_album else "songs (an artist has only one album)"
    return Folds(pairs, f"{n_folds} folds of {what}, {repeats} repeat(s)")


class Candidate(NamedTuple):
    """A grid point and its scores by cross-validation, over all songs of all folds."""

    parameters: Parameters
    cv: CVScores


def cross_validate(
    family: Family, songs: Songs, labels: Labels, folds: Folds, workers: Workers
) -> list[Candidate]:
    """Every point of the grid, scored on whole songs that it was not trained on.

    Like GridSearchCV, but with a progress bar, and scores are of the songs of all folds pooled."""
    work = [(parameters, pair) for parameters in family.grid for pair in folds.pairs]
    fits = parallel.run(
        partial(_held_out_posteriors, family.classifier),
        work,
        workers=workers,
        label=family.name,
        unit="fit",
        common=(songs, labels),
    )
    held_out = list(fits)
    true = labels[np.concatenate([scored for _, scored in folds.pairs])]
    candidates = []
    for i, parameters in enumerate(family.grid):
        own = np.vstack(held_out[i * len(folds.pairs) : (i + 1) * len(folds.pairs)])
        candidates.append(Candidate(parameters, metrics.cv_scores(own, true)))
    return candidates


def _held_out_posteriors(
    classifier: SongClassifier,
    work: tuple[Parameters, tuple[NDArray[np.intp], NDArray[np.intp]]],
    songs: Songs,
    labels: Labels,
) -> Posteriors:
    """(scored songs, artists). Artists missing from the training songs have posterior 0; all have
    if the songs are too few or too much alike for the method."""
    parameters, (trained, scored) = work
    held_out = np.zeros((len(scored), int(labels.max()) + 1))
    try:
        model = _at(classifier, parameters).fit(songs[trained], labels[trained])
    except ValueError:  # from scikit-learn; a fault of ours fails again in the final fit
        return held_out
    held_out[:, model.classes_] = model.predict_proba(songs[scored])
    return held_out


def _fitted(
    work: tuple[SongClassifier, Parameters], songs: Songs, labels: Labels
) -> SongClassifier:
    return _at(*work).fit(songs, labels)


def _at(classifier: SongClassifier, parameters: Parameters) -> SongClassifier:
    """A fresh classifier at a grid point, sharing nothing with the grid."""
    return clone(classifier).set_params(**clone(dict(parameters), safe=False))


def known_by(classifier: SongClassifier, songs: Songs, tracks: Sequence[Track]) -> KnownSongs:
    """The songs of the tracks, which it was trained on."""
    return KnownSongs.of(classifier.outputs(songs)[1], tracks)


# --- the learner -------------------------------------------------------------------------------


@dataclass(frozen=True)
class GridSearch:
    card: ModelCard  # of its models, not calibrated yet
    families: Families
    load: Load
    settings: SearchSettings
    seed: int
    workers: Workers
    chosen_by = "best by cross-validation"

    def choose(self, trials: Sequence["Trial"]) -> int:
        return max(range(len(trials)), key=lambda i: trials[i].cv.merit)

    def fit(self, train: Sequence[Track], _val: Sequence[Track]) -> list["Trial"]:
        """The best of each family by cross-validation on train, trained on all of train."""
        settings = self.settings
        folds = make_folds(train, settings.folds, settings.repeats, self.seed)
        songs, labels = self.training_songs(train)
        n_rows = np.array([len(song) for song in songs])
        smallest = min(n_rows[trained].sum() for trained, _ in folds.pairs)
        log.info("top-1 / top-3 by cross-validation on train, %s:", folds.description)
        trials = []
        for family in self.families(int(smallest), songs[0].shape[1], self.seed):
            candidates = cross_validate(family, songs, labels, folds, self.workers)
            for candidate in candidates:
                words = describe(candidate.parameters)
                if candidate.cv.top3 == 0:
                    words += "  (cannot be fitted: too few songs, or too much alike)"
                scores = (candidate.cv.top1, candidate.cv.top3)
                log.info("  %s: %.3f / %.3f  %s", family.name, *scores, words)
            best = max(candidates, key=lambda candidate: candidate.cv.merit)
            classifier = _at(family.classifier, best.parameters).fit(songs, labels)
            known = known_by(classifier, songs, train)
            trials.append(Trial(self, family, best, classifier, known))
        return trials

    def refit(self, trials: Sequence["Trial"], tracks: Sequence[Track]) -> list["Trial"]:
        """The same settings, trained on `tracks`."""
        songs, labels = self.training_songs(tracks)
        fitted = parallel.run(
            _fitted,
            [(trial.family.classifier, trial.point.parameters) for trial in trials],
            workers=self.workers,
            label="training again",
            unit="fit",
            common=(songs, labels),
        )
        return [
            trial._replace(classifier=classifier, known=known_by(classifier, songs, tracks))
            for trial, classifier in zip(trials, fitted, strict=True)
        ]

    def clean_up(self) -> None:
        """There is nothing to resume."""

    def training_songs(self, tracks: Sequence[Track]) -> tuple[Songs, Labels]:
        """Songs of about `max_excerpts` rows in all, and their labels: memory and time of the
        training do not grow with the corpus."""
        per_song = max(1, self.settings.max_excerpts // len(tracks))
        songs = as_songs([self.load(track, per_song) for track in tracks])
        n_rows, n_columns = sum(len(song) for song in songs), songs[0].shape[1]
        log.info("training on %d songs, %d rows x %d columns", len(songs), n_rows, n_columns)
        return songs, metrics.labels_of([track.artist for track in tracks], self.card.artists)


class Trial(NamedTuple):
    """The best of a family by cross-validation, trained."""

    search: GridSearch
    family: Family
    point: Candidate
    classifier: SongClassifier
    known: KnownSongs

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def cv(self) -> CVScores:
        return self.point.cv

    @property
    def card(self) -> ModelCard:
        return self.search.card

    @property
    def summary(self) -> dict[str, str]:
        return {
            **self.cv.summary,
            "settings": describe(self.point.parameters),
        }

    @property
    def details(self) -> dict[str, Any]:
        return {
            "settings": describe(self.point.parameters),
            "cv": self.cv._asdict(),
        }

    def answers(self, tracks: Sequence[Track]) -> Answers:
        """With BATCH_SONGS songs in memory at a time."""
        n_artists = len(self.classifier.classes_)
        parts = [(np.zeros((0, n_artists)), np.zeros((0, n_artists)))]
        for start in range(0, len(tracks), BATCH_SONGS):
            batch = tracks[start : start + BATCH_SONGS]
            parts.append(self.classifier.outputs(as_songs([self.search.load(t) for t in batch])))
        posteriors, vectors = (np.vstack(own) for own in zip(*parts, strict=True))
        return Answers(posteriors[np.newaxis], vectors)

    def save(self, path: Path, card: ModelCard) -> set[Path]:
        file = path.with_suffix(".skops")
        save_model(file, self.classifier, card, self.known)
        return {file}
