"""Our MusicFM against the outputs of the official code (tests/data), and its files."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import PROJECT
from numpy.random import Generator
from torch import nn

import musicfm.__main__ as musicfm_command
import musicfm.published as published
from benchmarks.musicfm import random_checkpoint
from musicfm import CheckpointError, MusicFM, MusicFMConfig, load_checkpoint
from musicfm.checkpoint import convert, official_shapes
from musicfm.frontend import log_mel
from musicfm.linear import Linear
from musicfm.published import DownloadError, Published, PublishedFile

DATA = PROJECT / "tests" / "data"
WEIGHTS, STATS = DATA / "tiny_musicfm.pt", DATA / "tiny_stats.json"
TINY = MusicFMConfig(conv_dim=16, encoder_dim=32, encoder_depth=3, n_heads=2, ff_dim=64)


@pytest.fixture(scope="module")
def parity() -> dict[str, torch.Tensor]:
    with np.load(DATA / "tiny_parity.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture
def model() -> MusicFM:
    return load_checkpoint(WEIGHTS, STATS, TINY)


def off(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, in shares of the peak."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


# --- the same numbers as the official code -----------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_every_layer_is_the_official_one(
    model: MusicFM, parity: dict[str, torch.Tensor], layer: int
) -> None:
    assert off(model.hidden_state(parity["wav"], layer), parity[f"hidden_{layer}"]) < 1e-5


@pytest.mark.parametrize("layer", [0, 3])
def test_also_of_a_length_that_no_stride_divides(
    model: MusicFM, parity: dict[str, torch.Tensor], layer: int
) -> None:
    found = model.hidden_state(parity["wav_odd"][None], layer)
    assert off(found, parity[f"hidden_odd_{layer}"]) < 1e-5


def test_the_spectrogram_is_the_official_one(
    model: MusicFM, parity: dict[str, torch.Tensor]
) -> None:
    mel = (log_mel(parity["wav"], 128) - model.mel_mean) / model.mel_std
    assert off(mel, parity["mel_norm"]) < 1e-5


def test_in_bf16_the_embeddings_keep_their_direction(
    model: MusicFM, parity: dict[str, torch.Tensor]
) -> None:
    exact = model.hidden_state(parity["wav"], 2).mean(1)
    rough = model.to(torch.bfloat16).hidden_state(parity["wav"], 2)
    assert rough.dtype == torch.bfloat16
    assert torch.cosine_similarity(exact, rough.float().mean(1)).min() > 0.9999


@pytest.mark.slow
def test_layers_are_those_of_transformers(rng: Generator, tmp_path: Path) -> None:
    """The second oracle: the class that the official code builds on, with random weights."""
    wav2vec = pytest.importorskip("transformers.models.wav2vec2_conformer")
    from transformers.models.wav2vec2_conformer import modeling_wav2vec2_conformer as modeling

    config = wav2vec.Wav2Vec2ConformerConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        conv_depthwise_kernel_size=15,
        hidden_act="swish",
        position_embeddings_type="rotary",
        rotary_embedding_base=10_000,
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        oracle = modeling.Wav2Vec2ConformerEncoder(config).eval()
        for name, tensor in oracle.state_dict().items():
            if "norm" in name and tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    sizes = MusicFMConfig(
        conv_dim=8, encoder_dim=48, encoder_depth=2, n_heads=4, ff_dim=96, conv_kernel=15
    )
    state = {f"conformer.{name}": tensor for name, tensor in oracle.state_dict().items()}
    front = {n: torch.rand(s) for n, s in official_shapes(sizes).items() if n.startswith("conv.")}
    weights = saved(tmp_path / "w.pt", {f"model.{k}": v for k, v in {**state, **front}.items()})
    found, expected = _through(load_checkpoint(weights, STATS, sizes), oracle, rng)
    for ours, theirs in zip(found, expected, strict=True):
        assert off(ours, theirs) < 1e-5


def _through(
    model: MusicFM, oracle: Any, rng: Generator
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Our hidden states, and the oracle's for the same input to its first layer."""
    audio = torch.from_numpy(rng.normal(0, 0.1, (2, 30_000)).astype(np.float32))
    ours = [model.hidden_state(audio, layer) for layer in range(3)]
    theirs: list[torch.Tensor] = []
    for layer in oracle.layers:
        layer.register_forward_hook(lambda *values: theirs.append(_first(values[2])))
    with torch.no_grad():
        last = oracle(ours[0]).last_hidden_state
    return ours, [ours[0], theirs[0], last]


def _first(output: Any) -> torch.Tensor:
    """Of what a layer gives back: a tuple in transformers 4."""
    return output[0] if isinstance(output, tuple) else output


# --- how it behaves ----------------------------------------------------------------------------


def test_layers_above_are_not_computed(model: MusicFM, parity: dict[str, torch.Tensor]) -> None:
    called: list[int] = []
    for number, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda *_, number=number: called.append(number))
    model.hidden_state(parity["wav"], 2)
    assert called == [0, 1]


def test_an_excerpt_does_not_depend_on_its_batch(
    model: MusicFM, parity: dict[str, torch.Tensor]
) -> None:
    both = model.hidden_state(parity["wav"], 3)
    assert off(model.hidden_state(parity["wav"][1:], 3), both[1:]) < 1e-5


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_does_not_exist_is_named(model: MusicFM, layer: int) -> None:
    with pytest.raises(ValueError, match=f"layer {layer}: there are 0 to 3"):
        model.hidden_state(torch.zeros(1, 24_000), layer)


@pytest.mark.parametrize("shape", [(24_000,), (1, 1_024), (1, 1, 24_000)])
def test_a_waveform_of_another_shape_is_refused(model: MusicFM, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(batch, samples\) is needed"):
        model.hidden_state(torch.zeros(shape), 1)


def test_the_shortest_waveform_has_a_frame(model: MusicFM) -> None:
    assert model.hidden_state(torch.zeros(1, 1_025), 3).shape == (1, 1, 32)


def test_linear_layers_are_torchs(rng: Generator) -> None:
    ours = Linear(24, 40)
    theirs = nn.Linear(24, 40)
    theirs.load_state_dict(ours.state_dict())
    x = torch.from_numpy(rng.normal(0, 1, (2, 7, 24)).astype(np.float32))
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours(x).shape == (2, 7, 40)


def test_nothing_random_is_touched_and_nothing_foreign_loaded() -> None:
    code = f"""
import sys, torch
from pathlib import Path
from musicfm import MusicFMConfig, load_checkpoint
before = torch.get_rng_state()
config = MusicFMConfig(conv_dim=16, encoder_dim=32, encoder_depth=3, n_heads=2, ff_dim=64)
load_checkpoint(Path({str(WEIGHTS)!r}), Path({str(STATS)!r}), config)
assert torch.equal(before, torch.get_rng_state())
foreign = {{"torchaudio", "transformers", "einops", "omegaconf"}} & set(sys.modules)
assert not foreign, foreign
"""
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


# --- checkpoints -------------------------------------------------------------------------------


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return dict(torch.load(WEIGHTS, weights_only=True)["state_dict"])


def saved(path: Path, state: Any) -> Path:
    torch.save({"state_dict": state}, path)
    return path


def test_as_safetensors_it_is_the_same(
    model: MusicFM, parity: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    convert(WEIGHTS, tmp_path / "w.safetensors", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    with safetensors.safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert set(file.keys()) == official_shapes(TINY).keys()
    other = load_checkpoint(tmp_path / "w.safetensors", STATS, TINY)
    found = (each.hidden_state(parity["wav"], 3) for each in (model, other))
    assert torch.equal(*found)


def remove(state: dict[str, torch.Tensor]) -> None:
    del state["model.conformer.layers.1.ffn1.output_dense.bias"]


def add(state: dict[str, torch.Tensor]) -> None:
    state["model.conformer.layers.3.ffn1.output_dense.bias"] = torch.zeros(32)


def reshape(state: dict[str, torch.Tensor]) -> None:
    state["model.conv.linear.weight"] = torch.zeros(32, 256)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove, "1 missing, such as conformer.layers.1.ffn1.output_dense.bias"),
        (add, "1 unknown, such as conformer.layers.3.ffn1.output_dense.bias"),
        (reshape, r"conv.linear.weight is torch.Size\(\[32, 256\]\), not \(32, 512\)"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_a_checkpoint_of_another_model_is_refused_by_key(
    state: dict[str, torch.Tensor], tmp_path: Path, change: Any, words: str
) -> None:
    change(state)
    with pytest.raises(CheckpointError, match=f"w.pt: of another model: {words}"):
        load_checkpoint(saved(tmp_path / "w.pt", state), STATS, TINY)


def test_what_official_checkpoints_have_besides_is_no_fault(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    lean = {name.removeprefix("model."): state[name] for name in state}
    lean = {name: lean[name] for name in official_shapes(TINY)}
    assert len(lean) < len(state)
    load_checkpoint(saved(tmp_path / "w.pt", lean), STATS, TINY)


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, as_zip: bool) -> None:
    trace, path = tmp_path / "trace", tmp_path / "w.pt"
    if as_zip:
        saved(path, {"model.cls_token": Payload(trace)})
    else:
        path.write_bytes(pickle.dumps({"state_dict": Payload(trace)}))
    with pytest.raises(
        CheckpointError, match=r"w.pt: .*(could run code: refused|not a checkpoint)"
    ):
        load_checkpoint(path, STATS, TINY)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("size", [0, 100, 500_000])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, name: str, size: int) -> None:
    whole = tmp_path / f"whole_{name}"
    if name == "w.pt":
        whole = WEIGHTS
    else:
        convert(WEIGHTS, whole, TINY)
    path = tmp_path / name
    path.write_bytes(whole.read_bytes()[: min(size, whole.stat().st_size // 2)])
    with pytest.raises(CheckpointError, match=f"{name}: truncated or not a checkpoint"):
        load_checkpoint(path, STATS, TINY)


@pytest.mark.parametrize("content", [b"text", pickle.dumps([1]), b"\x80\x02}q\x00."])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pt: "):
        load_checkpoint(path, STATS, TINY)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"state_dict": {"model.x": 3}}])
def test_torch_files_of_something_else_are_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "w.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"w\.pt: of another model: .* missing"):
        load_checkpoint(path, STATS, TINY)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        load_checkpoint(tmp_path / "nowhere.pt", STATS, TINY)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        load_checkpoint(WEIGHTS, tmp_path / "nowhere.json", TINY)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no JSON", "not the statistics"),
        ("[1]", "not the statistics"),
        ('{"melspec_2048_mean": 1}', "not the statistics"),
        ('{"melspec_2048_mean": null, "melspec_2048_std": 1}', "not the statistics"),
        ('{"melspec_2048_mean": 1, "melspec_2048_std": 0}', "is 0.0, not above 0"),
    ],
)
def test_wrong_statistics_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=f"s.json: .*{words}"):
        load_checkpoint(WEIGHTS, path, TINY)


def test_the_official_format_has_465_tensors_for_the_published_sizes() -> None:
    shapes = official_shapes(MusicFMConfig())
    sizes = [np.prod(shape) for shape in shapes.values()]
    assert sum(sizes) == pytest.approx(316e6, rel=0.01)  # of 1,265 MB
    norms = sum(name.endswith("running_mean") for name in shapes)
    # beside them: counters, quantizer (2), linear (2), cls_token, window, filters, inv_freq and
    # the positional convolution (3)
    assert len(shapes) + norms + 11 == 465


FULL_SIZE = """
import sys, time
from pathlib import Path
import torch
from benchmarks.ways import peak_mib
from musicfm import load_checkpoint
before, begin = peak_mib(), time.perf_counter()
model = load_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))
seconds = time.perf_counter() - begin
model.hidden_state(torch.zeros(1, 24_000), 12)  # reads all that was only mapped
print(seconds, (peak_mib() - before) * 2**20)
"""


@pytest.mark.slow
def test_full_size_loads_fast_and_in_little_memory(tmp_path: Path) -> None:
    weights = random_checkpoint(tmp_path / "pretrained_random.pt")
    stats = published.stats_beside(weights)
    size = weights.stat().st_size
    assert size > 1.2e9
    done = subprocess.run(
        [sys.executable, "-c", FULL_SIZE, weights, stats],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, memory = map(float, done.stdout.split())
    assert seconds < 10
    assert memory < 2 * size


# --- the published files -----------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Published:
    """A publication of small files, of which none is here."""
    contents = {"pretrained_msd.pt": b"weights", "msd_stats.json": b"{}"}
    files = []
    for name, content in contents.items():
        source = tmp_path / "hub" / name
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(content)
        files.append(PublishedFile(name, len(content), published.sha256(source)))
    pair = Published(*files)
    monkeypatch.setattr(published, "PUBLISHED", {"msd": pair})
    monkeypatch.setattr(published, "FILES", {file.name: file for file in files})
    monkeypatch.setattr(published, "DATA", tmp_path / "data")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    return pair


@pytest.fixture
def hub(small: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Serves the files of `small`; says which were asked for."""
    assert small
    asked: list[str] = []

    def serve(repository: str, name: str, *, revision: str, local_dir: Path) -> str:
        assert (repository, revision) == (published.REPOSITORY, published.REVISION)
        asked.append(name)
        local_dir.mkdir(exist_ok=True)
        (local_dir / name).write_bytes((tmp_path / "hub" / name).read_bytes())
        return str(local_dir / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", serve)
    return asked


def test_a_download_fetches_what_is_not_there_yet(hub: list[str], tmp_path: Path) -> None:
    assert published.find("msd") is None
    paths = published.download("msd", tmp_path / "data")
    assert [path.name for path in paths] == hub == ["pretrained_msd.pt", "msd_stats.json"]
    assert published.find("msd") == paths
    published.download("msd", tmp_path / "data")
    assert len(hub) == 2
    paths[0].write_bytes(b"weighty")  # same size, other content
    published.download("msd", tmp_path / "data")
    assert hub[2:] == ["pretrained_msd.pt"]


@pytest.mark.usefixtures("hub")
def test_a_download_of_other_content_is_named(tmp_path: Path) -> None:
    (tmp_path / "hub" / "pretrained_msd.pt").write_bytes(b"weigh")
    with pytest.raises(DownloadError, match=r"pretrained_msd.pt: not the published file \(5 of 7"):
        published.download("msd", tmp_path / "data")


@pytest.mark.usefixtures("small")
def test_without_a_network_it_says_what_to_put_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    words = f"pretrained_msd.pt can't be downloaded .* {published.REPOSITORY}.* into {tmp_path}"
    with pytest.raises(DownloadError, match=words):
        published.download("msd", tmp_path / "data")


def test_the_command_fails_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "musicfm", "convert", tmp_path / "nowhere.pt"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nowhere.pt" in done.stderr


def test_ctrl_c_in_a_download_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["musicfm", "download"])
    monkeypatch.setattr(musicfm_command, "download", interrupted)
    with pytest.raises(SystemExit) as exit_:
        musicfm_command.main()
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "\nmusicfm: stopped; a download goes on where it was\n"


@pytest.mark.usefixtures("small")
def test_weights_in_the_hubs_cache_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = tmp_path / "hub"
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda _, name, **__: str(hub / name)
    )
    assert published.find("msd") == (hub / "pretrained_msd.pt", hub / "msd_stats.json")
    (hub / "msd_stats.json").unlink()
    assert published.find("msd") is None


@pytest.mark.usefixtures("small")
def test_a_published_file_that_is_too_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pretrained_msd.pt"
    path.write_bytes(b"weig")
    with pytest.raises(CheckpointError, match=r"pretrained_msd.pt: truncated, 4 of 7 bytes"):
        load_checkpoint(path, STATS, TINY)


def test_published_files_are_known_by_their_digest(small: Published) -> None:
    assert published.known_as(small.weights.sha256) == "pretrained_msd.pt"
    assert published.known_as("0" * 64) is None


def test_statistics_are_beside_their_weights() -> None:
    for pair in published.PUBLISHED.values():
        beside = published.stats_beside(Path("x") / pair.weights.name)
        assert beside == Path("x") / pair.stats.name
    assert json.loads(STATS.read_text())
