import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import hum, write_audio
from numpy.random import Generator
from numpy.typing import NDArray
from test_musicfm import STATS, TINY, WEIGHTS, Payload

import musicfm.published
from artistid.audio.decode import AudioError, cache
from artistid.audio.decode import decode as audio
from artistid.audio.extraction import extract
from artistid.dataset.corpus import Track
from artistid.encoders.registry import musicnn
from artistid.encoders.registry import registry as encoders
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers
from musicfm import load_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny MusicFM, by the names that the published one has, for as long as a test lasts."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "pretrained_tiny.pt").write_bytes(WEIGHTS.read_bytes())
    (folder / "tiny_stats.json").write_bytes(STATS.read_bytes())
    monkeypatch.setattr(encoders, "load_checkpoint", partial(load_checkpoint, config=TINY))
    monkeypatch.setattr(musicfm.published, "find", lambda _: None)
    encoders._musicfm.cache_clear()
    encoders._loaded.cache_clear()
    return folder / "pretrained_tiny.pt"


@pytest.fixture
def tracks(tmp_path: Path, rng: Generator) -> list[Track]:
    """Two songs of one name in different albums."""
    made = []
    for album in "ab":
        path = tmp_path / album / "01-Intro.wav"
        write_audio(path, hum(ord(album), rng, seconds=4.0))
        made.append(Track(path, album, "train", "artist", album))
    return made


@pytest.fixture
def embed(tracks: list[Track], tmp_path: Path) -> Callable[[encoders.Found], dict[str, Any]]:
    """Embeddings of both songs by album, and under "made" how many were not cached yet."""

    def run(found: encoders.Found) -> dict[str, Any]:
        extraction = extract(tracks, found.recipe, tmp_path / "cache", workers=Workers(1))
        extraction.require_all()
        rows: dict[str, Any] = {"made": round(extraction.heard_s / 4.0)}
        for track, path in extraction.entries.items():
            with cache.opened(path) as file:
                rows[track.album] = file.get_tensor(encoders.NAME)
        return rows

    return run


# --- songs in excerpts -------------------------------------------------------------------------


class Recorder:
    """An encoder that notes what it is given, and finds of an excerpt its first and last sample."""

    sample_rate, n_fft, excerpt, at_once = 100, 5, 10, 2

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(batch.shape))
        return torch.stack([batch[:, 0], batch[:, -1]], dim=1)


@pytest.mark.parametrize(
    ("n", "rows", "shapes"),
    [
        (30, [(0, 9), (10, 19), (20, 29)], [(2, 10), (1, 10)]),
        (31, [(0, 9), (10, 19), (20, 29), (21, 30)], [(2, 10), (2, 10)]),
        (10, [(0, 9)], [(1, 10)]),
        (11, [(0, 9), (1, 10)], [(2, 10)]),
        (7, [(0, 6)], [(1, 7)]),
    ],
)
def test_the_whole_song_is_heard_and_nothing_is_padded(
    n: int, rows: list[tuple[int, int]], shapes: list[tuple[int, int]]
) -> None:
    recorder = Recorder()
    found = encoders.song_embeddings(np.arange(n, dtype=np.float32), recorder, CPU)
    assert found.tolist() == [list(row) for row in rows]
    assert recorder.shapes == shapes


def test_a_song_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(AudioError, match="shorter than a frame: 4 samples at 100 Hz, of 5"):
        encoders.song_embeddings(np.zeros(4, dtype=np.float32), Recorder(), CPU)


def test_a_gpu_that_is_too_small_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Recorder, "embed", fail)
    with pytest.raises(UserError, match="out of memory on cpu: use --device cpu"):
        encoders.song_embeddings(np.zeros(20, dtype=np.float32), Recorder(), CPU)


# --- what embeddings are -----------------------------------------------------------------------


def patches(samples: NDArray[np.float32]) -> torch.Tensor:
    """The first and the last three seconds."""
    n = musicnn.PATCH_SAMPLES
    return torch.from_numpy(np.stack([samples[:n], samples[-n:]]))


def test_musicnn_pools_each_patch(
    embed: Callable[[encoders.Found], dict[str, Any]], tracks: list[Track]
) -> None:
    rows = embed(encoders.find("musicnn", None, 7, CPU, "fp32"))
    network = musicnn.load()
    for track in tracks:
        samples = audio.load(track.path, 16_000).samples
        with torch.inference_mode():
            pooled, _ = network(musicnn.log_mel(patches(samples)))
        np.testing.assert_allclose(rows[track.album], pooled, rtol=1e-4, atol=1e-4)
    assert not np.allclose(rows["a"], rows["b"], atol=0.1)


def test_musicfm_is_the_mean_of_a_layer_at_24_khz(
    embed: Callable[[encoders.Found], dict[str, Any]], tracks: list[Track], weights: Path
) -> None:
    rows = embed(encoders.find("musicfm", weights, 2, CPU, "fp32"))
    model = load_checkpoint(WEIGHTS, STATS, TINY)
    for track in tracks:
        samples = audio.load(track.path, 24_000).samples
        assert len(samples) == 4 * 24_000
        expected = model.hidden_state(torch.from_numpy(samples)[None], 2).mean(1)
        np.testing.assert_allclose(rows[track.album], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(rows["a"], rows["b"], atol=1e-3)


def test_what_changes_embeddings_makes_them_anew_and_nothing_else_does(
    embed: Callable[[encoders.Found], dict[str, Any]],
    tracks: list[Track],
    weights: Path,
    tmp_path: Path,
    rng: Generator,
) -> None:
    def made(layer: int = 2, precision: str = "fp32", path: Path = weights) -> int:
        return int(embed(encoders.find("musicfm", path, layer, CPU, precision))["made"])

    assert [made(), made()] == [2, 0]
    assert [made(layer=1), made(layer=2)] == [2, 0]
    assert [made(precision="bf16"), made(precision="fp32")] == [2, 0]
    # the same weights elsewhere, and one song of another name
    moved = tmp_path / "pretrained_other.pt"
    moved.write_bytes(weights.read_bytes())
    stats = tmp_path / "other_stats.json"
    stats.write_bytes(STATS.read_bytes())
    tracks[0].path.rename(tracks[0].path.with_name("02.wav"))
    tracks[0] = Track(tracks[0].path.with_name("02.wav"), "a", "train", "artist", "a")
    assert made(path=moved) == 0
    # other statistics, other weights, another song
    stats.write_text(stats.read_text().replace("6.76", "6.77"))
    assert made(path=moved) == 2
    state = torch.load(moved, weights_only=True)
    state["state_dict"]["model.conv.linear.bias"] += 0.1
    torch.save(state, moved)
    assert made(path=moved) == 2
    write_audio(tracks[1].path, hum(9, rng, seconds=4.0))
    assert made(path=moved) == 1
    assert embed(encoders.find("musicnn", None, 2, CPU, "fp32"))["made"] == 2
    assert embed(encoders.find("musicnn", None, 3, CPU, "bf16"))["made"] == 0


def test_where_it_computes_is_chosen_by_device_and_size(weights: Path) -> None:
    small, large = (
        encoders.find(name, path, 2, CPU, "fp32")
        for name, path in (("musicnn", None), ("musicfm", weights))
    )
    assert (small.recipe.place, large.recipe.place) == ("processes", "here")
    gpu = encoders.find("musicnn", None, 2, torch.device("cuda", 1), "fp32")
    assert (gpu.recipe.place, gpu.source.device) == ("threads", "cuda:1")


# --- which encoder -----------------------------------------------------------------------------


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "artistid")
    return caplog


def test_without_weights_auto_is_musicnn_and_says_so(
    weights: Path, log: pytest.LogCaptureFixture
) -> None:
    assert weights
    found = encoders.find("auto", None, 7, CPU, "bf16")
    assert found.settings.name == "musicnn"
    assert "so musicnn is used instead. python3 -m musicfm download" in log.text
    assert f"SHA-256 {musicfm.published.sha256(musicnn.WEIGHTS)}" in log.text


def test_with_weights_auto_is_musicfm(
    weights: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = weights, musicfm.published.stats_beside(weights)
    monkeypatch.setattr(musicfm.published, "find", lambda name: pair if name == "fma" else None)
    found = encoders.find("auto", None, 3, CPU, "bf16")
    assert (found.settings.name, found.settings.layer, found.dim) == ("musicfm", 3, 32)
    assert found.settings.weights == musicfm.published.sha256(weights)
    assert "pretrained_tiny.pt is none of the published files" in log.text
    assert "encoder: musicfm layer 3, bf16; weights pretrained_tiny.pt, SHA-256" in log.text
    assert encoders.find("musicnn", None, 3, CPU, "bf16").settings.name == "musicnn"


def test_a_published_file_needs_no_notice(
    weights: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(musicfm.published, "known_as", lambda _: "pretrained_msd.pt")
    encoders.find("musicfm", weights, 2, CPU, "fp32")
    assert "notice" not in log.text


def damage(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100_000])


def swap(weights: Path) -> None:
    torch.save({"state_dict": {"model.other": torch.zeros(3)}}, weights)


def poison(weights: Path) -> None:
    torch.save({"state_dict": Payload(weights.parent / "trace")}, weights)


def spoil(weights: Path) -> None:
    musicfm.published.stats_beside(weights).write_text("{}")


def lose(weights: Path) -> None:
    musicfm.published.stats_beside(weights).unlink()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (damage, "pretrained_tiny.pt: truncated or not a checkpoint"),
        (swap, "pretrained_tiny.pt: of another model: .* missing"),
        (poison, "pretrained_tiny.pt: holds more than tensors, .* refused"),
        (spoil, "tiny_stats.json: not the statistics"),
        (lose, "tiny_stats.json: no such file; python3 -m musicfm download"),
        (Path.unlink, "pretrained_tiny.pt: no such file; python3 -m musicfm download"),
    ],
)
def test_wrong_files_are_named(weights: Path, fault: Callable[[Path], None], words: str) -> None:
    fault(weights)
    with pytest.raises(UserError, match=words):
        encoders.find("auto", weights, 2, CPU, "fp32")
    assert not (weights.parent / "trace").exists()


@pytest.mark.parametrize(
    ("name", "use_weights", "layer", "words"),
    [
        ("musicfm", False, 7, "--encoder musicfm: no weights found; python3 -m musicfm download"),
        ("musicfm", True, 4, "--layer 4: MusicFM has 0 to 3"),
        ("musicnn", True, 7, "--weights: musicnn has its own"),
    ],
)
def test_what_does_not_go_together_is_refused(
    weights: Path, name: Any, use_weights: bool, layer: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        encoders.find(name, weights if use_weights else None, layer, CPU, "fp32")
