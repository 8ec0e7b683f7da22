"""Pretrained encoders behind one interface: audio in excerpts -> one embedding an excerpt.

musicfm needs its weights (python3 -m musicfm download, or --weights); musicnn comes with the
project. Each hears the whole song, resampled from the file's own rate to the encoder's.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import musicfm.published
from artistid.audio.decode import require_frame
from artistid.audio.extraction import Recipe
from artistid.encoders.registry import musicnn
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Place
from musicfm import MusicFM, load_checkpoint
from musicfm.frontend import N_FFT as MUSICFM_N_FFT
from musicfm.frontend import SAMPLE_RATE as MUSICFM_RATE

VERSION = 1  # raise it when a value changes: it is part of every cache key
NAME = "embeddings"  # of the array in a cache entry
MUSICFM_EXCERPT_S = 30  # what it was trained on
ON_GPU = 4  # excerpts of 30 s that go through at once
HOW_TO_GET = (
    "python3 -m musicfm download fetches MusicFM's weights, 1.3 GB, into musicfm/data; "
    "or --weights FILE"
)

EncoderName = Literal["auto", "musicfm", "musicnn"]

log = logging.getLogger("artistid")


class Encoder(Protocol):
    """A frozen network."""

    sample_rate: int  # Hz
    n_fft: int  # samples that an excerpt has at least
    excerpt: int  # samples
    at_once: int  # excerpts that go through together

    def embed(self, batch: Tensor) -> Tensor:
        """(batch, samples) of one length, any from `n_fft` up -> (batch, dim), in float32."""


class MusicFMEncoder:
    """The mean over time of a layer's output."""

    sample_rate, n_fft = MUSICFM_RATE, MUSICFM_N_FFT
    excerpt = MUSICFM_EXCERPT_S * MUSICFM_RATE

    def __init__(
        self, model: MusicFM, layer: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._model = model.to(device, dtype)
        self._layer = layer
        self.at_once = 1 if device.type == "cpu" else ON_GPU

    def embed(self, batch: Tensor) -> Tensor:
        return self._model.hidden_state(batch, self._layer).float().mean(dim=1)


class MusicNNEncoder:
    """What the network pools over a patch: maximum and mean over time of each channel."""

    sample_rate, n_fft = musicnn.SAMPLE_RATE, musicnn.N_FFT
    excerpt = musicnn.PATCH_SAMPLES

    def __init__(self, device: torch.device) -> None:
        self._network = musicnn.load().to(device)
        self.at_once = 2 if device.type == "cpu" else 16 * ON_GPU  # 2: maps that fit the cache

    def embed(self, batch: Tensor) -> Tensor:
        pooled, _ = self._network(musicnn.log_mel(batch))
        return pooled.float()


@dataclass(frozen=True)
class EncoderSettings:
    """All that embeddings depend on besides the audio."""

    name: str
    weights: str  # SHA-256
    stats: str  # SHA-256 of MusicFM's statistics, else empty
    layer: int  # of MusicFM, else 0
    precision: str  # "fp32" or "bf16"
    sample_rate: int  # Hz


@dataclass(frozen=True)
class Source:
    """Where the files are that an encoder is made of, and where it computes."""

    weights: Path
    stats: Path | None
    device: str


@dataclass(frozen=True)
class Found:
    """An encoder that is at hand."""

    settings: EncoderSettings
    source: Source
    dim: int
    excerpt_seconds: float

    @property
    def recipe(self) -> Recipe:
        """How `extract` makes and caches "embeddings", (excerpts, dim), of every song."""
        compute = partial(_arrays, source=self.source)
        return Recipe(self.settings.name, VERSION, self.settings, compute, self._place)

    @property
    def _place(self) -> Place:
        if self.source.device != "cpu":
            return "threads"  # that decode while the GPU is busy
        return "processes" if self.settings.name == "musicnn" else "here"  # too large for several


def find(
    name: EncoderName, weights: Path | None, layer: int, device: torch.device, precision: str
) -> Found:
    """The encoder of that name; of "auto", musicfm where its weights are at hand, else musicnn.

    Raises UserError where files are missing or not what they should be."""
    if name == "musicnn" and weights is not None:
        raise UserError("--weights: musicnn has its own; leave it out, or use --encoder musicfm")
    files = None if name == "musicnn" else _musicfm_files(weights)
    if files is not None:
        return _found_musicfm(*files, layer, device, precision)
    if name == "musicfm":
        raise UserError(f"--encoder musicfm: no weights found; {HOW_TO_GET}")
    if name == "auto":
        log.info("notice: no weights of MusicFM found, so musicnn is used instead. %s", HOW_TO_GET)
    digest = musicfm.published.sha256(musicnn.WEIGHTS)
    settings = EncoderSettings("musicnn", digest, "", 0, "fp32", musicnn.SAMPLE_RATE)
    source = Source(musicnn.WEIGHTS, None, str(device))
    seconds = musicnn.PATCH_SAMPLES / musicnn.SAMPLE_RATE
    return _reported(Found(settings, source, musicnn.POOLED, seconds))


def _musicfm_files(weights: Path | None) -> tuple[Path, Path] | None:
    """Weights and statistics: those of `--weights`, else what is found."""
    if weights is None:
        return musicfm.published.find("msd") or musicfm.published.find("fma")
    stats = musicfm.published.stats_beside(weights)
    for path in (weights, stats):
        if not path.is_file():
            raise UserError(f"{path}: no such file; {HOW_TO_GET}, with {stats.name} beside it")
    return weights, stats


def _found_musicfm(
    weights: Path, stats: Path, layer: int, device: torch.device, precision: str
) -> Found:
    digest, stats_digest = (musicfm.published.sha256(path) for path in (weights, stats))
    if musicfm.published.known_as(digest) is None:
        log.info("notice: %s is none of the published files of MusicFM; used as it is", weights)
    settings = EncoderSettings("musicfm", digest, stats_digest, layer, precision, MUSICFM_RATE)
    source = Source(weights.absolute(), stats.absolute(), str(device))
    config = _musicfm(source).config  # whatever is wrong with the files is said before any work
    if not 0 <= layer <= config.encoder_depth:
        raise UserError(f"--layer {layer}: MusicFM has 0 to {config.encoder_depth}")
    return _reported(Found(settings, source, config.encoder_dim, MUSICFM_EXCERPT_S))


def _reported(found: Found) -> Found:
    s = found.settings
    what = f"{s.name} layer {s.layer}, {s.precision}" if s.name == "musicfm" else s.name
    log.info("encoder: %s; weights %s, SHA-256 %s", what, found.source.weights.name, s.weights)
    return found


# --- songs -----------------------------------------------------------------------------------


def encoder(settings: EncoderSettings, source: Source) -> Encoder:
    """Loaded, once in a process."""
    with _LOADING:
        return _loaded(settings, source)


def _arrays(
    audio: NDArray[np.float32], settings: EncoderSettings, source: Source
) -> Mapping[str, NDArray[Any]]:
    device = torch.device(source.device)
    return {NAME: song_embeddings(audio, encoder(settings, source), device)}


def song_embeddings(
    audio: NDArray[np.float32], encoder: Encoder, device: torch.device
) -> NDArray[np.float32]:
    """(samples,) -> (excerpts, dim). The excerpts follow one another; the last one ends with the
    song. A song shorter than an excerpt is one of its own length. Raises AudioError for a song
    shorter than a frame, UserError where a GPU's memory is too small."""
    require_frame(audio, encoder.n_fft, encoder.sample_rate)
    starts = excerpt_starts(len(audio), encoder.excerpt)
    song = torch.from_numpy(audio)
    rows = []
    with torch.inference_mode():
        for first in range(0, len(starts), encoder.at_once):
            some = starts[first : first + encoder.at_once]
            batch = torch.stack([song[start : start + encoder.excerpt] for start in some])
            try:
                rows.append(encoder.embed(batch.to(device)).cpu())
            except torch.OutOfMemoryError as error:
                raise UserError(f"out of memory on {device}: use --device cpu") from error
    return torch.cat(rows).numpy()


def excerpt_starts(n_samples: int, excerpt: int) -> list[int]:
    """First sample of each excerpt of so many samples; the last one ends with the song."""
    last = max(n_samples - excerpt, 0)
    return [*range(0, last, excerpt), last]


_LOADING = Lock()  # of several threads one loads


@cache
def _loaded(settings: EncoderSettings, source: Source) -> Encoder:
    device = torch.device(source.device)
    if settings.name == "musicnn":
        return MusicNNEncoder(device)
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    return MusicFMEncoder(_musicfm(source), settings.layer, device, dtype)


@cache
def _musicfm(source: Source) -> MusicFM:
    assert source.stats is not None
    try:
        return load_checkpoint(source.weights, source.stats)
    except ValueError as error:
        raise UserError(str(error)) from error
