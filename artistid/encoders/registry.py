"""Which encoder a run uses. An encoder is one file of this folder and one entry of ENCODERS."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import arg
from tyro.extras import literal_type_from_choices

from artistid.encoders import musicfm, musicnn
from artistid.encoders.base import Encoder, Identity
from artistid.foundation.errors import UserError, require_at_least

Find = Callable[[Path | None, int, torch.device, str], Encoder]  # weights, layer, device, precision

ENCODERS: dict[str, Find] = {"musicfm": musicfm.find, "musicnn": musicnn.find}
CHOICES = ("auto", *ENCODERS)

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class EncoderSettings:
    """Pretrained encoder."""

    encoder: Annotated[
        str,
        arg(constructor=literal_type_from_choices(CHOICES), help_behavior_hint="(default: auto)"),
    ] = "auto"
    """auto: musicfm if its weights are found, else musicnn, which is part of the project."""
    weights: Annotated[
        Path | None,
        arg(metavar="FILE", help_behavior_hint="(default: in musicfm/data, else the hub's cache)"),
    ] = None
    """MusicFM weights, pretrained_X.pt, with their statistics, X_stats.json, beside them."""
    layer: int = 7
    """MusicFM layer that gives the embeddings, 0 to 12."""

    def __post_init__(self) -> None:
        if self.encoder not in CHOICES:
            raise UserError(f"--encoder {self.encoder}: unknown; choose from {', '.join(CHOICES)}")
        require_at_least(self, layer=0)


def find(settings: EncoderSettings, device: torch.device, precision: str) -> Encoder:
    """The encoder that `settings` ask for; `precision` is "fp32" or "bf16".

    Raises UserError if its files are missing or wrong."""
    name = settings.encoder
    if name == "auto":
        name = "musicfm"
        if settings.weights is None and musicfm.at_hand() is None:
            name = "musicnn"
            log.info("notice: no MusicFM weights found, using musicnn. %s", musicfm.HOW_TO_GET)
    return ENCODERS[name](settings.weights, settings.layer, device, precision)


def restore(identity: Mapping[str, Any], weights: Path | None, device: torch.device) -> Encoder:
    """The encoder that a saved model was trained with, from the identity in its model card.

    `weights` are MusicFM's; other encoders ignore them. Raises UserError if the encoder is unknown
    or its files are not the ones the model was trained with, TypeError for anything that is not
    an identity."""
    wanted = Identity(**identity)
    if wanted.name not in ENCODERS:
        raise UserError(
            f"the model was trained on embeddings of {wanted.name}, an encoder that this version "
            "does not have; update it, or train the model again"
        )
    weights = weights if wanted.name == "musicfm" else None
    found = ENCODERS[wanted.name](weights, wanted.layer, device, wanted.precision)
    if found.identity != wanted:
        what, theirs, ours = "weights", wanted.weights, found.identity.weights
        if theirs == ours:
            what, theirs, ours = "statistics", wanted.stats, found.identity.stats
        raise UserError(
            f"the model was trained on embeddings of {wanted.name} with {what} of SHA-256 "
            f"{theirs[:12]}…, but found {ours[:12]}…; use those, or train the model again"
        )
    return found
