"""Our MusicFM, and where a checkout of github.com/minzwon/musicfm is at hand the official one.

    python3 -m benchmarks.musicfm [--official CHECKOUT] [--weights FILE] [--seconds 30 120]

Without weights, random ones of full size. The official code needs einops and transformers 4;
of torchaudio, where it can't be imported, its two transforms are stood in for. Each in a process of
its own, in turn, on the same noise, after a warm-up. "cosine" is that of the embeddings (mean over
time) with the official ones, else with our float32 ones; "difference" the largest of the hidden
state, in shares of its peak.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import librosa
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.measured import Measured, Ratio, brief, spread
from benchmarks.ways import Way
from musicfm import load_checkpoint
from musicfm.checkpoint import MEAN, OFFICIAL, STD, official_shapes
from musicfm.frontend import HOP, N_FFT, SAMPLE_RATE
from musicfm.published import stats_beside

Hidden = NDArray[np.float32]  # (frames, dim)
Call = Callable[[int, int], Hidden]  # of so many seconds, up to a layer


@dataclass(frozen=True)
class Settings:
    official: Path | None = None
    """Checkout of the official code."""
    weights: Path | None = None
    """Checkpoint, with its statistics beside it. Default: random weights."""
    seconds: tuple[int, ...] = (30, 120)
    """Lengths of audio."""
    layers: tuple[int, ...] = (7,)
    """Layers whose output is wanted."""
    rounds: int = 3
    """Times that each is run."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to compute."""


def measure(settings: Settings) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        weights = settings.weights or random_checkpoint(Path(folder) / "pretrained_random.pt")
        ways: dict[str, Way] = {}
        if settings.official:
            ways["official, fp32"] = Way(official, settings.official, weights, settings.device)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            ways[f"ours, {name}"] = Way(ours, weights, settings.device, dtype)
        rows = [["audio", "layer", "way", "times real time", "faster", "from, to", "less CPU time"]]
        rows[0] += ["cosine", "difference"]
        ratios: list[Ratio] = []
        for seconds in settings.seconds:
            for layer in settings.layers:
                compare(ways, seconds, layer, settings.rounds, rows, ratios)
    than = " --official CHECKOUT" if settings.official else ""
    basis = next(iter(ways))
    return Measured(
        "MusicFM",
        f"python3 -m benchmarks.musicfm{than}",
        f"On {settings.device}, {torch.get_num_threads()} threads, with "
        f"{'the weights ' + weights.name if settings.weights else 'random weights of full size'}, "
        f"median of {settings.rounds} rounds. All ratios are to {basis}; cosine is that of the "
        "mean over time, difference the largest of the hidden state in shares of its peak.",
        rows,
        ratios,
    )


def compare(
    ways: dict[str, Way],
    seconds: int,
    layer: int,
    rounds: int,
    rows: list[list[str]],
    ratios: list[Ratio],
) -> None:
    """Add a row for each way, and what the first one's time is to that of each other."""
    for way in ways.values():  # to warm up
        way.run(seconds, layer)
    what = f"{seconds} s, layer {layer}"
    runs = [
        {name: way.run(seconds, layer) for name, way in ways.items()}
        for _ in tqdm(range(rounds), desc=f"musicfm, {what}", unit="round", disable=None)
    ]
    basis = next(iter(ways))
    for name in ways:
        wall = statistics.median(run[name].seconds for run in runs)
        faster = [run[basis].seconds / run[name].seconds for run in runs]
        less_cpu = statistics.median(run[basis].cpu_seconds / run[name].cpu_seconds for run in runs)
        mine, theirs = runs[0][name].value, runs[0][basis].value
        difference = np.abs(mine - theirs).max() / np.abs(theirs).max()
        values = (seconds / wall, statistics.median(faster))
        row = [f"{seconds} s", str(layer), name, *map(brief, values), spread(faster)]
        row += [brief(less_cpu), f"{cosine(mine.mean(0), theirs.mean(0)):.6f}", f"{difference:.1e}"]
        rows.append(row)
        if name != basis:
            ratios.append(Ratio(f"MusicFM, {what}: {basis} / {name}", faster))


def cosine(a: Hidden, b: Hidden) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def noise(seconds: int, device: str) -> Tensor:
    """(1, samples): noise whose level changes, so that frames differ."""
    draw = np.random.default_rng(0)
    n = seconds * SAMPLE_RATE
    level = np.interp(np.arange(n), np.arange(0, n + 4_000, 4_000), draw.random(n // 4_000 + 1))
    return torch.from_numpy(draw.normal(0, 0.2 * level).astype(np.float32))[None].to(device)


def ours(weights: Path, device: str, dtype: torch.dtype) -> Call:
    model = load_checkpoint(weights, stats_beside(weights)).to(device, dtype)

    def call(seconds: int, layer: int) -> Hidden:
        hidden = model.hidden_state(noise(seconds, device), layer)[0]
        return hidden.float().cpu().numpy()

    return call


# --- the official code -----------------------------------------------------------------------


def official(checkout: Path, weights: Path, device: str) -> Call:
    """Imports CHECKOUT under the name that it expects, in place of ours."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "musicfm"]:
        del sys.modules[name]
    name = "transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer"
    conformer: Any = import_module(name)
    package = ModuleType("musicfm")
    package.__path__ = [str(checkout)]
    sys.modules["musicfm"] = package
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        sys.modules["torchaudio"] = _torchaudio()

    # what the hub has as facebook/wav2vec2-conformer-rope-large-960h-ft
    config = conformer.Wav2Vec2ConformerConfig(
        hidden_act="swish",
        position_embeddings_type="rotary",
        num_attention_heads=16,
        intermediate_size=4096,
    )
    conformer.Wav2Vec2ConformerConfig.from_pretrained = lambda _: config
    kind: Any = import_module("musicfm.model.musicfm_25hz").MusicFM25Hz
    model = kind(stat_path=str(stats_beside(weights)), model_path=None)
    state = torch.load(weights, weights_only=True, mmap=True)["state_dict"]
    named = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    absent = set(model.load_state_dict(named, strict=False).missing_keys)
    assert not absent & official_shapes(OFFICIAL).keys(), absent
    model = model.to(device).eval()

    @torch.inference_mode()
    def call(seconds: int, layer: int) -> Hidden:
        hidden = model.get_latent(noise(seconds, device), layer_ix=layer)[0]
        return hidden.float().cpu().numpy()

    return call


def _torchaudio() -> ModuleType:
    """A module with the two transforms of torchaudio that the official code uses."""

    class MelSpectrogram(nn.Module):
        filters: Tensor
        window: Tensor

        def __init__(self, sample_rate: int, n_fft: int, hop_length: int, n_mels: int) -> None:
            super().__init__()
            assert (sample_rate, n_fft, hop_length) == (SAMPLE_RATE, N_FFT, HOP)
            filters = librosa.filters.mel(
                sr=sample_rate, n_fft=n_fft, n_mels=n_mels, htk=True, norm=None
            )
            self.register_buffer("filters", torch.from_numpy(filters), persistent=False)
            self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

        def forward(self, audio: Tensor) -> Tensor:
            spectrum = torch.stft(audio, N_FFT, HOP, window=self.window, return_complex=True)
            return self.filters @ spectrum.abs().square()

    class AmplitudeToDB(nn.Module):
        def forward(self, power: Tensor) -> Tensor:
            return 10 * power.clamp(min=1e-10).log10()

    module = ModuleType("torchaudio")
    module.transforms = ModuleType("torchaudio.transforms")  # type: ignore[attr-defined]
    module.transforms.MelSpectrogram = MelSpectrogram
    module.transforms.AmplitudeToDB = AmplitudeToDB
    return module


# --- random weights --------------------------------------------------------------------------


def random_checkpoint(path: Path) -> Path:
    """Write a checkpoint in the official format to `path`, and statistics beside it. Its values
    are such that signals pass through all layers, and no normalisation does nothing."""
    draw = torch.Generator().manual_seed(0)
    state = {"model.cls_token": torch.zeros(OFFICIAL.encoder_dim)}
    for name, shape in official_shapes(OFFICIAL).items():
        values = torch.randn(shape, generator=draw)
        if name.endswith("running_var"):
            values = 0.5 + values.abs()
        elif len(shape) > 1:
            values /= (values.numel() / shape[0]) ** 0.5  # by the number of inputs
        elif name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        state[f"model.{name}"] = values
        if name.endswith("running_var"):
            state[f"model.{name.replace('running_var', 'num_batches_tracked')}"] = torch.tensor(1.0)
    torch.save({"state_dict": state}, path)
    stats_beside(path).write_text(json.dumps({MEAN: 6.768444971712967, STD: 18.417922652295623}))
    return path


if __name__ == "__main__":
    print(measure(tyro.cli(Settings, description=__doc__)))
