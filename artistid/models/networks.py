"""The networks: a crop in, one logit per artist out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Size = Literal["small", "large"]
CHANNELS: dict[Size, tuple[int, ...]] = {  # of a MelCNN
    "small": (16, 32, 64, 128, 128),
    "large": (32, 64, 128, 256, 256),
}


@dataclass(frozen=True)
class MelCNNSettings:
    """Every width of a MelCNN."""

    n_artists: int
    n_mels: int
    channels: tuple[int, ...] = CHANNELS["small"]  # one convolution block each
    hidden: int = 128  # units between the two fully connected layers
    dropout: float = 0.2  # of the hidden units


class MelCNN(nn.Module):
    """Log-mel in decibels, (batch, frames, mels) -> logits, (batch, artists).

    A short-chunk CNN (Won et al. 2020, arXiv 2006.00751) with two differences for speed: the first
    block has a stride of two instead of pooling, and the early blocks, which take most of the time,
    are narrow. The last image is pooled over time alone, so that the classifier sees which band a
    voice is heard in."""

    def __init__(self, settings: MelCNNSettings) -> None:
        super().__init__()
        self.settings = settings
        first, *others = settings.channels
        # per band; without weights, as the first convolution can learn the same
        self.normalise = nn.BatchNorm1d(settings.n_mels, affine=False)
        self.blocks = nn.Sequential(
            _block(1, first, kernel=5, stride=2),
            *(_block(i, o, pool=2) for i, o in zip(settings.channels, others, strict=False)),
        )
        n_bands = -(-settings.n_mels // 2 ** len(settings.channels))  # every block halves them
        pooled = 2 * settings.channels[-1] * n_bands
        self.head = _head(pooled, settings.hidden, settings.dropout, settings.n_artists)

    def forward(self, log_mel: Tensor) -> Tensor:
        bands = self.normalise(log_mel.transpose(1, 2))  # (batch, mels, frames)
        image = self.blocks(bands.transpose(1, 2).unsqueeze(1))  # (batch, channels, time, band)
        pooled = torch.cat([image.mean(dim=2), image.amax(dim=2)], dim=1)
        logits: Tensor = self.head(pooled.flatten(start_dim=1))
        return logits


def _block(n_in: int, n_out: int, kernel: int = 3, stride: int = 1, pool: int = 1) -> nn.Sequential:
    layers = [
        nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(pool, ceil_mode=True)] if pool > 1 else []))


@dataclass(frozen=True)
class EmbeddingMLPSettings:
    """Every width of an EmbeddingMLP."""

    n_artists: int
    dim: int  # of an embedding
    hidden: int = 128  # units between the two fully connected layers
    dropout: float = 0.5  # of the hidden units


class EmbeddingMLP(nn.Module):
    """Embeddings, (batch, excerpts, dim) -> logits, (batch, artists), from their mean over time."""

    def __init__(self, settings: EmbeddingMLPSettings) -> None:
        super().__init__()
        self.settings = settings
        self.standardise = nn.BatchNorm1d(settings.dim, affine=False)
        self.head = _head(settings.dim, settings.hidden, settings.dropout, settings.n_artists)

    def forward(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self.head(self.standardise(embeddings.mean(dim=1)))
        return logits


class MeanPosterior(nn.Module):
    """Networks of the same artists as one: its softmax is the mean of theirs."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, batch: Tensor) -> Tensor:
        posteriors = [network(batch).float().softmax(dim=1) for network in self.networks]
        return torch.stack(posteriors).mean(dim=0).log()


def joined(networks: Sequence[nn.Module]) -> nn.Module:
    """One network that answers as the mean of `networks`; the network itself if it is the only
    one."""
    return networks[0] if len(networks) == 1 else MeanPosterior(networks)


def n_joined(weights: Iterable[str]) -> int:
    """How many networks have been joined into one whose weights have these names."""
    numbers = {name.split(".")[1] for name in weights if name.startswith("networks.")}
    return max(1, len(numbers))


def _head(n_in: int, hidden: int, dropout: float, n_out: int) -> nn.Sequential:
    """Two fully connected layers."""
    return nn.Sequential(
        nn.Linear(n_in, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, n_out)
    )
