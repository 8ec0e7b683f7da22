"""Augmentations against what they stand for: masks of whole frames and bands, and mixed sounds."""

import numpy as np
import pytest
import torch
from numpy.random import Generator
from torch import Tensor

from artistid.audio.melspec import MelSettings, song_log_mel
from artistid.models.augmentation import DrawSource, Mixup, SpecAugment

TARGETS = torch.eye(64)


def noise(rng: Generator, n: int = 64) -> Tensor:
    return torch.from_numpy(rng.normal(-30, 10, (n, 50, 40)).astype(np.float32))


def test_masks_are_stretches_of_frames_and_bands_filled_with_the_mean(rng: Generator) -> None:
    log_mel = noise(rng)
    masked, targets = SpecAugment(n_masks=1, max_time=0.2, max_bands=0.5)(log_mel, TARGETS, rng)
    assert targets is TARGETS
    is_masked = masked != log_mel
    frames, bands = is_masked.all(dim=2), is_masked.all(dim=1)
    for i in range(len(log_mel)):
        mean = log_mel[i].mean()
        torch.testing.assert_close(masked[i][is_masked[i]], mean.expand(int(is_masked[i].sum())))
        # only whole frames and whole bands, each in one piece
        assert torch.equal(is_masked[i], frames[i][:, None] | bands[i][None, :])
        for line, most in ((frames[i], 10), (bands[i], 20)):
            assert line.sum() <= most
            assert torch.diff(line.int()).abs().sum() <= 2
    assert frames.sum(dim=1).float().mean() == pytest.approx(5, abs=1)
    assert bands.sum(dim=1).float().mean() == pytest.approx(10, abs=2)


def test_mixing_shares_powers_and_targets_alike(rng: Generator) -> None:
    log_mel = noise(rng)
    mixed, targets = Mixup(1.0)(log_mel, TARGETS, rng)
    share = targets.diagonal().min()  # of a crop in its own mixture, unless mixed with itself
    powers = 10 ** (log_mel.double().flatten(1) / 10)
    expected = 10 * torch.log10(targets.double() @ powers)
    torch.testing.assert_close(mixed.flatten(1).double(), expected, rtol=0, atol=1e-3)
    assert 0 < share < 1
    torch.testing.assert_close(targets.sum(dim=0), torch.ones(64))  # each crop is used twice
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(64))


def test_embeddings_are_mixed_as_they_are(rng: Generator) -> None:
    embeddings = noise(rng)
    mixed, targets = Mixup(1.0, decibels=False)(embeddings, TARGETS, rng)
    torch.testing.assert_close(mixed.flatten(1), targets @ embeddings.flatten(1))


def test_log_mels_are_mixed_as_their_sounds_would_be(rng: Generator) -> None:
    settings = MelSettings()
    colours = np.linspace(0.2, 1, 8), np.linspace(1, 0.2, 8)  # of two noises
    sounds = [
        np.convolve(rng.normal(0, 0.1, 320_000), c, "same").astype(np.float32) for c in colours
    ]
    log_mels = torch.from_numpy(np.stack([song_log_mel(s, settings) for s in sounds])).float()
    draw = np.random.default_rng(1)  # which swaps the two
    mixed, targets = Mixup(1.0)(log_mels, torch.eye(2), draw)
    share = float(targets[0, 0])
    assert 0.1 < share < 0.9
    sound = np.sqrt(share) * sounds[0] + np.sqrt(1 - share) * sounds[1]
    expected = 10 ** (song_log_mel(sound.astype(np.float32), settings).astype(float) / 10)
    found = 10 ** (mixed[0].numpy().astype(float) / 10)
    ratio = found.mean(axis=0) / expected.mean(axis=0)
    np.testing.assert_allclose(ratio, 1, atol=0.15)


@pytest.mark.parametrize("off", [SpecAugment(n_masks=0), Mixup(0)])
def test_an_augmentation_can_be_off(rng: Generator, off: SpecAugment | Mixup) -> None:
    log_mel = noise(rng)
    changed, targets = off(log_mel, TARGETS, rng)
    assert torch.equal(changed, log_mel)
    assert torch.equal(targets, TARGETS)


# --- mix, vocals and remixes -------------------------------------------------------------------


def test_each_crop_is_heard_as_mix_or_vocals_in_their_shares(rng: Generator) -> None:
    mix, vocals = noise(rng, 600), noise(rng, 600)
    both = torch.cat([mix, vocals], dim=2)
    heard, targets = DrawSource(vocals=0.25)(both, TARGETS, rng)
    assert targets is TARGETS
    is_mix, is_vocals = ((heard == own).all(dim=(1, 2)) for own in (mix, vocals))
    assert (is_mix | is_vocals).all()
    assert is_vocals.float().mean() == pytest.approx(0.25, abs=0.05)


def test_a_third_of_the_crops_are_remixes(rng: Generator) -> None:
    mix, vocals = noise(rng, 600), noise(rng, 600)
    heard, _ = DrawSource(1 / 3, 1 / 3)(torch.cat([mix, vocals], dim=2), TARGETS, rng)
    assert heard.isfinite().all()
    is_old = [(heard == own).all(dim=(1, 2)) for own in (mix, vocals)]
    shares = [float(own.float().mean()) for own in (*is_old, ~(is_old[0] | is_old[1]))]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.06)


def test_nothing_drawn_is_float64_which_mps_has_not(
    rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_numpy, made = torch.from_numpy, []
    monkeypatch.setattr(torch, "from_numpy", lambda array: made.append(array) or from_numpy(array))
    crops = torch.cat([noise(rng, 8), noise(rng, 8)], dim=2)
    for augmentation in (DrawSource(1 / 3, 1 / 3), SpecAugment(), Mixup()):
        augmentation(crops, TARGETS[:8], rng)
    assert len(made) > 3
    assert np.dtype(np.float64) not in {array.dtype for array in made}


def test_a_remix_sounds_as_its_vocals_over_another_crops_accompaniment(rng: Generator) -> None:
    settings = MelSettings()

    def sound(hz: float) -> np.ndarray:  # noise around a frequency
        t = np.arange(320_000) / settings.sample_rate
        slow = np.convolve(rng.normal(0, 1, len(t)), np.hanning(64), "same")
        return 0.02 * slow * np.sin(2 * np.pi * hz * t)

    voices, bands = [sound(600), sound(900)], [sound(2_000), sound(4_000)]
    mixes = [voice + band for voice, band in zip(voices, bands, strict=True)]
    mix, vocals = (
        torch.from_numpy(np.stack([song_log_mel(s.astype("f4"), settings) for s in own])).float()
        for own in (mixes, voices)
    )
    draw = np.random.default_rng(2)  # which swaps the two
    remix, _ = DrawSource(0, 1, max_change_db=0)(torch.cat([mix, vocals], dim=2), TARGETS[:2], draw)
    for i, other in ((0, 1), (1, 0)):
        sound_of_both = (voices[i] + bands[other]).astype("f4")
        expected = 10 ** (song_log_mel(sound_of_both, settings).astype(float) / 10)
        found = 10 ** (remix[i].numpy().astype(float) / 10)
        loud = expected.mean(axis=0) > 1e-3 * expected.mean(axis=0).max()
        ratio = found.mean(axis=0)[loud] / expected.mean(axis=0)[loud]
        np.testing.assert_allclose(ratio, 1, atol=0.15)
