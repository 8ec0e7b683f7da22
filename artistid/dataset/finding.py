"""Audio files: those in a folder, those that a pattern stands for."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from artistid.dataset.corpus import refuse

AUDIO_SUFFIXES = frozenset(
    {".mp3", ".wav", ".flac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".m4a", ".aac"}
)  # the last two are no format of libsndfile: they are refused by name instead of overlooked


class Found(NamedTuple):
    files: list[Path]  # sorted
    left_out: list[str]  # what was not looked into, and why


def audio_files(folder: Path, follow_links: bool = False) -> Found:
    """Audio by suffix; hidden files and folders (.DS_Store, ._song.mp3) are none.

    Symbolic links that lead out of the folder are followed with `follow_links` only."""
    inside = folder.resolve()
    files, left_out, seen = [], [], set()

    def note(error: OSError) -> None:
        left_out.append(f"{error.filename}: {error.strerror}")

    for where, folders, names in os.walk(folder, onerror=note, followlinks=follow_links):
        real = os.path.realpath(where)
        if real in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if Path(where, name).is_symlink()]
        audio = [name for name in names if _is_audio(name) and Path(where, name).is_file()]
        for name in sorted(links + audio):
            path = Path(where, name)
            leads_out = path.is_symlink() and not path.resolve().is_relative_to(inside)
            if leads_out and not follow_links:
                left_out.append(f"{path.relative_to(folder)}: a link that leads out of the folder")
            elif name in audio:
                files.append(path)
    return Found(sorted(files), sorted(left_out))


def _is_audio(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES


def find_songs(places: Sequence[Path]) -> list[Path]:
    """Files as they are named, the audio in folders, and what patterns stand for, each once.

    Raises CorpusError for a place where there is nothing."""
    songs: dict[Path, None] = {}
    for place in places:
        try:
            found = _found(place)
        except (OSError, ValueError, NotImplementedError) as error:  # no name or pattern at all
            refuse(place, [str(error)])
        refuse(place, [] if found else ["no audio here; name files, folders or patterns"])
        songs |= dict.fromkeys(found)
    return list(songs)


def _found(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if place.is_dir():
        return audio_files(place).files
    anchor = Path(place.anchor)  # a pattern that the shell has left alone
    matches = anchor.glob(str(place.relative_to(anchor)))
    return sorted(path for path in matches if path.is_file())
