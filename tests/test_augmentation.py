import numpy as np
import pytest
import torch
from numpy.random import Generator

from artistid.models.augmentation import mixup, spec_augment


def noise(rng: Generator, n: int = 64) -> torch.Tensor:
    return torch.from_numpy(rng.normal(-30, 10, (n, 50, 40)).astype(np.float32))


def test_masks_are_stretches_of_frames_and_bands_filled_with_the_mean(rng: Generator) -> None:
    log_mel = noise(rng)
    masked = spec_augment(log_mel, rng, n_masks=1, longest=0.2, widest=0.5)
    touched = masked != log_mel
    frames, bands = touched.all(dim=2), touched.all(dim=1)
    for i in range(len(log_mel)):
        mean = log_mel[i].mean()
        torch.testing.assert_close(masked[i][touched[i]], mean.expand(int(touched[i].sum())))
        # nothing but whole frames and whole bands, each in one piece
        assert torch.equal(touched[i], frames[i][:, None] | bands[i][None, :])
        for line, most in ((frames[i], 10), (bands[i], 20)):
            assert line.sum() <= most
            assert torch.diff(line.int()).abs().sum() <= 2
    assert frames.sum(dim=1).float().mean() == pytest.approx(5, abs=1)
    assert bands.sum(dim=1).float().mean() == pytest.approx(10, abs=2)


def test_no_masks_change_nothing(rng: Generator) -> None:
    log_mel = noise(rng)
    assert torch.equal(spec_augment(log_mel, rng, 0, 0.2, 0.2), log_mel)


def test_mixup_mixes_excerpts_and_targets_alike(rng: Generator) -> None:
    """Excerpts that are their own targets must still be so afterwards."""
    targets = torch.eye(64)
    log_mel = targets[:, None, :].repeat(1, 5, 1)
    mixed, mixed_targets = mixup(log_mel, targets, rng, alpha=0.4)
    torch.testing.assert_close(mixed[:, 0], mixed_targets)
    torch.testing.assert_close(mixed_targets.sum(dim=1), torch.ones(64))
    shares = mixed_targets.diagonal()
    assert 0.2 < shares.mean() < 0.8
    assert len(shares.unique()) > 32
    assert not torch.equal(mixed, log_mel)


def test_no_mixup_changes_nothing(rng: Generator) -> None:
    log_mel, targets = noise(rng, 4), torch.eye(4)
    same = mixup(log_mel, targets, rng, alpha=0)
    assert same[0] is log_mel
    assert same[1] is targets
