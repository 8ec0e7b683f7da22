import numpy as np
import pytest
from numpy.random import Generator

from artistid.calibration import expected_calibration_error, fit_temperature, tempered


def test_tempering_is_a_power_in_the_same_order(rng: Generator) -> None:
    posteriors = rng.dirichlet([0.5] * 6, 50)
    for temperature in (0.3, 1.0, 4.0):
        expected = posteriors ** (1 / temperature)
        expected /= expected.sum(axis=1, keepdims=True)
        found = tempered(posteriors, temperature)
        np.testing.assert_allclose(found, expected, atol=1e-4)  # below 1e-12 is as 1e-12
        assert (found.argmax(axis=1) == posteriors.argmax(axis=1)).all()


def test_a_song_without_a_prediction_stays_so() -> None:
    assert tempered(np.zeros((1, 3)), 2.0).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_the_temperature_that_the_labels_were_drawn_with_is_found(
    rng: Generator, truth: float
) -> None:
    posteriors = rng.dirichlet([0.3] * 5, 20_000)
    labels = np.array([rng.choice(5, p=p) for p in tempered(posteriors, truth)])
    temperature = fit_temperature(posteriors, labels)
    assert temperature == pytest.approx(truth, rel=0.05)
    after = expected_calibration_error(tempered(posteriors, temperature), labels)
    assert after < 0.02
    if truth != 1.0:
        assert expected_calibration_error(posteriors, labels) > 3 * after


def test_the_calibration_error_of_an_example_worked_out_by_hand() -> None:
    posteriors = np.array([[0.95, 0.05], [0.97, 0.03], [0.4, 0.6], [0.38, 0.62], [0.3, 0.7]])
    labels = np.array([0, 1, 1, 1, -1])
    # two around 0.96, of which one is right; two around 0.61, both right; the last one is unknown
    expected = 2 / 4 * abs(0.5 - 0.96) + 2 / 4 * abs(1.0 - 0.61)
    assert expected_calibration_error(posteriors, labels) == pytest.approx(expected)


def test_without_known_artists_nothing_changes() -> None:
    posteriors = np.array([[0.7, 0.3]])
    assert fit_temperature(posteriors, np.array([-1])) == 1.0
    assert expected_calibration_error(posteriors, np.array([-1])) == 0.0
