"""A corpus: its tracks, and the split that each belongs to."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from artistid.foundation.errors import UserError, printable

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

MAX_PROBLEMS = 20  # listed in a message; the others are counted


class CorpusError(UserError):
    """An unusable corpus; the message lists every problem, one per line."""


@dataclass(frozen=True)
class Track:
    path: Path
    id: str  # key in the predictions: a course test file's stem, else the path below the corpus
    split: Split
    artist: str | None = None  # None: unknown
    album: str | None = None

    @property
    def album_key(self) -> str:
        """ "artist/album": albums with equal titles by two artists are two albums."""
        return f"{self.artist}/{self.album}"


@dataclass(frozen=True)
class Corpus:
    name: str
    tracks: tuple[Track, ...]
    warnings: tuple[str, ...] = ()  # worth knowing, but no reason to stop
    is_split_here: bool = False  # a library is split by us, the course's corpus comes split

    def split(self, split: Split) -> list[Track]:
        return [track for track in self.tracks if track.split == split]

    @property
    def artists(self) -> list[str]:
        """Artists with training tracks, sorted: the order of class labels everywhere."""
        return sorted({track.artist for track in self.split("train") if track.artist})

    @property
    def split_digest(self) -> str:
        """Identifies which songs of which artists are in train, val and test."""
        songs = sorted((track.split, track.id, track.artist or "") for track in self.tracks)
        return hashlib.blake2b(json.dumps(songs).encode(), digest_size=8).hexdigest()

    def with_warning(self, warning: str) -> "Corpus":
        return replace(self, warnings=(*self.warnings, warning))

    def orphaned_by(self, left_out: Iterable[Track]) -> list[Track]:
        """The other tracks whose artist has no training track once `left_out` is gone."""
        gone = set(left_out)
        rest = [track for track in self.tracks if track not in gone]
        trained = {track.artist for track in rest if track.split == "train"}
        return [track for track in rest if track.artist and track.artist not in trained]

    def without(self, left_out: Iterable[Track]) -> "Corpus":
        """The corpus without some tracks. Raises CorpusError if the rest cannot be used."""
        gone = set(left_out)
        if not gone:
            return self
        rest = replace(self, tracks=tuple(t for t in self.tracks if t not in gone))
        raise_problems(self.name, label_problems(rest.split("train"), rest.split("val")))
        return rest


def label_problems(train: Sequence[Track], val: Sequence[Track]) -> list[str]:
    """Reasons why a model cannot be trained on `train` or scored on `val`, one per line."""
    problems = [f"no usable {name} tracks" for name, x in (("train", train), ("val", val)) if not x]
    artists = {track.artist for track in train}
    if len(artists) == 1:
        problems.append(f"only one artist, {train[0].artist}; at least two are needed")
    unknown = sorted({track.artist or "" for track in val} - artists)
    if train and unknown:
        problems += [f"artist {artist} is in val but not in train" for artist in unknown]
    return problems


def read_strings(file: Path, problems: list[str], may_be_empty: bool = False) -> list[str]:
    """The strings in a JSON list; on failure an empty list and a new line in `problems`."""
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
        problems.append(f"{file}: not a JSON list in UTF-8: {error}")
        return []
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        problems.append(f"{file}: must be a list of strings")
        return []
    if not value and not may_be_empty:
        problems.append(f"{file}: empty list")
    return value


def listing(names: Sequence[str], most: int) -> str:
    """The first `most` names, and the number of others."""
    return ", ".join(_shortened([printable(name) for name in names], most))


def raise_problems(where: object, problems: Sequence[str], notes: Sequence[str] = ()) -> None:
    """Raise CorpusError if there are problems; `notes` may help to explain them."""
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [printable(line) for line in (*_shortened(problems, MAX_PROBLEMS), *notes)]
        raise CorpusError(f"{printable(where)}: {count}\n" + "\n".join(lines))


def _shortened(lines: Sequence[str], most: int) -> list[str]:
    if len(lines) <= most:
        return list(lines)
    return [*lines[:most], f"and {len(lines) - most} more"]
