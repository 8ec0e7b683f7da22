"""musicnn in torch against the authors' own code, whose outputs are in tests/data."""

import librosa
import numpy as np
import pytest
import torch
from conftest import PROJECT
from numpy.random import Generator
from safetensors import safe_open

from artistid.encoders import musicnn

REFERENCE = PROJECT / "tests" / "data" / "musicnn_reference.npz"


@pytest.fixture(scope="module")
def network() -> musicnn.MusiCNN:
    return musicnn.load()


def test_features_equal_those_of_the_authors_code(network: musicnn.MusiCNN) -> None:
    with np.load(REFERENCE) as reference, torch.inference_mode():
        pooled, penultimate = network(torch.from_numpy(reference["patches"]))
        ours = {
            "max_pool": pooled[:, 0::2],
            "mean_pool": pooled[:, 1::2],
            "penultimate": penultimate,
        }
        for name, features in ours.items():
            theirs = reference[name]
            assert np.abs(features.numpy() - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_log_mel_equals_librosas(rng: Generator) -> None:
    audio = rng.normal(0, 0.2, musicnn.PATCH_SAMPLES).astype(np.float32)
    power = librosa.feature.melspectrogram(
        y=audio, sr=16_000, n_fft=512, hop_length=256, n_mels=96, center=False
    )
    ours = musicnn.log_mel(torch.from_numpy(audio)[None])[0].numpy()
    assert ours.shape == (musicnn.PATCH_FRAMES, musicnn.N_MELS)
    np.testing.assert_allclose(ours, np.log10(1 + 10_000 * power.T), rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 50, 400])
def test_patches_may_have_any_length(network: musicnn.MusiCNN, rng: Generator, frames: int) -> None:
    patches = torch.from_numpy(rng.uniform(0, 3, (2, frames, 96)).astype(np.float32))
    with torch.inference_mode():
        pooled, penultimate = network(patches)
    assert (pooled.shape, penultimate.shape) == ((2, musicnn.POOLED), (2, musicnn.PENULTIMATE))
    assert torch.isfinite(pooled).all()
    assert torch.isfinite(penultimate).all()


def test_the_weights_file_names_its_licence_and_source() -> None:
    with safe_open(musicnn.WEIGHTS, framework="numpy") as file:
        notes = file.metadata()
    assert "Universitat Pompeu Fabra 2019" in notes["licence"]
    assert "musicnn-0.1.0" in notes["source"]
