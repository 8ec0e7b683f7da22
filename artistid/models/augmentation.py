"""How crops are changed in training, anew in every epoch.

An augmentation takes a batch of crops and the targets to learn from it: (batch, frames, features),
such as log-mels in decibels, and for each the share of every artist, (batch, artists). It returns
both changed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

Augmentation = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DrawSource:
    """Of crops whose frames have mix and vocals side by side, leaves one for each to be learnt
    from: the mix, the vocals, or a remix, its vocals over another crop's accompaniment (Hsieh et
    al. 2020, arXiv 2002.06817)."""

    vocals: float = 0.5  # share of the crops
    remixes: float = 0.0  # share of the crops, which are log-mels then
    max_change_db: float = 6.0  # of the vocals' level in a remix

    def __call__(self, crops: Tensor, targets: Tensor, draw: Generator) -> tuple[Tensor, Tensor]:
        mix, vocals = crops.chunk(2, dim=2)
        kinds = draw.random((len(crops), 1, 1))
        other = torch.from_numpy(draw.permutation(len(crops))).to(crops.device)
        change_db = draw.uniform(-self.max_change_db, self.max_change_db, (len(crops), 1, 1))
        change_db = change_db.astype(np.float32)  # MPS has no float64
        is_vocals, is_either, change = (
            torch.from_numpy(values).to(crops.device)
            for values in (kinds < self.vocals, kinds < self.vocals + self.remixes, change_db)
        )
        heard = mix
        if self.remixes:
            remix = _powers(vocals + change) + _accompaniment(mix, vocals)[other]
            heard = torch.where(is_either, _decibels(remix), mix)
        return torch.where(is_vocals, vocals, heard), targets


def _accompaniment(mix: Tensor, vocals: Tensor) -> Tensor:
    """Power of what is left of a mix without its vocals, both in decibels."""
    return (_powers(mix) - _powers(vocals)).clamp(min=0)


def _powers(decibels: Tensor) -> Tensor:
    return 10 ** (decibels / 10)


def _decibels(powers: Tensor) -> Tensor:
    return 10 * torch.log10(powers)


@dataclass(frozen=True)
class SpecAugment:
    """Masks stretches of time and of mel bands by the crop's mean (Park et al. 2019, arXiv
    1904.08779)."""

    n_masks: int = 2  # of time, and as many of frequency
    max_time: float = 0.2  # of the frames
    max_bands: float = 0.15  # of the mel bands

    def __call__(self, log_mels: Tensor, targets: Tensor, draw: Generator) -> tuple[Tensor, Tensor]:
        mean = log_mels.mean(dim=(1, 2), keepdim=True)
        masked = torch.zeros(log_mels.shape, dtype=torch.bool, device=log_mels.device)
        for _ in range(self.n_masks):
            masked |= _stretches(log_mels, draw, self.max_time, axis=1)
            masked |= _stretches(log_mels, draw, self.max_bands, axis=2)
        return torch.where(masked, mean, log_mels), targets


def _stretches(log_mels: Tensor, draw: Generator, max_share: float, axis: int) -> Tensor:
    """One stretch along `axis` per crop, as a boolean mask that broadcasts to `log_mels`."""
    size = log_mels.shape[axis]
    length = draw.uniform(0, max_share * size, (len(log_mels), 1))
    start = draw.uniform(0, size - length)
    position = np.arange(size)
    inside = torch.from_numpy((start <= position) & (position < start + length))
    return inside.to(log_mels.device).unsqueeze(3 - axis)


@dataclass(frozen=True)
class Mixup:
    """Plays each crop together with another one of its batch: their powers add up, and the targets
    share as the powers do (Zhang et al. 2018, arXiv 1710.09412; of sounds, Tokozume et al. 2018,
    arXiv 1711.10282). A voice is learned over more music than its own songs have."""

    concentration: float = 0.3  # of the beta distribution of the shares: below 1, few are even
    decibels: bool = True  # else the crops are what is added: embeddings

    def __call__(self, crops: Tensor, targets: Tensor, draw: Generator) -> tuple[Tensor, Tensor]:
        if self.concentration == 0:
            return crops, targets
        share = draw.beta(self.concentration, self.concentration)
        other = torch.from_numpy(draw.permutation(len(crops))).to(crops.device)
        powers = _powers(crops) if self.decibels else crops
        mixed = share * powers + (1 - share) * powers[other]
        if self.decibels:
            mixed = _decibels(mixed)
        return mixed, share * targets + (1 - share) * targets[other]
