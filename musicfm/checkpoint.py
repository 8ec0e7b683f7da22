"""Read an official checkpoint and its statistics, and fold batch normalisation into convolutions.

A checkpoint is {"state_dict": {"model.<name>": tensor}} in torch's format, or the same tensors in
safetensors. Loading one never runs code: a pickle that would is refused.
"""

import json
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from musicfm.encoder import MusicFM, MusicFMConfig
from musicfm.published import CheckpointError, require_whole

BATCH_NORM_EPS = 1e-5
UNUSED = re.compile(  # tensors of a checkpoint that the encoder does not need
    r"quantizer_.*|linear\..*|cls_token|preprocessor_.*|conformer\.embed_positions\.inv_freq"
    r"|conformer\.pos_conv_embed\..*|.*\.num_batches_tracked"
)
MEAN, STD = "melspec_2048_mean", "melspec_2048_std"  # keys in the statistics file

OFFICIAL = MusicFMConfig()

State = Mapping[str, Tensor]


def load_checkpoint(weights: Path, stats: Path, config: MusicFMConfig = OFFICIAL) -> MusicFM:
    """The encoder with the weights of a checkpoint, in eval mode, on the CPU, in float32.

    Raises FileNotFoundError, or CheckpointError if a file is damaged or from another model."""
    state = read_state(weights, config)
    with torch.device("meta"):
        model = MusicFM(config, *read_stats(stats))
    # most tensors stay in the memory-mapped file
    model.load_state_dict(_folded(state, config), assign=True)
    model.subsampling.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval().requires_grad_(False)


def read_state(path: Path, config: MusicFMConfig) -> dict[str, Tensor]:
    """The encoder's tensors under their official names, checked against `official_shapes`."""
    require_whole(path)
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because loading it could run code; use the published file "
            "(python3 -m musicfm download)"
        ) from error
    except (RuntimeError, SafetensorError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path}: truncated, or not a checkpoint ({reason}); download it again"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        content = {}
    named = {str(name).removeprefix("model."): tensor for name, tensor in content.items()}
    state = {name: tensor for name, tensor in named.items() if not UNUSED.fullmatch(name)}
    _require_shapes(path, state, official_shapes(config))
    return state


def _require_shapes(path: Path, state: State, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise CheckpointError if names or shapes differ from `shapes`."""
    faults = []
    missing, unknown = shapes.keys() - state.keys(), state.keys() - shapes.keys()
    for kind, names in (("missing", missing), ("unknown", unknown)):
        if names:
            faults.append(f"{len(names)} {kind}, such as {', '.join(sorted(names)[:3])}")
    for name in sorted(shapes.keys() & state.keys()):
        found = getattr(state[name], "shape", None)
        if found != shapes[name]:
            faults.append(f"{name} is {found}, not {shapes[name]}")
            break
    if faults:
        raise CheckpointError(f"{path}: weights of another model: {'; '.join(faults)}")


def read_stats(path: Path) -> tuple[float, float]:
    """Mean and standard deviation, in dB, of the log-mels that the model was trained on."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        mean, std = float(values[MEAN]), float(values[STD])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not a statistics file, which is a JSON object with {MEAN} and {STD}"
        ) from error
    if not math.isfinite(mean):
        raise CheckpointError(f"{path}: {MEAN} is {mean}, must be finite")
    if not 0 < std < math.inf:
        raise CheckpointError(f"{path}: {STD} is {std}, must be above 0 and finite")
    return mean, std


def official_shapes(config: MusicFMConfig) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of all tensors of the encoder."""
    c, d, f = config.conv_dim, config.encoder_dim, config.ff_dim
    shapes: dict[str, tuple[int, ...]] = {}
    for block, n_in in enumerate((1, c)):
        for number, channels in ((1, n_in), (2, c), (3, n_in)):
            shapes |= _pair(f"conv.conv.{block}.conv{number}", (c, channels, 3, 3))
            shapes |= _norm(f"conv.conv.{block}.bn{number}", c, is_batch_norm=True)
    shapes |= _pair("conv.linear", (d, c * (config.n_mels // 4)))
    shapes |= _norm("conformer.layer_norm", d)
    for number in range(config.encoder_depth):
        layer = f"conformer.layers.{number}"
        for name in ("ffn1_", "self_attn_", "conv_module.", "ffn2_", "final_"):
            shapes |= _norm(f"{layer}.{name}layer_norm", d)
        for name in ("ffn1", "ffn2"):
            shapes |= _pair(f"{layer}.{name}.intermediate_dense", (f, d))
            shapes |= _pair(f"{layer}.{name}.output_dense", (d, f))
        for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
            shapes |= _pair(f"{layer}.self_attn.{name}", (d, d))
        shapes[f"{layer}.conv_module.pointwise_conv1.weight"] = (2 * d, d, 1)
        shapes[f"{layer}.conv_module.depthwise_conv.weight"] = (d, 1, config.conv_kernel)
        shapes |= _norm(f"{layer}.conv_module.batch_norm", d, is_batch_norm=True)
        shapes[f"{layer}.conv_module.pointwise_conv2.weight"] = (d, d, 1)
    return shapes


def _pair(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, size: int, is_batch_norm: bool = False) -> dict[str, tuple[int, ...]]:
    kinds = ["weight", "bias", *(["running_mean", "running_var"] if is_batch_norm else [])]
    return {f"{name}.{kind}": (size,) for kind in kinds}


# --- from the official names to ours ---------------------------------------------------------


def _folded(state: State, config: MusicFMConfig) -> dict[str, Tensor]:
    """The state dict of `MusicFM`."""
    ours: dict[str, Tensor] = {}
    for number in range(2):
        block, mine = f"conv.conv.{number}", f"subsampling.blocks.{number}"
        inner, body, shortcut = (
            _with_norm(state, f"{block}.conv{i}", f"{block}.bn{i}") for i in (1, 2, 3)
        )
        ours |= _named(f"{mine}.entry", _stacked(inner, shortcut))
        ours |= _named(f"{mine}.body", body)
    ours |= _named("subsampling.linear", _both(state, "conv.linear"))
    ours |= _named("norm", _both(state, "conformer.layer_norm"))
    for number in range(config.encoder_depth):
        layer = _layer(state, f"conformer.layers.{number}")
        ours |= {f"layers.{number}.{name}": tensor for name, tensor in layer.items()}
    return ours


def _layer(state: State, layer: str) -> dict[str, Tensor]:
    """The state dict of a `Layer`."""
    same = {
        "first_half.0": "ffn1_layer_norm",
        "first_half.1": "ffn1.intermediate_dense",
        "first_half.3": "ffn1.output_dense",
        "attention_norm": "self_attn_layer_norm",
        "attention.value": "self_attn.linear_v",
        "attention.output": "self_attn.linear_out",
        "convolution.norm": "conv_module.layer_norm",
        "second_half.0": "ffn2_layer_norm",
        "second_half.1": "ffn2.intermediate_dense",
        "second_half.3": "ffn2.output_dense",
        "norm": "final_layer_norm",
    }
    ours: dict[str, Tensor] = {}
    for mine, theirs in same.items():
        ours |= _named(mine, _both(state, f"{layer}.{theirs}"))
    query, key = (_both(state, f"{layer}.self_attn.linear_{name}") for name in "qk")
    ours |= _named("attention.query_key", _stacked(query, key))
    module = f"{layer}.conv_module"
    for mine, theirs in (("gated", "pointwise_conv1"), ("output", "pointwise_conv2")):
        ours[f"convolution.{mine}.weight"] = state[f"{module}.{theirs}.weight"].squeeze(2)
    depthwise = _with_norm(state, f"{module}.depthwise_conv", f"{module}.batch_norm")
    return ours | _named("convolution.depthwise", depthwise)


def _with_norm(state: State, convolution: str, norm: str) -> list[Tensor]:
    """Weight and bias of one convolution that equals `convolution` followed by `norm`."""
    scale, shift, mean, variance = (
        state[f"{norm}.{kind}"].double()
        for kind in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale / (variance + BATCH_NORM_EPS).sqrt()
    weight = state[f"{convolution}.weight"].double()
    bias = state.get(f"{convolution}.bias", torch.zeros(())).double()
    scaled = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return [scaled.float(), ((bias - mean) * scale + shift).float()]


def _both(state: State, name: str) -> list[Tensor]:
    return [state[f"{name}.weight"], state[f"{name}.bias"]]


def _stacked(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    """One layer in place of two that have the same input."""
    return [torch.cat(two) for two in zip(first, second, strict=True)]


def _named(name: str, both: list[Tensor]) -> dict[str, Tensor]:
    return {f"{name}.weight": both[0], f"{name}.bias": both[1]}
