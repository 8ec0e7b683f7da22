"""musicnn in torch against the authors' own code (tests/data), and the tool that converts it."""

import librosa
import numpy as np
import pytest
import torch
from conftest import PROJECT
from numpy.random import Generator
from safetensors import safe_open

from artistid.encoders.registry import musicnn
from tools.convert_musicnn import read_variables

REFERENCE = PROJECT / "tests" / "data" / "musicnn_reference.npz"


@pytest.fixture(scope="module")
def network() -> musicnn.MusiCNN:
    return musicnn.load()


def test_its_features_are_those_of_the_authors_code(network: musicnn.MusiCNN) -> None:
    with np.load(REFERENCE) as reference, torch.inference_mode():
        pooled, penultimate = network(torch.from_numpy(reference["patches"]))
        maxima, means = pooled[:, 0::2], pooled[:, 1::2]
        for ours, name in (
            (maxima, "max_pool"),
            (means, "mean_pool"),
            (penultimate, "penultimate"),
        ):
            theirs = reference[name]
            assert np.abs(ours.numpy() - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_the_spectrogram_is_librosas(rng: Generator) -> None:
    audio = rng.normal(0, 0.2, musicnn.PATCH_SAMPLES).astype(np.float32)
    power = librosa.feature.melspectrogram(
        y=audio, sr=16_000, n_fft=512, hop_length=256, n_mels=96, center=False
    )
    ours = musicnn.log_mel(torch.from_numpy(audio)[None])[0].numpy()
    assert ours.shape == (musicnn.PATCH_FRAMES, musicnn.N_MELS)
    np.testing.assert_allclose(ours, np.log10(1 + 10_000 * power.T), rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 50, 400])
def test_any_length_has_features(network: musicnn.MusiCNN, rng: Generator, frames: int) -> None:
    patches = torch.from_numpy(rng.uniform(0, 3, (2, frames, 96)).astype(np.float32))
    with torch.inference_mode():
        pooled, penultimate = network(patches)
    assert (pooled.shape, penultimate.shape) == ((2, 1506), (2, 200))
    assert torch.isfinite(pooled).all()
    assert torch.isfinite(penultimate).all()


def test_licence_and_source_are_in_the_file() -> None:
    with safe_open(musicnn.WEIGHTS, framework="numpy") as file:
        notes = file.metadata()
    assert "Universitat Pompeu Fabra 2019" in notes["licence"]
    assert "musicnn-0.1.0" in notes["source"]


def test_a_checkpoint_of_tensorflow_is_read() -> None:
    """A table of one block, made by hand: keys share their beginnings, Adam's state and what is
    not float32 is left out."""
    values = np.arange(6, dtype="<f4")
    data = b"1234" + values.tobytes()
    shape = bytes([0x12, 8, 0x12, 2, 0x08, 2, 0x12, 2, 0x08, 3])  # (2, 3)
    entry = bytes([0x08, 1, *shape, 0x20, 4, 0x28, 24, 0x35, 0, 0, 0, 0])  # at 4, 24 bytes
    integer = bytes([0x08, 3, 0x28, 4])
    records = [(0, b"", b"\x08\x01"), (0, b"dense/bias", entry), (6, b"kernel", entry)]
    records += [(12, b"/Adam", entry), (0, b"step", integer)]
    block = b"".join(bytes([shared, len(k), len(v)]) + k + v for shared, k, v in records)
    block += bytes(4) + (1).to_bytes(4, "little")  # one restart point
    handle = bytes([0]) + varint(len(block))
    top = bytes([0, 1, len(handle)]) + b"z" + handle + bytes(4) + (1).to_bytes(4, "little")
    place = len(block) + 5  # after a byte of type and four of checksum
    footer = bytes([0, 0]) + varint(place) + varint(len(top))
    index = block + bytes(5) + top + bytes(5) + footer.ljust(40, b"\0") + bytes(8)
    found = dict(read_variables(index, data))
    assert set(found) == {"dense/bias", "dense/kernel"}
    for array in found.values():
        np.testing.assert_array_equal(array, values.reshape(2, 3))


def varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80, high]) if high else bytes([low])
