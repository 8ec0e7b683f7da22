import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from artistid.dataset.corpus import Corpus, Track
from artistid.inference import checkpoint as checkpoints
from artistid.models.checkpoint import ResumeFile, load_network, save_network

SETTINGS = {"lr": 0.1, "channels": (3, 4)}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_network(
        path, nn.Conv2d(2, 3, 1).to(memory_format=torch.channels_last), {"artists": ["周"]}
    )
    return path


def test_a_network_comes_back_with_its_description(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last))
    save_network(tmp_path / "model.safetensors", network, {"artists": ["周"]})
    weights, description = load_network(tmp_path / "model.safetensors")
    assert description == {"artists": ["周"]}
    assert set(weights) == {"0.weight", "0.bias"}
    for name, tensor in network.state_dict().items():
        assert torch.equal(weights[name], tensor)


def test_weights_and_description_of_two_runs_are_refused(saved: Path) -> None:
    old = saved.read_bytes()
    save_network(saved, nn.Conv2d(2, 3, 1), {"artists": ["x"]})
    saved.write_bytes(old)
    with pytest.raises(ValueError, match=r"model\.json beside it is of another run"):
        load_network(saved)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("model.safetensors", None, "no such file; train a model first"),
        ("model.json", None, "no such file; train a model first"),
        ("model.json", b"{", "not a network with its model.json"),
        ("model.json", b"[]", "not a network with its model.json"),
        ("model.json", b"{}", "not a network with its model.json"),
        ("model.json", b"\xff", "not a network with its model.json"),
        ("model.safetensors", b"", "not a network with its model.json"),
        ("model.safetensors", b"0123456789", "not a network with its model.json"),
    ],
)
def test_what_is_no_network_is_named(
    saved: Path, file: str, content: bytes | None, reason: str
) -> None:
    if content is None:
        (saved.parent / file).unlink()
    else:
        (saved.parent / file).write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        load_network(saved)
    assert "\n" not in str(error.value)


def resume_file(path: Path, corpus: str = "c", **settings: Any) -> ResumeFile:
    return ResumeFile(path / "resume.pt", {**SETTINGS, **settings}, corpus)


def test_a_state_comes_back(tmp_path: Path) -> None:
    state = {"weights": {"w": torch.arange(3)}, "history": [{"loss": 0.5}]}
    resume_file(tmp_path).save(state)
    back = resume_file(tmp_path).load()
    assert back["history"] == state["history"]
    assert torch.equal(back["weights"]["w"], state["weights"]["w"])
    resume_file(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"lr": 0.2}, "was begun with lr 0.1, now 0.2; use what it was begun with, or start anew"),
        ({"channels": (3, 5)}, r"begun with channels \(3, 4\), now \(3, 5\)"),
        ({"seed": 1}, "begun with seed None, now 1"),
        ({"corpus": "d"}, "is of another corpus"),
    ],
)
def test_a_state_of_other_settings_or_songs_is_refused(
    tmp_path: Path, other: dict[str, Any], reason: str
) -> None:
    resume_file(tmp_path).save({"epoch": 1})
    with pytest.raises(ValueError, match=reason):
        resume_file(tmp_path, **other).load()


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("payload",)


@pytest.mark.parametrize("content", [None, b"", b"text", pickle.dumps(Payload()), pickle.dumps({})])
def test_what_is_no_state_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    reason = "nothing to go on with, there is no"
    if content is not None:
        (tmp_path / "resume.pt").write_bytes(content)
        reason = "resume.pt can't be read"
    with pytest.raises(ValueError, match=reason) as error:
        resume_file(tmp_path).load()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "payload").exists()


def test_a_payload_in_torchs_own_format_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"settings": SETTINGS, "corpus": "c", "state": Payload()}, tmp_path / "resume.pt")
    with pytest.raises(ValueError, match="can't be read"):
        resume_file(tmp_path).load()
    assert not (tmp_path / "payload").exists()


def test_a_corpus_is_known_by_what_training_hears_of_it() -> None:
    def digest(content: str = "e", artist: str = "b", test: str = "t") -> str:
        tracks = (
            Track(Path("1"), "1", "train", "a", "x"),
            Track(Path("2"), "2", "val", artist, "x"),
            Track(Path("3"), "3", "test"),
        )
        names = ("d", content, test)
        entries = {track: Path(name) for track, name in zip(tracks, names, strict=True)}
        return checkpoints.corpus_digest(Corpus("c", tracks), entries)

    assert digest() == digest(test="other")
    assert len({digest(), digest(content="f"), digest(artist="c")}) == 3


def test_the_description_is_readable(saved: Path) -> None:
    assert json.loads(saved.with_suffix(".json").read_text())["artists"] == ["周"]
    assert saved.stat().st_mode & 0o044 == 0o044
