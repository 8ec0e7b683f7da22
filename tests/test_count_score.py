"""The scorer against the course's rule, written here from its description."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Script
from numpy.random import Generator

from hw1 import count_score

NAMES = ["abba", "blur", "cher", "dido"]


@pytest.fixture
def score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Score answers and predictions, given as values or as text of their files: exit status,
    standard output and standard error."""

    def run(answers: Any, predictions: Any) -> tuple[int, str, str]:
        paths = []
        for name, value in (("answers", answers), ("predictions", predictions)):
            paths.append(tmp_path / f"{name}.json")
            paths[-1].write_text(value if isinstance(value, str) else json.dumps(value))
        return count_score.main([str(path) for path in paths]), *capsys.readouterr()

    return run


def course_rule(answers: list[str], predictions: dict[str, list[str]]) -> tuple[float, float]:
    """Answer int(key) - 1 for each key; hits divided by the number of answers."""
    ranks = [
        ranked.index(answers[int(key) - 1]) if answers[int(key) - 1] in ranked else 99
        for key, ranked in predictions.items()
    ]
    return sum(r < 1 for r in ranks) / len(answers), sum(r < 3 for r in ranks) / len(answers)


@pytest.mark.parametrize("n_missing", [0, 5])
def test_two_lines_with_the_courses_numbers(score: Any, rng: Generator, n_missing: int) -> None:
    answers = rng.choice(NAMES, 40).tolist()
    keys = [f"{i + 1:03d}" for i in range(40)][n_missing:]
    predictions = {key: rng.permutation(NAMES).tolist() for key in keys}
    status, printed, errors = score(answers, predictions)
    top1, top3 = course_rule(answers, predictions)
    assert (status, printed) == (0, f"{top1}\n{top3}\n")
    assert ("no prediction for 5 of 40 songs: 001, 002" in errors) == bool(n_missing)


def test_malformed_predictions_are_reported_and_count_as_wrong(score: Any) -> None:
    predictions = {"001": ["abba"], "2": "blur", "x": NAMES, "9": NAMES, "004": ["a", "b", "abba"]}
    status, printed, errors = score(["abba", "blur", "cher", "abba"], predictions)
    assert (status, printed) == (0, "0.25\n0.5\n")
    for part in (
        "key '001' needs a list of three artists",
        "key '2' needs a list of three artists",
        "key 'x' is not a number from 1 to 4",
        "key '9' is not a number from 1 to 4",
        "no prediction for 1 of 4 songs: 003",
    ):
        assert part in errors


def test_a_song_with_two_predictions_is_reported_and_scored_as_in_the_course(score: Any) -> None:
    predictions = {"001": NAMES, "1": NAMES}
    status, printed, errors = score(NAMES, predictions)
    top1, top3 = course_rule(NAMES, predictions)
    assert (status, printed) == (0, f"{top1}\n{top3}\n")
    assert "keys '001' and '1' are both song 1" in errors


def test_no_predictions_score_nothing(score: Any) -> None:
    assert score(NAMES, {})[:2] == (0, "0.0\n0.0\n")


@pytest.mark.parametrize(
    ("answers", "predictions", "reason"),
    [
        ("[", {}, "answers.json: not valid JSON, line 1 column 2"),
        ([], {}, "answers.json: no answers in it"),
        (NAMES, [], "predictions.json: must be an object"),
        (NAMES, "[" * 100_000, "predictions.json: not an object"),
        ("1" * 5_000, {}, "answers.json: not a list"),
    ],
)
def test_unusable_files_give_one_line_and_status_2(
    score: Any, answers: Any, predictions: Any, reason: str
) -> None:
    status, printed, errors = score(answers, predictions)
    assert (status, printed) == (2, "")
    assert reason in errors
    assert len(errors.splitlines()) == 1


def test_the_script_and_its_arguments(run_script: Script, tmp_path: Path) -> None:
    done = run_script("hw1/count_score.py", tmp_path / "no.json", tmp_path / "no.json")
    assert (done.returncode, "no.json: No such file" in done.stderr) == (2, True)
    assert count_score.main([]) == 2
