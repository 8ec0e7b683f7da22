"""Our scorer against the course's rule, written here from its description."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Script
from numpy.random import Generator

NAMES = ["abba", "blur", "cher", "dido"]


def the_courses_rule(answers: list[str], predictions: dict[str, list[str]]) -> tuple[float, float]:
    """Answer int(key) - 1 for each key; hits divided by the number of answers."""
    ranks = [
        ranked.index(answers[int(key) - 1]) if answers[int(key) - 1] in ranked else 99
        for key, ranked in predictions.items()
    ]
    return sum(r < 1 for r in ranks) / len(answers), sum(r < 3 for r in ranks) / len(answers)


def score(run_script: Script, folder: Path, answers: Any, predictions: Any) -> Any:
    for name, value in (("answers", answers), ("predictions", predictions)):
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / f"{name}.json").write_text(text)
    return run_script("hw1/count_score.py", folder / "answers.json", folder / "predictions.json")


@pytest.mark.parametrize("n_missing", [0, 5])
def test_two_lines_with_the_courses_numbers(
    run_script: Script, tmp_path: Path, rng: Generator, n_missing: int
) -> None:
    answers = rng.choice(NAMES, 40).tolist()
    keys = [f"{i + 1:03d}" for i in range(40)][n_missing:]
    predictions = {key: rng.permutation(NAMES).tolist() for key in keys}
    done = score(run_script, tmp_path, answers, predictions)
    assert done.returncode == 0
    top1, top3 = the_courses_rule(answers, predictions)
    assert done.stdout == f"{top1}\n{top3}\n"
    assert ("no prediction for 5 of 40 songs: 001, 002" in done.stderr) == bool(n_missing)


def test_what_is_malformed_is_said_and_wrong(run_script: Script, tmp_path: Path) -> None:
    predictions = {"001": ["abba"], "2": "blur", "x": NAMES, "9": NAMES, "004": ["a", "b", "abba"]}
    done = score(run_script, tmp_path, ["abba", "blur", "cher", "abba"], predictions)
    assert done.returncode == 0
    assert done.stdout == "0.25\n0.5\n"
    for part in (
        "key '001' must have a list of three artists",
        "key '2' must have a list of three artists",
        "key 'x' is no number from 1 to 4",
        "key '9' is no number from 1 to 4",
        "no prediction for 1 of 4 songs: 003",
    ):
        assert part in done.stderr


def test_no_predictions_score_nothing(run_script: Script, tmp_path: Path) -> None:
    assert score(run_script, tmp_path, NAMES, {}).stdout == "0.0\n0.0\n"


@pytest.mark.parametrize(
    ("answers", "predictions", "reason"),
    [
        ("[", {}, "answers.json: not valid JSON, line 1 column 2"),
        ([], {}, "answers.json: has no answers"),
        (NAMES, [], "predictions.json: must be an object"),
    ],
)
def test_what_can_not_be_scored_is_one_line_and_status_2(
    run_script: Script, tmp_path: Path, answers: Any, predictions: Any, reason: str
) -> None:
    done = score(run_script, tmp_path, answers, predictions)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_file_and_arguments(run_script: Script, tmp_path: Path) -> None:
    done = run_script("hw1/count_score.py", tmp_path / "no.json", tmp_path / "no.json")
    assert (done.returncode, "no.json: No such file" in done.stderr) == (2, True)
    assert run_script("hw1/count_score.py").returncode == 2
