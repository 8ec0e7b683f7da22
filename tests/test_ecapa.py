"""ECAPA-TDNN against SpeechBrain's code, whose outputs for a small checkpoint are in tests/data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT
from numpy.random import Generator
from torch import Tensor

from artistid.encoders import ecapa
from artistid.foundation.errors import UserError

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
