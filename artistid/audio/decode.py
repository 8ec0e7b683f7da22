"""Decode audio files: what the bytes are decides, not the file name.

Samples are float32 in about [-1, 1] (a decoded mp3 may exceed it slightly); rates are in Hz.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

READ_FRAMES = 1 << 18  # samples per channel decoded at a time
EXPECTED_SHARE = 0.95  # of the length in the header, which may be an estimate
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
        # by file descriptor: no name is too odd, and its suffix says nothing
        with (
            path.open("rb", buffering=0) as file,
            soundfile.SoundFile(file.fileno(), closefd=False) as sound,
        ):
            blocks = [of_block(block) for block in _blocks(sound, longest_s)]
            header_frames, rate = sound.frames, sound.samplerate
            format, channels = sound.format, sound.channels
            read_share = file.tell() / path.stat().st_size
    except soundfile.LibsndfileError as error:
        raise AudioError(f"cannot be decoded: {_reason(error)}") from error
    except OSError as error:
        raise AudioError(f"cannot be read: {error.strerror}") from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
    if len(samples) == 0:
        raise AudioError("no samples in the file")
    note = _length_note(len(samples) / rate, header_frames / rate, read_share)
    return Audio(samples, rate, note, format, channels)


def _blocks(sound: soundfile.SoundFile, longest_s: float) -> Iterator[Samples]:
    """(samples, channels) at a time, to the actual end of the file, whatever its header says."""
    n = 0
    while len(block := sound.read(READ_FRAMES, dtype="float32", always_2d=True)):
        n += len(block)
        if n > longest_s * sound.samplerate:
            raise AudioError(f"longer than {longest_s / 60:g} minutes")
        yield block


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
