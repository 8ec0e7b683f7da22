"""GE2E against the authors' own code, whose outputs are in tests/data."""

import numpy as np
import pytest
import torch
from conftest import PROJECT
from numpy.random import Generator

from artistid.audio.decode import AudioError
from artistid.encoders import ge2e

REFERENCE = PROJECT / "tests" / "data" / "ge2e_reference.npz"


@pytest.mark.parametrize("which", ["quiet", "song"])  # below -30 dBFS, and above
def test_it_equals_the_authors_code(which: str) -> None:
    with np.load(REFERENCE) as file:
        samples, mels, embeddings = (
            file[f"{which}_{what}"] for what in ("wav", "mel", "embeddings")
        )
    encoder = ge2e.find(None, 0, torch.device("cpu"), "fp32")
    prepared = torch.from_numpy(encoder.prepared(samples))
    pairs = (
        (ge2e.mel(prepared[None])[0].numpy(), mels[:-1]),
        (encoder.song_embeddings(samples), embeddings),
    )
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_a_loud_song_is_never_lowered(rng: Generator) -> None:
    loud = rng.normal(0, 0.2, 16_000).astype(np.float32)
    np.testing.assert_array_equal(ge2e.raised(loud), loud)
    quiet = ge2e.raised(loud / 1000)
    assert 10 * np.log10(np.mean(quiet**2)) == pytest.approx(ge2e.QUIETEST_DBFS, abs=1e-3)


def test_the_shortest_song_has_an_embedding(rng: Generator) -> None:
    encoder = ge2e.find(None, 0, torch.device("cpu"), "fp32")
    song = rng.normal(0, 0.1, encoder.shortest).astype(np.float32)
    assert encoder.song_embeddings(song).shape == (1, ge2e.DIM)
    with pytest.raises(AudioError, match="too short"):
        encoder.song_embeddings(song[:-1])
