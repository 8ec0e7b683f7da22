"""scikit-learn's metrics and SciPy's intervals are the references."""

import numpy as np
import pytest
from numpy.random import Generator
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binomtest, zscore
from sklearn import metrics as sklearn_metrics

from artistid import metrics
from artistid.metrics import (
    MIN_SD,
    UNKNOWN,
    Spread,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    tempered,
)

ARTISTS = ["abba", "blur", "cher", "dido", "enya"]


# --- rankings ----------------------------------------------------------------------------------


def test_equal_posteriors_keep_the_order_of_the_artists() -> None:
    assert_array_equal(metrics.ranking([[0.2, 0.4, 0.4]]), [[1, 2, 0]])
    assert metrics.top_artists(np.array([0.2, 0.4, 0.4]), "abc", 2) == [("b", 0.4), ("c", 0.4)]
    assert len(metrics.top_artists(np.array([0.5, 0.5]), "ab", 3)) == 2


# --- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_songs", [1, 7, 200])
def test_scores_equal_those_of_scikit_learn(rng: Generator, n_songs: int) -> None:
    posteriors = rng.dirichlet(np.ones(5), n_songs)
    labels = rng.integers(0, 4, n_songs)  # enya has no songs
    guesses = posteriors.argmax(axis=1)
    scores = metrics.score(posteriors, labels, ARTISTS)
    assert scores.n == n_songs
    assert scores.top1 == pytest.approx(sklearn_metrics.accuracy_score(labels, guesses))
    top3 = sklearn_metrics.top_k_accuracy_score(labels, posteriors, k=3, labels=range(5))
    assert scores.top3 == pytest.approx(top3)
    macro_f1 = sklearn_metrics.f1_score(labels, guesses, average="macro", zero_division=0)
    assert scores.macro_f1 == pytest.approx(macro_f1)
    expected = sklearn_metrics.precision_recall_fscore_support(
        labels, guesses, labels=range(5), zero_division=0
    )
    own = [scores.per_artist[artist] for artist in ARTISTS]
    assert_allclose([[s.precision, s.recall, s.f1, s.n] for s in own], np.transpose(expected))
    assert_array_equal(
        metrics.confusion(posteriors, labels),
        sklearn_metrics.confusion_matrix(labels, guesses, labels=range(5)),
    )


def test_perfect_and_hopeless_rankings() -> None:
    labels = np.arange(5)
    perfect = metrics.score(np.eye(5), labels, ARTISTS)
    assert (perfect.top1, perfect.top3, perfect.macro_f1) == (1, 1, 1)
    some = metrics.score(np.eye(5)[:2], labels[:2], ARTISTS)
    assert some.macro_f1 == 1  # artists without songs and predictions do not count
    hopeless = metrics.score(np.roll(np.eye(5), 1, axis=1), labels, ARTISTS)
    assert (hopeless.top1, hopeless.macro_f1) == (0, 0)


def test_a_song_without_a_prediction_counts_as_wrong() -> None:
    posteriors = np.array([[0.9, 0.1, 0], [0, 0, 0], [0.1, 0.2, 0.7]])
    scores = metrics.score(posteriors, [0, 0, 2], ["a", "b", "c"])
    assert (scores.n, scores.top1, scores.top3) == pytest.approx((3, 2 / 3, 2 / 3))
    assert (scores.per_artist["a"].n, scores.per_artist["a"].recall) == (2, 0.5)
    assert scores.per_artist["a"].precision == 1  # the missing one is not a prediction of "a"
    assert metrics.confusion(posteriors, [0, 0, 2]).sum() == 2


def test_a_song_of_an_unknown_artist_is_never_right() -> None:
    labels = metrics.labels_of(["b", "stranger", None], ["a", "b"])
    assert_array_equal(labels, [1, UNKNOWN, UNKNOWN])
    posteriors = [[0.2, 0.8]] * 3
    scores = metrics.score(posteriors, labels, ["a", "b"])
    assert (scores.n, scores.top1, scores.top3) == pytest.approx((3, 1 / 3, 1 / 3))
    assert_array_equal(metrics.confusion(posteriors, labels), [[0, 0], [0, 1]])


def test_no_songs_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no songs to score"):
        metrics.score(np.zeros((0, 3)), np.zeros(0, dtype=int), ["a", "b", "c"])


@pytest.mark.parametrize("n", [1, 24, 231])
def test_wilson_intervals_equal_those_of_scipy(n: int) -> None:
    for right in {0, 1, n // 3, n}:
        expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
        interval = metrics.wilson_interval(right / n, n)
        assert interval == pytest.approx((expected.low, expected.high), abs=1e-7)


def test_accuracies_are_shown_with_their_intervals() -> None:
    scores = metrics.score([[0.9, 0.1]] * 24, [0] * 19 + [1] * 5, ["a", "b"])
    assert scores.top1_text == "0.792 [0.595, 0.908]"
    assert scores.top3_text == "1.000 [0.862, 1.000]"


# --- calibration -------------------------------------------------------------------------------


def test_tempering_takes_a_power(rng: Generator) -> None:
    posteriors = rng.dirichlet([0.5] * 6, 50)
    for temperature in (0.3, 1.0, 4.0):
        expected = posteriors ** (1 / temperature)
        expected /= expected.sum(axis=1, keepdims=True)
        assert_allclose(tempered(posteriors, temperature), expected, rtol=1e-9, atol=1e-15)


def test_tempering_leaves_a_song_without_a_prediction_alone() -> None:
    assert tempered(np.zeros((1, 3)), 2.0).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(rng: Generator, truth: float) -> None:
    posteriors = rng.dirichlet([0.3] * 5, 20_000)
    cumulative = np.cumsum(tempered(posteriors, truth), axis=1)
    labels = (rng.random((20_000, 1)) > cumulative).sum(axis=1).clip(0, 4)
    temperature = fit_temperature(posteriors, labels)
    assert temperature == pytest.approx(truth, rel=0.05)
    after = expected_calibration_error(tempered(posteriors, temperature), labels)
    assert after < 0.02
    if truth != 1.0:
        assert expected_calibration_error(posteriors, labels) > 3 * after


@pytest.mark.parametrize("n", [3, 9, 99])
def test_songs_without_a_mistake_do_not_allow_certainty(n: int) -> None:
    posteriors = np.array(n * [[0.7, 0.3]])
    calibrated = tempered(posteriors, fit_temperature(posteriors, np.zeros(n, dtype=int)))
    assert_allclose(calibrated[:, 0], n / (n + 1), atol=1e-3)


@pytest.mark.parametrize(("n", "n_below"), [(1, 0), (19, 0), (24, 1), (64, 3), (231, 11)])
def test_all_but_a_twentieth_of_val_are_known(rng: Generator, n: int, n_below: int) -> None:
    posteriors, similarity = rng.dirichlet(np.ones(5), n), rng.normal(0.8, 0.1, n)
    found = calibrate(posteriors, similarity, rng.integers(0, 5, n))
    scores = found.familiarity(similarity)
    assert int((scores < found.unknown_below).sum()) == n_below
    assert found.known_share == pytest.approx(1 - n_below / n)
    assert found.known_share >= 0.95
    without = np.vstack([posteriors, np.zeros((1, 5))])  # no prediction, no score
    labels = np.append(rng.integers(0, 5, n), 0)
    assert calibrate(without, np.append(similarity, 0), labels).known_share == found.known_share


def test_familiarity_is_standardised_on_val(rng: Generator) -> None:
    posteriors, similarity = rng.dirichlet(np.ones(5), 50), rng.normal(0.8, 0.1, 50)
    labels = rng.integers(0, 5, 50)
    found = calibrate(posteriors, similarity, labels)
    assert_allclose(found.familiarity(similarity), zscore(similarity))
    alike = calibrate(posteriors, np.full(50, 0.8), labels)
    assert alike.similarity == Spread(pytest.approx(0.8), MIN_SD)


def test_calibration_error_of_an_example_worked_out_by_hand() -> None:
    rows = [[0.95, 0.05], [0.97, 0.03], [0.4, 0.6], [0.38, 0.62], [0.3, 0.7], [0, 0]]
    posteriors, labels = np.array(rows), np.array([0, 1, 1, 1, UNKNOWN, 0])
    # two songs at 0.96, one of them right; two at 0.61, both right; the last two do not count
    expected = 2 / 4 * abs(0.5 - 0.96) + 2 / 4 * abs(1.0 - 0.61)
    assert expected_calibration_error(posteriors, labels) == pytest.approx(expected)


def test_without_known_artists_nothing_is_calibrated() -> None:
    posteriors, labels = np.array([[0.7, 0.3]]), np.array([UNKNOWN])
    assert fit_temperature(posteriors, labels) == 1.0
    assert expected_calibration_error(posteriors, labels) == 0.0


# --- everything about one split ----------------------------------------------------------------


def test_an_evaluation_calibrates_the_probabilities_but_not_the_scores(rng: Generator) -> None:
    posteriors = rng.dirichlet(np.ones(5), 30)
    posteriors[7] = 0
    names = [ARTISTS[i] for i in rng.integers(0, 5, 30)]
    evaluation = metrics.evaluate(posteriors[np.newaxis], names, ARTISTS, temperature=0.5)
    squares = posteriors**2 / np.maximum((posteriors**2).sum(axis=1, keepdims=True), 1e-300)
    for row, top in zip(squares, evaluation.top, strict=True):
        best = np.argsort(row)[::-1][: 3 if row.any() else 0]
        assert [name for name, _ in top] == [ARTISTS[i] for i in best]
        assert_allclose([probability for _, probability in top], row[best], rtol=1e-9)
    labels = metrics.labels_of(names, ARTISTS)
    assert evaluation.scores == metrics.score(posteriors, labels, ARTISTS)
    assert_array_equal(evaluation.confusion, metrics.confusion(posteriors, labels))
    assert evaluation.calibration_error == pytest.approx(
        [expected_calibration_error(p, labels) for p in (posteriors, squares)]
    )


def test_trainings_that_differ_in_seed_answer_by_their_mean() -> None:
    runs = np.array(
        [
            [[0.6, 0.4, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]],  # both right: "a" and "d"
            [[0.1, 0.4, 0.3, 0.2], [0.4, 0.3, 0.2, 0.1]],  # both wrong, "a" and "d" fourth
        ]
    )
    evaluation = metrics.evaluate(runs, ["a", "d"], ["a", "b", "c", "d"])
    # the means are 0.35, 0.4, 0.15, 0.1 and four times 0.25
    assert [[name for name, _ in top] for top in evaluation.top] == [list("bac"), list("abc")]
    assert evaluation.scores is not None
    assert (evaluation.scores.top1, evaluation.scores.top3) == (0.0, 0.5)
    half = pytest.approx(2**-0.5)  # the standard deviation of 0 and 1
    assert evaluation.scores.seeds == metrics.SeedScores([1, 0], [1, 0], 0.5, half, 0.5, half)
    text = "each of 2 seeds: top-1 0.500 ± 0.707, top-3 0.500 ± 0.707"
    assert str(evaluation.scores.seeds) == text


@pytest.mark.parametrize("names", [["a", None], [None, None]])
def test_songs_without_answers_are_not_scored(names: list[str | None]) -> None:
    evaluation = metrics.evaluate(np.array([[[0.2, 0.8], [0.6, 0.4]]]), names, ["a", "b"])
    assert [top[0][0] for top in evaluation.top] == ["b", "a"]
    assert evaluation.scores is None
    assert evaluation.confusion is None
    assert evaluation.calibration_error is None
