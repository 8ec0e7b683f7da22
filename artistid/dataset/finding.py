"""Find audio files: in a folder, or by name and pattern."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from artistid.dataset.corpus import CorpusError
from artistid.foundation.errors import printable

AUDIO_SUFFIXES = frozenset(
    {".mp3", ".mp2", ".wav", ".w64", ".flac", ".ogg", ".oga", ".opus", ".au", ".caf", ".mka"}
    | {".aif", ".aiff", ".aifc", ".m4a", ".m4b", ".mp4", ".3gp", ".aac", ".wma", ".webm"}
    | {".mpc", ".ape", ".wv", ".tta", ".dsf"}
)
STAMP = "demo.json"  # marks a folder as a demo corpus, with its version and seed


class Found(NamedTuple):
    files: list[Path]  # sorted
    left_out: list[str]  # links, hidden files and unreadable folders, each with the reason


def audio_files(folder: Path, follow_links: bool = False) -> Found:
    """Files with an audio suffix below `folder`, but hidden ones; macOS' ._song.mp3 are no audio.

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
        audio = [
            name
            for name in names
            if Path(name).suffix.lower() in AUDIO_SUFFIXES
            and not name.startswith("._")
            and os.path.isfile(os.path.join(where, name))  # noqa: PTH113, PTH118  # never raises
        ]
        demos = [name for name in folders if Path(where, name, STAMP).is_file()]
        left_out += [f"{Path(where, name).relative_to(folder)}: the demo corpus" for name in demos]
        for name in filter(_is_hidden, folders + audio):
            left_out.append(f"{Path(where, name).relative_to(folder)}: hidden")
        folders[:] = sorted(n for n in folders if not _is_hidden(n) and n not in demos)
        audio = [name for name in audio if not _is_hidden(name)]
        links = [name for name in folders if Path(where, name).is_symlink()]
        for name in sorted(links + audio):
            path = Path(where, name)
            leads_out = path.is_symlink() and not path.resolve().is_relative_to(inside)
            if leads_out and not follow_links:
                left_out.append(f"{path.relative_to(folder)}: link out of the library")
            elif name in audio:
                files.append(path)
    return Found(sorted(files), sorted(left_out))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and not name.startswith("..")  # "...And Justice for All"


def find_songs(places: Sequence[Path]) -> Found:
    """Files as named, and audio files in folders, by name or by pattern, each once. Links are
    followed.

    Raises CorpusError for a place without any.
    """
    songs: dict[Path, None] = {}
    left_out: list[str] = []
    for place in places:
        try:
            if place.exists():
                matches = [place]
            else:  # a pattern that the shell did not expand
                root = Path(place.anchor)
                matches = sorted(root.glob(str(place.relative_to(root))))
            inside = [_below(path) for path in matches if not path.name.startswith("._")]
        except (OSError, ValueError, NotImplementedError) as error:  # not a valid name or pattern
            raise CorpusError(f"{printable(place)}: {printable(error)}") from error
        found = [file for own in inside for file in own.files]
        if not found:
            raise CorpusError(f"{printable(place)}: no audio here; name files, folders or patterns")
        songs |= dict.fromkeys(found)
        left_out += [path for own in inside for path in own.left_out]
    return Found(list(songs), left_out)


def _below(place: Path) -> Found:
    return audio_files(place, follow_links=True) if place.is_dir() else Found([place], [])
