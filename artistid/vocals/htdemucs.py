"""HTDemucs, a network that separates a song into drums, bass, vocals and the rest.

The weights, 84 MB, and the package demucs (artistid[vocals]) are not part of the project.

Rouard, Massa and Défossez, "Hybrid transformers for music source separation", 2022 (arXiv
2211.08553). Songs are prepared as by demucs.api.Separator, and without its random shifts, so that
a file always gives the same samples.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import parent_process
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from artistid.audio.decode import Audio, AudioError, Samples, decode
from artistid.audio.source import at_rate
from artistid.foundation import progress
from artistid.foundation.errors import UserError, first_line
from artistid.foundation.parallel import Place
from musicfm import hub

PUBLISHED = hub.HubFile(
    "adefossez/HTDemucs",
    "bf35a81b663819a8255c8fefee17f9d812b786b5",
    "955717e8.safetensors",
    84_025_440,
    "d9fa14133cfcc034a6758923bb3a8ca9f8dfd0b582134643bbf83f72c17576dd",
)
FOLDER = Path(__file__).parent / "data"
KIND = "demucs.htdemucs.HTDemucs"  # the only class that a file may ask for
OVERLAP = 0.25  # of segments, demucs' default
BLOCK_S, CONTEXT_S = 300, 10  # separated at a time, and heard before and after it

_ONE_AT_A_TIME = Lock()  # on the GPU, while other threads decode and write

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class Separator:
    """Holds no weights, so it is cheap to send to other processes: the network is loaded on first
    use, once per process, on a GPU if there is one."""

    weights: Path
    digest: str  # SHA-256

    @property
    def place(self) -> Place:
        """On a CPU one song uses all cores; on a GPU, others are decoded and written beside it."""
        return "threads" if torch.cuda.is_available() else "here"

    def vocals_of(self, song: Path) -> Audio:
        """The vocals in a file, mono, at its own rate. Raises AudioError for a song that cannot be
        used."""
        audio = decode(song, _two_channels)
        if not np.isfinite(audio.samples).all():
            raise AudioError("contains samples that are not numbers (NaN or infinite)")
        return self.separate(audio)

    def separate(self, audio: Audio) -> Audio:
        """The vocals, mono, of (samples,) or (samples, channels) at any rate, which they keep.

        Raises UserError if the GPU has too little memory."""
        stereo = _two_channels(audio.samples.reshape(len(audio.samples), -1))
        try:
            with _ONE_AT_A_TIME:
                network, device = _loaded(self.weights)
            mix = at_rate(replace(audio, samples=stereo), int(network.samplerate))
            vocals = replace(mix, samples=_separated(mix.samples, network, device))
        except torch.OutOfMemoryError as error:
            raise UserError(
                "out of GPU memory while vocals are separated: end what else uses the GPU, or set "
                "CUDA_VISIBLE_DEVICES to nothing to separate on the CPU (finished songs are kept)"
            ) from error
        return at_rate(vocals, audio.sample_rate)


def find(weights: Path | None) -> Separator:
    """HTDemucs with `weights`, else the published ones, which are downloaded unless they are there.

    Raises UserError if the package or the file is missing or wrong."""
    try:
        import demucs  # noqa: F401
    except ImportError as error:
        raise UserError(
            "separating vocals needs a package: pip install 'artistid[vocals]' or pip install "
            "'demucs>=4.1'; or name vocals that you have with --vocals FOLDER"
        ) from error
    path = (weights or _published()).absolute()
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    _metadata(path)  # any fault in the file shows before work starts
    digest = hub.sha256(path)
    if digest != PUBLISHED.sha256:
        log.info("notice: %s is not the published HTDemucs; used as it is", path)
    log.info("vocals: separated by HTDemucs; weights %s, SHA-256 %s", path.name, digest)
    return Separator(path, digest)


def _published() -> Path:
    """Raises UserError if they have to be downloaded and cannot be."""
    at_hand = FOLDER / PUBLISHED.name
    path = at_hand if at_hand.is_file() else hub.cached(PUBLISHED)
    if path is not None:
        return path
    log.info("downloading HTDemucs, %.0f MB, into %s", PUBLISHED.size / 1e6, FOLDER)
    try:
        return hub.fetch(PUBLISHED, FOLDER, progress.bars_wanted())
    except hub.DownloadError as error:
        raise UserError(f"{error}; or name vocals that you have with --vocals FOLDER") from error


def _metadata(path: Path) -> Mapping[str, str]:
    """What a file says of its network. Raises UserError unless that is an HTDemucs and nothing
    else: demucs calls whatever class the file names."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        reason = first_line(error)
        raise UserError(f"{path}: damaged, or not safetensors ({reason}); delete it") from error
    if metadata.get("klass") != KIND or "structure" in metadata:
        raise UserError(f"{path}: not the weights of an HTDemucs (as {PUBLISHED.name} is)")
    return metadata


@cache
def _loaded(weights: Path) -> tuple[Any, torch.device]:
    from demucs.hf import load_safetensors_model

    _metadata(weights)
    try:
        network = load_safetensors_model(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(f"{weights}: weights of another network ({reason})") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return network.to(device).eval(), device


def _separated(mix: Samples, network: Any, device: torch.device) -> Samples:
    """(samples, 2) -> (samples,), a block at a time: memory does not grow with four stems of
    a whole song."""
    both = mix.mean(axis=1)
    mean, deviation = both.mean(), both.std(ddof=1) + 1e-8
    vocals = np.empty(len(mix), dtype=np.float32)
    block, context = BLOCK_S * network.samplerate, CONTEXT_S * network.samplerate
    hidden = parent_process() is not None  # a worker's
    total = round(len(mix) / network.samplerate)
    with progress.bar(total=total, desc="separating", unit="s", leave=False, hidden=hidden) as bar:
        for start in range(0, len(mix), block):
            first, stop = max(0, start - context), min(start + block, len(mix))
            heard = (mix[first : stop + context] - mean) / deviation
            stems = _apply(network, torch.from_numpy(heard.T.copy()), device, bar)
            stem = stems.mean(dim=0).numpy()
            vocals[start:stop] = stem[start - first : stop - first] * deviation + mean
    return vocals


def _apply(network: Any, mix: Tensor, device: torch.device, bar: "tqdm[Any]") -> Tensor:
    """(2, samples) -> the vocals, (2, samples), on the CPU."""
    from demucs.apply import apply_model

    seconds = max(1, round((1 - OVERLAP) * float(network.segment)))  # to the next segment

    def finished(state: Mapping[str, Any]) -> None:
        if state["state"] == "end":
            bar.update(min(seconds, bar.total - bar.n))

    with _ONE_AT_A_TIME, torch.inference_mode():
        stems: Tensor = apply_model(
            network, mix[None], shifts=0, overlap=OVERLAP, device=device, callback=finished
        )[0]
    return stems[network.sources.index("vocals")].cpu()


def _two_channels(block: Samples) -> NDArray[np.float32]:
    """(samples, channels) -> (samples, 2): stereo as it is, otherwise the mean of all, twice."""
    return block if block.shape[1] == 2 else block.mean(axis=1, keepdims=True).repeat(2, axis=1)
