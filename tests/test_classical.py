import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import skops.io
from numpy.random import Generator
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import check_estimator

from artistid.dataset.corpus import Track
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers
from artistid.inference import classical
from artistid.models.classical import ArtistModel, SongClassifier, as_songs

N_ARTISTS, N_COLUMNS = 4, 12


@pytest.fixture
def songs(rng: Generator) -> tuple[classical.Songs, np.ndarray]:
    """40 songs of 3 to 8 rows; columns of very different size, as features are."""
    labels = np.repeat(np.arange(N_ARTISTS), 10)
    centres = rng.normal(0, 0.6, (N_ARTISTS, N_COLUMNS))
    sizes = 10.0 ** np.arange(-3, 3, 0.5)
    matrices = [
        (sizes * (centres[y] + rng.normal(0, 1, (rng.integers(3, 9), N_COLUMNS)))).astype("f4")
        for y in labels
    ]
    return as_songs(matrices), labels


@pytest.mark.parametrize("row_classifier", [None, SVC()], ids=["default", "decision function"])
@pytest.mark.filterwarnings("ignore")  # the checks feed it what warns
def test_it_is_a_scikit_learn_estimator(row_classifier: object) -> None:
    check_estimator(SongClassifier(row_classifier), on_skip=None)


def test_a_song_has_the_mean_posterior_of_its_rows(
    songs: tuple[classical.Songs, np.ndarray],
) -> None:
    X, y = songs
    rows = make_pipeline(StandardScaler(), KNeighborsClassifier(5))
    rows.fit(
        np.vstack(list(X)),
        np.concatenate([[label] * len(s) for s, label in zip(X, y, strict=True)]),
    )
    ours = SongClassifier(make_pipeline(StandardScaler(), KNeighborsClassifier(5))).fit(X, y)
    expected = np.stack([rows.predict_proba(song).mean(axis=0) for song in X])
    np.testing.assert_allclose(ours.predict_proba(X), expected, rtol=1e-12)
    np.testing.assert_array_equal(ours.predict(X), expected.argmax(axis=1))


def test_tracks_are_predicted_in_batches_and_none_is_lost(
    songs: tuple[classical.Songs, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = songs
    tracks = [track("a", str(i)) for i in range(len(X))]
    model = SongClassifier().fit(X, y)
    monkeypatch.setattr(classical, "BATCH_SONGS", 7)
    batched = classical.posteriors(model, tracks, lambda t: X[int(t.album or "")])
    np.testing.assert_allclose(batched, model.predict_proba(X))
    assert classical.posteriors(model, [], X.__getitem__).shape == (0, N_ARTISTS)


def test_a_decision_function_becomes_a_posterior(
    songs: tuple[classical.Songs, np.ndarray],
) -> None:
    X, y = songs
    for kept in (4, 2):  # two classes have one signed distance
        chosen = y < kept
        model = SongClassifier(make_pipeline(StandardScaler(), SVC())).fit(X[chosen], y[chosen])
        posteriors = model.predict_proba(X[chosen])
        assert posteriors.shape == (chosen.sum(), kept)
        np.testing.assert_allclose(posteriors.sum(axis=1), 1)
        assert (posteriors.argmax(axis=1) == y[chosen]).mean() > 0.9


@pytest.mark.parametrize("family", classical.families(200, N_COLUMNS, seed=0), ids=lambda f: f.name)
def test_no_split_can_miss_the_scaling(
    songs: tuple[classical.Songs, np.ndarray], family: classical.Family
) -> None:
    """Columns in other units, in training and after, leave the answers as they are."""
    X, y = songs
    units = 10.0 ** np.linspace(-2, 2, N_COLUMNS)
    other = as_songs([(song * units + units).astype("f4") for song in X])
    base = clone(family.classifier)
    if family.name == "KNN":
        base.set_params(row_classifier__project="passthrough")
    once = clone(base).fit(X[::2], y[::2]).predict_proba(X[1::2])
    again = clone(base).fit(other[::2], y[::2]).predict_proba(other[1::2])
    tolerance = 0.15 if family.name == "RandomForest" else 1e-2  # thresholds round elsewhere
    np.testing.assert_allclose(once, again, atol=tolerance)


def test_cross_validation_is_scikit_learns(songs: tuple[classical.Songs, np.ndarray]) -> None:
    X, y = songs
    tracks = [track(f"artist {label}", f"album {i}") for i, label in enumerate(y)]
    folds = classical.make_folds(tracks, n_folds=5, repeats=1, seed=0)
    (knn, *_) = classical.families(200, N_COLUMNS, seed=0)
    candidates = classical.cross_validate(knn, X, y, folds, workers=Workers(1))
    assert len(candidates) == len(knn.grid) == 9
    for candidate in candidates[::4]:
        model = clone(knn.classifier).set_params(**candidate.parameters)
        posteriors = cross_val_predict(model, X, y, cv=folds.pairs, method="predict_proba")
        order = np.argsort(-posteriors, axis=1, kind="stable")
        assert candidate.top1 == (order[:, 0] == y).mean()
        assert candidate.top3 == (order[:, :3] == y[:, np.newaxis]).any(axis=1).mean()


def test_grid_search_of_scikit_learn_scores_whole_songs(
    songs: tuple[classical.Songs, np.ndarray],
) -> None:
    X, y = songs
    grid = {"row_classifier__kneighborsclassifier__n_neighbors": [1, 9]}
    model = SongClassifier(make_pipeline(StandardScaler(), KNeighborsClassifier()))
    search = GridSearchCV(model, grid, cv=5).fit(X, y)
    fold_scores = search.cv_results_["split0_test_score"] * 8
    np.testing.assert_allclose(fold_scores, np.rint(fold_scores))  # 8 songs, not their 45 rows


def test_an_artist_missing_from_a_fold_gets_no_posterior(rng: Generator) -> None:
    X = as_songs([rng.normal(size=(3, 5)) for _ in range(9)])
    y = np.array([0, 0, 0, 0, 2, 2, 2, 2, 1])
    pairs = [(np.arange(8), np.array([8])), (np.arange(1, 9), np.array([0]))]
    folds = classical.Folds(pairs, "")
    family = classical.Family("LDA", SongClassifier(), [{}])
    (candidate,) = classical.cross_validate(family, X, y, folds, workers=Workers(1))
    assert candidate.top1 <= 0.5


# --- folds -----------------------------------------------------------------------------------


def track(artist: str, album: str) -> Track:
    return Track(Path("x.mp3"), "x", "train", artist, album)


@pytest.mark.parametrize("repeats", [1, 3])
def test_folds_are_by_album_where_every_artist_has_two(repeats: int) -> None:
    tracks = [
        track(artist, f"album {album}")  # titles recur: albums are their artist's
        for artist in "abcd"
        for album in range(4)
        for _ in range(3)
    ]
    folds = classical.make_folds(tracks, n_folds=5, repeats=repeats, seed=0)
    assert "4 folds" in folds.description
    assert "by album" in folds.description
    assert len(folds.pairs) == 4 * repeats
    keys = np.array([f"{t.artist}{t.album}" for t in tracks])
    for trained, scored in folds.pairs:
        assert not set(keys[trained]) & set(keys[scored])
        assert {tracks[i].artist for i in trained} == set("abcd")
    for repeat in range(repeats):
        scored = np.concatenate([s for _, s in folds.pairs[4 * repeat : 4 * repeat + 4]])
        np.testing.assert_array_equal(np.sort(scored), np.arange(len(tracks)))


def test_folds_are_by_song_where_an_artist_has_one_album() -> None:
    tracks = [track(artist, "album") for artist in "ab" for _ in range(6)] + [track("c", "single")]
    folds = classical.make_folds(tracks, n_folds=5, repeats=1, seed=0)
    assert "by song" in folds.description
    assert len(folds.pairs) == 5
    other = classical.make_folds(tracks, n_folds=5, repeats=1, seed=1)
    assert any(
        (a[1] != b[1]).any()
        for a, b in zip(folds.pairs, other.pairs, strict=True)
        if len(a[1]) == len(b[1])
    )


def test_too_few_songs_for_folds_are_refused() -> None:
    with pytest.raises(UserError, match="at least two artists with two tracks"):
        classical.make_folds([track("a", "x"), track("a", "y"), track("b", "z")], 5, 1, 0)


# --- models on disk --------------------------------------------------------------------------


@pytest.mark.parametrize("family", classical.families(200, N_COLUMNS, seed=0), ids=lambda f: f.name)
def test_every_model_comes_back_and_answers_the_same(
    tmp_path: Path, songs: tuple[classical.Songs, np.ndarray], family: classical.Family
) -> None:
    X, y = songs
    for parameters in family.grid[:: max(1, len(family.grid) - 1)]:
        classifier = clone(family.classifier).set_params(**parameters).fit(X, y)
        model = ArtistModel(classifier, list("abcd"), {"n_fft": 2048}, 1.5)
        classical.save_model(tmp_path / "model.skops", model)
        loaded = classical.load_model(tmp_path / "model.skops")
        assert (loaded.artists, loaded.features) == (model.artists, model.features)
        assert loaded.temperature == 1.5
        np.testing.assert_array_equal(
            loaded.classifier.predict_proba(X), classifier.predict_proba(X)
        )


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("payload has run",)


def test_a_hostile_model_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = tmp_path / "pickle.skops"
    pickled.write_bytes(pickle.dumps({"classifier": Payload()}))
    untrusted = tmp_path / "untrusted.skops"
    skops.io.dump({"classifier": FunctionTransformer(os.mkdir)}, untrusted)
    reasons = {pickled: "not a zip file", untrusted: "Untrusted types", tmp_path / "no": "no such"}
    for path, reason in reasons.items():
        with pytest.raises(UserError, match=f"{path.name}: .*{reason}"):
            classical.load_model(path)
    assert not (tmp_path / "payload has run").exists()


def test_a_forest_that_would_lead_out_of_its_memory_is_refused(
    tmp_path: Path, songs: tuple[classical.Songs, np.ndarray]
) -> None:
    X, y = songs
    forest = classical.families(200, N_COLUMNS, seed=0)[1]
    classifier = clone(forest.classifier).fit(X, y)
    tree = classifier.row_classifier_[-1].estimators_[3].tree_
    tree.children_left[0] = 1_000_000
    classical.save_model(tmp_path / "m.skops", ArtistModel(classifier, list("abcd"), {}, 1.0))
    with pytest.raises(UserError, match="nodes are damaged"):
        classical.load_model(tmp_path / "m.skops")


@pytest.mark.parametrize("n_songs", [2, 3, 10])
def test_small_corpora_can_be_tried(rng: Generator, n_songs: int) -> None:
    """Two artists with a few songs of one excerpt each: every grid point works."""
    X = as_songs([rng.normal(size=(2, 426)) for _ in range(2 * n_songs)])
    y = np.repeat([0, 1], n_songs)
    tracks = [track(f"artist {label}", "album") for label in y]
    folds = classical.make_folds(tracks, n_folds=5, repeats=1, seed=0)
    for trial in classical.grid_search(X, y, folds, seed=0, workers=Workers(1)):
        assert trial.classifier.predict_proba(X).shape == (2 * n_songs, 2)
