"""Folds, cross-validation and the choice of a classifier."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import top_k_accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from artistid.audio.features import FeatureSettings
from artistid.dataset.corpus import Track
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers
from artistid.models import grid_search
from artistid.models.card import ModelCard
from artistid.models.classical import (
    Family,
    SongClassifier,
    Songs,
    as_songs,
    embedding_families,
    families,
    load_model,
)
from artistid.models.grid_search import (
    Families,
    Folds,
    GridSearch,
    SearchSettings,
    cross_validate,
    make_folds,
)
from artistid.models.known_songs import KnownSongs

N_COLUMNS = 8
HERE = Workers(jobs=1)


def track(artist: str, album: str, title: str = "x") -> Track:
    return Track(Path(f"{title}.mp3"), title, "train", artist, album)


# --- folds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [1, 3])
def test_folds_are_of_whole_albums_if_every_artist_has_two(repeats: int) -> None:
    tracks = [
        track(artist, f"album {album}")  # the titles recur: an album is its artist's
        for artist in "abcd"
        for album in range(4)
        for _ in range(3)
    ]
    folds = make_folds(tracks, n_folds=5, repeats=repeats, seed=0)
    assert folds.description == f"4 folds of whole albums, {repeats} repeat(s)"
    assert len(folds.pairs) == 4 * repeats
    albums = np.array([f"{t.artist}{t.album}" for t in tracks])
    for trained, scored in folds.pairs:
        assert not set(albums[trained]) & set(albums[scored])
        assert {tracks[i].artist for i in trained} == set("abcd")
    for repeat in range(repeats):
        scored = np.concatenate([s for _, s in folds.pairs[4 * repeat : 4 * repeat + 4]])
        assert_array_equal(np.sort(scored), np.arange(len(tracks)))


def test_folds_are_of_songs_if_an_artist_has_one_album() -> None:
    tracks = [track(artist, "album") for artist in "ab" for _ in range(6)] + [track("c", "single")]
    folds, same, other = (make_folds(tracks, 5, 1, seed) for seed in (0, 0, 1))
    assert folds.description.startswith("5 folds of songs")
    assert len(folds.pairs) == 5
    scored, again, others = ([tuple(s) for _, s in f.pairs] for f in (folds, same, other))
    assert sorted(sum(scored, ())) == list(range(13))
    assert scored == again
    assert scored != others


def test_folds_of_the_largest_seed_are_drawn() -> None:
    tracks = [track(artist, str(n)) for artist in "ab" for n in range(4)]
    assert len(make_folds(tracks, 2, 2, 2**32 - 1).pairs) == 4


def test_too_few_songs_for_folds_are_refused() -> None:
    with pytest.raises(UserError, match="train: cross-validation needs two artists"):
        make_folds([track("a", "x"), track("a", "y"), track("b", "z")], 5, 1, 0)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"folds": 1}, "--folds 1: must be at least 2"),
        ({"repeats": 0}, "--repeats 0: must be at least 1"),
        ({"max_excerpts": 0}, "--max-excerpts 0: must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SearchSettings(**option)


# --- cross-validation --------------------------------------------------------------------------


@pytest.fixture
def songs(rng: Generator) -> tuple[Songs, np.ndarray]:
    """40 songs of 3 to 8 rows by 4 artists, hard to tell apart."""
    labels = np.repeat(np.arange(4), 10)
    centres = rng.normal(0, 0.3, (4, N_COLUMNS))
    rows = [centres[y] + rng.normal(0, 1, (rng.integers(3, 9), N_COLUMNS)) for y in labels]
    return as_songs([song.astype("f4") for song in rows]), labels


def test_cross_validation_scores_equal_those_of_scikit_learn(
    songs: tuple[Songs, np.ndarray],
) -> None:
    X, y = songs
    tracks = [track(f"artist {label}", f"album {i}") for i, label in enumerate(y)]
    folds = make_folds(tracks, n_folds=5, repeats=1, seed=0)
    knn = families(200, N_COLUMNS, seed=0)[0]
    candidates = cross_validate(knn, X, y, folds, HERE)
    assert len(candidates) == len(knn.grid) == 9
    for candidate in candidates[::4]:
        model = clone(knn.classifier).set_params(**candidate.parameters)
        posteriors = cross_val_predict(model, X, y, cv=folds.pairs, method="predict_proba")
        for k, found in ((1, candidate.cv.top1), (3, candidate.cv.top3)):
            assert 0 < found < 1
            assert found == pytest.approx(top_k_accuracy_score(y, posteriors, k=k))


def test_an_artist_missing_from_the_training_songs_is_never_found() -> None:
    """Artists 0 and 1, who has one song, sound the same; artist 2 does not."""
    y = np.array([0] * 4 + [2] * 4 + [1])
    X = as_songs([np.full((1, 2), 10.0 * (label == 2)) for label in y])
    without_1 = (np.arange(8), np.array([8]))
    without_0 = (np.arange(4, 9), np.arange(4))
    folds = Folds([without_1, without_0, (np.arange(9), np.arange(4, 8))], "")
    nearest = Family("KNN", SongClassifier(KNeighborsClassifier(1)), [{}])
    (candidate,) = cross_validate(nearest, X, y, folds, HERE)
    assert candidate.cv.top1 == 4 / 9


# --- the learner -------------------------------------------------------------------------------


@pytest.fixture
def tracks() -> list[Track]:
    return [
        track(artist, f"album {i % 2}", f"{artist}{i}")
        for artist in ("a", "b", "c")
        for i in range(4)
    ]


def rows_of(song: Track, n_rows: int | None = None) -> np.ndarray:
    """The first column tells the artist, the others are noise."""
    draw = np.random.default_rng([ord(c) for c in song.id])
    rows = draw.normal(0, 1, (6, N_COLUMNS)).astype("f4")
    rows[:, 0] += 20 * ("abc".index(song.artist or ""))
    return rows[:n_rows]


def made_search(own_families: Families = families, max_excerpts: int = 10_000) -> GridSearch:
    settings = SearchSettings(max_excerpts=max_excerpts, folds=2, repeats=1)
    return GridSearch(card_of("abc"), own_families, rows_of, settings, 0, HERE)


def card_of(artists: str) -> ModelCard:
    return ModelCard("task1", tuple(artists), asdict(FeatureSettings()))


def test_training_rows_are_limited_and_spread_over_all_songs(tracks: list[Track]) -> None:
    for max_excerpts, per_song in ((10_000, 6), (40, 3), (12, 1), (1, 1)):
        X, y = made_search(max_excerpts=max_excerpts).training_songs(tracks)
        assert [len(song) for song in X] == [per_song] * 12
        assert_array_equal(y, np.repeat([0, 1, 2], 4))


def test_the_best_point_of_each_family_is_trained_on_all_of_train(
    tracks: list[Track], tmp_path: Path
) -> None:
    """24 neighbours are too many: an artist has 12 rows in each fold."""
    knn = families(200, N_COLUMNS, seed=0)[0]
    prefix = "row_classifier__classify__"
    grid = [{f"{prefix}n_neighbors": k, f"{prefix}weights": "uniform"} for k in (24, 6, 5)]
    two = [knn._replace(grid=grid), Family("LDA", SongClassifier(), [{}])]
    search = made_search(lambda *_: two)
    trials = search.fit(tracks, [])
    assert [trial.name for trial in trials] == ["KNN", "LDA"]
    (best, _) = trials
    assert best.point.parameters == grid[1]  # the first among equals
    assert best.summary["settings"] == "n_neighbors=6, weights=uniform"
    assert best.details["cv"] == best.point.cv._asdict()
    X, y = search.training_songs(tracks)
    alone = clone(knn.classifier).set_params(**grid[1])
    assert_allclose(best.answers(tracks).runs[0], alone.fit(X, y).predict_proba(X))

    (refitted,) = search.refit([best], tracks[1:])
    (posteriors,), vectors = refitted.answers(tracks)
    assert_allclose(posteriors, clone(alone).fit(X[1:], y[1:]).predict_proba(X))
    assert_allclose(best.answers(tracks).runs[0], alone.predict_proba(X))  # not changed by it
    refitted.save(tmp_path / "model_task1", search.card)
    loaded, card, known = load_model(tmp_path / "model_task1.skops")
    assert card.artists == ("a", "b", "c")
    assert_allclose(loaded.predict_proba(X), posteriors)
    assert_allclose(known.similarity(vectors), known.similarity(loaded.outputs(X)[1]))
    trained_on = KnownSongs.of(loaded.outputs(X[1:])[1], tracks[1:])
    np.testing.assert_array_equal(known.vectors, trained_on.vectors)
    assert known.songs == trained_on.songs


def test_songs_are_predicted_in_batches(
    tracks: list[Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = made_search(lambda *_: [Family("LDA", SongClassifier(), [{}])])
    (trial,) = search.fit(tracks, [])
    at_once = trial.answers(tracks)
    assert (at_once.runs.shape, at_once.vectors.shape) == ((1, 12, 3), (12, 3))
    assert trial.answers([]).runs.shape == (1, 0, 3)
    monkeypatch.setattr(grid_search, "BATCH_SONGS", 5)
    in_batches = trial.answers(tracks)
    assert_allclose(in_batches.runs, at_once.runs)
    assert_allclose(in_batches.vectors, at_once.vectors)


def few_trees(*sizes: int) -> Sequence[Family]:
    found = families(*sizes)
    found[1].classifier.set_params(row_classifier__classify__n_estimators=5)
    return found


@pytest.mark.parametrize("n_songs", [2, 10])
@pytest.mark.parametrize(("own_families", "n_rows"), [(few_trees, 2), (embedding_families, 1)])
def test_every_grid_point_can_be_tried_on_a_small_corpus(
    rng: Generator,
    caplog: pytest.LogCaptureFixture,
    own_families: Families,
    n_rows: int,
    n_songs: int,
) -> None:
    """Two artists with a few songs of few rows and many columns."""
    rows = {
        f"{artist}{i}": rng.normal(size=(n_rows, 60)) for artist in "ab" for i in range(n_songs)
    }
    small = [track(song[0], "album", song) for song in rows]
    settings = SearchSettings(repeats=1)
    search = GridSearch(
        card_of("ab"), own_families, lambda song, *_: rows[song.id], settings, 0, HERE
    )
    with caplog.at_level(logging.INFO, "artistid"):
        trials = search.fit(small, [])
    assert [trial.name for trial in trials] == [own.name for own in own_families(2, 60, 0)]
    for trial in trials:
        assert_allclose(trial.answers(small).runs.sum(axis=2), 1)
    points = [line for line in caplog.messages if " / " in line and line.startswith("  ")]
    assert len(points) == sum(len(trial.family.grid) for trial in trials)
    unfit = [line for line in points if "cannot be fitted: too few songs" in line]
    lda_has_a_row_per_artist = n_rows == 1 and n_songs == 2
    assert any("  LDA: 0.000" in line for line in unfit) == lda_has_a_row_per_artist
