"""Score predictions by the course's rules: python3 hw1/count_score.py ANSWERS PREDICTIONS

Prints top-1 and top-3 accuracy on two lines. ANSWERS is ["artist", ...]; PREDICTIONS is
{"001": ["first", "second", "third"], ...}. Key K is scored against answer number int(K), and hits
are divided by the number of answers, so a missing key counts as wrong. Missing and malformed
predictions are reported on standard error. Exit status 2 if nothing can be scored.
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
            raise ValueError(f"{arguments[0]}: no answers in it")
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
    """The JSON value in a file. Raises ValueError with the file and what is wrong with it."""
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
    except (ValueError, RecursionError) as error:  # thousands of digits, or of lists in lists
        raise ValueError(f"{path}: not {wanted}") from error
    if not isinstance(value, kind):
        raise ValueError(f"{path}: must be {wanted}")
    return value


def count(answers: list[str], predictions: dict[str, list[str]]) -> tuple[int, int, list[str]]:
    """Numbers of top-1 and top-3 hits, and what is wrong with the predictions."""
    top1 = top3 = 0
    problems = []
    keys: dict[int, str] = {}
    for key, ranked in predictions.items():
        try:
            # "000" and "-1" count from the end, as in the course's scorer
            index = int(key) - 1
            answer = answers[index]
        except (ValueError, IndexError):
            problems.append(f"key {key!r} is not a number from 1 to {len(answers)}: ignored")
            continue
        number = index % len(answers) + 1
        if number in keys:
            problems.append(f"keys {keys[number]!r} and {key!r} are both song {number}: both count")
        keys[number] = key
        if not isinstance(ranked, list) or len(ranked) < 3:
            problems.append(f"key {key!r} needs a list of three artists")
        if isinstance(ranked, list):
            top1 += answer in ranked[:1]
            top3 += answer in ranked[:3]
    missing = sorted(set(range(1, len(answers) + 1)) - keys.keys())
    if missing:
        numbers = ", ".join(f"{number:03d}" for number in missing)
        problems.append(f"no prediction for {len(missing)} of {len(answers)} songs: {numbers}")
    return top1, top3, problems


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
