"""Compute something from every track: in parallel, cached, with all unusable files reported."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from artistid.audio import source
from artistid.audio.cache import (
    content_digest,
    entry_path,
    load_notes,
    opened,
    save_entry,
    settings_digest,
)
from artistid.audio.decode import Audio, AudioError
from artistid.dataset.corpus import Track
from artistid.foundation import parallel, progress
from artistid.foundation.errors import UserError, printable
from artistid.foundation.parallel import Place, Workers

Arrays = Mapping[str, NDArray[Any]]  # of a cache entry, by name

NARROWEST: tuple[Place, ...] = ("here", "threads", "processes")


class UnusableFilesError(UserError):
    """Files that cannot be used, each on a line of the message."""


@dataclass(frozen=True)
class Recipe:
    """A computation and everything besides the audio that its result depends on."""

    name: str
    version: int
    settings: Any  # a frozen dataclass; of one without parts, with a `sample_rate` in Hz
    compute: Callable[[Any, Any], Arrays]  # of (samples,) or the arrays of the parts, and settings
    place: Place = "processes"  # where it runs
    parts: tuple["Recipe", ...] = ()  # that this one is made of; each has its own cache entries
    may_be_silent: bool = False  # else silent songs are refused

    @property
    def digest(self) -> str:
        identity = {"recipe": self.name, "version": self.version, **asdict(self.settings)}
        return settings_digest(identity)

    @property
    def place_of_all(self) -> Place:
        """Where this one and its parts can run."""
        places = {self.place, *(part.place for part in self.parts)}
        return next(place for place in NARROWEST if place in places)


@dataclass(frozen=True)
class Extraction:
    """All mappings are in the order of the tracks."""

    entries: Mapping[Track, Path]  # where the arrays of each usable track are cached
    notes: Mapping[Track, str]  # what a user should know about a usable track
    refused: Mapping[Track, str]  # why a track cannot be used
    decoded_s: float  # seconds of audio that were not cached yet


def require_usable(tracks: Sequence[Track], refused: Mapping[Track, str]) -> None:
    """Raise UnusableFilesError if some of the tracks were refused, with all of them and the
    remedy."""
    if refused:
        lines = [f"{printable(track.path)}: {why}" for track, why in refused.items()]
        raise UnusableFilesError(
            f"{len(lines)} of {len(tracks)} files cannot be used; repair them, or leave them out "
            "with --skip-bad (what was extracted is cached)\n" + "\n".join(lines)
        )


@dataclass(frozen=True)
class _Job:
    file: Path
    entry: Path  # where its arrays are to be cached
    parts: tuple[Path, ...]  # and those of the recipe's parts

    def __str__(self) -> str:
        return str(self.file)  # in messages about calls that fail


@dataclass(frozen=True)
class _Outcome:
    note: str = ""
    refusal: str = ""  # empty: the file can be used
    decoded_s: float = 0.0


def extract(
    tracks: Sequence[Track],
    recipe: Recipe,
    cache: Path,
    workers: Workers,
    files: Mapping[Track, Path] | None = None,
) -> Extraction:
    """Compute what is not cached yet, and say where everything is.

    `files` are heard in place of the tracks' own. Every file is hashed here, once; files of equal
    content are one job. Where everything is cached, no process is started. Memory does not grow
    with the length of the songs: results go to the cache, not through here.
    Raises UserError if the cache cannot be written to.
    """
    cache = cache.absolute()  # as are the files: a worker may run in another folder
    places: dict[Track, Path] = {}  # the entry of each readable track
    unreadable: dict[Track, _Outcome] = {}
    outcomes: dict[Path, _Outcome] = {}  # of each entry
    jobs: dict[Path, _Job] = {}
    digests = [one.digest for one in (recipe, *recipe.parts)]
    for track in progress.bar(tracks, desc=f"{recipe.name}: reading", unit="song", leave=False):
        file = (track.path if files is None else files[track]).absolute()
        try:
            content = content_digest(file)
        except OSError as error:
            unreadable[track] = _Outcome(refusal=f"cannot be read: {error.strerror}")
            continue
        entry, *parts = (entry_path(cache, content, digest) for digest in digests)
        places[track] = entry
        if entry in outcomes or entry in jobs:
            continue
        cached = load_notes(entry)
        if cached is None:
            jobs[entry] = _Job(file, entry, tuple(parts))
        else:
            outcomes[entry] = _Outcome(cached.get("note", ""))
    if jobs:
        with writing_to(cache):
            cache.mkdir(parents=True, exist_ok=True)
        computed = parallel.run(
            partial(_extract_one, recipe=recipe),
            list(jobs.values()),
            workers=workers,
            label=recipe.name,
            unit="song",
            place=recipe.place_of_all,
            needs=(next(iter(jobs.values())).file, cache),
            seconds=lambda outcome: outcome.decoded_s,
        )
        outcomes |= zip(jobs, computed, strict=True)
    entries, notes, refused = {}, {}, {}
    for track in tracks:
        outcome = unreadable.get(track) or outcomes[places[track]]
        if outcome.refusal:
            refused[track] = outcome.refusal
            continue
        entries[track] = places[track]
        if outcome.note:
            notes[track] = outcome.note
    decoded_s = sum(outcome.decoded_s for outcome in outcomes.values())
    return Extraction(entries, notes, refused, decoded_s)


def _extract_one(job: _Job, recipe: Recipe) -> _Outcome:
    song = _Song(job.file, recipe.may_be_silent)
    try:
        if recipe.parts:
            entries = zip(recipe.parts, job.parts, strict=True)
            parts = [_part(part, entry, song) for part, entry in entries]
            made = recipe.compute([arrays for arrays, _ in parts], recipe.settings)
            note = parts[0][1]
        else:
            made, note = song.arrays(recipe), song.audio.note
    except AudioError as error:
        return _Outcome(refusal=str(error))
    _save(job.entry, made, note)
    return _Outcome(note, decoded_s=song.decoded_s)


def _part(recipe: Recipe, entry: Path, song: "_Song") -> tuple[Arrays, str]:
    """What a part of a recipe has made of a song, now or earlier, and the note about the file."""
    notes = load_notes(entry)
    if notes is None:
        made = song.arrays(recipe)
        _save(entry, made, song.audio.note)
        return made, song.audio.note
    with opened(entry) as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, notes.get("note", "")


class _Song:
    """A file, decoded once, and only if it must be."""

    def __init__(self, file: Path, may_be_silent: bool) -> None:
        self._file, self._may_be_silent = file, may_be_silent
        self.decoded_s = 0.0

    @cached_property
    def audio(self) -> Audio:
        """At its own rate."""
        audio = source.load(self._file, None, self._may_be_silent)
        self.decoded_s = audio.seconds
        return audio

    def arrays(self, recipe: Recipe) -> Arrays:
        settings = recipe.settings
        return recipe.compute(source.at_rate(self.audio, settings.sample_rate).samples, settings)


def _save(entry: Path, arrays: Arrays, note: str) -> None:
    with writing_to(entry):
        save_entry(entry, arrays, {"note": note})


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Raise UserError with the remedy if the cache at `path` cannot be written to."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{printable(error.filename or path)}: {error.strerror or error}; make room there, or "
            "name a folder that can be written to with --cache (what was extracted is kept)"
        ) from error
