"""scikit-learn is the reference for the song classifier; skops files come back the same."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import skops.io
from numpy.random import Generator
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import check_estimator

from artistid.foundation.errors import UserError
from artistid.metrics import Calibration
from artistid.models.card import ModelCard
from artistid.models.classical import (
    Family,
    SongClassifier,
    Songs,
    as_songs,
    describe,
    families,
    load_model,
    save_model,
)
from artistid.models.known_songs import KnownSong, KnownSongs

N_ARTISTS, N_COLUMNS = 4, 12
FAMILIES = families(200, N_COLUMNS, seed=0)
CARD = ModelCard("task1", tuple("abcd"), {"n_fft": 2048}, {}, 0, Calibration(temperature=1.5))
KNOWN = KnownSongs(
    np.array([[0.6, 0.8], [0, 1]], np.float16), (KnownSong("1", "周"), KnownSong("ü\udcff", "ü"))
)
EARLIER_FORMAT = Path(__file__).parent / "data/earlier_format.skops"

LabelledSongs = tuple[Songs, np.ndarray]


@pytest.fixture
def songs(rng: Generator) -> LabelledSongs:
    """40 songs of 3 to 8 rows; the columns differ widely in scale, as features do."""
    labels = np.repeat(np.arange(N_ARTISTS), 10)
    centres = rng.normal(0, 0.6, (N_ARTISTS, N_COLUMNS))
    scales = 10.0 ** np.arange(-3, 3, 0.5)
    matrices = [
        (scales * (centres[y] + rng.normal(0, 1, (rng.integers(3, 9), N_COLUMNS)))).astype("f4")
        for y in labels
    ]
    return as_songs(matrices), labels


# --- classifying songs -------------------------------------------------------------------------


@pytest.mark.parametrize("row_classifier", [None, SVC()], ids=["default", "decision function"])
@pytest.mark.filterwarnings("ignore")  # the checks pass data that warns
def test_it_is_a_scikit_learn_estimator(row_classifier: object) -> None:
    check_estimator(SongClassifier(row_classifier), on_skip=None)


def test_a_song_gets_the_mean_posterior_of_its_rows(songs: LabelledSongs) -> None:
    X, y = songs
    rows = make_pipeline(StandardScaler(), KNeighborsClassifier(5))
    rows.fit(np.vstack(list(X)), np.repeat(y, [len(song) for song in X]))
    classifier = SongClassifier(clone(rows)).fit(X, y)
    expected = np.stack([rows.predict_proba(song).mean(axis=0) for song in X])
    assert_allclose(classifier.predict_proba(X), expected, rtol=1e-12)
    assert_array_equal(classifier.predict(X), expected.argmax(axis=1))


@pytest.mark.parametrize("n_artists", [4, 2])  # two classes have one signed distance
def test_a_decision_function_becomes_a_posterior(songs: LabelledSongs, n_artists: int) -> None:
    X, y = songs
    X, y = X[y < n_artists], y[y < n_artists]
    classifier = SongClassifier(make_pipeline(StandardScaler(), SVC())).fit(X, y)
    posteriors = classifier.predict_proba(X)
    assert posteriors.shape == (len(X), n_artists)
    assert_allclose(posteriors.sum(axis=1), 1)
    assert (posteriors.argmax(axis=1) == y).mean() > 0.9


@pytest.mark.parametrize("solver", ["lsqr", "eigen"])
def test_an_artist_with_one_row_is_no_reason_to_warn(songs: LabelledSongs, solver: str) -> None:
    X, y = songs
    alone = as_songs([X[0][:1], *X[y != y[0]]])
    lda = LinearDiscriminantAnalysis(solver=solver, shrinkage="auto")
    SongClassifier(lda).fit(alone, np.append(y[0], y[y != y[0]]))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_split_can_miss_the_scaling(songs: LabelledSongs, family: Family) -> None:
    """The units of the columns do not matter. Powers of two leave the rounding as it is."""
    X, y = songs
    units = 2.0 ** np.arange(-6, 6)
    converted = as_songs([(song * units).astype("f4") for song in X])
    own, other = (small(family).fit(x[::2], y[::2]).predict_proba(x[1::2]) for x in (X, converted))
    assert_allclose(own, other, rtol=1e-9)


def test_scikit_learns_grid_search_scores_whole_songs(songs: LabelledSongs) -> None:
    X, y = songs
    grid = {"row_classifier__kneighborsclassifier__n_neighbors": [1, 9]}
    model = SongClassifier(make_pipeline(StandardScaler(), KNeighborsClassifier()))
    search = GridSearchCV(model, grid, cv=5).fit(X, y)
    n_right = search.cv_results_["split0_test_score"] * 8  # songs in a fold, of about 45 rows
    assert_allclose(n_right, np.rint(n_right))
    assert n_right.max() > 0


def test_a_grid_point_is_described_by_its_settings() -> None:
    described = [describe(point) for point in FAMILIES[2].grid]
    assert described[0] == "C=10, gamma=0.00833, project=none"
    assert described[-1] == "C=10, project=LinearDiscriminantAnalysis"


# --- on disk -----------------------------------------------------------------------------------


def small(family: Family) -> SongClassifier:
    """Its classifier, with fewer trees if it is a forest."""
    classifier = clone(family.classifier)
    if family.name == "RandomForest":
        classifier.set_params(row_classifier__classify__n_estimators=5)
    return classifier


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_saved_model_predicts_the_same(
    tmp_path: Path, songs: LabelledSongs, family: Family
) -> None:
    X, y = songs
    for parameters in family.grid[:: 1 if family.name == "KNN" else 3]:
        classifier = small(family).set_params(**parameters).fit(X, y)
        save_model(tmp_path / "model.skops", classifier, CARD, KNOWN)
        loaded, card, known = load_model(tmp_path / "model.skops")
        assert card == CARD
        assert_array_equal(known.vectors, KNOWN.vectors)
        assert known.songs == KNOWN.songs
        assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
        assert_array_equal(loaded.predict(X), classifier.predict(X))


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("payload has run",)


def test_untrusted_content_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, songs: LabelledSongs
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = tmp_path / "pickled.skops"
    pickled.write_bytes(pickle.dumps({"classifier": Payload()}))
    with pytest.raises(UserError, match=r"pickled\.skops: not a model of task1\.py: .* zip file"):
        load_model(pickled)
    classifier = SongClassifier().fit(*songs)
    classifier.row_classifier_.steps.insert(0, ("payload", FunctionTransformer(os.mkdir)))
    save_model(tmp_path / "untrusted.skops", classifier, CARD, KNOWN)
    with pytest.raises(UserError, match=r"untrusted\.skops: .*Untrusted types .*mkdir"):
        load_model(tmp_path / "untrusted.skops")
    assert not (tmp_path / "payload has run").exists()


def test_missing_and_damaged_files_are_named(tmp_path: Path, songs: LabelledSongs) -> None:
    path = tmp_path / "model.skops"
    with pytest.raises(UserError, match=r"model\.skops: no such file; train a model"):
        load_model(path)
    save_model(path, SongClassifier().fit(*songs), CARD, KNOWN)
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], content[len(content) // 2 :]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.skops: not a model of task1\.py") as error:
            load_model(path)
        assert "\n" not in str(error.value)


def test_a_model_of_an_earlier_format_must_be_trained_again(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"earlier_format\.skops: .*earlier version.*train it again"
    ):
        load_model(EARLIER_FORMAT)
    skops.io.dump({"any": "skops file"}, tmp_path / "no_card.skops")
    with pytest.raises(UserError, match=r"no_card\.skops: not a model"):
        load_model(tmp_path / "no_card.skops")


@pytest.mark.parametrize(
    ("array", "value", "reason"),
    [
        ("children_left", 1_000_000, "nodes are damaged"),
        ("children_right", 0, "nodes are damaged"),  # its own child: the search would never end
        ("feature", N_COLUMNS, "features are damaged"),
    ],
)
def test_a_tree_that_leads_out_of_its_arrays_is_refused(
    tmp_path: Path, songs: LabelledSongs, array: str, value: int, reason: str
) -> None:
    classifier = small(FAMILIES[1]).fit(*songs)
    getattr(classifier.row_classifier_[-1].estimators_[3].tree_, array)[0] = value
    save_model(tmp_path / "forest.skops", classifier, CARD, KNOWN)
    with pytest.raises(UserError, match=rf"forest\.skops: .*{reason}"):
        load_model(tmp_path / "forest.skops")
