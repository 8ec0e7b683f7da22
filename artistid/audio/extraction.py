"""Compute something from every track: in parallel, cached, with all unusable files reported."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from artistid.audio import source
from artistid.audio.cache import content_digest, entry_path, load_notes, save_entry, settings_digest
from artistid.audio.decode import AudioError
from artistid.dataset.corpus import Track
from artistid.foundation import parallel, progress
from artistid.foundation.errors import UserError, printable
from artistid.foundation.parallel import Place, Workers


class UnusableFilesError(UserError):
    """Files that cannot be used, each on a line of the message."""


@dataclass(frozen=True)
class Recipe:
    """A computation and everything besides the audio that its result depends on."""

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
    """All mappings are in the order of the tracks."""

    entries: Mapping[Track, Path]  # where the arrays of each usable track are cached
    notes: Mapping[Track, str]  # what a user should know about a usable track
    refused: Mapping[Track, str]  # why a track cannot be used
    decoded_s: float  # seconds of audio that were not cached yet

    def require_all(self) -> None:
        """Raise UnusableFilesError if a track was refused, with all of them and the remedy."""
        if self.refused:
            lines = [f"{printable(track.path)}: {why}" for track, why in self.refused.items()]
            raise UnusableFilesError(
                f"{len(lines)} of {len(lines) + len(self.entries)} files cannot be used; repair "
                "them, or leave them out with --skip-bad (what was extracted is cached)\n"
                + "\n".join(lines)
            )


@dataclass(frozen=True)
class _Job:
    file: Path
    entry: Path  # where its arrays are to be cached

    def __str__(self) -> str:
        return str(self.file)  # in messages about calls that fail


@dataclass(frozen=True)
class _Outcome:
    note: str = ""
    refusal: str = ""  # empty: the file can be used
    decoded_s: float = 0.0


def extract(tracks: Sequence[Track], recipe: Recipe, cache: Path, workers: Workers) -> Extraction:
    """Compute what is not cached yet, and say where everything is.

    Every file is hashed here, once; files of equal content are one job. Where everything is
    cached, no process is started. Memory does not grow with the length of the songs: results go
    to the cache, not through here.
    Raises UserError if the cache cannot be written to.
    """
    cache = cache.absolute()  # as are the files: a worker may run in another folder
    places: dict[Track, Path] = {}  # the entry of each readable track
    unreadable: dict[Track, _Outcome] = {}
    outcomes: dict[Path, _Outcome] = {}  # of each entry
    jobs: dict[Path, _Job] = {}
    for track in progress.bar(tracks, desc=f"{recipe.name}: reading", unit="song", leave=False):
        file = track.path.absolute()
        try:
            entry = places[track] = entry_path(cache, content_digest(file), recipe.digest)
        except OSError as error:
            unreadable[track] = _Outcome(refusal=f"cannot be read: {error.strerror}")
            continue
        if entry in outcomes or entry in jobs:
            continue
        cached = load_notes(entry)
        if cached is None:
            jobs[entry] = _Job(file, entry)
        else:
            outcomes[entry] = _Outcome(cached.get("note", ""))
    if jobs:
        with _writing_to(cache):
            cache.mkdir(parents=True, exist_ok=True)
        computed = parallel.run(
            partial(_extract_one, recipe=recipe),
            list(jobs.values()),
            workers=workers,
            label=recipe.name,
            unit="song",
            place=recipe.place,
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
    try:
        audio = source.load(job.file, recipe.settings.sample_rate)
        arrays = recipe.compute(audio.samples, recipe.settings)
    except AudioError as error:
        return _Outcome(refusal=str(error))
    with _writing_to(job.entry):
        save_entry(job.entry, arrays, {"note": audio.note})
    return _Outcome(audio.note, decoded_s=audio.seconds)


@contextmanager
def _writing_to(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{printable(error.filename or path)}: {error.strerror or error}; make room there, or "
            "name a folder that can be written to with --cache (what was extracted is kept)"
        ) from error
