"""musicnn, a small network trained to tag music; its pooled features are the embeddings.

Pons and Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging", 2019
(arXiv 1909.06654), model MSD_musicnn, trained on the Million Song Dataset. The weights are part of
the project; data/README.md says how they were converted.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from artistid.audio.melspec import MelSettings, mel_power
from artistid.encoders.base import Encoder, Entry, Frozen, shipped

WEIGHTS = Path(__file__).parent / "data" / "msd_musicnn.safetensors"
SAMPLE_RATE = 16_000  # Hz
N_FFT, HOP, N_MELS = 512, 256, 96
MEL = MelSettings(SAMPLE_RATE, N_FFT, HOP, N_MELS)
PATCH_FRAMES = 187
PATCH_SAMPLES = (PATCH_FRAMES - 1) * HOP + N_FFT  # 3 s
CPU_BATCH = 2  # patches whose feature maps fit the processor's cache
GPU_BATCH = 64
EPS = 1e-3  # of all batch normalisations; TensorFlow's default
TIMBRAL = ((7, 38), (7, 67))  # kernels that span many mel bands, (frames, mels); 204 each
TEMPORAL = (128, 64, 32)  # frames of the kernels that span one mel band; 51 each
FRONT, MID = 2 * 204 + 3 * 51, 64  # channels
POOLED = 2 * (FRONT + 3 * MID)  # maximum and mean of each channel
PENULTIMATE = 200


@dataclass(frozen=True)
class MusiCNNEncoder(Encoder):
    """Maximum and mean over time of every channel."""

    excerpt, hop, shortest = PATCH_SAMPLES, PATCH_SAMPLES, N_FFT

    def load(self) -> "MusiCNN":
        return load().to(self.device)

    def embed(self, batch: Tensor) -> Tensor:
        pooled: Tensor = self.network(log_mel(batch))[0]
        return pooled


def find(weights: Path | None, _layer: int, device: torch.device, _precision: str) -> Encoder:
    """musicnn with its own weights, in float32. Raises UserError if other `weights` are given."""
    identity = shipped("musicnn", WEIGHTS, SAMPLE_RATE, weights)
    if device.type == "cpu":
        return MusiCNNEncoder(identity, device, POOLED, CPU_BATCH, "processes")
    return MusiCNNEncoder(identity, device, POOLED, GPU_BATCH, "threads")


ENTRY = Entry(
    "musicnn",
    find,
    knows="tags of the Million Song Dataset",
    dim=POOLED,
    excerpt_s=PATCH_SAMPLES / SAMPLE_RATE,
    licence="ISC",
    cite="Pons and Serra 2019, arXiv 1909.06654",
)


# --- the network -----------------------------------------------------------------------------


class FrontConvolution(nn.Module):
    """(batch, 1, frames, mels) -> (batch, channels, frames): the maximum over mel bands."""

    def __init__(self, n_out: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, n_out, kernel)
        self.norm = nn.BatchNorm1d(n_out, EPS)
        # an even kernel looks one frame further ahead than back
        self.padding = [0, 0, (kernel[0] - 1) // 2, kernel[0] // 2]

    def forward(self, image: Tensor) -> Tensor:
        # The authors take the maximum after ReLU and normalisation. Taken before them it is the
        # same, and cheaper, if kernels whose normalisation has a negative scale are negated.
        sign = self.norm.weight.sign()
        kernels = self.convolution.weight * sign[:, None, None, None]
        highest = F.conv2d(F.pad(image, self.padding), kernels).amax(3)
        bias = self.convolution.bias
        assert bias is not None
        normalised: Tensor = self.norm(F.relu(highest * sign[:, None] + bias[:, None]))
        return normalised


class MidConvolution(nn.Module):
    """(batch, channels, frames) -> (batch, 64, frames)"""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(n_in, MID, 7, padding=3)
        self.norm = nn.BatchNorm1d(MID, EPS)

    def forward(self, features: Tensor) -> Tensor:
        normalised: Tensor = self.norm(F.relu(self.convolution(features)))
        return normalised


class MusiCNN(Frozen):
    """`log_mel`, (batch, frames, mels), of 187 frames or any other number -> (batch, 1506): the
    maximum and mean over time of every channel; and (batch, 200): the last hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(1, EPS)
        kernels = [(204, kernel) for kernel in TIMBRAL] + [(51, (n, 1)) for n in TEMPORAL]
        self.front = nn.ModuleList(FrontConvolution(n, kernel) for n, kernel in kernels)
        self.mid = nn.ModuleList(MidConvolution(n) for n in (FRONT, MID, MID))
        self.pooled_norm = nn.BatchNorm1d(POOLED, EPS)
        self.dense = nn.Linear(POOLED, PENULTIMATE)
        self.dense_norm = nn.BatchNorm1d(PENULTIMATE, EPS)

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        image = self.normalise(log_mel.unsqueeze(1))
        front = torch.cat([convolution(image) for convolution in self.front], dim=1)
        first, second, third = self.mid
        one = first(front)
        two = second(one) + one
        three = third(two) + two
        maps = torch.cat([front, one, two, three], dim=1)  # (batch, channels, frames)
        pooled = torch.stack([maps.amax(2), maps.mean(2)], dim=2).flatten(1)  # max, mean, max, ...
        return pooled, self.dense_norm(F.relu(self.dense(self.pooled_norm(pooled))))


def load() -> MusiCNN:
    """The trained network, in eval mode, on the CPU."""
    with torch.device("meta"):
        network = MusiCNN()
    weights = load_file(WEIGHTS)
    for name, tensor in network.named_buffers():
        if name not in weights:  # counts of batches, which only training needs
            weights[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
    network.load_state_dict(weights, assign=True)
    return network.eval()


def log_mel(audio: Tensor) -> Tensor:
    """(batch, samples) at 16 kHz -> (batch, frames, mels), log10(1 + 10,000 power), for the frames
    that lie entirely within the audio."""
    return torch.log10(1 + 1e4 * mel_power(audio, MEL))
