"""Several encoders as one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import hum, write_audio
from numpy.random import Generator
from torch import Tensor, nn

from artistid.audio import cache, source
from artistid.audio.decode import Audio
from artistid.audio.extraction import extract
from artistid.dataset.corpus import Track
from artistid.encoders import registry
from artistid.encoders.base import EMBEDDINGS, Encoder, Frozen, Grid, Identity
from artistid.encoders.joint import JointEncoder, side_by_side
from artistid.encoders.registry import EncoderSettings
from artistid.foundation.parallel import Workers

CPU = torch.device("cpu")


def column(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, np.newaxis]


def test_a_finer_encoder_is_averaged_over_each_excerpt() -> None:
    coarse, fine = Grid(10, 10), Grid(2, 2)
    # a song of 20 to 22 s, as far as they know: 0-10, 10-20, 12-22 s; and 0-2, ..., 20-22 s
    ours = column([1, 2, 3])
    theirs = column([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100])
    found = side_by_side([ours, theirs], [coarse, fine])
    wanted = [[1, 2], [2, 7], [3, np.mean([6, 7, 8, 9, 100])]]
    np.testing.assert_allclose(found, wanted)
    np.testing.assert_allclose(side_by_side([theirs, ours], [fine, coarse]), found[:, ::-1])


def test_a_song_shorter_than_an_excerpt_is_averaged_as_a_whole() -> None:
    found = side_by_side([column([1]), column([0, 1, 5])], [Grid(30, 30), Grid(2, 2)])
    np.testing.assert_allclose(found, [[1, 2]])


def test_where_no_centre_lies_in_an_excerpt_the_nearest_one_is_taken() -> None:
    # 0-1, 4-5, 8-9 s; and 0-6, 3-9 s
    found = side_by_side([column([1, 2, 3]), column([10, 20])], [Grid(1, 4), Grid(6, 3)])
    np.testing.assert_allclose(found, [[1, 10], [2, 10], [3, 20]])


@dataclass(frozen=True)
class Loudness(Encoder):
    """Its embedding is the mean of the excerpt's samples; notes each song in a file."""

    trace: Path
    excerpt, hop, shortest = 1000, 1000, 10

    def load(self) -> nn.Module:
        return nn.Identity()

    def embed(self, batch: Tensor) -> Tensor:
        with self.trace.open("a") as file:
            file.write(f"{self.name}\n")
        return batch.mean(dim=1, keepdim=True)


@pytest.fixture
def joint(tmp_path: Path) -> JointEncoder:
    rates = {"first": 1000, "second": 2000}
    identities = [Identity(n, "", "", 0, "fp32", rate) for n, rate in rates.items()]
    parts = [Loudness(i, CPU, 1, 100, "here", tmp_path / "trace") for i in identities]
    return JointEncoder(tuple(parts))


@pytest.fixture
def track(tmp_path: Path, rng: Generator) -> Track:
    write_audio(tmp_path / "song.wav", hum(1, rng, seconds=2.0))
    return Track(tmp_path / "song.wav", "song", "train", "artist", "album")


def made_by(encoder: JointEncoder | Encoder, track: Track, folder: Path) -> np.ndarray:
    entry = extract([track], encoder.recipe, folder, Workers(1)).entries[track]
    with cache.opened(entry) as file:
        return file.get_tensor(EMBEDDINGS)


def test_each_encoder_hears_the_song_at_its_own_rate_and_embeds_it_once(
    joint: JointEncoder, track: Track, tmp_path: Path
) -> None:
    first, second = joint.parts
    folder, trace = tmp_path / "cache", tmp_path / "trace"
    alone = made_by(first, track, folder)
    assert trace.read_text().split() == ["first"]
    together = made_by(joint, track, folder)
    assert trace.read_text().split() == ["first", "second"]  # the first was in the cache
    assert made_by(second, track, folder).shape == (4, 1)  # 2,000 samples a second
    assert trace.read_text().split() == ["first", "second"]
    np.testing.assert_array_equal(together[:, :1], alone)
    expected = source.load(track.path, 2000).samples.reshape(2, 2, 1000).mean(axis=(1, 2))
    np.testing.assert_allclose(together[:, 1], expected, atol=1e-6)
    np.testing.assert_array_equal(joint.embeddings(source.load(track.path, None)), together)


def test_the_real_ones_are_as_alone(rng: Generator) -> None:
    encoders = {
        name: registry.find(EncoderSettings(name), CPU, "fp32")
        for name in ("musicnn", "ge2e", "musicnn+ge2e")
    }
    audio = Audio(hum(1, rng, seconds=7.0), 16_000, "", "samples", 1)
    music, voice, both = (encoder.embeddings(audio) for encoder in encoders.values())
    assert both.shape == (3, 1506 + 256)
    np.testing.assert_array_equal(both[:, :1506], music)
    # 0-3 s, of windows of 1.6 s every 0.8 s
    np.testing.assert_allclose(both[0, 1506:], voice[0:3].mean(axis=0), atol=1e-6)


def test_digests_never_change() -> None:
    """Another digest would make every user extract the whole corpus again."""
    digests = {"ge2e": "48d7986a107924f5", "musicnn+ge2e": "c4aedca70d74e0b0"}
    for name, digest in digests.items():
        assert registry.find(EncoderSettings(name), CPU, "fp32").recipe.digest == digest


@pytest.mark.parametrize("name", ["musicnn", "ge2e"])
def test_an_encoder_stays_frozen_in_a_network_that_trains(name: str, rng: Generator) -> None:
    encoder = registry.find(EncoderSettings(name), CPU, "fp32")
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder.network, Frozen)
    song = hum(1, rng, seconds=4.0)
    before = encoder.song_embeddings(song)
    whole = nn.Sequential(encoder.network, nn.Linear(4, 4)).train()
    assert whole[1].training
    np.testing.assert_array_equal(encoder.song_embeddings(song), before)
    assert not any(module.training for module in encoder.network.modules())
