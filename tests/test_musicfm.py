"""MusicFM against outputs of the official code (tests/data), its checkpoints and its download."""

import ast
import pickle
import shutil
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

from musicfm import (
    CheckpointError,
    MusicFM,
    MusicFMConfig,
    __main__,
    hub,
    load_checkpoint,
    published,
)
from musicfm.checkpoint import official_shapes
from musicfm.frontend import log_mel
from musicfm.hub import DownloadError, HubFile
from musicfm.linear import Linear
from musicfm.published import Published

DATA = PROJECT / "tests" / "data"
WEIGHTS, STATS = DATA / "tiny_musicfm.pt", DATA / "tiny_stats.json"
TINY = MusicFMConfig(conv_dim=16, encoder_dim=32, encoder_depth=3, n_heads=2, ff_dim=64)

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def parity() -> dict[str, torch.Tensor]:
    with np.load(DATA / "tiny_parity.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture
def model() -> MusicFM:
    return load_checkpoint(WEIGHTS, STATS, TINY)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, relative to the peak."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


# --- parity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_every_layer_equals_the_official_one(
    model: MusicFM, parity: dict[str, torch.Tensor], layer: int
) -> None:
    hidden = model.hidden_state(parity["wav"], layer)
    assert relative_error(hidden, parity[f"hidden_{layer}"]) < 1e-5


@pytest.mark.parametrize("layer", [0, 3])
def test_also_for_a_length_that_is_no_multiple_of_the_stride(
    model: MusicFM, parity: dict[str, torch.Tensor], layer: int
) -> None:
    hidden = model.hidden_state(parity["wav_odd"][None], layer)
    assert relative_error(hidden, parity[f"hidden_odd_{layer}"]) < 1e-5


def test_the_spectrogram_equals_the_official_one(
    model: MusicFM, parity: dict[str, torch.Tensor]
) -> None:
    mel = (log_mel(parity["wav"], 128) - model.mel_mean) / model.mel_std
    assert relative_error(mel, parity["mel_norm"]) < 1e-5


def test_bf16_embeddings_keep_their_direction(
    model: MusicFM, parity: dict[str, torch.Tensor]
) -> None:
    exact = model.hidden_state(parity["wav"], 2).mean(1)
    rough = model.to(torch.bfloat16).hidden_state(parity["wav"], 2)
    assert rough.dtype == torch.bfloat16
    assert torch.cosine_similarity(exact, rough.float().mean(1)).min() > 0.9999


@pytest.mark.slow
def test_layers_equal_those_of_transformers(rng: Generator, tmp_path: Path) -> None:
    """The second oracle, with random weights: the class that the official code builds on."""
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
    sizes = MusicFMConfig(
        conv_dim=8, encoder_dim=48, encoder_depth=2, n_heads=4, ff_dim=96, conv_kernel=15
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        oracle = modeling.Wav2Vec2ConformerEncoder(config).eval()
        for name, tensor in oracle.state_dict().items():
            if "norm" in name and tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
        state = {f"model.conformer.{name}": value for name, value in oracle.state_dict().items()}
        for name, shape in official_shapes(sizes).items():
            if name.startswith("conv."):
                state[f"model.{name}"] = torch.rand(shape)
    theirs: list[torch.Tensor] = []

    def keep(_layer: nn.Module, _input: Any, output: Any) -> None:
        theirs.append(output[0] if isinstance(output, tuple) else output)  # transformers 4: tuple

    for layer in oracle.layers:
        layer.register_forward_hook(keep)
    model = load_checkpoint(saved(tmp_path / "w.pt", state), STATS, sizes)
    audio = torch.from_numpy(rng.normal(0, 0.1, (2, 30_000)).astype(np.float32))
    with torch.no_grad():
        last = oracle(model.hidden_state(audio, 0)).last_hidden_state
    assert relative_error(model.hidden_state(audio, 1), theirs[0]) < 1e-5
    assert relative_error(model.hidden_state(audio, 2), last) < 1e-5


# --- hidden states -----------------------------------------------------------------------------


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
    assert relative_error(model.hidden_state(parity["wav"][1:], 3), both[1:]) < 1e-5


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_does_not_exist_is_refused(model: MusicFM, layer: int) -> None:
    with pytest.raises(ValueError, match=f"layer {layer}: must be 0 to 3"):
        model.hidden_state(torch.zeros(1, 24_000), layer)


@pytest.mark.parametrize("shape", [(24_000,), (1, 1_024), (1, 1, 24_000)])
def test_a_waveform_of_a_wrong_shape_is_refused(model: MusicFM, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(batch, samples\) with more than 1024 samples"):
        model.hidden_state(torch.zeros(shape), 1)


def test_the_shortest_waveform_gives_one_frame(model: MusicFM) -> None:
    assert model.hidden_state(torch.zeros(1, 1_025), 3).shape == (1, 1, 32)


def test_linear_layers_equal_torchs(rng: Generator) -> None:
    ours = Linear(24, 40)
    theirs = nn.Linear(24, 40)
    theirs.load_state_dict(ours.state_dict())
    x = torch.from_numpy(rng.normal(0, 1, (2, 7, 24)).astype(np.float32))
    torch.testing.assert_close(ours(x), theirs(x))


def test_loading_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    load_checkpoint(WEIGHTS, STATS, TINY)
    assert torch.equal(before, torch.get_rng_state())


def test_the_package_needs_few_others() -> None:
    """No transformers, torchaudio, einops or omegaconf, which the official code needs."""
    imported = set()
    for path in (PROJECT / "musicfm").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module))
    packages = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert packages == {"musicfm", "numpy", "torch", "safetensors", "huggingface_hub"}


# --- checkpoints -------------------------------------------------------------------------------


@pytest.fixture
def state() -> State:
    return dict(torch.load(WEIGHTS, weights_only=True)["state_dict"])


def saved(path: Path, state: Any) -> Path:
    torch.save({"state_dict": state}, path)
    return path


def lean(state: State) -> State:
    """Only the tensors that the encoder needs, without prefix."""
    return {name: state[f"model.{name}"] for name in official_shapes(TINY)}


def test_unused_tensors_and_prefix_may_be_absent(
    model: MusicFM, state: State, tmp_path: Path
) -> None:
    assert len(lean(state)) < len(state)
    other = load_checkpoint(saved(tmp_path / "w.pt", lean(state)), STATS, TINY)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_safetensors_give_the_same_model(model: MusicFM, state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(lean(state), path)
    other = load_checkpoint(path, STATS, TINY)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_weights_stay_in_the_mapped_file(state: State, tmp_path: Path) -> None:
    """So that loading 1.3 GB takes neither the time nor the memory of a copy."""
    path = saved(tmp_path / "mapped.pt", state)
    model = load_checkpoint(path, STATS, TINY)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [line[0].split("-") for line in maps if line[-1] == str(path)]
    for layer in model.layers:
        for weight in (layer.first_half[1].weight, layer.attention.value.weight):
            at = weight.data_ptr()
            assert any(int(start, 16) <= at < int(end, 16) for start, end in spans)


def remove(state: State) -> None:
    del state["model.conformer.layers.1.ffn1.output_dense.bias"]


def add(state: State) -> None:
    state["model.conformer.layers.3.ffn1.output_dense.bias"] = torch.zeros(32)


def reshape(state: State) -> None:
    state["model.conv.linear.weight"] = torch.zeros(32, 256)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove, "1 missing, such as conformer.layers.1.ffn1.output_dense.bias"),
        (add, "1 unknown, such as conformer.layers.3.ffn1.output_dense.bias"),
        (reshape, r"conv.linear.weight is torch.Size\(\[32, 256\]\), not \(32, 512\)"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(
    state: State, tmp_path: Path, change: Any, words: str
) -> None:
    change(state)
    with pytest.raises(CheckpointError, match=f"w.pt: weights of another model: {words}"):
        load_checkpoint(saved(tmp_path / "w.pt", state), STATS, TINY)


class Payload:
    """A pickle of this creates the file `trace` when it is loaded."""

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
    with pytest.raises(CheckpointError, match=r"w\.pt: (refused|truncated, or not a checkpoint)"):
        load_checkpoint(path, STATS, TINY)
    assert not trace.exists()


@pytest.mark.parametrize("size", [0, 100, 300_000])
def test_a_truncated_checkpoint_is_refused(state: State, tmp_path: Path, size: int) -> None:
    safetensors.torch.save_file(lean(state), tmp_path / "whole.safetensors")
    for whole in (WEIGHTS, tmp_path / "whole.safetensors"):
        path = (tmp_path / "cut").with_suffix(whole.suffix)
        content = whole.read_bytes()
        assert size < len(content)
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=f"{path.name}: truncated, or not a checkpoint"):
            load_checkpoint(path, STATS, TINY)


@pytest.mark.parametrize("content", [b"text", pickle.dumps([1]), b"\x80\x02}q\x00."])
def test_other_files_are_not_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pt: "):
        load_checkpoint(path, STATS, TINY)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"state_dict": {"model.x": 3}}])
def test_other_torch_files_are_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "w.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"w\.pt: weights of another model: .* missing"):
        load_checkpoint(path, STATS, TINY)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        load_checkpoint(tmp_path / "nowhere.pt", STATS, TINY)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        load_checkpoint(WEIGHTS, tmp_path / "nowhere.json", TINY)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no JSON", "not a statistics file"),
        ("[1]", "not a statistics file"),
        ('{"melspec_2048_mean": 1}', "not a statistics file"),
        ('{"melspec_2048_mean": null, "melspec_2048_std": 1}', "not a statistics file"),
        ('{"melspec_2048_mean": 1, "melspec_2048_std": 0}', "is 0.0, must be above 0"),
        ('{"melspec_2048_mean": 1, "melspec_2048_std": Infinity}', "is inf, must be .* finite"),
        ('{"melspec_2048_mean": NaN, "melspec_2048_std": 1}', "is nan, must be finite"),
        (80_000 * "[", "not a statistics file"),
    ],
)
def test_wrong_statistics_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=f"s.json: .*{words}"):
        load_checkpoint(WEIGHTS, path, TINY)


def test_the_official_format_has_465_tensors_at_full_size() -> None:
    shapes = official_shapes(MusicFMConfig())
    assert sum(np.prod(shape) for shape in shapes.values()) == pytest.approx(316e6, rel=0.01)
    norms = sum(name.endswith("running_mean") for name in shapes)
    # not used: a counter per batch normalisation, quantizer (2), linear (2), cls_token, window,
    # filters, inv_freq and the positional convolution (3)
    assert len(shapes) + norms + 11 == 465


# --- published files ---------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Published:
    """Two small published files, not downloaded yet; the hub has them in tmp_path / "hub"."""
    contents = {"pretrained_msd.pt": b"weights", "msd_stats.json": b"{}"}
    files = []
    for name, content in contents.items():
        source = tmp_path / "hub" / name
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(content)
        files.append(HubFile("authors/x", "1" * 40, name, len(content), hub.sha256(source)))
    pair = Published(*files)
    monkeypatch.setattr(published, "PUBLISHED", {"msd": pair})
    monkeypatch.setattr(published, "FILES", {file.name: file for file in files})
    monkeypatch.setattr(published, "DATA", tmp_path / "data")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    return pair


def test_weights_are_found_with_the_statistics_that_belong_to_them(
    small: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def copied(file: HubFile, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        return Path(shutil.copy(tmp_path / "hub" / file.name, folder))

    monkeypatch.setattr(hub, "fetch", copied)
    assert published.find("msd") is None
    paths = published.download("msd", tmp_path / "data")
    assert [path.name for path in paths] == [small.weights.name, small.stats.name]
    assert published.find("msd") == paths
    paths[1].unlink()
    assert published.find("msd") is None


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (DownloadError("no network"), 2, "musicfm: no network\n"),
        (OSError(28, "No space left on device"), 2, "No space left on device\n"),
        (KeyboardInterrupt(), 130, "\nmusicfm: interrupted; run it again\n"),
    ],
)
def test_the_command_fails_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    words: str,
) -> None:
    def fail(_name: str) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["musicfm", "download"])
    monkeypatch.setattr(__main__, "download", fail)
    with pytest.raises(SystemExit) as exit_:
        __main__.main()
    assert exit_.value.code == status
    message = capsys.readouterr().err
    assert words in message
    assert message.strip().count("\n") == 0


def test_the_command_prints_where_the_files_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["musicfm", "download", "msd"])
    monkeypatch.setattr(__main__, "download", lambda name: (Path(name), Path("stats")))
    __main__.main()
    assert capsys.readouterr().out == "msd\nstats\n"


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
def test_a_published_file_that_is_too_short_is_truncated(tmp_path: Path) -> None:
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
