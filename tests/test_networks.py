import numpy as np
import pytest
import torch
from numpy.random import Generator

from artistid.models.networks import EmbeddingMLP, EmbeddingMLPSettings, MelCNN, MelCNNSettings


@pytest.fixture
def network() -> MelCNN:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return MelCNN(MelCNNSettings(n_artists=20, n_mels=96)).eval()


def log_mel(rng: Generator, batch: int, frames: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(-30, 10, (batch, frames, 96)).astype(np.float32))


def test_its_widths_are_those_of_the_settings() -> None:
    network = MelCNN(MelCNNSettings(7, 40, channels=(3, 5, 9), hidden=11, dropout=0.5))
    shapes = [tuple(parameter.shape) for parameter in network.parameters() if parameter.ndim > 1]
    assert shapes == [(3, 1, 5, 5), (5, 3, 3, 3), (9, 5, 3, 3), (11, 18), (7, 11)]
    assert [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)] == [0.5]


def test_the_default_is_as_large_as_planned(network: MelCNN) -> None:
    assert len(network.blocks) >= 5
    assert 0.25e6 < sum(parameter.numel() for parameter in network.parameters()) < 3e6


@pytest.mark.parametrize("frames", [1, 6, 188, 301])
def test_any_length_gives_a_logit_for_each_artist(
    network: MelCNN, rng: Generator, frames: int
) -> None:
    logits = network(log_mel(rng, 3, frames))
    assert logits.shape == (3, 20)
    assert torch.isfinite(logits).all()


def test_an_excerpts_logits_do_not_depend_on_its_neighbours(
    network: MelCNN, rng: Generator
) -> None:
    batch = log_mel(rng, 4, 94)
    torch.testing.assert_close(network(batch)[2:3], network(batch[2:3]), rtol=1e-4, atol=1e-5)


def test_it_pools_over_time_mean_and_maximum(network: MelCNN, rng: Generator) -> None:
    """The head sees of each channel the mean and the maximum over time of the mean over bands."""
    seen = []
    network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = []
    network.blocks.register_forward_hook(lambda *values: images.append(values[2]))
    network(log_mel(rng, 2, 188))
    over_time = images[0].mean(dim=3)
    expected = torch.cat([over_time.mean(dim=2), over_time.max(dim=2).values], dim=1)
    torch.testing.assert_close(seen[0], expected)


def test_every_parameter_learns(rng: Generator) -> None:
    network = MelCNN(MelCNNSettings(n_artists=4, n_mels=96))
    network(log_mel(rng, 8, 94)).logsumexp(dim=1).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_mlp_hears_the_mean_of_the_embeddings_standardised(rng: Generator) -> None:
    network = EmbeddingMLP(EmbeddingMLPSettings(n_artists=5, dim=12, hidden=7, dropout=0.3))
    shapes = [tuple(parameter.shape) for parameter in network.parameters() if parameter.ndim > 1]
    assert shapes == [(7, 12), (5, 7)]
    assert [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)] == [0.3]
    seen = []
    network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embeddings = torch.from_numpy(rng.normal(3, 2, (64, 4, 12)).astype(np.float32))
    embeddings[:, :, 1] *= 1_000
    network(embeddings)
    means = embeddings.mean(dim=1)
    expected = (means - means.mean(dim=0)) / means.std(dim=0, correction=0)
    torch.testing.assert_close(seen[0], expected, rtol=1e-3, atol=1e-3)
    network.eval()
    whole, alone = network(embeddings), network(means[:3, None])
    torch.testing.assert_close(alone, whole[:3], rtol=1e-4, atol=1e-5)
