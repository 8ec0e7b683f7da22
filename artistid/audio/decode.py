"""Decode a file to mono samples at a given rate, or refuse it with a reason.

Samples are float32 in about [-1, 1] (a decoded mp3 may exceed it a little); rates are in Hz.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

READ_FRAMES = 1 << 18  # samples a channel decoded at a time: memory holds one mono copy
SILENCE = 1e-4  # peak to peak, -80 dB of full scale: below it there is nothing to hear
EXPECTED_SHARE = 0.95  # of the announced length; estimates are a little off
HEARD_SHARE = 0.8  # of the file's bytes; tags and pictures after the audio are no audio


class AudioError(ValueError):
    """A file that can't be used; the message says why, without the file's name."""


@dataclass(frozen=True)
class Audio:
    samples: NDArray[np.float32]  # (samples,)
    sample_rate: int  # Hz
    note: str  # what a user should know about the file, else empty
    format: str  # of the file: "MP3"
    channels: int  # of the file

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


def load(path: Path, sample_rate: int | None) -> Audio:
    """The whole file at `path`, mixed to mono and resampled from its own rate; None: not resampled.

    What the bytes are decides, not the file's name. Raises AudioError for a file that is missing,
    empty, not decodable, silent, or that holds samples that are not finite.
    """
    audio = decode(path)
    if not np.isfinite(audio.samples).all():
        raise AudioError("holds samples that are not numbers (NaN or infinite)")
    if np.ptp(audio.samples) < SILENCE:
        raise AudioError("is silent from beginning to end")
    if sample_rate is None or audio.sample_rate == sample_rate:
        return audio
    samples = soxr.resample(audio.samples, audio.sample_rate, sample_rate)
    return replace(audio, samples=samples, sample_rate=sample_rate)


def require_frame(samples: NDArray[np.float32], n_fft: int, sample_rate: int) -> None:
    """Raise AudioError where `samples` are fewer than a frame's."""
    if len(samples) < n_fft:
        raise AudioError(
            f"is shorter than a frame: {len(samples)} samples at {sample_rate} Hz, "
            f"of {n_fft} needed"
        )


def decode(path: Path) -> Audio:
    """The file at `path` as it is, mixed to mono. Raises AudioError."""
    try:
        if not path.is_file():
            raise AudioError("is not a file")
        if path.stat().st_size == 0:
            raise AudioError("is empty (0 bytes)")
        # an open file, not its name: what the bytes are decides, and no name is too odd
        with (
            path.open("rb", buffering=0) as file,
            _quiet_decoder(),
            soundfile.SoundFile(file.fileno(), closefd=False) as sound,
        ):
            blocks = [_mono(block) for block in _blocks(sound)]
            announced, rate = sound.frames, sound.samplerate
            format, channels = sound.format, sound.channels
            read_share = file.tell() / path.stat().st_size
    except soundfile.LibsndfileError as error:
        raise AudioError(f"can't be decoded: {_reason(error)}") from error
    except OSError as error:
        raise AudioError(f"can't be read: {error.strerror}") from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
    if len(samples) == 0:
        raise AudioError("holds no samples")
    note = _length_note(len(samples) / rate, announced / rate, read_share)
    return Audio(samples, rate, note, format, channels)


def _mono(block: NDArray[np.float32]) -> NDArray[np.float32]:
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


def _blocks(sound: soundfile.SoundFile) -> Iterator[NDArray[np.float32]]:
    """(samples, channels) at a time, up to where the file really ends."""
    while len(block := sound.read(READ_FRAMES, dtype="float32", always_2d=True)):
        yield block


def _reason(error: soundfile.LibsndfileError) -> str:
    if "does not exist" in error.error_string:  # what libsndfile says of an mp3 without a frame
        return "no audio in it"
    if "internal error" in error.error_string:  # what it says of an mp3 with a hole
        return "the stream is damaged"
    return error.error_string.removeprefix("Error : ").rstrip(".")


def _length_note(seconds: float, announced: float, read_share: float) -> str:
    if seconds < EXPECTED_SHARE * announced:
        return f"is cut short: {seconds:.1f} s of the {announced:.1f} s that it announces"
    if read_share < HEARD_SHARE:
        return f"announces {announced:.1f} s but goes on: {1 - read_share:.0%} of it was not heard"
    return ""


_QUIET = threading.Lock()
_n_quiet = 0  # threads that decode; the first one closes the screen, the last one opens it
_screen = -1  # file descriptor 2 as it was


@contextmanager
def _quiet_decoder() -> Iterator[None]:
    """libmpg123 reports every oddity of a stream on file descriptor 2; what matters comes back
    as an error, so its chatter is kept from the screen."""
    global _n_quiet, _screen
    with _QUIET:
        if _n_quiet == 0:
            sys.stderr.flush()
            _screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        _n_quiet += 1
    try:
        yield
    finally:
        with _QUIET:
            _n_quiet -= 1
            if _n_quiet == 0:
                os.dup2(_screen, 2)
                os.close(_screen)
