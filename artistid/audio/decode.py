"""Decode audio files: what the bytes are decides, not the file name.

libsndfile reads them; FFmpeg those that it does not know, and mp3s of which it hears only the
beginning: without a length in the header, or several in one file. Samples are float32 in about
[-1, 1] (a decoded mp3 may exceed it slightly); rates are in Hz.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from artistid.audio import ffmpeg

READ_FRAMES = 1 << 18  # samples per channel decoded at a time
EXPECTED_SHARE = 0.95  # of the length in the header, which may be an estimate
UNKNOWN = (1, 4)  # libsndfile's codes (sndfile.h) for a format and an encoding it does not have
READ_SHARE = 0.8  # of the file's bytes; tags and pictures after the audio are not audio

Samples = NDArray[np.float32]


class AudioError(ValueError):
    """A file that cannot be used; the message says why, without naming the file."""


@dataclass(frozen=True)
class Audio:
    samples: Samples  # (samples,), or (samples, channels)
    sample_rate: int  # Hz
    note: str  # what a user should know about the file, or empty
    format: str  # of the file: "MP3"
    channels: int  # of the file

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


def decode(
    path: Path, of_block: Callable[[Samples], Samples], longest_s: float = math.inf
) -> Audio:
    """The whole file at its own rate. `of_block` is applied to blocks of (samples, channels) as
    they are decoded, so that a down-mix never holds all channels in memory.

    Raises AudioError for a file that is missing, empty, not decodable, or longer than `longest_s`
    seconds.
    """
    try:
        if not path.is_file():
            raise AudioError("not a file")
        if path.stat().st_size == 0:
            raise AudioError("empty file (0 bytes)")
        with path.open("rb", buffering=0) as file:
            try:
                audio, read_share = _by_libsndfile(file, of_block, longest_s)
            except soundfile.LibsndfileError as error:
                found = _by_ffmpeg(file, of_block, longest_s) if error.code in UNKNOWN else None
                if found is None:
                    raise AudioError(f"cannot be decoded: {_reason(error)}") from error
                return found
            if read_share < READ_SHARE:
                with suppress(ffmpeg.DamagedError):
                    found = _by_ffmpeg(file, of_block, longest_s)
                    if found and found.seconds > audio.seconds:
                        return found
            return audio
    except ffmpeg.DamagedError as error:
        raise AudioError("cannot be decoded: damaged stream") from error
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror}") from error


def _by_libsndfile(
    file: BinaryIO, of_block: Callable[[Samples], Samples], longest_s: float
) -> tuple[Audio, float]:
    """And the share of the file's bytes that was read. Raises LibsndfileError."""
    # by file descriptor: no name is too odd, and its suffix says nothing
    with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
        rate, header_s = sound.samplerate, sound.frames / sound.samplerate
        samples = _joined(_blocks(sound), of_block, longest_s, rate)
        read_share = file.tell() / os.fstat(file.fileno()).st_size
        note = _length_note(len(samples) / rate, header_s, read_share)
        return Audio(samples, rate, note, sound.format, sound.channels), read_share


def _blocks(sound: soundfile.SoundFile) -> Iterator[Samples]:
    """(samples, channels) at a time, to the actual end of the file, whatever its header says."""
    while len(block := sound.read(READ_FRAMES, dtype="float32", always_2d=True)):
        yield block


def _by_ffmpeg(
    file: BinaryIO, of_block: Callable[[Samples], Samples], longest_s: float
) -> Audio | None:
    """None if it does not read the file, either. Raises DamagedError."""
    file.seek(0)
    music = ffmpeg.music(file)
    if music is None:
        return None
    samples = _joined(music.blocks, of_block, longest_s, music.sample_rate)
    note = _length_note(len(samples) / music.sample_rate, music.header_s, 1)
    return Audio(samples, music.sample_rate, note, music.codec, music.channels)


def _joined(
    blocks: Iterable[Samples],
    of_block: Callable[[Samples], Samples],
    longest_s: float,
    rate: int,
) -> Samples:
    """What `of_block` makes of all blocks. Raises AudioError for more than `longest_s` seconds."""
    parts: list[Samples] = []
    n = 0
    for block in blocks:
        n += len(block)
        if n > longest_s * rate:
            raise AudioError(f"longer than {longest_s / 60:g} minutes")
        parts.append(of_block(block))
    if not n:
        raise AudioError("no samples in the file")
    return np.concatenate(parts)


def _reason(error: soundfile.LibsndfileError) -> str:
    if "does not exist" in error.error_string:  # libsndfile, of an mp3 without a frame
        return "no audio in it"
    if "internal error" in error.error_string:  # libsndfile, of an mp3 with a hole
        return "damaged stream"
    return error.error_string.removeprefix("Error : ").rstrip(".")


def _length_note(seconds: float, header_s: float, read_share: float) -> str:
    if seconds < EXPECTED_SHARE * header_s:
        return f"truncated: {seconds:.1f} s of the {header_s:.1f} s in its header"
    if read_share < READ_SHARE:
        return f"header says {header_s:.1f} s, the file is longer: {1 - read_share:.0%} not decoded"
    return ""
