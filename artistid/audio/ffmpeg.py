"""What libsndfile does not read, by FFmpeg: AAC, ALAC, WMA, Musepack, Monkey's Audio and others."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

# FFmpeg's names of the containers it may open; some others would make it read further files
CONTAINERS = (
    "3g2,3gp,aac,aiff,ape,asf,caf,dsf,m4a,matroska,mj2,mov,mp3,mp4,mpc,mpc8,tta,wav,webm,wv"
)
ESTIMATED = {"aac", "mp3"}  # containers without a length
MAX_BAD = 0.05  # share of the packets: some are cut off, at the end or where two files are joined
N_FRAMES = 256  # in a block; one has about a thousand samples

Block = NDArray[np.float32]  # (samples, channels)


class DamagedError(Exception):
    """A file that begins as music but cannot be decoded to the end."""


class Music(NamedTuple):
    """The first audio stream of a file, which must stay open."""

    blocks: Iterator[Block]
    sample_rate: int  # Hz
    channels: int
    header_s: float  # length by the container's header in seconds; 0: none
    codec: str


def music(file: BinaryIO) -> Music | None:
    """What FFmpeg reads of an open file; None if it is not music. Its blocks raise DamagedError."""
    import av  # 0.2 s: only for a file that needs it

    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    try:
        container: Any = av.open(file, options=options, metadata_errors="ignore")
        stream = container.streams.audio[0]
        frames = _frames(container, stream)
        first = next(frames)
    except (av.FFmpegError, DamagedError, IndexError, StopIteration):
        return None
    is_known = container.duration and container.format.name not in ESTIMATED
    return Music(
        _blocks(first, frames),
        first.sample_rate,
        first.layout.nb_channels,
        container.duration / av.time_base if is_known else 0,
        stream.codec_context.name.upper(),
    )


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Of all packets that can be decoded, which must be nearly all."""
    import av

    n, n_bad = 0, 0
    with suppress(av.FFmpegError):  # the file is cut off
        for packet in container.demux(stream):
            n += 1
            try:
                yield from packet.decode()
            except av.FFmpegError:
                n_bad += 1
    if n_bad > MAX_BAD * n:
        raise DamagedError


def _blocks(first: Any, frames: Iterator[Any]) -> Iterator[Block]:
    """Samples in the layout and at the rate of the first frame."""
    import av

    resampler: Any = None
    its_kind = None
    parts: list[Block] = []
    for frame in chain([first], frames):
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != its_kind:  # AAC may change its rate or channels after the first frames
            resampler = av.AudioResampler("fltp", first.layout, first.sample_rate)
            its_kind = kind
        try:
            parts += [part.to_ndarray().T for part in resampler.resample(frame)]
        except av.FFmpegError as error:  # a rate or layout that nothing has
            raise DamagedError from error
        if len(parts) >= N_FRAMES:
            yield np.concatenate(parts)
            parts = []
    if parts:
        yield np.concatenate(parts)
