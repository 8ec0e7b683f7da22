"""scikit-learn's cosines are the reference."""

from pathlib import Path

import numpy as np
import pytest
from numpy.random import Generator
from numpy.testing import assert_allclose
from sklearn.metrics.pairwise import cosine_similarity

from artistid.dataset.corpus import Track
from artistid.models.known_songs import N_NEAREST, KnownSong, KnownSongs, log_odds


def knows(vectors: np.ndarray) -> KnownSongs:
    return KnownSongs.of(vectors, [Track(Path(), "song", "train", "abba")] * len(vectors))


def test_similarity_is_the_mean_cosine_with_the_nearest_songs(rng: Generator) -> None:
    known, others = rng.normal(size=(20, 6)), rng.normal(size=(7, 6))
    cosines = np.sort(cosine_similarity(others, known), axis=1)
    expected = cosines[:, -N_NEAREST:].mean(axis=1)
    assert_allclose(knows(known).similarity(others), expected, atol=1e-3)
    assert_allclose(knows(5 * known).similarity(0.1 * others), expected, atol=1e-3)
    two = knows(known[:2]).similarity(others)
    assert_allclose(two, cosine_similarity(others, known[:2]).mean(axis=1), atol=1e-3)


def test_a_song_without_any_hidden_unit_is_like_nothing(rng: Generator) -> None:
    known = knows(np.vstack([rng.normal(size=(4, 6)), np.zeros(6)]))
    assert known.similarity(np.zeros((1, 6))) == 0


def test_log_odds_favour_nobody_where_the_posteriors_do_not() -> None:
    rows = log_odds(np.array([[0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1], [1, 0, 0, 0]]))
    assert_allclose(rows.sum(axis=1), 0, atol=1e-9)
    assert_allclose(rows[0], 0, atol=1e-9)
    assert_allclose(rows[1, 0] - rows[1, 1], np.log(7), rtol=0.01)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("vectors", [np.ones(3), np.ones((0, 3)), np.full((2, 3), np.nan)])
def test_damaged_songs_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="known songs are damaged"):
        KnownSongs(vectors.astype(np.float16), (KnownSong("song", "abba"),) * len(vectors))


@pytest.mark.parametrize(
    "names", ["", "{}", "[1, 2]", '[["1", "abba"]]', '[["1", "abba"], ["2", 3]]']
)
def test_songs_without_names_are_refused(names: str) -> None:
    vectors = np.eye(2, dtype=np.float16)
    assert KnownSongs.restored(vectors, '[["1", "abba"], ["2", ""]]').songs[0].artist == "abba"
    with pytest.raises((TypeError, ValueError)):
        KnownSongs.restored(vectors, names)
