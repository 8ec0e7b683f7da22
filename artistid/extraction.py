"""Every track through one computation: in parallel, cached, the unusable files named at the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from artistid import audio, parallel
from artistid.audio import AudioError
from artistid.cache import (
    Entry,
    content_digest,
    entry_path,
    load_notes,
    save_entry,
    settings_digest,
)
from artistid.dataset import Track
from artistid.errors import UserError
from artistid.parallel import Place


class UnusableFilesError(UserError):
    """Files that could not be used, each on a line of the message."""


@dataclass(frozen=True)
class Recipe:
    """A computation and all that its result depends on besides the audio."""

    name: str
    version: int
    settings: Any  # a frozen dataclass with a `sample_rate` in Hz
    compute: Callable[[NDArray[Any], Any], Mapping[str, NDArray[Any]]]  # (samples,), settings
    place: Place = "processes"  # where it runs

    @property
    def digest(self) -> str:
        identity = {"recipe": self.name, "version": self.version, **asdict(self.settings)}
        return settings_digest(identity)


@dataclass(frozen=True)
class Extraction:
    entries: Mapping[Track, Path]  # where each usable track's arrays are cached
    notes: Mapping[Track, str]  # what to know about a track that was used
    refused: Mapping[Track, str]  # why a track was not
    heard_s: float  # of audio that was not cached yet

    def require_all(self) -> None:
        """Raise UnusableFilesError if a track was refused, with all of them and the remedy."""
        if self.refused:
            lines = [f"{track.path}: {why}" for track, why in self.refused.items()]
            raise UnusableFilesError(
                f"{len(lines)} of {len(lines) + len(self.entries)} files can't be used; mend them, "
                "or leave them out with --skip-bad (what could be extracted is cached)\n"
                + "\n".join(lines)
            )


@dataclass(frozen=True)
class _Outcome:
    entry: Path | None = None
    note: str = ""
    refusal: str = ""
    heard_s: float = 0.0


def extract(tracks: Sequence[Track], recipe: Recipe, cache: Path, jobs: int) -> Extraction:
    """Make what is not cached yet, one file a job, and say where everything is.

    Memory does not grow with the number of tracks: results go to the cache, not through here.
    """
    work = partial(_extract_one, recipe=recipe, cache=cache)
    paths = [track.path for track in tracks]
    known = _known_outcomes(paths, recipe, cache)
    rest = parallel.run(
        work,
        paths[len(known) :],
        jobs=jobs,
        label=recipe.name,
        unit="song",
        place=recipe.place,
        seconds=lambda outcome: outcome.heard_s,
    )
    outcomes = chain(known, rest if len(known) < len(paths) else ())
    entries, notes, refused, heard_s = {}, {}, {}, 0.0
    for track, outcome in zip(tracks, outcomes, strict=True):
        if outcome.entry is None:
            refused[track] = outcome.refusal
            continue
        entries[track] = outcome.entry
        heard_s += outcome.heard_s
        if outcome.note:
            notes[track] = outcome.note
    return Extraction(entries, notes, refused, heard_s)


def _known_outcomes(paths: Sequence[Path], recipe: Recipe, cache: Path) -> list[_Outcome]:
    """Of the first files, up to one that is not cached: where all are, no process is started."""
    known: list[_Outcome] = []
    bar = tqdm(paths, desc=f"{recipe.name}, cached", unit="song", leave=False, disable=None)
    for path in bar:
        try:
            place = entry_path(cache, _content(path), recipe.digest)
        except AudioError:
            break
        notes = load_notes(place)
        if notes is None:
            break
        known.append(_Outcome(place, notes.get("note", "")))
    bar.close()
    return known


def _extract_one(path: Path, recipe: Recipe, cache: Path) -> _Outcome:
    try:
        place = entry_path(cache, _content(path), recipe.digest)
        notes = load_notes(place)
        if notes is not None:
            return _Outcome(place, notes.get("note", ""))
        sound = audio.load(path, recipe.settings.sample_rate)
        arrays = recipe.compute(sound.samples, recipe.settings)
    except AudioError as error:
        return _Outcome(refusal=str(error))
    save_entry(place, Entry(arrays, {"note": sound.note}))
    return _Outcome(place, sound.note, heard_s=sound.seconds)


def _content(path: Path) -> str:
    try:
        return content_digest(path)
    except OSError as error:
        raise AudioError(f"can't be read: {error.strerror}") from error
