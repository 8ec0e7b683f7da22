"""Read, check and split a corpus: which tracks there are, by whom, on which album, for what use.

Two layouts are known:

- the course's: `artist20/train.json` and `val.json` (lists of
  "./train_val/<artist>/<album>/<title>.mp3"), `artist20/test/001.mp3` ... without labels, and,
  optionally, `test_ans.json` beside `artist20/`;
- a plain library: `<artist>/<album>/<track>`, split here, by album where there are enough.

All checks are done before any audio is decoded, and all problems are reported at once.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from artistid.errors import UserError

Split = Literal["train", "val", "test"]

AUDIO_SUFFIXES = frozenset(
    {".mp3", ".wav", ".flac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".m4a", ".aac"}
)  # the last two are no format of libsndfile: they are refused by name instead of overlooked
MAX_LINES = 20  # problems spelt out in a message; the others are counted


class CorpusError(UserError):
    """A corpus that can't be used; the message has every problem, one a line."""


@dataclass(frozen=True)
class Track:
    path: Path
    id: str  # test: the key in the predictions; else the path below the corpus' root
    split: Split
    artist: str | None = None  # None: not known
    album: str | None = None

    @property
    def album_key(self) -> str:
        """ "artist/album": albums of one title by two artists are two albums."""
        return f"{self.artist}/{self.album}"


@dataclass(frozen=True)
class Corpus:
    name: str
    tracks: tuple[Track, ...]
    warnings: tuple[str, ...] = ()  # what its user should know; nothing that stops a run

    def split(self, split: Split) -> list[Track]:
        return [track for track in self.tracks if track.split == split]

    @property
    def artists(self) -> list[str]:
        """Those there is training material for, sorted: the order of labels everywhere."""
        return sorted({track.artist for track in self.split("train") if track.artist})

    def with_warning(self, warning: str) -> "Corpus":
        return replace(self, warnings=(*self.warnings, warning))

    def without(self, left_out: Iterable[Track]) -> "Corpus":
        """The corpus less some tracks. Raises CorpusError where it is none any more."""
        gone = set(left_out)
        if not gone:
            return self
        rest = replace(self, tracks=tuple(t for t in self.tracks if t not in gone))
        _raise(self.name, _label_problems(rest.split("train"), rest.split("val")))
        return rest


def read_corpus(folder: Path, seed: int = 0) -> Corpus:
    """The corpus in `folder`; `seed` draws the albums of a plain library's split.

    `folder` holds `artist20/`, or is that folder itself, or is a plain library.
    Raises CorpusError with every problem found.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; name one with --data")
    for root in (folder / "artist20", folder):
        if any((root / name).exists() for name in ("train.json", "val.json", "train_val")):
            return _read_course(root)
    return _read_library(folder, random.Random(seed))


# --- the course's layout ---------------------------------------------------------------------


def _read_course(root: Path) -> Corpus:
    problems: list[str] = []
    train = _read_list(root, "train", problems)
    val = _read_list(root, "val", problems)
    test = _read_test(root, problems)
    problems += _duplicates(root, train, val)
    if not problems:
        problems += _label_problems(train, val)
    _raise(root, problems)
    name = (root.parent if root.name == "artist20" else root).resolve().name
    name = "artist20" if name == "hw1" else name
    return Corpus(name, (*train, *val, *test), tuple(_shared_albums(train, val)))


def _read_list(root: Path, split: Split, problems: list[str]) -> list[Track]:
    file = root / f"{split}.json"
    entries = _read_strings(file, problems)
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
    if not (root / path).is_file():
        return "no such file"
    _, artist, album, _ = path.parts
    return Track(root / path, str(path), split, artist, album)


def _read_test(root: Path, problems: list[str]) -> list[Track]:
    folder = root / "test"
    files = _audio_files(folder) if folder.is_dir() else []
    for stem, count in Counter(file.stem for file in files).items():
        if count > 1:
            problems.append(f"{folder}: {count} files are called {stem}; predictions need one each")
    answers = _read_answers(root.parent / "test_ans.json", files, problems)
    return [Track(file, file.stem, "test", answers.get(file.stem)) for file in files]


def _read_answers(file: Path, tests: Sequence[Path], problems: list[str]) -> dict[str, str]:
    """Artist by stem; empty where there are no answers (they are optional)."""
    if not file.exists() or not tests:
        return {}
    answers = _read_strings(file, problems)
    if not answers:
        return {}
    named = {}
    for stem in (test.stem for test in tests):
        if not (stem.isascii() and stem.isdigit() and 1 <= int(stem) <= len(answers)):
            problems.append(f"{file}: has {len(answers)} answers, none for test file {stem}")
        else:
            named[stem] = answers[int(stem) - 1]
    return named


def _read_strings(file: Path, problems: list[str]) -> list[str]:
    """The list of strings in a JSON file; problems are noted and give an empty list."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{file}: {(error.strerror or 'unreadable').lower()}")
        return []
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        problems.append(f"{file}: not valid JSON, {where}: {error.msg}")
        return []
    except (UnicodeDecodeError, RecursionError) as error:
        problems.append(f"{file}: not a list in UTF-8: {error}")
        return []
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        problems.append(f"{file}: must be a list of strings")
        return []
    if not value:
        problems.append(f"{file}: is an empty list")
    return value


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


def _label_problems(train: Sequence[Track], val: Sequence[Track]) -> list[str]:
    problems = [
        f"no track to use for {name}" for name, x in (("train", train), ("val", val)) if not x
    ]
    artists = {track.artist for track in train}
    if len(artists) == 1:
        problems.append(f"only one artist, {train[0].artist}; at least two are needed")
    unknown = sorted({track.artist or "" for track in val} - artists)
    if train and unknown:
        problems += [f"artist {artist} is in val but not in train" for artist in unknown]
    return problems


def _shared_albums(train: Sequence[Track], val: Sequence[Track]) -> list[str]:
    shared = sorted({track.album_key for track in train} & {track.album_key for track in val})
    if not shared:
        return []
    names = ", ".join(_shorten(shared, 5))
    return [
        f"{len(shared)} album(s) are in train and in val ({names}): scores on val are "
        "then too high, since a model may know the album's sound and not the artist"
    ]


# --- a plain library -------------------------------------------------------------------------


def _read_library(folder: Path, draw: random.Random) -> Corpus:
    tracks, misplaced = [], []
    for file in _audio_files(folder):
        parts = file.relative_to(folder).parts
        if len(parts) < 3:
            misplaced.append(str(file.relative_to(folder)))
        else:
            tracks.append(Track(file, "/".join(parts), "train", parts[0], parts[1]))
    if not tracks:
        _raise(folder, [f"neither artist20/train.json nor audio in <artist>/<album>/ in {folder}"])
    by_artist: dict[str, list[Track]] = defaultdict(list)
    for track in tracks:
        by_artist[track.artist or ""].append(track)
    split: list[Track] = []
    by_song = []
    for artist, own in sorted(by_artist.items()):
        albums = {track.album for track in own}
        if len(albums) < 3:
            by_song.append(artist)
        split += _split_artist(own, by_album=len(albums) >= 3, draw=draw)
    corpus = Corpus(folder.resolve().name, tuple(split), tuple(_library_notes(misplaced, by_song)))
    _raise(folder, _label_problems(corpus.split("train"), corpus.split("val")))
    return corpus


def _split_artist(tracks: list[Track], by_album: bool, draw: random.Random) -> list[Track]:
    """About 4/1/1 of the albums, or of the songs; what is too little to divide is for training."""
    units: dict[str, list[Track]] = defaultdict(list)
    for track in tracks:
        units[str(track.album) if by_album else track.id].append(track)
    names = sorted(units)
    draw.shuffle(names)
    held_out = max(1, round(len(names) / 6)) if len(names) >= 3 else 0
    kinds: list[Split] = ["test", "val", "train"]
    counts = (held_out, held_out, len(names) - 2 * held_out)
    uses = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
    return [
        Track(track.path, track.id, use, track.artist, track.album)
        for name, use in zip(names, uses, strict=True)
        for track in units[name]
    ]


def _library_notes(misplaced: Sequence[str], by_song: Sequence[str]) -> list[str]:
    notes = []
    if by_song:
        names = ", ".join(_shorten(by_song, 10))
        notes.append(
            f"{len(by_song)} artist(s) with fewer than 3 albums are split by song ({names}): "
            "scores are then too high, since a model may know the album's sound and not the artist"
        )
    if misplaced:
        names = ", ".join(_shorten(misplaced, 10))
        notes.append(f"{len(misplaced)} file(s) not in <artist>/<album>/ are left out: {names}")
    return notes


# --- both ------------------------------------------------------------------------------------


def _audio_files(folder: Path) -> list[Path]:
    """Audio by suffix, sorted; hidden files and folders (.DS_Store, ._song.mp3) are none."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def find_songs(places: Sequence[Path]) -> list[Path]:
    """Files as they are named, the audio in folders, and what patterns stand for, each once.

    Raises CorpusError for a place where there is nothing."""
    songs: dict[Path, None] = {}
    for place in places:
        if place.is_file():
            found = [place]
        elif place.is_dir():
            found = _audio_files(place)
        else:  # a pattern that the shell has left alone
            anchor = Path(place.anchor)
            matches = anchor.glob(str(place.relative_to(anchor)))
            found = sorted(path for path in matches if path.is_file())
        _raise(place, [] if found else ["no audio here; name files, folders or patterns"])
        songs |= dict.fromkeys(found)
    return list(songs)


def _shorten(lines: Sequence[str], most: int) -> list[str]:
    if len(lines) <= most:
        return list(lines)
    return [*lines[:most], f"and {len(lines) - most} more"]


def _raise(where: object, problems: Sequence[str]) -> None:
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise CorpusError(f"{where}: {count}\n" + "\n".join(_shorten(problems, MAX_LINES)))
