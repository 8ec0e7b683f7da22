"""Speed and agreement of our MusicFM, against the official code of github.com/minzwon/musicfm.

    python3 -m benchmarks.musicfm [--official CHECKOUT] [--weights FILE] [--seconds 30 120]

Without --official, bfloat16 is compared with float32; without --weights, random weights of full
size are used. The official code needs einops, transformers 4 and torchaudio, whose extra pins a
torch that it works with. All models run in turn on the same noise, after a warm-up.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artistid.foundation import progress
from artistid.foundation.errors import require_at_least
from benchmarks import measured
from benchmarks.measured import Measured, brief, seconds_of, spread
from musicfm import MusicFMConfig, load_checkpoint
from musicfm.checkpoint import MEAN, OFFICIAL, STD, official_shapes
from musicfm.frontend import SAMPLE_RATE
from musicfm.published import stats_beside

Model = Callable[[Tensor, int], NDArray[np.float32]]  # (1, samples), layer -> (frames, dim)


@dataclass(frozen=True)
class Settings:
    official: Path | None = None
    """Checkout of the official code."""
    weights: Path | None = None
    """Checkpoint, with its statistics beside it. Default: random weights."""
    seconds: tuple[int, ...] = (30, 120)
    """Lengths of audio."""
    layer: int = 7
    """Layer whose output is wanted."""
    rounds: int = 3
    """Times that each model is run."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to compute."""

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1)


def ours(weights: Path, config: MusicFMConfig, device: str, dtype: torch.dtype) -> Model:
    model = load_checkpoint(weights, stats_beside(weights), config).to(device, dtype)
    return lambda audio, layer: model.hidden_state(audio, layer)[0].float().cpu().numpy()


def official(checkout: Path, weights: Path, device: str) -> Model:
    name = "transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer"
    conformer: Any = import_module(name)
    # that of facebook/wav2vec2-conformer-rope-large-960h-ft, without its download
    config = conformer.Wav2Vec2ConformerConfig(
        hidden_act="swish",
        position_embeddings_type="rotary",
        num_attention_heads=16,
        intermediate_size=4096,
    )
    package = ModuleType("musicfm")  # the name that the checkout imports itself by
    package.__path__ = [str(checkout)]
    others = {k: v for k, v in sys.modules.items() if k.partition(".")[0] != "musicfm"}
    with (
        mock.patch.dict(sys.modules, others | {"musicfm": package}, clear=True),
        mock.patch.object(conformer.Wav2Vec2ConformerConfig, "from_pretrained") as from_pretrained,
    ):
        from_pretrained.return_value = config
        kind: Any = import_module("musicfm.model.musicfm_25hz").MusicFM25Hz
        model = kind(stat_path=str(stats_beside(weights)), model_path=None)
    state = torch.load(weights, weights_only=True, mmap=True)["state_dict"]
    named = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    missing = set(model.load_state_dict(named, strict=False).missing_keys)
    assert not missing & official_shapes(OFFICIAL).keys(), missing
    model = model.to(device).eval()

    @torch.inference_mode()
    def call(audio: Tensor, layer: int) -> NDArray[np.float32]:
        hidden: Tensor = model.get_latent(audio, layer_ix=layer)[0]
        return hidden.float().cpu().numpy()

    return call


def random_checkpoint(path: Path, config: MusicFMConfig) -> Path:
    """Write a checkpoint in the official format, with statistics beside it. Its values let signals
    through all layers and give every normalisation something to do."""
    draw = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in official_shapes(config).items():
        values = torch.randn(shape, generator=draw)
        if name.endswith("running_var"):
            values = 0.5 + values.abs()
        elif len(shape) > 1:
            values /= (values.numel() / shape[0]) ** 0.5  # by the number of inputs
        else:
            values = 0.1 * values + name.endswith("weight")
        state[f"model.{name}"] = values
    torch.save({"state_dict": state}, path)
    stats_beside(path).write_text(json.dumps({MEAN: 6.768444971712967, STD: 18.417922652295623}))
    return path


def noise(seconds: int) -> Tensor:
    """(1, samples): noise of changing level, so that frames differ."""
    draw = np.random.default_rng(0)
    n = seconds * SAMPLE_RATE
    level = np.interp(np.arange(n), np.arange(0, n + 4_000, 4_000), draw.random(n // 4_000 + 1))
    return torch.from_numpy(draw.normal(0, 0.2 * level).astype(np.float32))[None]


def compare(models: Mapping[str, Model], audio: Tensor, layer: int, rounds: int) -> list[list[str]]:
    """A row per model, with how many times as long the first one takes."""
    basis = next(iter(models))
    audio_s = audio.shape[1] // SAMPLE_RATE
    label = f"MusicFM, {audio_s} s, layer {layer}"
    hidden = {name: model(audio, layer) for name, model in models.items()}  # warms up, too
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in progress.bar(range(rounds), desc=label, unit="round"):
        for name, model in models.items():
            times[name].append(seconds_of(model, audio, layer))
    rows = []
    expected = hidden[basis]
    mean = expected.mean(axis=0)
    for name, found in hidden.items():
        faster = [a / b for a, b in zip(times[basis], times[name], strict=True)]
        own_mean = found.mean(axis=0)
        cosine = mean @ own_mean / np.linalg.norm(mean) / np.linalg.norm(own_mean)
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        speed = audio_s / statistics.median(times[name])
        row = [f"{audio_s} s", str(layer), name, brief(speed)]
        row += [brief(statistics.median(faster)), spread(faster)]
        rows.append([*row, f"{cosine:.6f}", f"{difference:.1e}"])
    return rows


def measure(settings: Settings, config: MusicFMConfig = OFFICIAL) -> Measured:
    header = ["audio", "layer", "model", "times real time", "faster", "from, to"]
    rows = [[*header, "cosine", "difference"]]
    models: dict[str, Model] = {}
    device = settings.device
    with tempfile.TemporaryDirectory() as folder:
        weights = settings.weights
        if weights is None:
            weights = random_checkpoint(Path(folder) / "pretrained_random.pt", config)
        if settings.official is not None:
            models["official, fp32"] = official(settings.official, weights, device)
        models["ours, fp32"] = ours(weights, config, device, torch.float32)
        models["ours, bf16"] = ours(weights, config, device, torch.bfloat16)
        for seconds in settings.seconds:
            audio = noise(seconds).to(device)
            rows += compare(models, audio, settings.layer, settings.rounds)
    named = Path("CHECKOUT") if settings.official else None
    return Measured(
        "MusicFM",
        measured.command_of("benchmarks.musicfm", replace(settings, official=named)),
        f"On {device}, {torch.get_num_threads()} threads, with "
        f"{settings.weights.name if settings.weights else 'random weights of full size'}, median "
        f"of {settings.rounds} rounds. Relative to {next(iter(models))}: speed, cosine similarity "
        "of the mean over time, and the largest difference of hidden states as a share of their "
        "peak.",
        rows,
    )


if __name__ == "__main__":
    measured.run(Settings, measure, __doc__)
