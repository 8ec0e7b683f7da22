"""What of each song is heard: the mix, the vocals alone, or both.

Vocals come from a folder of stems, or from a separator. A song without a singer is heard as it is.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from tyro.conf import arg

from artistid.audio import levels
from artistid.audio.extraction import extract, require_usable
from artistid.dataset.corpus import Track
from artistid.foundation.errors import UserError, printable
from artistid.foundation.parallel import Workers
from artistid.vocals import separation
from artistid.vocals.stems import find_stems

log = logging.getLogger("artistid")

Source = Literal["mix", "vocals", "both"]
VocalsFolder = Annotated[  # options of the tasks and of predict.py
    Path | None,
    arg(
        metavar="FOLDER",
        help="Vocals that are there already, under the names of the songs, or as Demucs writes "
        "them.",
        help_behavior_hint="(default: HTDemucs separates them)",
    ),
]
SeparatorFile = Annotated[
    Path | None,
    arg(
        metavar="FILE",
        help="Weights of HTDemucs.",
        help_behavior_hint="(default: downloaded when needed)",
    ),
]

INAUDIBLE = 1e-3  # of the mix's power, -30 dB: vocals that are softer all along are leakage
SILENT = 1e-8  # power of a second, -80 dB of full scale
MAX_DIFFERENCE_S = 3  # between the lengths of a song and its stem


@dataclass(frozen=True)
class SourceSettings:
    """Vocals."""

    source: Source = "mix"
    """What is heard of each song: the mix, the vocals alone, or both."""
    vocals: VocalsFolder = None
    separator: SeparatorFile = None

    def __post_init__(self) -> None:
        for name in ("vocals", "separator"):
            if self.source == "mix" and getattr(self, name) is not None:
                raise UserError(f"--{name} is of no use without --source vocals or --source both")
        require_one(self.vocals, self.separator)


def require_one(vocals: Path | None, separator: Path | None) -> None:
    """Raise UserError if vocals are given and to be separated."""
    if vocals is not None and separator is not None:
        raise UserError("--vocals and --separator: there is nothing to separate; use only one")


@dataclass(frozen=True)
class Voices:
    """All mappings are in the order of the tracks."""

    files: Mapping[Track, Path]  # where the vocals of each usable track are, or the track itself
    without_singer: Sequence[Track] = ()
    refused: Mapping[Track, str] = field(default_factory=dict)
    notes: Mapping[Track, str] = field(default_factory=dict)


def find_voices(
    tracks: Sequence[Track],
    settings: SourceSettings,
    cache: Path,
    workers: Workers,
    skip_bad: bool,
) -> Voices:
    """The vocals of all tracks, separated where they are neither given nor cached.

    Raises UnusableFilesError, without `skip_bad`, with all songs that are broken or have no vocals:
    those that are broken before anything is separated."""
    separator = None
    given: Mapping[Path, Path] = {}
    if settings.vocals:
        given = find_stems([track.path for track in tracks], settings.vocals)
    else:
        from artistid.vocals import htdemucs  # loads torch

        separator = htdemucs.find(settings.separator)
    mixes = extract(tracks, levels.recipe(), cache, workers)
    refused = dict(mixes.refused)
    seconds = {track.path: len(levels.load(entry)) for track, entry in mixes.entries.items()}
    failed: Mapping[Path, str]
    if separator:
        _stop_unless(skip_bad, tracks, refused)
        stems, failed = separation.separate(seconds, separator, cache, workers)
    else:
        stems = {path: stem for path, stem in given.items() if path in seconds}
        log.info("vocals: %d songs have theirs in %s", len(stems), settings.vocals)
        no_stem = f"no vocals in {printable(settings.vocals)}"
        failed = {path: no_stem for path in seconds if path not in stems}
    refused |= {track: failed[track.path] for track in mixes.entries if track.path in failed}
    files = {track: stems[track.path] for track in mixes.entries if track.path in stems}
    voices = extract(list(files), levels.recipe(), cache, workers, files)
    refused |= {
        track: f"its vocals, {printable(files[track])}: {why}"
        for track, why in voices.refused.items()
    }
    without_singer = []
    for track, entry in voices.entries.items():
        mix, vocals = levels.load(mixes.entries[track]), levels.load(entry)
        if difference := difference_of(mix, vocals):
            refused[track] = f"its vocals, {printable(files[track])}, are {difference}"
        elif not has_singer(mix, vocals):
            without_singer.append(track)
    _stop_unless(skip_bad, tracks, refused)
    alone = set(without_singer)
    usable = {
        track: track.path if track in alone else file
        for track, file in files.items()
        if track not in refused
    }
    return Voices(usable, without_singer, refused, mixes.notes)


def difference_of(mix: NDArray[np.float32], vocals: NDArray[np.float32]) -> str:
    """Why these cannot be the vocals of this song, or nothing; both are `levels.powers`."""
    if abs(len(mix) - len(vocals)) <= MAX_DIFFERENCE_S:
        return ""
    return f"{len(vocals)} s long, and the song {len(mix)} s"


def has_singer(mix: NDArray[np.float32], vocals: NDArray[np.float32]) -> bool:
    """Whether the vocals can be heard in any second; both are `levels.powers`."""
    n = min(len(mix), len(vocals))
    return bool(np.any((vocals[:n] > SILENT) & (vocals[:n] > INAUDIBLE * mix[:n])))


def _stop_unless(skip_bad: bool, tracks: Sequence[Track], refused: Mapping[Track, str]) -> None:
    if not skip_bad:
        require_usable(tracks, refused)
