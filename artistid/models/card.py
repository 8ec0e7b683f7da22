"""The model card: everything needed to use a saved model, besides its weights."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from artistid.foundation.errors import UserError, first_line
from artistid.metrics import Calibration, Spread

FORMAT = 7  # raised when the meaning of a card or of the weights beside it changes

# types of the fields in JSON
KINDS: dict[str, Any] = {
    "task": str,
    "artists": list,
    "input": dict,
    "network": dict,
    "crop_frames": int,
    "calibration": dict,
    "source": str,
}


@dataclass(frozen=True)
class ModelCard:
    task: str  # "task1", "task2", "task2_baseline", "ensemble"
    artists: tuple[str, ...]  # in the order of the posteriors
    # fields of FeatureSettings, MelSettings, or an encoder's Identity; an ensemble's members
    input: Mapping[str, Any]
    network: Mapping[str, Any] = field(default_factory=dict)  # every width, of a network
    crop_frames: int = 0  # frames of the input classified at a time; 0 for task 1
    calibration: Calibration = Calibration()
    source: str = "mix"  # what of a song the model listens to
    format: int = FORMAT

    def calibrated(self, calibration: Calibration) -> "ModelCard":
        return replace(self, calibration=calibration)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class MemberCard:
    """A model of an ensemble."""

    task: str
    model: str
    file: str  # relative to the folder of the ensemble
    digest: str  # of the file
    weight: float  # of its posteriors


def read_card(values: Any, path: Path) -> ModelCard:
    """The card in `values`, parsed from JSON; `path` is the model's, for the message.

    Raises UserError for a card of another version or one that is not whole."""
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise UserError(
            f"{path}: trained by another version of artistid (model format {version}, this one "
            f"reads {FORMAT}); train it again"
        )
    for name, kind in KINDS.items():
        if not isinstance(values.get(name), kind) or isinstance(values[name], bool):
            raise UserError(f"{path}: damaged model card: {name} is missing or of the wrong type")
    try:
        own = {"artists": tuple(values["artists"]), "calibration": _calibration(values)}
        card = ModelCard(**{**values, **own})
    except (TypeError, ValueError) as error:  # or a field that cards do not have
        raise UserError(f"{path}: damaged model card: {first_line(error)}") from error
    are_names = card.artists and all(isinstance(artist, str) for artist in card.artists)
    if not are_names or card.crop_frames < 0:
        raise UserError(f"{path}: damaged model card: artists or crop_frames")
    return card


def _calibration(values: Mapping[str, Any]) -> Calibration:
    """Of a card. Raises ValueError unless it is whole."""
    own = values["calibration"]
    try:
        found = Calibration(**{**own, "similarity": Spread(**own["similarity"])})
        positive = (found.temperature, found.similarity.sd)
        numbers = [*positive, found.similarity.mean, found.unknown_below, found.known_share]
        are_numbers = {type(number) for number in numbers} <= {int, float}
        if not are_numbers or not np.isfinite(numbers).all() or min(positive) <= 0:
            raise ValueError("not a number, infinite, or not positive")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"calibration: {first_line(error)}") from error
    return found


def parse_card(text: str, path: Path) -> ModelCard:
    """As `read_card`, from the text of a JSON file."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a model card: {first_line(error)}") from error
    return read_card(values, path)


def restored(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A settings dataclass from a card, where tuples have become lists.

    Raises ValueError or TypeError for values it does not have."""
    unknown = values.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"unknown setting {', '.join(sorted(unknown))}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def ensemble_card(
    artists: tuple[str, ...], members: Sequence[MemberCard], calibration: Calibration
) -> ModelCard:
    own = {"members": [asdict(member) for member in members]}
    return ModelCard("ensemble", artists, own).calibrated(calibration)


def restored_members(card: ModelCard, path: Path) -> list[MemberCard]:
    """Of an ensemble's card. Raises UserError if it is damaged; `path` is for the message."""
    try:
        members = [restored(MemberCard, values) for values in card.input["members"]]
        weights = [float(member.weight) for member in members]
        is_whole = all(isinstance(m.file, str) for m in members) and min(weights) >= 0
        is_whole &= all(type(m.weight) in (int, float) for m in members)
        if not is_whole or not abs(sum(weights) - 1) <= 1e-6:  # NaN is neither
            raise ValueError("members or their weights")
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged model card: {first_line(error)}") from error
    return members
