"""What is done to training excerpts so that no two are alike."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

# of a batch of excerpts, (batch, frames, features), with random numbers to draw from
Augmentation = Callable[[Tensor, Generator], Tensor]


def spec_augment(
    log_mel: Tensor, draw: Generator, n_masks: int = 2, longest: float = 0.2, widest: float = 0.15
) -> Tensor:
    """Masks `n_masks` stretches of time and as many of bands in each excerpt, by its mean.

    `log_mel` is (batch, frames, mels); a mask is at most the share `longest` of the frames, or
    `widest` of the bands (Park et al. 2019, arXiv 1904.08779)."""
    mean = log_mel.mean(dim=(1, 2), keepdim=True)
    masked = torch.zeros(log_mel.shape, dtype=torch.bool, device=log_mel.device)
    for _ in range(n_masks):
        masked |= _stretches(log_mel, draw, longest, axis=1)
        masked |= _stretches(log_mel, draw, widest, axis=2)
    return torch.where(masked, mean, log_mel)


def _stretches(log_mel: Tensor, draw: Generator, most: float, axis: int) -> Tensor:
    """One stretch along `axis` of each excerpt: boolean, of a shape that broadcasts."""
    size = log_mel.shape[axis]
    length = draw.uniform(0, most * size, (len(log_mel), 1))
    start = draw.uniform(0, size - length)
    place = np.arange(size)
    inside = torch.from_numpy((start <= place) & (place < start + length)).to(log_mel.device)
    return inside.unsqueeze(3 - axis)


def mixup(log_mel: Tensor, targets: Tensor, draw: Generator, alpha: float) -> tuple[Tensor, Tensor]:
    """Each excerpt mixed with another one of the batch, and its target likewise, by a share from
    Beta(alpha, alpha) (Zhang et al. 2018, arXiv 1710.09412). `targets` is (batch, artists)."""
    if alpha == 0:
        return log_mel, targets
    share = torch.from_numpy(draw.beta(alpha, alpha, len(log_mel)).astype(np.float32))
    share = share.to(log_mel.device)
    other = torch.from_numpy(draw.permutation(len(log_mel))).to(log_mel.device)
    mixed = torch.lerp(log_mel[other], log_mel, share[:, None, None])
    return mixed, torch.lerp(targets[other], targets, share[:, None])
