"""The vocals of one song, for a model that listens to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from artistid.audio import levels, source
from artistid.audio.decode import Audio, AudioError
from artistid.foundation.errors import printable
from artistid.vocals import separation
from artistid.vocals.heard import difference_of, has_singer
from artistid.vocals.stems import find_stems


class Voice(Protocol):
    def vocals(self, song: Path | None, mix: Audio) -> Audio:
        """The vocals of `mix`, mono, which is in the file `song`, if it is in one. Raises
        AudioError."""


@dataclass(frozen=True)
class Stems:
    """Vocals that are there already."""

    folder: Path
    of: Mapping[Path, Path]  # of each song, by its absolute path

    @classmethod
    def find(cls, songs: Sequence[Path], folder: Path) -> "Stems":
        """Raises UserError if there is no such folder, or if a stem would serve two songs."""
        found = find_stems(songs, folder)
        return cls(folder, {song.absolute(): stem for song, stem in found.items()})

    def vocals(self, song: Path | None, _mix: Audio) -> Audio:
        stem = self.of.get(song.absolute()) if song else None
        if stem is None:
            raise AudioError(f"no vocals in {printable(self.folder)}")
        try:
            return source.load(stem, None, may_be_silent=True)
        except AudioError as error:
            raise AudioError(f"its vocals, {printable(stem)}: {error}") from error


@dataclass(frozen=True)
class Separated:
    """Vocals that HTDemucs separates; those of files are cached."""

    cache: Path
    weights: Path | None = None  # None: the published ones

    @cached_property
    def _separator(self) -> separation.AnySeparator:
        from artistid.vocals import htdemucs  # loads torch

        return htdemucs.find(self.weights)

    def vocals(self, song: Path | None, mix: Audio) -> Audio:
        if song is None:
            return self._separator.separate(mix)
        return source.load(
            separation.separated(song, self._separator, self.cache), None, may_be_silent=True
        )


def heard(voice: Voice, song: Path | None, mix: Audio) -> Audio:
    """The vocals of a song, or the mix where nobody sings."""
    vocals = voice.vocals(song, mix)
    rate = levels.LevelSettings().sample_rate
    powers = [levels.powers(source.at_rate(a, rate).samples, rate) for a in (mix, vocals)]
    if difference := difference_of(*powers):
        raise AudioError(f"its vocals are {difference}")
    return vocals if has_singer(*powers) else mix
