"""Which encoder a run uses. An encoder is one file of this folder and one entry of ENCODERS."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import arg

from artistid.encoders import ecapa, ge2e, musicfm, musicnn
from artistid.encoders.base import Encoder, Identity
from artistid.encoders.joint import JointEncoder
from artistid.foundation.errors import UserError, require_at_least

ENCODERS = {module.ENTRY.name: module.ENTRY for module in (musicfm, ecapa, musicnn, ge2e)}
WITHOUT_DOWNLOAD = "musicnn+ge2e"
AUTO, PLUS = "auto", "+"
DEFAULT_LAYER = 7  # of MusicFM

AnyEncoder = Encoder | JointEncoder

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class EncoderSettings:
    """Pretrained encoder."""

    encoder: Annotated[str, arg(metavar="NAME", help_behavior_hint="(default: auto)")] = AUTO
    """musicfm, ecapa, musicnn or ge2e, or several joined by +; python3 -m artistid.encoders lists
    them. auto: musicfm if its weights are found, else musicnn+ge2e, which are part of the
    project."""
    weights: Annotated[
        Path | None,
        arg(metavar="FILE", help_behavior_hint="(default: where the download puts them)"),
    ] = None
    """Weights of MusicFM, with their statistics, X_stats.json, beside them, or of ECAPA-TDNN."""
    layer: int = DEFAULT_LAYER
    """MusicFM layer that gives the embeddings, 0 to 12."""

    def __post_init__(self) -> None:
        names = self.names
        unknown = [name for name in names if name not in ENCODERS]
        if unknown and names != (AUTO,):
            known = ", ".join((AUTO, *ENCODERS))
            raise UserError(
                f"--encoder {self.encoder}: choose from {known}, or join several by {PLUS}"
            )
        if len(set(names)) < len(names):
            raise UserError(f"--encoder {self.encoder}: names the same encoder twice")
        require_at_least(self, layer=0)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.encoder.split(PLUS))


def find(settings: EncoderSettings, device: torch.device, precision: str) -> AnyEncoder:
    """The encoder that `settings` ask for; `precision` is "fp32" or "bf16".

    Raises UserError if its files are missing or wrong."""
    names = settings.names
    if names == (AUTO,):
        names = ("musicfm",)
        if settings.weights is None and musicfm.at_hand() is None:
            names = EncoderSettings(WITHOUT_DOWNLOAD).names
            words = "notice: no MusicFM weights found, using %s; %s"
            log.info(words, WITHOUT_DOWNLOAD, "python3 -m artistid.encoders lists the others")
    if settings.layer != DEFAULT_LAYER and "musicfm" not in names:
        raise UserError(f"--layer {settings.layer}: only musicfm has layers to choose from")
    weights = _weights_of(names, settings.weights)
    found = (ENCODERS[n].find(weights.get(n), settings.layer, device, precision) for n in names)
    return _joined(tuple(found))


def restore(identity: Mapping[str, Any], weights: Path | None, device: torch.device) -> AnyEncoder:
    """The encoder that a saved model was trained with, from the identity in its model card.

    `weights` are those of an encoder that is downloaded; others ignore them. Raises UserError if
    the encoder is unknown or its files are not the ones the model was trained with, TypeError for
    anything that is not an identity."""
    parts = identity.get("parts", [identity])
    wanted = [Identity(**part) for part in parts]
    for one in wanted:
        if one.name not in ENCODERS:
            raise UserError(
                f"the model was trained on embeddings of {one.name}, an encoder that this version "
                "does not have; update it, or train the model again"
            )
    names = [one.name for one in wanted]
    if not any(ENCODERS[name].download for name in names):
        weights = None
    own = _weights_of(names, weights)
    return _joined(tuple(_restored(one, own.get(one.name), device) for one in wanted))


def _restored(wanted: Identity, weights: Path | None, device: torch.device) -> Encoder:
    found = ENCODERS[wanted.name].find(weights, wanted.layer, device, wanted.precision)
    if found.identity != wanted:
        what, theirs, ours = "weights", wanted.weights, found.identity.weights
        if theirs == ours:
            what, theirs, ours = "statistics", wanted.stats, found.identity.stats
        raise UserError(
            f"the model was trained on embeddings of {wanted.name} with {what} of SHA-256 "
            f"{theirs[:12]}…, but found {ours[:12]}…; use those, or train the model again"
        )
    return found


def _joined(encoders: tuple[Encoder, ...]) -> AnyEncoder:
    return encoders[0] if len(encoders) == 1 else JointEncoder(encoders)


def _weights_of(names: Sequence[str], weights: Path | None) -> dict[str, Path]:
    """Which of the encoders `weights` are for. Raises UserError if that is not clear."""
    if weights is None:
        return {}
    downloaded = [name for name in names if ENCODERS[name].download]
    if len(downloaded) != 1:
        which = " or ".join(downloaded) or "none: those of musicnn and ge2e cannot be replaced"
        raise UserError(f"--weights {weights}: of which encoder? {which}")
    return {downloaded[0]: weights}
