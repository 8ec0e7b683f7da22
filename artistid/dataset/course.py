"""The course's layout: lists of what to train on and to validate with, and a folder of tests.

`artist20/train.json` and `val.json` are lists of "./train_val/<artist>/<album>/<title>.mp3";
`artist20/test/001.mp3` ... have no labels, unless `test_ans.json` is beside `artist20/`.
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
    read_strings,
    refuse,
)
from artistid.dataset.finding import audio_files


def read_course(root: Path) -> Corpus:
    """Raises CorpusError with every problem of the lists, the songs in them and the tests."""
    problems: list[str] = []
    train = _read_list(root, "train", problems)
    val = _read_list(root, "val", problems)
    test = _read_test(root, problems)
    problems += _duplicates(root, train, val)
    if not problems:
        problems += label_problems(train, val)
    refuse(root, problems)
    name = (root.parent if root.name == "artist20" else root).resolve().name
    name = "artist20" if name == "hw1" else name
    return Corpus(name, (*train, *val, *test), tuple(_shared_albums(train, val)))


def _read_list(root: Path, split: Split, problems: list[str]) -> list[Track]:
    file = root / f"{split}.json"
    entries = read_strings(file, problems)
    tracks = []
    for number, entry in enumerate(entries, start=1):
        track = _listed_track(root, entry, split)
        if isinstance(track, Track):
            tracks.append(track)
        else:
            problems.append(f"{file}: entry {number}, {entry!r}: {track}")
    return tracks


def _listed_track(root: Path, entry: str, split: Split) -> Track | str:
    """The track that an entry of a list names, or what is wrong with the entry."""
    path = PurePosixPath(entry)
    if path.is_absolute() or ".." in path.parts or "\0" in entry:
        return "leads out of the corpus"
    if len(path.parts) != 4 or path.parts[0] != "train_val":
        return "is not ./train_val/<artist>/<album>/<title>"
    try:
        is_there = (root / path).is_file()
    except OSError as error:  # a name that no file can have
        return (error.strerror or "no such file").lower()
    if not is_there:
        return "no such file"
    _, artist, album, _ = path.parts
    return Track(root / path, str(path), split, artist, album)


def _read_test(root: Path, problems: list[str]) -> list[Track]:
    folder = root / "test"
    files = audio_files(folder, follow_links=True).files if folder.is_dir() else []
    for stem, count in Counter(file.stem for file in files).items():
        if count > 1:
            problems.append(f"{folder}: {count} files are called {stem}; predictions need one each")
    answers = _read_answers(root.parent / "test_ans.json", files, problems)
    return [Track(file, file.stem, "test", answers.get(file.stem)) for file in files]


def _read_answers(file: Path, tests: Sequence[Path], problems: list[str]) -> dict[str, str]:
    """Artist by stem; empty where there are no answers (they are optional)."""
    if not file.exists() or not tests:
        return {}
    answers = read_strings(file, problems)
    if not answers:
        return {}
    named = {}
    for stem in (test.stem for test in tests):
        if not (stem.isascii() and stem.isdigit() and 1 <= int(stem) <= len(answers)):
            problems.append(f"{file}: has {len(answers)} answers, none for test file {stem}")
        else:
            named[stem] = answers[int(stem) - 1]
    return named


def _duplicates(root: Path, train: list[Track], val: list[Track]) -> list[str]:
    both = {track.id for track in train} & {track.id for track in val}
    problems = [f"{root}: {entry} is in train.json and in val.json" for entry in sorted(both)]
    for name, tracks in (("train.json", train), ("val.json", val)):
        counts = Counter(track.id for track in tracks)
        problems += [
            f"{root / name}: {entry} is listed {count} times"
            for entry, count in counts.items()
            if count > 1
        ]
    return problems


def _shared_albums(train: Sequence[Track], val: Sequence[Track]) -> list[str]:
    shared = sorted({track.album_key for track in train} & {track.album_key for track in val})
    if not shared:
        return []
    names = listing(shared, 5)
    return [
        f"{len(shared)} album(s) are in train and in val ({names}): scores on val are "
        "then too high, since a model may know the album's sound and not the artist"
    ]
