from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from torch import Tensor, nn

from artistid.models.networks import (
    EmbeddingMLP,
    EmbeddingMLPSettings,
    MelCNN,
    MelCNNSettings,
    joined,
    mel_cnn_of,
    n_joined,
)


@pytest.fixture
def network() -> MelCNN:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return MelCNN(MelCNNSettings(n_artists=20, n_mels=96)).eval()


def log_mel(rng: Generator, batch: int, frames: int) -> Tensor:
    return torch.from_numpy(rng.normal(-30, 10, (batch, frames, 96)).astype(np.float32))


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    """Of the weights, without those of normalisation."""
    return [tuple(parameter.shape) for parameter in network.parameters() if parameter.ndim > 1]


def dropouts(network: nn.Module) -> list[float]:
    return [module.p for module in network.modules() if isinstance(module, nn.Dropout)]


def inputs_of(module: nn.Module) -> list[Tensor]:
    """A list that receives every input of the module from now on."""
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


# --- MelCNN ------------------------------------------------------------------------------------


def test_widths_are_those_of_the_settings() -> None:
    widths = MelCNNSettings(7, 40, channels=(3, 5, 9), temporal=(6, 4), hidden=11, dropout=0.5)
    network = MelCNN(widths)
    over_time_and_bands = [(3, 1, 5, 5), (5, 3, 3, 3), (9, 5, 3, 3)]
    over_time = [(6, 9 * 5, 3), (4, 6, 3)]  # 40 bands are 5 after three blocks
    assert shapes(network) == [*over_time_and_bands, *over_time, (11, 2 * 4), (7, 11)]
    assert dropouts(network) == [0.5]


def test_the_default_ends_in_two_layers_with_128_hidden_units(network: MelCNN) -> None:
    assert len(network.blocks) == 5
    assert shapes(network)[-2:] == [(128, 2 * 256), (20, 128)]


def test_the_large_network_has_twice_the_channels_where_they_cost_little() -> None:
    small, large = (mel_cnn_of(size, 20, 96) for size in ("small", "large"))
    assert small == MelCNNSettings(n_artists=20, n_mels=96)
    assert large.channels == (16, 32, 128, 256, 256)
    assert large.temporal == (512, 512)
    assert replace(large, channels=small.channels, temporal=small.temporal) == small


@pytest.mark.parametrize("frames", [1, 6, 188, 301])
def test_crops_of_any_length_give_one_logit_per_artist(
    network: MelCNN, rng: Generator, frames: int
) -> None:
    logits = network(log_mel(rng, 3, frames))
    assert logits.shape == (3, 20)
    assert torch.isfinite(logits).all()


def test_the_other_crops_of_a_batch_do_not_matter(network: MelCNN, rng: Generator) -> None:
    batch = log_mel(rng, 4, 94)
    torch.testing.assert_close(network(batch)[2:3], network(batch[2:3]), rtol=1e-4, atol=1e-5)


def test_bands_are_standardised_over_batch_and_time(rng: Generator) -> None:
    network = MelCNN(MelCNNSettings(n_artists=4, n_mels=96))
    seen = inputs_of(network.blocks)
    batch = log_mel(rng, 8, 50) * torch.linspace(0.1, 10, 96)
    network(batch)
    expected = (batch - batch.mean(dim=(0, 1))) / batch.std(dim=(0, 1), correction=0)
    torch.testing.assert_close(seen[0], expected[:, None], rtol=1e-3, atol=1e-3)


def test_convolutions_over_time_see_every_band(network: MelCNN, rng: Generator) -> None:
    seen = inputs_of(network.temporal)
    images: list[Any] = []
    network.blocks.register_forward_hook(lambda *values: images.append(values[2]))
    network(log_mel(rng, 2, 188))
    bands = [images[0][..., band] for band in range(3)]  # (batch, channels, time) each
    torch.testing.assert_close(seen[0].unflatten(1, (128, 3)), torch.stack(bands, dim=2))


def test_mean_and_maximum_over_time_are_classified(network: MelCNN, rng: Generator) -> None:
    seen = inputs_of(network.hidden)
    series: list[Any] = []
    network.temporal.register_forward_hook(lambda *values: series.append(values[2]))
    network(log_mel(rng, 2, 188))
    expected = torch.cat([series[0].mean(dim=2), series[0].max(dim=2).values], dim=1)
    torch.testing.assert_close(seen[0], expected)


def test_joined_networks_answer_by_their_mean(rng: Generator) -> None:
    networks = [EmbeddingMLP(EmbeddingMLPSettings(n_artists=3, dim=5)).eval() for _ in range(3)]
    batch = torch.from_numpy(rng.normal(0, 100, (4, 2, 5)).astype(np.float32))  # some are certain
    joint = joined(networks)
    expected = sum(network(batch).softmax(dim=1) for network in networks) / 3
    torch.testing.assert_close(joint(batch).softmax(dim=1), expected)
    own = torch.cat([network.vectors(batch) for network in networks], dim=1)
    torch.testing.assert_close(joint.vectors(batch), own)
    assert n_joined(joint.state_dict()) == 3
    assert joined(networks[:1]) is networks[0]
    assert n_joined(networks[0].state_dict()) == 1


def test_every_parameter_learns(rng: Generator) -> None:
    network = MelCNN(MelCNNSettings(n_artists=4, n_mels=96))
    network(log_mel(rng, 8, 94)).logsumexp(dim=1).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


# --- EmbeddingMLP ------------------------------------------------------------------------------


def test_the_standardised_mean_of_the_embeddings_is_classified(rng: Generator) -> None:
    network = EmbeddingMLP(EmbeddingMLPSettings(n_artists=5, dim=12, hidden=7, dropout=0.3))
    assert shapes(network) == [(7, 12), (5, 7)]
    assert dropouts(network) == [0.3]
    seen = inputs_of(network.hidden)
    embeddings = torch.from_numpy(rng.normal(3, 2, (64, 4, 12)).astype(np.float32))
    embeddings[:, :, 1] *= 1_000
    network(embeddings)
    means = embeddings.mean(dim=1)
    expected = (means - means.mean(dim=0)) / means.std(dim=0, correction=0)
    torch.testing.assert_close(seen[0], expected, rtol=1e-3, atol=1e-3)
    network.eval()
    together, alone = network(embeddings), network(means[:3, None])
    torch.testing.assert_close(alone, together[:3], rtol=1e-4, atol=1e-5)
