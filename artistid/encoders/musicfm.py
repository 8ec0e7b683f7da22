"""MusicFM as an encoder: the mean over time of one layer's output.

The weights, 1.3 GB, are not part of the project: `python3 -m musicfm download` fetches them.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from artistid.encoders.base import Download, Encoder, Entry, Identity
from artistid.foundation.errors import UserError
from musicfm import MusicFM, hub, load_checkpoint, published
from musicfm.frontend import N_FFT, SAMPLE_RATE

EXCERPT_S = 30  # MusicFM was trained on excerpts of this length
GPU_BATCH = 4
HOW_TO_GET = (
    "python3 -m musicfm download fetches MusicFM's weights, 1.3 GB, into musicfm/data; "
    "or pass --weights FILE"
)

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class MusicFMEncoder(Encoder):
    weights: Path
    stats: Path
    excerpt, hop, shortest = EXCERPT_S * SAMPLE_RATE, EXCERPT_S * SAMPLE_RATE, N_FFT

    def load(self) -> MusicFM:
        dtype = torch.bfloat16 if self.identity.precision == "bf16" else torch.float32
        return _checkpoint(self.weights, self.stats).to(self.device, dtype)

    def embed(self, batch: Tensor) -> Tensor:
        hidden: Tensor = self.network.hidden_state(batch, self.identity.layer)
        return hidden.float().mean(dim=1)


def at_hand() -> tuple[Path, Path] | None:
    """Weights and statistics in musicfm/data or in the hub's local cache, if any."""
    return published.find("msd") or published.find("fma")


def find(weights: Path | None, layer: int, device: torch.device, precision: str) -> Encoder:
    """MusicFM up to `layer`, in `precision` ("fp32" or "bf16"), with `weights`, else those at hand.

    Raises UserError if files are missing or wrong, or the layer does not exist."""
    files = at_hand() if weights is None else (weights, published.stats_beside(weights))
    if files is None:
        raise UserError(f"--encoder musicfm: no weights found; {HOW_TO_GET}")
    weights, stats = files
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: no such file; {HOW_TO_GET}, with {stats.name} beside it")
    config = _checkpoint(weights, stats).config  # any fault in the files shows before work starts
    if not 0 <= layer <= config.encoder_depth:
        raise UserError(f"--layer {layer}: MusicFM has 0 to {config.encoder_depth}")
    digest, stats_digest = hub.sha256(weights), hub.sha256(stats)
    if published.known_as(digest) is None:
        log.info("notice: %s is not a published MusicFM checkpoint; used as it is", weights)
    what = f"layer {layer}, {precision}; weights {weights.name}, SHA-256 {digest}"
    log.info("encoder: musicfm %s", what)
    on_cpu = device.type == "cpu"
    return MusicFMEncoder(
        Identity("musicfm", digest, stats_digest, layer, precision, SAMPLE_RATE),
        device,
        config.encoder_dim,
        at_once=1 if on_cpu else GPU_BATCH,
        place="here" if on_cpu else "threads",  # one network uses all cores, and is 1.3 GB
        weights=weights.absolute(),
        stats=stats.absolute(),
    )


def _checkpoint(weights: Path, stats: Path) -> MusicFM:
    try:
        return load_checkpoint(weights, stats)
    except published.CheckpointError as error:
        raise UserError(str(error)) from error


ENTRY = Entry(
    "musicfm",
    find,
    knows="masked music of the Million Song Dataset",
    dim=1024,
    excerpt_s=EXCERPT_S,
    licence="MIT",
    cite="Won, Hung and Le 2023, arXiv 2311.03318",
    download=Download(
        (published.PUBLISHED["msd"].weights, published.PUBLISHED["msd"].stats),
        at_hand=lambda: at_hand() is not None,
        fetch=lambda: published.download("msd"),
    ),
)
