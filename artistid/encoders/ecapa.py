"""ECAPA-TDNN, a network trained to tell speakers apart; a voice stays when the album changes.

The weights, 83 MB, are not part of the project: `python3 -m artistid.encoders download ecapa`.

Desplanques et al., "ECAPA-TDNN: emphasized channel attention, propagation and aggregation in TDNN
based speaker verification", 2020 (arXiv 2005.07143), with the checkpoint format, front end and
constants of SpeechBrain's speechbrain/spkrec-ecapa-voxceleb.
"""

import logging
import pickle
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artistid.audio.melspec import power_spectrum
from artistid.encoders.base import Download, Encoder, Entry, Frozen, Identity
from artistid.foundation.errors import UserError, first_line
from musicfm import hub
from musicfm.frontend import mel_edges_hz

PUBLISHED = hub.HubFile(
    "speechbrain/spkrec-ecapa-voxceleb",
    "0f99f2d0ebe89ac095bcc5903c4dd8f72b367286",
    "embedding_model.ckpt",
    83_316_686,
    "0575cb64845e6b9a10db9bcb74d5ac32b326b8dc90352671d345e2ee3d0126a2",
)
FOLDER = Path(__file__).parent / "data" / "ecapa"
HOW_TO_GET = (
    "python3 -m artistid.encoders download ecapa fetches ECAPA-TDNN's weights, 83 MB; or pass "
    "--weights FILE"
)
SAMPLE_RATE = 16_000  # Hz
EXCERPT_S = 5
N_FFT, HOP, N_MELS = 400, 160, 80
FLOOR = 1e-10  # lowest power of a band
RANGE_DB = 80.0  # below the maximum of the excerpt
DILATIONS = (2, 3, 4)  # of the three Res2Net blocks
MIN_VARIANCE = 1e-12
MIN_FRAMES = max(DILATIONS) + 1  # reflection needs more frames than it adds on a side
CPU_BATCH, GPU_BATCH = 4, 32

log = logging.getLogger("artistid")


@dataclass(frozen=True)
class ECAPAEncoder(Encoder):
    weights: Path
    excerpt, hop = EXCERPT_S * SAMPLE_RATE, EXCERPT_S * SAMPLE_RATE
    shortest = (MIN_FRAMES - 1) * HOP

    def load(self) -> "ECAPA":
        dtype = torch.bfloat16 if self.identity.precision == "bf16" else torch.float32
        return load_checkpoint(self.weights).to(self.device, dtype)

    def embed(self, batch: Tensor) -> Tensor:
        embeddings: Tensor = self.network.embed(batch)
        return embeddings


def at_hand() -> Path | None:
    """The weights where `download` puts them, or in the hub's local cache, if there."""
    path = FOLDER / PUBLISHED.name
    return path if path.is_file() else hub.cached(PUBLISHED)


def find(weights: Path | None, _layer: int, device: torch.device, precision: str) -> Encoder:
    """ECAPA-TDNN in `precision` ("fp32" or "bf16"), with `weights`, else those at hand.

    Raises UserError if the file is missing or wrong."""
    path = weights or at_hand()
    if path is None:
        raise UserError(f"--encoder ecapa: no weights found; {HOW_TO_GET}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; {HOW_TO_GET}")
    dim = load_checkpoint(path).settings.dim  # any fault in the file shows before work starts
    digest = hub.sha256(path)
    if digest != PUBLISHED.sha256:
        log.info("notice: %s is not the published checkpoint; used as it is", path)
    log.info("encoder: ecapa, %s; weights %s, SHA-256 %s", precision, path.name, digest)
    identity = Identity("ecapa", digest, "", 0, precision, SAMPLE_RATE)
    if device.type == "cpu":
        return ECAPAEncoder(identity, device, dim, CPU_BATCH, "processes", path.absolute())
    return ECAPAEncoder(identity, device, dim, GPU_BATCH, "threads", path.absolute())


ENTRY = Entry(
    "ecapa",
    find,
    knows="speakers of VoxCeleb",
    dim=192,
    excerpt_s=EXCERPT_S,
    licence="Apache-2.0",
    cite="Desplanques et al. 2020, arXiv 2005.07143",
    download=Download(
        (PUBLISHED,),
        at_hand=lambda: at_hand() is not None,
        fetch=lambda: [hub.fetch(PUBLISHED, FOLDER)],
    ),
)


# --- front end ---------------------------------------------------------------------------------


def fbank(waveform: Tensor) -> Tensor:
    """(batch, samples) at 16 kHz -> (batch, frames, 80) in dB, frames = 1 + samples // 160."""
    window, filters = _constants(waveform.device)
    with torch.autocast(waveform.device.type, enabled=False):
        padded = F.pad(waveform.float(), [N_FFT // 2] * 2)
        decibels = 10 * torch.log10((power_spectrum(padded, window, HOP) @ filters).clamp(FLOOR))
        return decibels.maximum(decibels.amax(dim=(1, 2), keepdim=True) - RANGE_DB)


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Window, (n_fft,), and mel filters, (bins, mels)."""
    window = torch.hamming_window(N_FFT, device=device)
    return window, torch.from_numpy(_filters()).to(device)


def _filters() -> np.ndarray:
    """(bins, mels): triangles that are symmetric in Hz, as wide to the right as to the left."""
    points = mel_edges_hz(SAMPLE_RATE, N_MELS)
    centres, half_widths = points[1:-1], np.diff(points)[:-1]
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    triangles = 1 - np.abs(bins[:, np.newaxis] - centres) / half_widths
    return np.maximum(triangles, 0).astype(np.float32)


# --- the network -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ECAPASettings:
    """Every width of an ECAPA."""

    n_mels: int = N_MELS
    kernel: int = 5  # of the first block, in frames
    channels: int = 1024
    scale: int = 8  # parts of a Res2Net block
    part_kernel: int = 3
    squeezed: int = 128
    aggregated: int = 3072
    attention: int = 128
    dim: int = 192


class Block(nn.Module):
    """Convolution, ReLU, batch normalisation: (batch, n_in, frames) -> (batch, n_out, frames)."""

    def __init__(self, n_in: int, n_out: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv1d(
            n_in, n_out, kernel, padding=padding, dilation=dilation, padding_mode="reflect"
        )
        self.norm = nn.BatchNorm1d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(F.relu(self.conv(x)))
        return normalised


class Res2Net(nn.Module):
    """Parts of the channels, each convolved after the part before it was added: so each sees a
    longer stretch of time. The first part passes."""

    def __init__(self, channels: int, scale: int, kernel: int, dilation: int) -> None:
        super().__init__()
        width = channels // scale
        self.blocks = nn.ModuleList(Block(width, width, kernel, dilation) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second, *others = x.chunk(len(self.blocks) + 1, dim=1)
        done = [first, self.blocks[0](second)]
        for block, part in zip(self.blocks[1:], others, strict=True):
            done.append(block(part + done[-1]))
        return torch.cat(done, dim=1)


class SqueezeExcitation(nn.Module):
    """Scales each channel by what the excerpt's means say."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, squeezed, 1)
        self.conv2 = nn.Conv1d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=2, keepdim=True)
        return x * self.conv2(F.relu(self.conv1(mean))).sigmoid()


class Residual(nn.Module):
    def __init__(self, settings: ECAPASettings, dilation: int) -> None:
        super().__init__()
        s, n = settings, settings.channels
        self.tdnn1 = Block(n, n)
        self.res2net_block = Res2Net(n, s.scale, s.part_kernel, dilation)
        self.tdnn2 = Block(n, n)
        self.se_block = SqueezeExcitation(n, s.squeezed)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.se_block(self.tdnn2(self.res2net_block(self.tdnn1(x))))
        return scaled + x


class AttentiveStatistics(nn.Module):
    """(batch, channels, frames) -> (batch, 2 * channels): mean and standard deviation over time,
    weighted by an attention of each channel's own."""

    def __init__(self, channels: int, attention: int) -> None:
        super().__init__()
        self.tdnn = Block(3 * channels, attention)
        self.conv = nn.Conv1d(attention, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        uniform = torch.full_like(x[:, :1], 1 / x.shape[2])
        # The block sees each frame beside mean and deviation of all. These are the same for every
        # frame, so their part of the convolution is computed once.
        frame, whole = self.tdnn.conv.weight.split([x.shape[1], 2 * x.shape[1]], dim=1)
        statistics = _statistics(x, uniform).unsqueeze(2)
        convolved = F.conv1d(x, frame) + F.conv1d(statistics, whole, self.tdnn.conv.bias)
        attention = self.conv(torch.tanh(self.tdnn.norm(F.relu(convolved))))
        return _statistics(x, attention.softmax(dim=2))


def _statistics(x: Tensor, weights: Tensor) -> Tensor:
    """(batch, channels, frames), with weights that add up to 1 over time -> (batch, 2 * channels):
    means, then standard deviations."""
    mean = (weights * x).sum(dim=2, keepdim=True)
    variance = (weights * (x - mean).square()).sum(dim=2)
    return torch.cat([mean.squeeze(2), variance.clamp(min=MIN_VARIANCE).sqrt()], dim=1)


class ECAPA(Frozen):
    """`fbank` less its mean over time, (batch, 5 frames or more, mels) -> (batch, dim)."""

    def __init__(self, settings: ECAPASettings) -> None:
        super().__init__()
        self.settings = s = settings
        first = Block(s.n_mels, s.channels, s.kernel)
        self.blocks = nn.ModuleList([first, *(Residual(s, dilation) for dilation in DILATIONS)])
        self.mfa = Block(len(DILATIONS) * s.channels, s.aggregated)  # multi-layer aggregation
        self.asp = AttentiveStatistics(s.aggregated, s.attention)
        self.asp_bn = nn.BatchNorm1d(2 * s.aggregated)
        self.fc = nn.Conv1d(2 * s.aggregated, s.dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = features.transpose(1, 2)  # (batch, mels, frames)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        pooled = self.asp_bn(self.asp(self.mfa(torch.cat(outputs[1:], dim=1))))
        embedding: Tensor = self.fc(pooled.unsqueeze(2)).squeeze(2)
        return embedding

    def embed(self, waveform: Tensor) -> Tensor:
        """(batch, samples) at 16 kHz -> (batch, dim) in float32, not scaled to length 1."""
        features = fbank(waveform)
        features = features - features.mean(dim=1, keepdim=True)
        embedding: Tensor = self(features.to(self.fc.weight.dtype))
        return embedding.float()


# --- the checkpoint ----------------------------------------------------------------------------


def load_checkpoint(path: Path) -> ECAPA:
    """The network of a checkpoint in SpeechBrain's format, a plain state dict, in eval mode, on
    the CPU, in float32; its widths are those of the tensors.

    Raises UserError for a file that is damaged or from another model."""
    state = _read_state(path)
    try:
        with torch.device("meta"):
            network = ECAPA(_settings_of(state))
        network.load_state_dict(state, assign=True)
    except (LookupError, ValueError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 150)
        raise UserError(f"{path}: weights of another model ({reason}); {HOW_TO_GET}") from error
    return network.eval().requires_grad_(False)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, because loading it could run code; {HOW_TO_GET}"
        ) from error
    except Exception as error:  # torch raises many kinds for damaged files
        reason = first_line(error)
        raise UserError(
            f"{path}: truncated, or not a checkpoint ({reason}); {HOW_TO_GET}"
        ) from error
    if not isinstance(content, dict):
        content = {}
    return {
        _own_name(str(name)): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in content.items()
        if isinstance(tensor, Tensor)
    }


def _own_name(name: str) -> str:
    """SpeechBrain wraps each layer once more: blocks.0.conv.conv.weight is blocks.0.conv.weight
    here."""
    *outer, tensor = name.split(".")
    return ".".join([*outer[:-1], tensor])


def _settings_of(state: dict[str, Tensor]) -> ECAPASettings:
    """Raises KeyError or ValueError for the tensors of another model."""
    channels, n_mels, kernel = state["blocks.0.conv.weight"].shape
    parts = [
        tensor
        for name, tensor in state.items()
        if name.startswith("blocks.1.res2net_block") and name.endswith("conv.weight")
    ]
    return ECAPASettings(
        n_mels=n_mels,
        kernel=kernel,
        channels=channels,
        scale=1 + len(parts),
        part_kernel=parts[0].shape[2],
        squeezed=len(state["blocks.1.se_block.conv1.weight"]),
        aggregated=len(state["mfa.conv.weight"]),
        attention=len(state["asp.tdnn.conv.weight"]),
        dim=len(state["fc.weight"]),
    )
