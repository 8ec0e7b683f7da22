"""The model card: written, read back, and refused with the file's name if it is not whole."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artistid.audio.melspec import MelSettings
from artistid.foundation.errors import UserError
from artistid.metrics import Calibration, Spread
from artistid.models.card import (
    FORMAT,
    MemberCard,
    ModelCard,
    ensemble_card,
    parse_card,
    read_card,
    restored,
    restored_members,
)
from artistid.models.classical import SongClassifier, load_model, save_model
from artistid.models.known_songs import KnownSong, KnownSongs
from artistid.models.networks import MelCNNSettings

MEL = MelSettings(n_mels=40)
WIDTHS = MelCNNSettings(n_artists=2, n_mels=40, channels=(3, 5))
CALIBRATION = Calibration(1.25, Spread(0.75, 0.125), -1.5, 0.95)
CARD = ModelCard("task2", ("abba", "周"), asdict(MEL), asdict(WIDTHS), 94, CALIBRATION)
IN_JSON = json.loads(json.dumps(CARD.to_json()))
PATH = Path("models/mine.safetensors")


def test_a_card_comes_back_from_json() -> None:
    card = read_card(IN_JSON, PATH)
    assert replace(card, network=CARD.network) == CARD
    assert restored(MelSettings, card.input) == MEL
    assert restored(MelCNNSettings, card.network) == WIDTHS  # with a tuple of channels


@pytest.mark.parametrize("version", [None, 1, FORMAT - 1, FORMAT + 1, str(FORMAT)])
def test_a_card_of_another_version_must_be_trained_again(version: object) -> None:
    message = rf"^{PATH}: trained by another version .*format {version}.*reads {FORMAT}.*train it a"
    with pytest.raises(UserError, match=message):
        read_card({**IN_JSON, "format": version}, PATH)


@pytest.mark.parametrize("field", sorted(IN_JSON.keys() - {"format"}))
def test_a_missing_field_is_named(field: str) -> None:
    values = {name: value for name, value in IN_JSON.items() if name != field}
    with pytest.raises(UserError, match=rf"^{PATH}: damaged model card: .*{field}"):
        read_card(values, PATH)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", 2),
        ("artists", "abba"),
        ("artists", []),
        ("artists", ["abba", 1]),
        ("artists", None),
        ("input", []),
        ("network", None),
        ("crop_frames", "94"),
        ("crop_frames", 94.5),
        ("crop_frames", True),
        ("crop_frames", -1),
        ("calibration", 1.25),
        *(
            ("calibration", {**IN_JSON["calibration"], field: value})
            for field, value in (
                ("temperature", "1"),
                ("temperature", 0),
                ("temperature", float("nan")),
                ("temperature", float("inf")),
                ("similarity", 1),
                ("similarity", {"mean": 0.5}),
                ("similarity", {"mean": 0.5, "sd": 0}),
                ("similarity", {"mean": None, "sd": 1}),
                ("unknown_below", None),
                ("known_share", True),
                ("colour", "blue"),
            )
        ),
        ("source", None),
        ("colour", "blue"),  # no field of a card
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(field: str, value: Any) -> None:
    text = json.dumps({**IN_JSON, field: value})
    with pytest.raises(UserError, match=rf"^{PATH}: damaged model card: .*{field}"):
        parse_card(text, PATH)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "null", '"card"'])
def test_what_is_not_a_card_is_refused(text: str) -> None:
    with pytest.raises(
        UserError, match=rf"^{PATH}: (not a model card|trained by another)"
    ) as error:
        parse_card(text, PATH)
    assert "\n" not in str(error.value)


def test_a_setting_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="unknown setting colour"):
        restored(MelSettings, {**asdict(MEL), "colour": "blue"})


@pytest.mark.parametrize(
    "weight", ["0.5", True, pytest.param(10**400, id="huge"), -1, float("nan")]
)
def test_a_member_of_an_ensemble_has_a_weight(weight: Any) -> None:
    members = [MemberCard("task1", "SVM", "a.skops", "0", own) for own in (0.5, weight)]
    card = ensemble_card(("abba", "blur"), members, Calibration())
    with pytest.raises(UserError, match=rf"^{PATH}: damaged model card"):
        restored_members(card, PATH)


def test_a_skops_file_with_a_bad_card_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    classifier = SongClassifier().fit(np.eye(4).repeat(2, axis=0), [0, 0, 0, 0, 1, 1, 1, 1])
    for bad, message in (
        (replace(CARD, format=FORMAT + 1), "trained by another version"),
        (replace(CARD, artists=()), "damaged model card: artists"),
    ):
        save_model(
            path, classifier, bad, KnownSongs(np.eye(1, dtype=np.float16), (KnownSong("1", "a"),))
        )
        with pytest.raises(UserError, match=rf"model\.skops: {message}"):
            load_model(path)
