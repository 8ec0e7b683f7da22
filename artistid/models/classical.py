"""Classical classifiers of songs: rows are classified, and a song averages their posteriors.

A song is a (rows, columns) matrix: one row for each excerpt and one for the song as a whole.
Scaling, projection and classifier are one object, so that no split can miss a step.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from zipfile import ZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid
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

from artistid.foundation.errors import UserError, first_line
from artistid.foundation.files import replacing
from artistid.models.card import ModelCard, parse_card
from artistid.models.known_songs import KnownSongs, log_odds

Songs = NDArray[np.object_]  # (songs,), each a (rows, columns) float matrix
Parameters = Mapping[str, Any]


def as_songs(matrices: Sequence[NDArray[np.float32]]) -> Songs:
    """An array that scikit-learn can index by song, however many rows each has."""
    songs = np.empty(len(matrices), dtype=object)
    songs[:] = list(matrices)
    return songs


class SongClassifier(ClassifierMixin, BaseEstimator):
    """Classifies songs by the mean posterior of their rows.

    X is `Songs`, or an ordinary (songs, columns) matrix with one row per song.

    Parameters
    ----------
    row_classifier : classifier or pipeline that is fitted on the rows of all songs. Posteriors are
        its `predict_proba`, or the softmax of its `decision_function`. Default: shrinkage LDA.
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
        with warnings.catch_warnings():  # Ledoit-Wolf, of an artist with one row: zero, as it is
            warnings.filterwarnings("ignore", "Only one sample available")
            self.row_classifier_.fit(rows, np.repeat(labels, counts))
        self.classes_ = self.row_classifier_.classes_
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """(songs, classes)"""
        return self.outputs(X)[0]

    def outputs(self, X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The posteriors of songs and their vectors, both (songs, classes)."""
        check_is_fitted(self)
        rows, counts = self._rows(X, fitting=False)
        starts = np.cumsum(counts) - counts
        of_rows = self._row_posteriors(rows)
        posteriors, vectors = (
            np.add.reduceat(own, starts, axis=0) / counts[:, np.newaxis]
            for own in (of_rows, log_odds(of_rows))
        )
        return posteriors, vectors

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
        """All rows stacked, and how many each song has."""
        are_songs = isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype == object and len(X) > 0
        if not are_songs:
            rows = validate_data(self, X, reset=fitting)
            return rows, np.ones(len(rows), dtype=np.intp)
        counts = np.array([len(song) for song in X])
        if counts.min() == 0:
            raise ValueError(f"song {int(np.argmin(counts))} has no rows")
        return validate_data(self, np.vstack(list(X)), reset=fitting), counts


# --- the candidates ----------------------------------------------------------------------------


class Family(NamedTuple):
    """A kind of classifier and the grid of its settings."""

    name: str
    classifier: SongClassifier
    grid: list[Parameters]


def families(n_rows: int, n_columns: int, seed: int) -> list[Family]:
    """The three of the homework, then those that cross-validation found as good or better.

    `n_rows` is the size of the smallest training set."""
    neighbours = [k for k in (5, 15, 30) if k <= n_rows] or [1]
    # rows of a song are much alike, so a tree sees half of them: as good by cross-validation in
    # half the time; small sets are not halved
    share = 0.5 if n_rows >= 100 else None
    kernel_widths = [0.1 / n_columns, 0.3 / n_columns]  # "scale" is 1 / columns if standardised
    own = {"project": ["passthrough", PCA(0.95)]}
    within = {"project": [_lda(solver="eigen")]}  # takes out what differs between an artist's songs
    each = {"project": [*own["project"], *within["project"]]}
    return [
        _family(
            "KNN",
            KNeighborsClassifier(weights="distance", algorithm="brute"),
            each | {"classify__n_neighbors": neighbours},
        ),
        _family(
            "RandomForest",
            RandomForestClassifier(
                n_estimators=200, max_samples=share, n_jobs=1, random_state=seed
            ),
            each,
        ),
        _family(
            "SVM",
            SVC(),
            own | {"classify__C": [10], "classify__gamma": kernel_widths},
            within | {"classify__C": [1, 10]},
        ),
        _family(
            "LDA",
            _lda(),
            {"classify__shrinkage": ["auto", 0.1, 0.3]},
            {"project": [PCA(0.95)]},
        ),
        _family(
            "LogisticRegression",
            _logistic_regression(),
            each | {"classify__C": [0.01, 0.03, 0.1]},
        ),
    ]


def embedding_families(_n_rows: int, _n_columns: int, _seed: int) -> list[Family]:
    """What the field puts on the embedding of a voice."""
    return [
        _family("LogisticRegression", _logistic_regression(), {"classify__C": [0.1, 1]}),
        _family("LDA", _lda(), {"classify__shrinkage": ["auto"]}),
    ]


def _family(name: str, classifier: Any, *grids: Mapping[str, Sequence[Any]]) -> Family:
    pipeline = Pipeline(
        [("scale", StandardScaler()), ("project", "passthrough"), ("classify", classifier)]
    )
    prefixed = [{f"row_classifier__{key}": grid[key] for key in grid} for grid in grids]
    return Family(name, SongClassifier(pipeline), list(ParameterGrid(prefixed)))


def _logistic_regression() -> LogisticRegression:
    return LogisticRegression(max_iter=10_000)


def _lda(solver: str = "lsqr") -> LinearDiscriminantAnalysis:
    return LinearDiscriminantAnalysis(solver=solver, shrinkage="auto")


def describe(parameters: Parameters) -> str:
    """A grid point as text: "C=10, gamma=0.0007, project=PCA"."""
    words = []
    for key, value in sorted(parameters.items()):
        if isinstance(value, BaseEstimator):
            value = type(value).__name__
        elif isinstance(value, float):
            value = f"{value:.3g}"
        elif value == "passthrough":
            value = "none"
        words.append(f"{key.split('__')[-1]}={value}")
    return ", ".join(words)


# --- on disk -----------------------------------------------------------------------------------

# in the .skops file, which is a zip archive
CARD = "card.json"
KNOWN_SONGS = "known_songs.npy"
KNOWN_NAMES = "known_songs.json"
# Besides the types that skops trusts by itself. Loading it runs no code, but scikit-learn follows a
# tree's indices unchecked, so they are checked here.
TRUSTED_TYPES = ["sklearn.tree._tree.Tree"]


def save_model(path: Path, classifier: SongClassifier, card: ModelCard, known: KnownSongs) -> None:
    """Write the fitted pipeline, the card and the songs that it knows to one .skops file."""
    import skops.io  # imports all of scikit-learn, and torch with it: only when a model is saved

    with replacing(path) as temporary:
        skops.io.dump(classifier.row_classifier_, temporary)
        with ZipFile(temporary, "a") as archive:
            archive.writestr(CARD, json.dumps(card.to_json(), ensure_ascii=True))
            with archive.open(KNOWN_SONGS, "w") as file:
                np.save(file, known.vectors, allow_pickle=False)
            archive.writestr(KNOWN_NAMES, known.names)


def load_model(path: Path) -> tuple[SongClassifier, ModelCard, KnownSongs]:
    """What `save_model` wrote.

    Raises UserError for a file that is missing, damaged, of another version, or not to be trusted.
    """
    import skops.io

    try:
        with ZipFile(path) as archive:
            if CARD not in archive.namelist():
                raise UserError(
                    f"{path}: not a model, or one of an earlier version of artistid; train it again"
                )
            card = parse_card(archive.read(CARD).decode(), path)
            with archive.open(KNOWN_SONGS) as file:
                vectors = np.load(file, allow_pickle=False)
            known = KnownSongs.restored(vectors, archive.read(KNOWN_NAMES).decode())
        pipeline = skops.io.load(path, trusted=TRUSTED_TYPES)
        _check_trees(pipeline)
        classifier = SongClassifier(pipeline)
        classifier.row_classifier_ = pipeline
        classifier.classes_ = pipeline.classes_
        classifier.n_features_in_ = pipeline.n_features_in_
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; train a model with task1.py") from error
    except UserError:
        raise
    except Exception as error:  # skops raises many kinds for damaged files
        raise UserError(f"{path}: not a model of task1.py: {first_line(error)}") from error
    return classifier, card, known


def _check_trees(pipeline: Pipeline) -> None:
    """Raise ValueError if following a forest's nodes would leave its arrays or never end."""
    forest = pipeline[-1]
    if not isinstance(forest, RandomForestClassifier):
        return
    for tree in (estimator.tree_ for estimator in forest.estimators_):
        node = np.arange(tree.node_count)
        inner = tree.children_left >= 0
        for child in (tree.children_left, tree.children_right):
            # children come after their parents: no circles
            if (child >= tree.node_count).any() or (child <= node)[inner].any():
                raise ValueError("a tree's nodes are damaged")
        if ((tree.feature < 0) | (tree.feature >= tree.n_features))[inner].any():
            raise ValueError("a tree's features are damaged")
