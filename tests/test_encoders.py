import logging
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from conftest import hum, write_audio
from numpy.random import Generator
from numpy.typing import NDArray
from test_musicfm import STATS, TINY, WEIGHTS, Payload
from torch import Tensor, nn

from artistid.audio import cache, source
from artistid.audio.decode import AudioError
from artistid.audio.extraction import extract
from artistid.dataset.corpus import Track
from artistid.encoders import musicfm, musicnn, registry
from artistid.encoders.base import EMBEDDINGS, Encoder, Identity
from artistid.encoders.registry import EncoderSettings
from artistid.foundation.errors import UserError
from artistid.foundation.parallel import Workers
from musicfm import hub, load_checkpoint, published

CPU = torch.device("cpu")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny MusicFM checkpoint with its statistics; no published one is found."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "pretrained_tiny.pt").write_bytes(WEIGHTS.read_bytes())
    (folder / "tiny_stats.json").write_bytes(STATS.read_bytes())
    monkeypatch.setattr(musicfm, "load_checkpoint", partial(load_checkpoint, config=TINY))
    monkeypatch.setattr(published, "find", lambda _: None)
    return folder / "pretrained_tiny.pt"


def find(
    encoder: str, weights: Path | None = None, layer: int | None = None, precision: str = "fp32"
) -> Encoder:
    layer = layer_of(weights) if layer is None else layer
    return registry.find(EncoderSettings(encoder, weights, layer), CPU, precision)


def layer_of(weights: Path | None) -> int:
    """The tiny MusicFM has layers 0 to 3."""
    return 2 if weights else registry.DEFAULT_LAYER


# --- excerpts of a song ------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorder(Encoder):
    """Its embedding of an excerpt is the first and the last sample; notes the batches."""

    shapes: list[tuple[int, ...]] = field(default_factory=list, compare=False)
    loaded: list[str] = field(default_factory=list, compare=False)
    excerpt, hop, shortest = 10, 10, 5

    def load(self) -> nn.Module:
        self.loaded.append(self.name)
        return nn.Identity()

    def embed(self, batch: Tensor) -> Tensor:
        self.shapes.append(tuple(batch.shape))
        result: Tensor = self.network(torch.stack([batch[:, 0], batch[:, -1]], dim=1))
        return result


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    identity = Identity(str(tmp_path), "", "", 0, "fp32", 100)
    return Recorder(identity, CPU, dim=2, at_once=2, place="here")


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
def test_excerpts_cover_the_whole_song_without_padding(
    recorder: Recorder, n: int, rows: list[tuple[int, int]], shapes: list[tuple[int, int]]
) -> None:
    embeddings = recorder.song_embeddings(np.arange(n, dtype=np.float32))
    assert embeddings.tolist() == [list(row) for row in rows]
    assert recorder.shapes == shapes


def test_a_song_shorter_than_a_frame_is_refused(recorder: Recorder) -> None:
    with pytest.raises(AudioError, match="too short: 4 samples at 100 Hz, one frame needs 5"):
        recorder.song_embeddings(np.zeros(4, dtype=np.float32))


def test_out_of_gpu_memory_names_the_device(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Recorder, "embed", fail)
    with pytest.raises(UserError, match="out of memory on cpu; use --device cpu"):
        recorder.song_embeddings(np.zeros(20, dtype=np.float32))


def test_the_network_is_loaded_once_per_process(recorder: Recorder) -> None:
    copies = [replace(recorder) for _ in range(8)]  # as unpickled for each song
    song = np.zeros(20, dtype=np.float32)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda copy: copy.song_embeddings(song), copies))
    assert len(recorder.loaded) == 1
    other = replace(recorder, identity=replace(recorder.identity, layer=1))
    other.song_embeddings(song)
    assert len(recorder.loaded) == 2


def test_encoders_are_sent_to_workers_without_their_weights(weights: Path) -> None:
    for encoder in (find("musicnn"), find("musicfm", weights)):
        assert encoder.network is encoder.network
        assert len(pickle.dumps(encoder.recipe)) < 2_000
        received = pickle.loads(pickle.dumps(encoder))
        assert received == encoder
        assert received.network is encoder.network


# --- embeddings --------------------------------------------------------------------------------


@pytest.fixture
def tracks(tmp_path: Path, rng: Generator) -> list[Track]:
    """Two songs with the same file name, in different albums, at 16 kHz."""
    made = []
    for album in "ab":
        path = tmp_path / album / "01-Intro.wav"
        write_audio(path, hum(ord(album), rng, seconds=4.0))
        made.append(Track(path, album, "train", "artist", album))
    return made


def extracted(tracks: list[Track], encoder: Encoder, folder: Path) -> list[NDArray[np.float32]]:
    entries = extract(tracks, encoder.recipe, folder, workers=Workers(1)).entries
    arrays = []
    for track in tracks:
        with cache.opened(entries[track]) as file:
            arrays.append(file.get_tensor(EMBEDDINGS))
    return arrays


def test_musicnn_pools_each_patch(tracks: list[Track], tmp_path: Path) -> None:
    arrays = extracted(tracks, find("musicnn"), tmp_path / "cache")
    network, n = musicnn.load(), musicnn.PATCH_SAMPLES
    for track, array in zip(tracks, arrays, strict=True):
        samples = source.load(track.path, 16_000).samples
        patches = torch.from_numpy(np.stack([samples[:n], samples[-n:]]))
        with torch.inference_mode():
            pooled, _ = network(musicnn.log_mel(patches))
        np.testing.assert_allclose(array, pooled, rtol=1e-4, atol=1e-4)
    assert not np.allclose(*arrays, atol=0.1)


def test_musicfm_is_the_mean_of_a_layer_at_24_khz(
    tracks: list[Track], weights: Path, tmp_path: Path
) -> None:
    arrays = extracted(tracks, find("musicfm", weights, layer=2), tmp_path / "cache")
    model = load_checkpoint(WEIGHTS, STATS, TINY)
    for track, array in zip(tracks, arrays, strict=True):
        samples = source.load(track.path, 24_000).samples
        assert len(samples) == 4 * 24_000
        hidden = model.hidden_state(torch.from_numpy(samples)[None], 2)
        np.testing.assert_allclose(array, hidden.mean(1), rtol=1e-4, atol=1e-5)
    assert not np.allclose(*arrays, atol=1e-3)


def test_precision_is_that_of_the_network(weights: Path, rng: Generator) -> None:
    song = hum(3, rng, seconds=1.0)
    exact, rough, again = (
        find("musicfm", weights, precision=precision).song_embeddings(song)
        for precision in ("fp32", "bf16", "fp32")
    )
    assert exact.dtype == rough.dtype == np.float32
    assert 1e-4 < np.abs(exact - rough).max() < 0.1
    np.testing.assert_array_equal(exact, again)


@pytest.mark.parametrize(("encoder", "on_cpu"), [("musicnn", "processes"), ("musicfm", "here")])
def test_device_and_size_decide_where_extraction_runs(
    weights: Path, encoder: str, on_cpu: str
) -> None:
    own = weights if encoder == "musicfm" else None
    assert find(encoder, own).place == on_cpu
    settings = EncoderSettings(encoder, own, layer_of(own))
    gpu = registry.find(settings, torch.device("cuda", 1), "fp32")
    assert gpu.place == "threads"
    assert gpu.recipe.place == "threads"
    assert gpu.at_once > find(encoder, own).at_once


# --- cache keys --------------------------------------------------------------------------------


def test_cache_digests_never_change() -> None:
    """Another digest would make every user extract the whole corpus again."""
    assert find("musicnn").recipe.digest == "9c585899aa867d92"
    identity = Identity("musicfm", "ab" * 32, "cd" * 32, 7, "bf16", 24_000)
    encoder = musicfm.MusicFMEncoder(identity, CPU, 1024, 1, "here", Path("w"), Path("s"))
    assert encoder.recipe.digest == "0be91ed25fec8f04"


def test_whatever_changes_embeddings_changes_the_digest(weights: Path, tmp_path: Path) -> None:
    moved, stats = tmp_path / "pretrained_other.pt", tmp_path / "other_stats.json"
    moved.write_bytes(weights.read_bytes())
    stats.write_bytes(STATS.read_bytes())
    basis = find("musicfm", weights).recipe.digest
    assert find("musicfm", moved).recipe.digest == basis
    digests = {
        basis,
        find("musicnn").recipe.digest,
        find("musicfm", weights, layer=1).recipe.digest,
        find("musicfm", weights, precision="bf16").recipe.digest,
    }
    stats.write_text(stats.read_text().replace("6.76", "6.77"))
    digests.add(find("musicfm", moved).recipe.digest)
    state = torch.load(moved, weights_only=True)
    state["state_dict"]["model.conv.linear.bias"] += 0.1
    torch.save(state, moved)
    digests.add(find("musicfm", moved).recipe.digest)
    assert len(digests) == 6
    assert find("musicnn", precision="bf16") == find("musicnn")  # which is always fp32


# --- which encoder -----------------------------------------------------------------------------


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "artistid")
    return caplog


def test_the_command_line_offers_every_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    assert tyro.cli(EncoderSettings, args=[]) == EncoderSettings("auto", None, 7)
    with pytest.raises(SystemExit):
        tyro.cli(EncoderSettings, args=["--help"])
    words = capsys.readouterr().out
    for name in ("auto", "musicfm+ge2e", *registry.ENCODERS):
        assert tyro.cli(EncoderSettings, args=["--encoder", name]).encoder == name
        assert name.split("+")[0] in words


def test_without_weights_auto_is_what_needs_no_download_with_a_notice(
    weights: Path, log: pytest.LogCaptureFixture
) -> None:
    assert weights
    encoder = find("auto", precision="bf16")
    assert (encoder.name, encoder.dim) == ("musicnn+ge2e", 1506 + 256)
    assert encoder.grid.excerpt_s == encoder.grid.hop_s == pytest.approx(3.008)
    assert "no MusicFM weights found, using musicnn+ge2e; python3 -m artistid.enc" in log.text
    assert f"SHA-256 {hub.sha256(musicnn.WEIGHTS)}" in log.text


def test_with_weights_auto_is_musicfm(
    weights: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = weights, published.stats_beside(weights)
    monkeypatch.setattr(published, "find", lambda name: files if name == "fma" else None)
    encoder = find("auto", layer=3, precision="bf16")
    digest = hub.sha256(weights)
    assert encoder.identity == Identity("musicfm", digest, hub.sha256(files[1]), 3, "bf16", 24_000)
    assert (encoder.dim, encoder.grid.excerpt_s) == (32, 30)
    assert "pretrained_tiny.pt is not a published MusicFM checkpoint" in log.text
    assert f"musicfm layer 3, bf16; weights pretrained_tiny.pt, SHA-256 {digest}" in log.text
    assert find("musicnn").name == "musicnn"


def test_published_weights_need_no_notice(
    weights: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "known_as", lambda _: "pretrained_msd.pt")
    find("auto", weights)
    assert "notice" not in log.text


def damage(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100_000])


def swap(weights: Path) -> None:
    torch.save({"state_dict": {"model.other": torch.zeros(3)}}, weights)


def poison(weights: Path) -> None:
    torch.save({"state_dict": Payload(weights.parent / "trace")}, weights)


def spoil(weights: Path) -> None:
    published.stats_beside(weights).write_text("{}")


def lose(weights: Path) -> None:
    published.stats_beside(weights).unlink()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (damage, "pretrained_tiny.pt: truncated, or not a checkpoint"),
        (swap, "pretrained_tiny.pt: weights of another model: .* missing"),
        (poison, "pretrained_tiny.pt: refused, because loading it could run code"),
        (spoil, "tiny_stats.json: not a statistics file"),
        (lose, "tiny_stats.json: no such file; python3 -m musicfm download"),
        (Path.unlink, "pretrained_tiny.pt: no such file; python3 -m musicfm download"),
    ],
)
def test_wrong_files_are_named(weights: Path, fault: Callable[[Path], None], words: str) -> None:
    fault(weights)
    with pytest.raises(UserError, match=words):
        find("auto", weights)
    assert not (weights.parent / "trace").exists()


@pytest.mark.parametrize(
    ("encoder", "with_weights", "layer", "words"),
    [
        ("musicfm", False, 7, "--encoder musicfm: no weights found; python3 -m musicfm download"),
        ("musicfm", True, 4, "--layer 4: MusicFM has 0 to 3"),
        ("musicfm", True, -1, "--layer -1: must be at least 0"),
        ("musicnn+ge2e", False, 3, "--layer 3: only musicfm has layers to choose from"),
        ("auto", False, 3, "--layer 3: only musicfm has layers to choose from"),
        ("musicnn+ge2e", True, 7, "--weights .*: of which encoder.* those of musicnn and ge2e"),
        ("musicfm+ecapa", True, 7, "--weights .*: of which encoder.* musicfm or ecapa"),
        ("vggish", False, 7, "--encoder vggish: choose from auto, musicfm, ecapa, musicnn, ge2e"),
        ("musicnn+auto", False, 7, r"--encoder musicnn\+auto: choose"),
        ("ge2e+musicnn+ge2e", False, 7, "names the same encoder twice"),
        ("ecapa", False, 7, "no weights found; python3 -m artistid.encoders download ecapa"),
    ],
)
def test_wrong_settings_are_refused(
    weights: Path, encoder: str, with_weights: bool, layer: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        find(encoder, weights if with_weights else None, layer)


# --- the encoder of a saved model --------------------------------------------------------------


def test_a_saved_model_gets_its_encoder_back(weights: Path) -> None:
    for encoder in (find("musicnn"), find("musicfm", weights, 3, "bf16")):
        assert registry.restore(asdict(encoder.identity), weights, CPU) == encoder


def test_a_saved_model_refuses_other_weights(weights: Path) -> None:
    identity = asdict(find("musicfm", weights).identity)
    state = torch.load(weights, weights_only=True)
    state["state_dict"]["model.conv.linear.bias"] += 0.1
    torch.save(state, weights)
    words = (
        "the model was trained on embeddings of musicfm with weights of SHA-256 "
        f"{identity['weights'][:12]}…, but found {hub.sha256(weights)[:12]}…; use those"
    )
    with pytest.raises(UserError, match=words):
        registry.restore(identity, weights, CPU)


def test_a_saved_model_refuses_other_statistics(weights: Path) -> None:
    identity = asdict(find("musicfm", weights).identity)
    stats = published.stats_beside(weights)
    stats.write_text(stats.read_text() + " ")
    words = f"musicfm with statistics of SHA-256 {identity['stats'][:12]}…, but found"
    with pytest.raises(UserError, match=words):
        registry.restore(identity, weights, CPU)


def test_a_saved_model_of_an_unknown_encoder_is_refused() -> None:
    identity = asdict(find("musicnn").identity) | {"name": "vggish"}
    with pytest.raises(UserError, match="embeddings of vggish, an encoder that this version does"):
        registry.restore(identity, None, CPU)
