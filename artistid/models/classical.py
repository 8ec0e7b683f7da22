"""Classical classifiers of songs: an excerpt classifier, whose posteriors a song averages.

A song is a (rows, columns) matrix: one row for each excerpt and one for the song as a whole.
Scaling, projection and classifier are one object, so that no split can miss a step.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid, StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from artistid import metrics as scoring
from artistid.dataset.corpus import Track
from artistid.foundation import parallel
from artistid.foundation.errors import UserError
from artistid.foundation.files import replacing
from artistid.foundation.parallel import Workers
from artistid.metrics import Scores

# skops imports all of scikit-learn, and one module of that imports torch where it is installed:
# a second and 200 MB in every process, for nothing. So torch is not to be found for a moment.
_torch = sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
import skops.io  # noqa: E402

if _torch is None:
    del sys.modules["torch"]

BATCH_SONGS = 100

log = logging.getLogger("artistid")

Songs = NDArray[np.object_]  # (songs,), each a (rows, columns) float matrix
Parameters = Mapping[str, Any]


def as_songs(matrices: Sequence[NDArray[np.float32]]) -> Songs:
    """An array that scikit-learn can index by song, whatever the songs' numbers of rows."""
    songs = np.empty(len(matrices), dtype=object)
    songs[:] = list(matrices)
    return songs


class SongClassifier(ClassifierMixin, BaseEstimator):
    """Classifies songs by the mean posterior of their rows.

    X is `Songs`, or an ordinary (songs, columns) matrix, where each song has one row.

    Parameters
    ----------
    row_classifier : classifier or pipeline, fitted on the rows of all songs. Posteriors are its
        `predict_proba`, or the softmax of its `decision_function`. Default: shrinkage LDA.
    """

    def __init__(self, row_classifier: Any = None) -> None:
        self.row_classifier = row_classifier

    def fit(self, X: Any, y: ArrayLike) -> Self:
        if y is None:
            raise ValueError("fit requires y to be passed, but the target y is None")
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        rows, counts = self._rows(X, fitting=True)
        check_consistent_length(counts, labels)
        if len(np.unique(labels)) < 2:
            raise ValueError("needs songs of at least two classes, not of one class")
        default = Pipeline([("scale", StandardScaler()), ("classify", _lda())])
        self.row_classifier_ = clone(self.row_classifier or default)
        self.row_classifier_.fit(rows, np.repeat(labels, counts))
        self.classes_ = self.row_classifier_.classes_
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """(songs, classes)"""
        check_is_fitted(self)
        rows, counts = self._rows(X, fitting=False)
        starts = np.cumsum(counts) - counts
        sums = np.add.reduceat(self._row_posteriors(rows), starts, axis=0)
        return sums / counts[:, np.newaxis]

    def predict(self, X: Any) -> NDArray[Any]:
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]

    def _row_posteriors(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        if hasattr(self.row_classifier_, "predict_proba"):
            return np.asarray(self.row_classifier_.predict_proba(rows), dtype=np.float64)
        decision = np.asarray(self.row_classifier_.decision_function(rows), dtype=np.float64)
        if decision.ndim == 1:  # two classes: one signed distance
            decision = np.stack([-decision, decision], axis=1)
        exponent = np.exp(decision - decision.max(axis=1, keepdims=True))
        return exponent / exponent.sum(axis=1, keepdims=True)

    def _rows(self, X: Any, fitting: bool) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """All rows below each other, and how many there are of each song."""
        are_songs = isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype == object and len(X) > 0
        if not are_songs:
            rows = validate_data(self, X, reset=fitting)
            return rows, np.ones(len(rows), dtype=np.intp)
        counts = np.array([len(song) for song in X])
        if counts.min() == 0:
            raise ValueError(f"song {int(np.argmin(counts))} has no rows")
        return validate_data(self, np.vstack(list(X)), reset=fitting), counts


# --- what is tried ---------------------------------------------------------------------------


class Family(NamedTuple):
    """A kind of classifier and the settings that the grid search tries."""

    name: str
    classifier: SongClassifier
    grid: list[Parameters]


def families(n_rows: int, n_columns: int, seed: int) -> list[Family]:
    """The three of the task, then what cross-validation found as good or better.

    `n_rows` there are in the smallest training set."""
    neighbours = [k for k in (5, 15, 30) if k <= n_rows] or [1]
    # a tree sees half of the rows, which are much alike within a song: as good by cross-validation,
    # in half the time; but few are not halved
    share = 0.5 if n_rows >= 100 else None
    projections = ["passthrough", PCA(0.95), _lda(solver="eigen")]
    return [
        _family(
            "KNN",
            KNeighborsClassifier(weights="distance", algorithm="brute"),
            {"project": projections, "classify__n_neighbors": neighbours},
        ),
        _family(
            "RandomForest",
            RandomForestClassifier(
                n_estimators=200, max_samples=share, n_jobs=1, random_state=seed
            ),
            {"classify__min_samples_leaf": [1, 3]},
        ),
        _family(
            "SVM",
            SVC(),
            # around 1 / columns, scikit-learn's "scale" for standardised columns
            {"classify__C": [1, 10], "classify__gamma": [0.1 / n_columns, 0.3 / n_columns]},
            {"classify__C": [1, 10], "project": [_lda(solver="eigen")]},
        ),
        _family("LDA", _lda(), {"classify__shrinkage": ["auto", 0.1, 0.3]}),
        _family(
            "LogisticRegression",
            LogisticRegression(max_iter=500),
            {"classify__C": [0.003, 0.01, 0.03]},
        ),
    ]


def _family(name: str, classifier: Any, *grids: Mapping[str, Sequence[Any]]) -> Family:
    pipeline = Pipeline(
        [("scale", StandardScaler()), ("project", "passthrough"), ("classify", classifier)]
    )
    prefixed = [{f"row_classifier__{key}": grid[key] for key in grid} for grid in grids]
    return Family(name, SongClassifier(pipeline), list(ParameterGrid(prefixed)))


def _lda(solver: str = "lsqr") -> LinearDiscriminantAnalysis:
    return LinearDiscriminantAnalysis(solver=solver, shrinkage="auto")


def describe(parameters: Parameters) -> str:
    """A grid point in words: "C=10, gamma=0.0007, project=PCA"."""
    words = []
    for key, value in sorted(parameters.items()):
        if isinstance(value, BaseEstimator):
            value = type(value).__name__
        elif isinstance(value, float):
            value = f"{value:.3g}"
        words.append(f"{key.split('__')[-1]}={value}")
    return ", ".join(words)


# --- cross-validation ------------------------------------------------------------------------


class Folds(NamedTuple):
    pairs: list[tuple[NDArray[np.intp], NDArray[np.intp]]]  # songs to train on, to score
    description: str


def make_folds(tracks: Sequence[Track], n_folds: int, repeats: int, seed: int) -> Folds:
    """Folds of songs, by album where every artist has at least two albums, else by song.

    Raises UserError where there are not two artists with two tracks.
    """
    artists = np.array([track.artist for track in tracks])
    albums = np.array([track.album_key for track in tracks])
    _, counts = np.unique(artists, return_counts=True)
    if np.sum(counts >= 2) < 2:
        raise UserError("cross-validation needs at least two artists with two tracks in train")
    fewest_albums = min(len(set(albums[artists == artist])) for artist in set(artists))
    by_album = fewest_albums >= 2
    kind: Any = StratifiedGroupKFold if by_album else StratifiedKFold
    n_folds = min(n_folds, fewest_albums if by_album else int(counts.max()))
    pairs = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # it is always held out
        for repeat in range(repeats):
            split = kind(n_folds, shuffle=True, random_state=seed + repeat)
            pairs += split.split(artists, artists, groups=albums if by_album else None)
    how = "album, and no album is in two folds" if by_album else "song, for want of albums"
    return Folds(pairs, f"{n_folds} folds x {repeats} repeats, by {how}")


class Candidate(NamedTuple):
    """A grid point and its scores by cross-validation, over all songs of all folds."""

    parameters: Parameters
    top1: float
    top3: float

    @property
    def merit(self) -> float:
        """What the choice goes by: the mean of the task's two measures, which is less of a
        lottery on a small corpus than top-1 alone."""
        return (self.top1 + self.top3) / 2


def cross_validate(
    family: Family, songs: Songs, labels: NDArray[np.intp], folds: Folds, workers: Workers
) -> list[Candidate]:
    """Every point of the grid, scored on whole songs that it was not trained on.

    `labels` count from 0. As GridSearchCV, with a progress bar and songs pooled over folds.
    """
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
        top1, top3 = (scoring.top_k(own, true, k) for k in (1, 3))
        candidates.append(Candidate(parameters, top1, top3))
    return candidates


def _held_out_posteriors(
    classifier: SongClassifier,
    work: tuple[Parameters, tuple[NDArray[np.intp], NDArray[np.intp]]],
    songs: Songs,
    labels: NDArray[np.intp],
) -> NDArray[np.float64]:
    """(scored songs, artists); an artist that the fold did not train on has posterior 0, and so
    have all where the songs are too few or too alike for the method's linear algebra."""
    parameters, (trained, scored) = work
    held_out = np.zeros((len(scored), int(labels.max()) + 1))
    try:
        model = _at(classifier, parameters).fit(songs[trained], labels[trained])
    except np.linalg.LinAlgError:
        return held_out
    held_out[:, model.classes_] = model.predict_proba(songs[scored])
    return held_out


def _at(classifier: SongClassifier, parameters: Parameters) -> SongClassifier:
    """A fresh classifier at a grid point, sharing nothing with the grid."""
    return clone(clone(classifier).set_params(**parameters))


# --- the experiment --------------------------------------------------------------------------

Load = Callable[..., NDArray[np.float32]]  # a track's rows; features.SongLoader


class Trial(NamedTuple):
    """The best of a family by cross-validation, trained."""

    family: Family
    best: Candidate
    classifier: SongClassifier

    @property
    def name(self) -> str:
        return self.family.name

    def trained_on(self, songs: Songs, labels: NDArray[np.intp]) -> "Trial":
        """The same settings, trained anew."""
        classifier = _at(self.family.classifier, self.best.parameters).fit(songs, labels)
        return self._replace(classifier=classifier)


def families_for(songs: Songs, folds: Folds, seed: int) -> list[Family]:
    """`families` that can be trained on every fold."""
    n_rows = np.array([len(song) for song in songs])
    smallest = min(n_rows[trained].sum() for trained, _ in folds.pairs)
    return families(int(smallest), songs[0].shape[1], seed)


def grid_search(
    songs: Songs, labels: NDArray[np.intp], folds: Folds, seed: int, workers: Workers
) -> list[Trial]:
    """Try all families; log how each grid point does; train the best of each on all `songs`."""
    log.info("top-1 / top-3 by cross-validation on train, %s:", folds.description)
    trials = []
    for family in families_for(songs, folds, seed):
        candidates = cross_validate(family, songs, labels, folds, workers)
        for candidate in candidates:
            words = describe(candidate.parameters)
            if candidate.top3 == 0:
                words += "  (fits no fold: too few songs, or too much alike)"
            log.info("  %s: %.3f / %.3f  %s", family.name, candidate.top1, candidate.top3, words)
        best = max(candidates, key=lambda candidate: candidate.merit)
        trials.append(Trial(family, best, family.classifier).trained_on(songs, labels))
    return trials


def results_table(trials: Sequence[Trial], val: Mapping[str, Scores]) -> list[list[str]]:
    """A header and a row for each trial; `val` has their scores by name."""
    rows = [["model", "CV top-1", "CV top-3", "val top-1", "val top-3", "val macro-F1", "settings"]]
    for trial in trials:
        on_val = val[trial.name]
        scores = (trial.best.top1, trial.best.top3, on_val.top1, on_val.top3, on_val.macro_f1)
        words = describe(trial.best.parameters)
        rows.append([trial.name, *(f"{score:.3f}" for score in scores), words])
    return rows


def results_by_model(trials: Sequence[Trial], val: Mapping[str, Scores]) -> dict[str, Any]:
    """The same for the metrics file."""
    return {
        trial.name: {
            "settings": describe(trial.best.parameters),
            "cv": {"top1": trial.best.top1, "top3": trial.best.top3},
            "val": asdict(val[trial.name]),
        }
        for trial in trials
    }


def training_songs(
    tracks: Sequence[Track], artists: Sequence[str], load: Load, max_excerpts: int
) -> tuple[Songs, NDArray[np.intp]]:
    """Songs to train on, together of about `max_excerpts`, and their labels: memory and time of
    the training do not grow with the corpus."""
    most = max(1, max_excerpts // len(tracks))
    songs = as_songs([load(track, most) for track in tracks])
    n_rows = sum(len(song) for song in songs)
    log.info("to train on: %d songs, %d rows x %d columns", len(songs), n_rows, songs[0].shape[1])
    return songs, scoring.labels_of([track.artist for track in tracks], artists)


def posteriors(
    classifier: SongClassifier, tracks: Sequence[Track], load: Load
) -> NDArray[np.float64]:
    """(tracks, artists), from every excerpt of every track; a few songs are in memory at a time."""
    parts = [np.zeros((0, len(classifier.classes_)))]
    for start in range(0, len(tracks), BATCH_SONGS):
        songs = as_songs([load(track) for track in tracks[start : start + BATCH_SONGS]])
        parts.append(classifier.predict_proba(songs))
    return np.vstack(parts)


# --- a trained model on disk -----------------------------------------------------------------


FORMAT = 2  # of the file; raised when what it holds changes


@dataclass(frozen=True)
class ArtistModel:
    """A fitted classifier with all that is needed to use it."""

    classifier: SongClassifier  # its classes are indices into `artists`
    artists: list[str]
    features: dict[str, Any]  # the fields of the FeatureSettings it was trained with
    temperature: float  # that makes probabilities of its posteriors


def save_model(path: Path, model: ArtistModel) -> None:
    """Write to `path` what `load_model` reads."""
    with replacing(path) as temporary:
        skops.io.dump({"format": FORMAT, **vars(model)}, temporary)


# Besides what skops trusts by itself. None runs code when it is loaded; a tree's indices are
# used unchecked by scikit-learn, so they are checked here.
TRUSTED_TYPES = ["artistid.classical.SongClassifier", "sklearn.tree._tree.Tree"]


def load_model(path: Path) -> ArtistModel:
    """A model from `save_model`. Raises UserError for a file that is none, or not to be trusted."""
    try:
        content = skops.io.load(path, trusted=TRUSTED_TYPES)
        if content.pop("format", None) != FORMAT:
            raise ValueError("it is of another version of this program; train it again")
        model = ArtistModel(**content)
        _check_trees(model.classifier)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; train a model with task1.py") from error
    except Exception as error:  # whatever a file of other content makes of the loader
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a model of task1.py: {reason}") from error
    return model


def _check_trees(classifier: SongClassifier) -> None:
    """Raise ValueError where following a forest's nodes would leave its arrays or not end."""
    forest = classifier.row_classifier_[-1]
    if not isinstance(forest, RandomForestClassifier):
        return
    for tree in (estimator.tree_ for estimator in forest.estimators_):
        node = np.arange(tree.node_count)
        inner = tree.children_left >= 0
        for child in (tree.children_left, tree.children_right):
            # a child comes after its parent: no circles
            if (child >= tree.node_count).any() or (child <= node)[inner].any():
                raise ValueError("a tree's nodes are damaged")
        if ((tree.feature < 0) | (tree.feature >= tree.n_features))[inner].any():
            raise ValueError("a tree's features are damaged")
