"""ECAPA-TDNN against SpeechBrain's code, whose outputs for a small checkpoint are in tests/data."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT
from numpy.random import Generator
from test_musicfm import Payload
from torch import Tensor

from artistid.encoders import ecapa
from artistid.foundation.errors import UserError
from musicfm import hub

DATA = PROJECT / "tests" / "data"
CHECKPOINT = DATA / "tiny_ecapa.ckpt"


@pytest.fixture(scope="module")
def network() -> ecapa.ECAPA:
    return ecapa.load_checkpoint(CHECKPOINT)


def noise(rng: Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(0, 0.1, shape).astype(np.float32))


@pytest.mark.parametrize("which", ["", "_odd"])
def test_it_equals_speechbrain(network: ecapa.ECAPA, which: str) -> None:
    with np.load(DATA / "tiny_ecapa_parity.npz") as theirs:
        waveform = torch.from_numpy(theirs[f"wav{which}"])
        fbank, embedding = theirs[f"fbank{which}"], theirs[f"embedding{which}"]
    for ours, wanted in (ecapa.fbank(waveform), fbank), (network.embed(waveform), embedding):
        assert ours.shape == wanted.shape
        assert np.abs(ours.numpy() - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_batch_is_embedded_as_its_excerpts_are(network: ecapa.ECAPA, rng: Generator) -> None:
    waveform = noise(rng, 3, 16_000) * torch.tensor([[1], [0.01], [3]])  # each has its own floor
    alone = torch.cat([network.embed(excerpt[None]) for excerpt in waveform])
    torch.testing.assert_close(network.embed(waveform), alone, rtol=1e-4, atol=1e-5)


def test_the_shortest_excerpt_has_five_frames(network: ecapa.ECAPA, rng: Generator) -> None:
    shortest = (ecapa.MIN_FRAMES - 1) * ecapa.HOP
    assert network.embed(noise(rng, 1, shortest)).isfinite().all()
    with pytest.raises(RuntimeError, match=r"[Pp]adding size"):
        network.embed(noise(rng, 1, shortest - 1))


def test_silence_has_an_embedding(network: ecapa.ECAPA) -> None:
    assert network.embed(torch.zeros(1, 16_000)).isfinite().all()


def test_every_tensor_of_a_checkpoint_is_used(network: ecapa.ECAPA, tmp_path: Path) -> None:
    state = torch.load(CHECKPOINT, weights_only=True)
    assert len(state) == len(network.state_dict())
    for missing in ("fc.conv.bias", "blocks.2.res2net_block.blocks.6.conv.conv.weight"):
        damaged = {name: tensor for name, tensor in state.items() if name != missing}
        torch.save(damaged, tmp_path / "damaged.ckpt")
        with pytest.raises(UserError, match=r"damaged\.ckpt: weights of another model"):
            ecapa.load_checkpoint(tmp_path / "damaged.ckpt")


def test_a_tensor_without_a_layer_is_of_another_model(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "classifier.ckpt")
    with pytest.raises(UserError, match=r"classifier\.ckpt: weights of another model"):
        ecapa.load_checkpoint(tmp_path / "classifier.ckpt")


@pytest.mark.parametrize("content", [CHECKPOINT.read_bytes()[:-100_000], b"text", b""])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.ckpt: truncated, or not a checkpoint"):
        ecapa.load_checkpoint(path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.conv.bias": Payload(tmp_path / "trace")}, tmp_path / "w.ckpt")
    with pytest.raises(UserError, match=r"w\.ckpt: refused, because loading it could run code"):
        ecapa.load_checkpoint(tmp_path / "w.ckpt")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_as_an_encoder_it_embeds_every_5_s(
    network: ecapa.ECAPA, rng: Generator, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "artistid")
    encoder = ecapa.find(CHECKPOINT, 0, torch.device("cpu"), precision)
    assert "tiny_ecapa.ckpt is not the published checkpoint; used as it is" in caplog.text
    song = noise(rng, 12 * ecapa.SAMPLE_RATE)
    found = encoder.song_embeddings(song.numpy())
    excerpts = torch.stack([song[:80_000], song[80_000:160_000], song[-80_000:]])
    expected = network.embed(excerpts).numpy()
    assert found.shape == (3, encoder.dim)
    tolerance = 1e-5 if precision == "fp32" else 0.05
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def test_the_published_file_is_found_where_a_download_puts_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub, "cached", lambda _: None)
    monkeypatch.setattr(ecapa, "FOLDER", tmp_path)
    assert ecapa.at_hand() is None
    (tmp_path / "embedding_model.ckpt").touch()
    assert ecapa.at_hand() == tmp_path / "embedding_model.ckpt"
