"""Find audio files: in a folder, or by name and pattern."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from artistid.dataset.corpus import CorpusError
from artistid.foundation.errors import printable

AUDIO_SUFFIXES = frozenset(
    {".mp3", ".wav", ".flac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf"}
    | {".m4a", ".m4b", ".mp4", ".aac", ".wma", ".mpc", ".ape", ".wv", ".tta", ".mka", ".dsf"}
)


class Found(NamedTuple):
    files: list[Path]  # sorted
    left_out: list[str]  # links and unreadable folders, each with the reason


def audio_files(folder: Path, follow_links: bool = False) -> Found:
    """Files with an audio suffix below `folder`, except hidden ones (.DS_Store, ._song.mp3).

    Symbolic links that lead out of the folder are followed only with `follow_links`.
    """
    inside = folder.resolve()
    files, left_out, seen = [], [], set()

    def note(error: OSError) -> None:
        left_out.append(f"{error.filename}: {error.strerror}")

    for where, folders, names in os.walk(folder, onerror=note, followlinks=follow_links):
        real = os.path.realpath(where)
        if real in seen:  # links may form a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if Path(where, name).is_symlink()]
        audio = [
            name
            for name in names
            if not name.startswith(".")
            and Path(name).suffix.lower() in AUDIO_SUFFIXES
            and Path(where, name).is_file()
        ]
        for name in sorted(links + audio):
            path = Path(where, name)
            leads_out = path.is_symlink() and not path.resolve().is_relative_to(inside)
            if leads_out and not follow_links:
                left_out.append(f"{path.relative_to(folder)}: link out of the library")
            elif name in audio:
                files.append(path)
    return Found(sorted(files), sorted(left_out))


def find_songs(places: Sequence[Path]) -> list[Path]:
    """Files as named, audio files in folders, and files that match a pattern, each once.

    Raises CorpusError for a place without any.
    """
    songs: dict[Path, None] = {}
    for place in places:
        try:
            if place.is_file():
                found = [place]
            elif place.is_dir():
                found = audio_files(place).files
            else:  # a pattern that the shell did not expand
                root = Path(place.anchor)
                matches = root.glob(str(place.relative_to(root)))
                found = sorted(path for path in matches if path.is_file())
        except (OSError, ValueError, NotImplementedError) as error:  # not a valid name or pattern
            raise CorpusError(f"{printable(place)}: {printable(error)}") from error
        if not found:
            raise CorpusError(f"{printable(place)}: no audio here; name files, folders or patterns")
        songs |= dict.fromkeys(found)
    return list(songs)
