"""Every track through one computation: in parallel, cached, the unusable files named at the end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from artistid.audio.cache import content_digest, entry_path, load_notes, save_entry, settings_digest
from artistid.audio.decode import AudioError
from artistid.audio.decode import decode as audio
from artistid.dataset.corpus import Track
from artistid.foundation import parallel, progress
from artistid.foundation.errors import UserError, printable
from artistid.foundation.parallel import Place, Workers


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
            lines = [f"{printable(track.path)}: {why}" for track, why in self.refused.items()]
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


def extract(tracks: Sequence[Track], recipe: Recipe, cache: Path, workers: Workers) -> Extraction:
    """Make what is not cached yet, one file a job, and say where everything is.

    Memory does not grow with the number of tracks: results go to the cache, not through here.
    """
    cache = cache.absolute()  # for workers that were started elsewhere, as are the paths
    paths = [track.path.absolute() for track in tracks]
    known = _known_outcomes(paths, recipe, cache)
    rest = paths[len(known) :]
    outcomes = chain(known, _new_outcomes(rest, recipe, cache, workers) if rest else ())
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


def _new_outcomes(
    paths: Sequence[Path], recipe: Recipe, cache: Path, workers: Workers
) -> Iterator[_Outcome]:
    with _writing_explained(cache):
        cache.mkdir(parents=True, exist_ok=True)
        yield from parallel.run(
            partial(_extract_one, recipe=recipe, cache=cache),
            paths,
            workers=workers,
            label=recipe.name,
            unit="song",
            place=recipe.place,
            needs=(paths[0], cache),
            seconds=lambda outcome: outcome.heard_s,
        )


@contextmanager
def _writing_explained(cache: Path) -> Iterator[None]:
    """Files that can't be read are refused one by one; what is left are those of the cache."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{printable(error.filename or cache)}: {error.strerror or error}; make room there, or "
            "name a folder that can be written to with --cache (what was extracted is kept)"
        ) from error


def _known_outcomes(paths: Sequence[Path], recipe: Recipe, cache: Path) -> list[_Outcome]:
    """Of the first files, up to one that is not cached: where all are, no process is started."""
    known: list[_Outcome] = []
    bar = progress.bar(paths, desc=f"{recipe.name}, cached", unit="song", leave=False)
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
    save_entry(place, arrays, {"note": sound.note})
    return _Outcome(place, sound.note, heard_s=sound.seconds)


def _content(path: Path) -> str:
    try:
        return content_digest(path)
    except OSError as error:
        raise AudioError(f"can't be read: {error.strerror}") from error
