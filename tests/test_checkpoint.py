"""Trained networks and unfinished trainings on disk."""

import errno
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from artistid.dataset.corpus import Corpus, Track
from artistid.foundation.errors import UserError
from artistid.metrics import Calibration
from artistid.models.card import FORMAT, ModelCard
from artistid.models.checkpoint import (
    TrainingCheckpoint,
    corpus_digest,
    load_network,
    save_network,
)
from artistid.models.known_songs import KnownSong, KnownSongs

CARD = ModelCard("task2", ("abba", "周"), {"n_mels": 3}, {"hidden": 2}, 4, Calibration(1.25))
KNOWN = KnownSongs(
    np.array([[0.6, 0.8], [0, 1]], np.float16), (KnownSong("1", "周"), KnownSong("ü\udcff", "ü"))
)
EARLIER_FORMAT = Path(__file__).parent / "data/earlier_format.safetensors"

# --- trained networks --------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_network(path, nn.Conv2d(2, 3, 1), CARD, KNOWN)
    return path


def test_a_network_comes_back_with_its_card(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    network.to(memory_format=torch.channels_last)
    save_network(tmp_path / "model.safetensors", network, CARD, KNOWN)
    weights, card, known = load_network(tmp_path / "model.safetensors")
    assert card == CARD
    np.testing.assert_array_equal(known.vectors, KNOWN.vectors)
    assert known.songs == KNOWN.songs
    assert weights.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(weights[name], tensor)


def test_both_files_can_be_read_by_others(saved: Path) -> None:
    text = saved.with_suffix(".json").read_text(encoding="utf-8")
    assert '"周"' in text
    assert json.loads(text)["format"] == FORMAT
    assert saved.stat().st_mode & 0o044 == 0o044


def test_weights_and_card_of_different_runs_are_refused(saved: Path) -> None:
    old = saved.read_bytes()
    save_network(saved, nn.Conv2d(2, 3, 1), CARD, KNOWN)
    saved.write_bytes(old)
    with pytest.raises(UserError, match=r"model\.json is from a different run; train it again"):
        load_network(saved)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved.parent / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: no such file; train a model first"):
        load_network(saved)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.json", b"{", "not a network and its model.json"),
        ("model.json", b"\xff", "not a network and its model.json"),
        ("model.json", b"[" * 100_000, "not a network and its model.json"),
        ("model.json", b"[]", r"model format None, .*train it again"),
        ("model.json", b"{}", r"model format None, .*train it again"),
        ("model.json", json.dumps({"format": FORMAT}).encode(), "damaged model card"),
        ("model.safetensors", b"", "not a network and its model.json"),
        ("model.safetensors", b"0123456789", "not a network and its model.json"),
    ],
)
def test_a_damaged_file_is_named(saved: Path, name: str, content: bytes, reason: str) -> None:
    (saved.parent / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"model\.safetensors: .*{reason}") as error:
        load_network(saved)
    assert "\n" not in str(error.value)


def test_a_network_of_another_format_must_be_trained_again(saved: Path) -> None:
    with pytest.raises(UserError, match=r"earlier_format\.safetensors: .*format 1.*train it again"):
        load_network(EARLIER_FORMAT)
    save_network(saved, nn.Conv2d(2, 3, 1), replace(CARD, format=FORMAT + 1), KNOWN)
    with pytest.raises(UserError, match=rf"model\.safetensors: .*format {FORMAT + 1}.*train it"):
        load_network(saved)


# --- unfinished trainings ----------------------------------------------------------------------

SETTINGS = {"lr": 0.1, "channels": (3, 4)}


def checkpoint(folder: Path, corpus: str = "c", **settings: Any) -> TrainingCheckpoint:
    return TrainingCheckpoint(folder / "resume.pt", {**SETTINGS, **settings}, corpus)


def test_a_state_comes_back(tmp_path: Path) -> None:
    state = {"weights": {"w": torch.arange(3)}, "history": [[0.5, 1.0]]}
    checkpoint(tmp_path).save(state)
    loaded = checkpoint(tmp_path).load()
    assert loaded["history"] == state["history"]
    assert torch.equal(loaded["weights"]["w"], torch.arange(3))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"lr": 0.2}, "was started with lr 0.1, now 0.2; use the same again, or start over"),
        ({"channels": (3, 5)}, r"was started with channels \(3, 4\), now \(3, 5\)"),
        ({"seed": 1, "lr": 1}, "was started with lr 0.1, now 1; seed None, now 1"),
        ({"corpus": "d"}, "was trained on another corpus"),
    ],
)
def test_a_state_of_other_settings_or_songs_is_refused(
    tmp_path: Path, other: dict[str, Any], reason: str
) -> None:
    checkpoint(tmp_path).save({"epoch": 1})
    with pytest.raises(UserError, match=rf"--resume: .*resume\.pt {reason}"):
        checkpoint(tmp_path, **other).load()


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    path = tmp_path / "state.pt"
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
        TrainingCheckpoint(path, {}, "digest").save({"network": {"w": torch.zeros(9)}})


def test_without_a_checkpoint_nothing_can_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--resume: no checkpoint at .*resume\.pt"):
        checkpoint(tmp_path).load()


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("payload",)


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps(Payload()), pickle.dumps({})])
def test_a_damaged_checkpoint_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resume.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"--resume: .*resume\.pt is damaged") as error:
        checkpoint(tmp_path).load()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "payload").exists()


def test_a_payload_in_torchs_own_format_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"settings": SETTINGS, "corpus": "c", "state": Payload()}, tmp_path / "resume.pt")
    with pytest.raises(UserError, match="is damaged"):
        checkpoint(tmp_path).load()
    assert not (tmp_path / "payload").exists()


def test_the_corpus_digest_depends_on_everything_that_training_sees() -> None:
    def digest(content: str = "e", artist: str = "b", test: str = "t") -> str:
        tracks = (
            Track(Path("1"), "1", "train", "a", "x"),
            Track(Path("2"), "2", "val", artist, "x"),
            Track(Path("3"), "3", "test"),
        )
        names = ("d", content, test)
        entries = {track: (Path(name),) for track, name in zip(tracks, names, strict=True)}
        return corpus_digest(Corpus("c", tracks), entries)

    assert digest() == digest(test="other")
    assert len({digest(), digest(content="f"), digest(artist="c")}) == 3
