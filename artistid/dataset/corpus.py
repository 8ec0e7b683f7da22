"""What a corpus is: its tracks, and for what use each is."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from artistid.foundation.errors import UserError, printable

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

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
    is_split_here: bool = False  # a library's split is ours; the course's came with the corpus

    def split(self, split: Split) -> list[Track]:
        return [track for track in self.tracks if track.split == split]

    @property
    def artists(self) -> list[str]:
        """Those there is training material for, sorted: the order of labels everywhere."""
        return sorted({track.artist for track in self.split("train") if track.artist})

    def with_warning(self, warning: str) -> "Corpus":
        return replace(self, warnings=(*self.warnings, warning))

    def orphaned_by(self, left_out: Iterable[Track]) -> list[Track]:
        """The other tracks by artists who have nothing to train on then."""
        gone = set(left_out)
        rest = [track for track in self.tracks if track not in gone]
        known = {track.artist for track in rest if track.split == "train"}
        return [track for track in rest if track.artist and track.artist not in known]

    def without(self, left_out: Iterable[Track]) -> "Corpus":
        """The corpus less some tracks. Raises CorpusError where it is none any more."""
        gone = set(left_out)
        if not gone:
            return self
        rest = replace(self, tracks=tuple(t for t in self.tracks if t not in gone))
        refuse(self.name, label_problems(rest.split("train"), rest.split("val")))
        return rest


def label_problems(train: Sequence[Track], val: Sequence[Track]) -> list[str]:
    """Why nothing can be learnt from train or scored on val, each in a line."""
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


def read_strings(file: Path, problems: list[str], may_be_empty: bool = False) -> list[str]:
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
    except (ValueError, RecursionError) as error:
        problems.append(f"{file}: not a list in UTF-8: {error}")
        return []
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        problems.append(f"{file}: must be a list of strings")
        return []
    if not value and not may_be_empty:
        problems.append(f"{file}: is an empty list")
    return value


def listing(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    return ", ".join(_shortened([printable(name) for name in names], most))


def refuse(where: object, problems: Sequence[str], notes: Sequence[str] = ()) -> None:
    """Raise CorpusError if there are problems; `notes` may explain them."""
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [printable(line) for line in (*_shortened(problems, MAX_LINES), *notes)]
        raise CorpusError(f"{printable(where)}: {count}\n" + "\n".join(lines))


def _shortened(lines: Sequence[str], most: int) -> list[str]:
    if len(lines) <= most:
        return list(lines)
    return [*lines[:most], f"and {len(lines) - most} more"]
