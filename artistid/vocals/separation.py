"""Separate the vocals of many songs, each once: they are cached as audio.

An entry of the cache is mono FLAC at the song's own rate, at most 24 kHz. It is not called so: no
library that the cache lies in takes it for a song.
"""

import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from artistid.audio.cache import content_digest, entry_path, settings_digest
from artistid.audio.decode import Audio, AudioError
from artistid.audio.extraction import writing_to
from artistid.audio.source import at_rate
from artistid.foundation import parallel
from artistid.foundation.files import replacing
from artistid.foundation.parallel import Place, Workers

VERSION = 1  # raise it when separated vocals change: it is part of every cache key
SUFFIX = ".vocals"  # of an entry
MAX_RATE = 24_000  # Hz
CPU_TIMES = 1.5  # a song's length that HTDemucs takes on a CPU

log = logging.getLogger("artistid")


class AnySeparator(Protocol):
    @property
    def weights(self) -> Path:
        """The file that every worker must see."""

    @property
    def digest(self) -> str:
        """Of everything that vocals depend on besides the song."""

    @property
    def place(self) -> Place:
        """Where it runs."""

    def vocals_of(self, song: Path) -> Audio:
        """Mono. Raises AudioError for a song that cannot be used."""

    def separate(self, audio: Audio) -> Audio:
        """The same from memory."""


@dataclass(frozen=True)
class _Job:
    song: Path
    entry: Path

    def __str__(self) -> str:
        return str(self.song)  # in messages about calls that fail


def separate(
    songs: Mapping[Path, float],
    separator: AnySeparator,
    cache: Path,
    workers: Workers,
) -> tuple[Mapping[Path, Path], Mapping[Path, str]]:
    """Separate what is not cached yet: the vocals of each song, and why some cannot be had.

    `songs` come with their lengths in seconds. Each is written when it is finished, so an
    interruption costs the one that is being separated.
    Raises UserError if the cache cannot be written to."""
    cache = cache.absolute()  # as are the songs: a worker may run in another folder
    entries = {song: entry_of(song, separator, cache) for song in songs}
    missing = {entry: song for song, entry in entries.items() if not entry.is_file()}
    jobs = [_Job(song.absolute(), entry) for entry, song in missing.items()]
    if not jobs:
        return entries, {}
    hours = sum(songs[song] for song in missing.values()) / 3600
    on_cpu = f"; about {CPU_TIMES * hours:.2g} h on a CPU" if separator.place == "here" else ""
    log.info("vocals: %d songs to separate, %.2g h of audio%s", len(jobs), hours, on_cpu)
    reasons = parallel.run(
        partial(_separate_one, separator=separator),
        jobs,
        workers=workers,
        label="vocals",
        unit="song",
        place=separator.place,
        needs=(jobs[0].song, cache, separator.weights),
    )
    failed = {job.entry: why for job, why in zip(jobs, reasons, strict=True) if why}
    refused = {song: failed[entry] for song, entry in entries.items() if entry in failed}
    return {song: entry for song, entry in entries.items() if song not in refused}, refused


def separated(song: Path, separator: AnySeparator, cache: Path) -> Path:
    """Where the vocals of one song are cached, from now on if they were not.

    Raises AudioError for a song that cannot be used, UserError if the cache cannot be written
    to."""
    entry = entry_of(song, separator, cache)
    if not entry.is_file():
        _write_vocals(song, entry, separator)
    return entry


def entry_of(song: Path, separator: AnySeparator, cache: Path) -> Path:
    """Where the vocals of a song are, or will be."""
    identity = {"recipe": "vocals", "version": VERSION, "separator": separator.digest}
    path = entry_path(cache, content_digest(song), settings_digest(identity))
    return path.with_suffix(SUFFIX)


def _separate_one(job: _Job, separator: AnySeparator) -> str:
    """Why it cannot be done, or nothing."""
    try:
        _write_vocals(job.song, job.entry, separator)
    except AudioError as error:
        return str(error)
    return ""


def _write_vocals(song: Path, entry: Path, separator: AnySeparator) -> None:
    vocals = separator.vocals_of(song)
    with writing_to(entry):
        write_flac(entry, vocals)


def write_flac(path: Path, vocals: Audio) -> None:
    """16 bits, at no more than MAX_RATE; what would clip is made softer as a whole."""
    own = at_rate(vocals, min(vocals.sample_rate, MAX_RATE))
    samples = own.samples / max(1.0, float(np.abs(own.samples).max(initial=0)))
    flac = io.BytesIO()  # libsndfile does not say that a disk is full
    soundfile.write(flac, samples, own.sample_rate, format="FLAC", subtype="PCM_16")
    with replacing(path) as temporary:
        temporary.write_bytes(flac.getvalue())
