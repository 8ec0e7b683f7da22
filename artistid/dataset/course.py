"""The course's layout: JSON lists of training and validation tracks, and a folder of test tracks.

`artist20/train.json` and `val.json` list "./train_val/<artist>/<album>/<title>.mp3".
`artist20/test/001.mp3` ... have no labels, except where `test_ans.json` lies beside `artist20/`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from artistid.dataset.corpus import (
    Corpus,
    Split,
    Track,
    label_problems,
    listing,
    raise_problems,
    read_strings,
)
from artistid.dataset.finding import audio_files


def read_course(root: Path) -> Corpus:
    """The corpus whose lists are in `root`. Raises CorpusError with every problem found."""
    if root.name in ("", ".."):  # ".": what lies beside it has no path otherwise
        root = root.resolve()
    problems: list[str] = []
    train = _read_list(root, "train", problems)
    val = _read_list(root, "val", problems)
    warnings: list[str] = []
    test = _read_test(root, problems, warnings)
    for entry in sorted({track.id for track in train} & {track.id for track in val}):
        problems.append(f"{root}: {entry} is in train.json and in val.json")
    if not problems:
        problems += label_problems(train, val)
    raise_problems(root, problems)
    warnings += _unknown_artists(test, train)
    shared = sorted({track.album_key for track in train} & {track.album_key for track in val})
    if shared:
        warnings.append(
            f"{len(shared)} album(s) in both train and val ({listing(shared, 5)}): val scores are "
            "optimistic, because a model can recognise the album instead of the artist"
        )
    name = (root.parent if root.name == "artist20" else root).resolve().name
    name = "artist20" if name == "hw1" else name
    return Corpus(name, (*train, *val, *test), tuple(warnings))


def _read_list(root: Path, split: Split, problems: list[str]) -> list[Track]:
    file = root / f"{split}.json"
    tracks = []
    for number, entry in enumerate(read_strings(file, problems), start=1):
        path = PurePosixPath(entry)
        problem = _entry_problem(root, entry)
        if problem:
            problems.append(f"{file}: entry {number}, {entry!r}: {problem}")
        else:
            _, artist, album, _ = path.parts
            tracks.append(Track(root / path, str(path), split, artist, album))
    for entry, count in Counter(track.id for track in tracks).items():
        if count > 1:
            problems.append(f"{file}: {entry} is listed {count} times")
    return tracks


def _entry_problem(root: Path, entry: str) -> str:
    """What is wrong with an entry of a list; empty if nothing is."""
    path = PurePosixPath(entry)
    if path.is_absolute() or ".." in path.parts or "\0" in entry:
        return "leads out of the corpus"
    if len(path.parts) != 4 or path.parts[0] != "train_val":
        return "is not ./train_val/<artist>/<album>/<title>"
    try:
        return "" if (root / path).is_file() else "no such file"
    except OSError as error:  # not a valid file name
        return (error.strerror or "no such file").lower()


def _read_test(root: Path, problems: list[str], warnings: list[str]) -> list[Track]:
    """The test tracks, with artists where there are answers; these are optional."""
    folder = root / "test"
    files = audio_files(folder, follow_links=True).files if folder.is_dir() else []
    numbers = {file: _number(file.stem) for file in files}
    for name, count in Counter(_named(n) or file.stem for file, n in numbers.items()).items():
        if count > 1:
            problems.append(f"{folder}: {count} files are called {name}; predictions need one each")
    answers_file = root.parent / "test_ans.json"
    answers = read_strings(answers_file, problems) if files and answers_file.exists() else []
    tracks = []
    for file, number in numbers.items():
        artist = None
        if 1 <= number <= len(answers):
            artist = answers[number - 1]
        elif answers:
            problems.append(
                f"{answers_file}: {len(answers)} answers, none for test file {file.stem}"
            )
        tracks.append(Track(file, file.stem, "test", artist))
    missing = sorted(set(range(1, len(answers) + 1)) - set(numbers.values()))
    if missing:
        names = listing([_named(number) for number in missing], 10)
        warnings.append(
            f"{answers_file.name} has answers to {len(missing)} songs that are not in "
            f"{folder.name}/ ({names}): count_score.py counts them as wrong"
        )
    return tracks


def _number(stem: str) -> int:
    """Of a test file; 0: it has none."""
    return int(stem) if stem.isascii() and stem.isdigit() else 0


def _named(number: int) -> str:
    """As in the predictions; empty for 0."""
    return f"{number:03d}" if number else ""


def _unknown_artists(test: Sequence[Track], train: Sequence[Track]) -> list[str]:
    known = {track.artist for track in train}
    of = [track for track in test if track.artist and track.artist not in known]
    if not of:
        return []
    names = listing(sorted({track.artist or "" for track in of}), 5)
    return [f"{len(of)} test song(s) are by artists not in train ({names}): none can be right"]
