"""The networks: a crop in, one logit per artist out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

Size = Literal["small", "large"]


@dataclass(frozen=True)
class MelCNNSettings:
    """Every width of a MelCNN."""

    n_artists: int
    n_mels: int
    channels: tuple[int, ...] = (16, 32, 64, 128, 128)  # of each block over time and bands
    temporal: tuple[int, ...] = (256, 256)  # of each block over time alone, which sees all bands
    hidden: int = 128  # units between the two fully connected layers
    dropout: float = 0.2  # of the hidden units


def mel_cnn_of(size: Size, n_artists: int, n_mels: int) -> MelCNNSettings:
    """The large one has twice the channels, but for the first two blocks, where most of the time
    goes."""
    small = MelCNNSettings(n_artists, n_mels)
    if size == "small":
        return small
    return replace(small, channels=(16, 32, 128, 256, 256), temporal=(512, 512))


class ArtistNetwork(nn.Module):
    """Crops, (batch, frames, features) -> vectors, (batch, hidden) -> logits, (batch, artists)."""

    def vectors(self, batch: Tensor) -> Tensor:
        """The hidden units before the last layer, by which songs are compared."""
        raise NotImplementedError

    def logits(self, vectors: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, batch: Tensor) -> Tensor:
        return self.logits(self.vectors(batch))


class MelCNN(ArtistNetwork):
    """Log-mel in decibels, (batch, frames, mels) -> logits, (batch, artists).

    A short-chunk CNN (Won et al. 2020, arXiv 2006.00751) with two differences for speed: the first
    block has a stride of two instead of pooling, and the early blocks, which take most of the time,
    are narrow; and with convolutions over time in the end, which see every band for itself, as in
    the x-vectors of speaker recognition (Snyder et al. 2018)."""

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
        widths = (n_bands * settings.channels[-1], *settings.temporal)
        self.temporal = nn.Sequential(*map(_temporal_block, widths[:-1], widths[1:]))
        self.hidden = _hidden(2 * widths[-1], settings.hidden)
        self.output = _output(settings.hidden, settings.dropout, settings.n_artists)

    def vectors(self, log_mel: Tensor) -> Tensor:
        bands = self.normalise(log_mel.transpose(1, 2))  # (batch, mels, frames)
        image = self.blocks(bands.transpose(1, 2).unsqueeze(1))  # (batch, channels, time, band)
        series = self.temporal(image.transpose(2, 3).flatten(1, 2))  # (batch, channels, time)
        pooled = torch.cat([series.mean(dim=2), series.amax(dim=2)], dim=1)
        hidden: Tensor = self.hidden(pooled)
        return hidden

    def logits(self, vectors: Tensor) -> Tensor:
        logits: Tensor = self.output(vectors)
        return logits


def _block(n_in: int, n_out: int, kernel: int = 3, stride: int = 1, pool: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False)
    # first of all, so that what follows has a quarter of the values to work on
    pooling = [nn.MaxPool2d(pool, ceil_mode=True)] if pool > 1 else []
    return nn.Sequential(convolution, *pooling, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


def _temporal_block(n_in: int, n_out: int) -> nn.Sequential:
    convolution = nn.Conv1d(n_in, n_out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(n_out), nn.ReLU(inplace=True))


@dataclass(frozen=True)
class EmbeddingMLPSettings:
    """Every width of an EmbeddingMLP."""

    n_artists: int
    dim: int  # of an embedding
    hidden: int = 128  # units between the two fully connected layers
    dropout: float = 0.5  # of the hidden units


class EmbeddingMLP(ArtistNetwork):
    """Embeddings, (batch, excerpts, dim) -> logits, (batch, artists), from their mean over time."""

    def __init__(self, settings: EmbeddingMLPSettings) -> None:
        super().__init__()
        self.settings = settings
        self.standardise = nn.BatchNorm1d(settings.dim, affine=False)
        self.hidden = _hidden(settings.dim, settings.hidden)
        self.output = _output(settings.hidden, settings.dropout, settings.n_artists)

    def vectors(self, embeddings: Tensor) -> Tensor:
        hidden: Tensor = self.hidden(self.standardise(embeddings.mean(dim=1)))
        return hidden

    def logits(self, vectors: Tensor) -> Tensor:
        logits: Tensor = self.output(vectors)
        return logits


class MeanPosterior(ArtistNetwork):
    """Networks of the same artists as one: its softmax is the mean of theirs, and its vectors are
    theirs side by side."""

    def __init__(self, networks: Sequence[ArtistNetwork]) -> None:
        super().__init__()
        self.networks: Any = nn.ModuleList(networks)

    def vectors(self, batch: Tensor) -> Tensor:
        return torch.cat([network.vectors(batch) for network in self.networks], dim=1)

    def logits(self, vectors: Tensor) -> Tensor:
        own = zip(self.networks, vectors.chunk(len(self.networks), dim=1), strict=True)
        posteriors = [network.logits(its).float().softmax(dim=1) for network, its in own]
        return torch.stack(posteriors).mean(dim=0).log()


def joined(networks: Sequence[ArtistNetwork]) -> ArtistNetwork:
    """One network that answers as the mean of `networks`; the network itself if it is the only
    one."""
    return networks[0] if len(networks) == 1 else MeanPosterior(networks)


def n_joined(weights: Iterable[str]) -> int:
    """How many networks have been joined into one whose weights have these names."""
    numbers = {name.split(".")[1] for name in weights if name.startswith("networks.")}
    return max(1, len(numbers))


def _hidden(n_in: int, n_hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.ReLU())


def _output(n_hidden: int, dropout: float, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(n_hidden, n_out))
