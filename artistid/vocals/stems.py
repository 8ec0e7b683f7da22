"""Find the vocals of songs in a folder of stems that somebody has made already.

Stems have the songs' paths, whatever their suffix: of Music/Abba/Arrival/01.mp3, the stem in
STEMS is Abba/Arrival/01.flac, Arrival/01.wav or 01.opus. Demucs writes 01/vocals.wav instead, in
a folder with the name of its network.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from artistid.dataset.finding import audio_files
from artistid.foundation.errors import UserError, printable

VOCALS = "vocals"  # Demucs' name of the file


def find_stems(songs: Sequence[Path], folder: Path) -> Mapping[Path, Path]:
    """The stem of every song that has one.

    Raises UserError if there is no such folder, if songs lie in it, or if a stem would have to
    serve two songs."""
    if not folder.is_dir():
        raise UserError(f"--vocals {printable(folder)}: no such folder")
    whole = folder.resolve()
    for song in songs:
        if song.resolve().is_relative_to(whole):
            raise UserError(
                f"--vocals {printable(folder)}: {printable(song)} lies in it and is to be a song; "
                "keep vocals in a folder apart from the songs"
            )
    named = _files_by_name(folder)
    found = {song: stem for song in songs if (stem := _stem_of(song, named))}
    shared = [stem for stem, n in Counter(found.values()).items() if n > 1]
    if shared:
        of = [printable(song) for song, stem in found.items() if stem == shared[0]]
        raise UserError(
            f"{printable(shared[0])}: vocals of which song? {of[0]} and {of[1]} both lead there; "
            "put the vocals into folders like those of the songs"
        )
    return found


def _files_by_name(folder: Path) -> Mapping[tuple[str, ...], Path]:
    """Audio files below `folder` by the parts of their relative path, without suffix. Those of
    Demucs are called as their song is, with and without the folder of the network."""
    named: dict[tuple[str, ...], Path] = {}
    for path in audio_files(folder, follow_links=True).files:
        *parents, _ = path.relative_to(folder).parts
        if path.stem == VOCALS and parents:
            for own in (parents, parents[1:]):
                if own:
                    named.setdefault(tuple(own), path)
        else:
            named.setdefault((*parents, path.stem), path)
    return named


def _stem_of(song: Path, named: Mapping[tuple[str, ...], Path]) -> Path | None:
    """By the longest end of the song's path that leads to a file."""
    parts = (*song.absolute().parent.parts, song.stem)
    ends = (parts[start:] for start in range(len(parts)))
    return next((named[end] for end in ends if end in named), None)
