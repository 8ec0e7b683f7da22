"""Score predictions as the course does: python3 hw1/count_score.py ANSWERS PREDICTIONS

Prints two lines, top-1 and top-3 accuracy. ANSWERS is ["artist", ...]; PREDICTIONS is
{"001": ["first", "second", "third"], ...}: key K is scored against answer number int(K), and the
hits are divided by the number of answers, so that a missing key counts as wrong. What is missing
or malformed is said on standard error and counts as wrong. Exit status 2 if nothing can be scored.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python3 hw1/count_score.py ANSWERS PREDICTIONS", file=sys.stderr)
        return 2
    try:
        answers = read(arguments[0], list, "a list of artists")
        if not answers:
            raise ValueError(f"{arguments[0]}: has no answers")
        predictions = read(arguments[1], dict, "an object of file number to artists")
    except ValueError as error:
        print(f"count_score.py: {error}", file=sys.stderr)
        return 2
    top1, top3, problems = count(answers, predictions)
    for problem in problems:
        print(f"{arguments[1]}: {problem}", file=sys.stderr)
    print(top1 / len(answers))
    print(top3 / len(answers))
    return 0


def read(path: str, kind: type, wanted: str) -> Any:
    """The JSON value in a file. Raises ValueError naming the file and what is wrong."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            value = json.load(file)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise ValueError(f"{path}: not valid JSON, {where}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text") from error
    if not isinstance(value, kind):
        raise ValueError(f"{path}: must be {wanted}")
    return value


def count(answers: list[str], predictions: dict[str, list[str]]) -> tuple[int, int, list[str]]:
    """Songs whose artist is the first, is among the first three, and what is wrong, in words."""
    top1 = top3 = 0
    problems = []
    missing = set(range(len(answers)))
    for key, ranked in predictions.items():
        try:
            # key "000" or "-1" counts from the end, as in the course's program
            index = int(key) - 1
            answer = answers[index]
        except (ValueError, IndexError):
            problems.append(f"key {key!r} is no number from 1 to {len(answers)}: ignored")
            continue
        missing.discard(index % len(answers))
        if not isinstance(ranked, list) or len(ranked) < 3:
            problems.append(f"key {key!r} must have a list of three artists")
        if isinstance(ranked, list):
            top1 += answer in ranked[:1]
            top3 += answer in ranked[:3]
    if missing:
        numbers = ", ".join(f"{index + 1:03d}" for index in sorted(missing))
        problems.append(f"no prediction for {len(missing)} of {len(answers)} songs: {numbers}")
    return top1, top3, problems


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
