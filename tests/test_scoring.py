"""scikit-learn's metrics are the oracle."""

import numpy as np
import pytest
from numpy.random import Generator
from sklearn import metrics

from artistid import metrics as scoring

ARTISTS = ["abba", "blur", "cher", "dido", "enya"]


@pytest.mark.parametrize("n_songs", [1, 7, 200])
def test_scores_are_scikit_learns(rng: Generator, n_songs: int) -> None:
    posteriors = rng.dirichlet(np.ones(5), n_songs)
    labels = rng.integers(0, 4, n_songs)  # nobody sings as enya
    guesses = posteriors.argmax(axis=1)
    scores = scoring.score(posteriors, labels, ARTISTS)
    assert scores.n == n_songs
    assert scores.top1 == pytest.approx(metrics.accuracy_score(labels, guesses))
    top3 = metrics.top_k_accuracy_score(labels, posteriors, k=3, labels=range(5))
    assert scores.top3 == pytest.approx(top3)
    macro_f1 = metrics.f1_score(labels, guesses, average="macro", zero_division=0)
    assert scores.macro_f1 == pytest.approx(macro_f1)
    precision, recall, f1, n = metrics.precision_recall_fscore_support(
        labels, guesses, labels=range(5), zero_division=0
    )
    for i, artist in enumerate(ARTISTS):
        own = scores.per_artist[artist]
        assert (own.n, own.recall, own.precision, own.f1) == pytest.approx(
            (n[i], recall[i], precision[i], f1[i])
        )
    np.testing.assert_array_equal(
        scoring.confusion(posteriors, labels),
        metrics.confusion_matrix(labels, guesses, labels=range(5)),
    )


def test_a_perfect_and_a_hopeless_ranking() -> None:
    labels = np.arange(5)
    perfect = scoring.score(np.eye(5), labels, ARTISTS)
    assert (perfect.top1, perfect.top3, perfect.macro_f1) == (1, 1, 1)
    some = scoring.score(np.eye(5)[:2], labels[:2], ARTISTS)
    assert some.macro_f1 == 1  # the artists that are not there do not count, as in scikit-learn
    hopeless = scoring.score(np.roll(np.eye(5), 1, axis=1), labels, ARTISTS)
    assert (hopeless.top1, hopeless.macro_f1) == (0, 0)


def test_a_song_without_prediction_counts_as_wrong_and_as_nobodys() -> None:
    posteriors = np.array([[0.9, 0.1, 0], [0, 0, 0], [0.1, 0.2, 0.7]])
    scores = scoring.score(posteriors, [0, 0, 2], ["a", "b", "c"])
    assert (scores.n, scores.top1, scores.top3) == pytest.approx((3, 2 / 3, 2 / 3))
    assert (scores.per_artist["a"].n, scores.per_artist["a"].recall) == (2, 0.5)
    assert scores.per_artist["a"].precision == 1
    assert scoring.confusion(posteriors, [0, 0, 2]).sum() == 2


def test_an_artist_nobody_trained_on_is_never_right() -> None:
    labels = scoring.labels_of(["b", "stranger", None], ["a", "b"])
    np.testing.assert_array_equal(labels, [1, scoring.UNKNOWN, scoring.UNKNOWN])
    scores = scoring.score([[0.2, 0.8]] * 3, labels, ["a", "b"])
    assert (scores.n, scores.top1, scores.top3) == pytest.approx((3, 1 / 3, 1 / 3))


def test_equal_posteriors_keep_the_order_of_the_artists() -> None:
    np.testing.assert_array_equal(scoring.ranking([[0.2, 0.4, 0.4]]), [[1, 2, 0]])


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no songs to score"):
        scoring.score(np.zeros((0, 3)), np.zeros(0, dtype=int), ["a", "b", "c"])
