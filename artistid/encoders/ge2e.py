"""GE2E, a small network trained to tell speakers apart; a voice stays when the album changes.

Wan et al., "Generalized end-to-end loss for speaker verification", 2018 (arXiv 1710.10467), as
trained by Resemble AI for Resemblyzer 0.1.4. The weights are part of the project; data/README.md
says how they were converted.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from artistid.audio.melspec import MelSettings, mel_power
from artistid.encoders.base import Encoder, Entry, Frozen, shipped

WEIGHTS = Path(__file__).parent / "data" / "ge2e.safetensors"
SAMPLE_RATE = 16_000  # Hz
N_FFT, HOP, N_MELS = 400, 160, 40
MEL = MelSettings(SAMPLE_RATE, N_FFT, HOP, N_MELS)
WINDOW_FRAMES, WINDOW_HOP = 160, 80  # embedded at a time: 1.6 s, every 0.8 s
QUIETEST_DBFS = -30.0
DIM = 256
CPU_BATCH, GPU_BATCH = 32, 1024


@dataclass(frozen=True)
class GE2EEncoder(Encoder):
    """An embedding of length 1 for each window."""

    excerpt = (WINDOW_FRAMES - 1) * HOP + N_FFT
    hop = WINDOW_HOP * HOP
    shortest = HOP

    def load(self) -> "GE2E":
        return load().to(self.device)

    def prepared(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raised, and with a frame around every 160th sample but the last, half of whose frame
        may be padding."""
        return np.pad(raised(samples), (N_FFT // 2, N_FFT // 2 - HOP))

    def embed(self, batch: Tensor) -> Tensor:
        embeddings: Tensor = self.network(mel(batch))
        return embeddings


def find(weights: Path | None, _layer: int, device: torch.device, _precision: str) -> Encoder:
    """GE2E with its own weights, in float32. Raises UserError if other `weights` are given."""
    identity = shipped("ge2e", WEIGHTS, SAMPLE_RATE, weights)
    if device.type == "cpu":
        return GE2EEncoder(identity, device, DIM, CPU_BATCH, "processes")
    return GE2EEncoder(identity, device, DIM, GPU_BATCH, "threads")


ENTRY = Entry(
    "ge2e",
    find,
    knows="speakers of LibriSpeech and VoxCeleb",
    dim=DIM,
    excerpt_s=WINDOW_FRAMES * HOP / SAMPLE_RATE,
    licence="Apache-2.0",
    cite="Wan et al. 2018, arXiv 1710.10467",
)


# --- the network -------------------------------------------------------------------------------


class GE2E(Frozen):
    """Mel powers, (batch, frames, mels) -> (batch, 256), of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(N_MELS, DIM, num_layers=3, batch_first=True)
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, mels: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=1)


def load() -> GE2E:
    """The trained network, in eval mode, on the CPU."""
    network = GE2E()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval().requires_grad_(False)


def raised(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(samples,) at -30 dBFS, if they are quieter."""
    level_db = 10 * np.log10(max(np.mean(np.square(samples), dtype=np.float64), 1e-20))
    return samples * np.float32(10 ** (max(QUIETEST_DBFS - level_db, 0) / 20))


def mel(waveform: Tensor) -> Tensor:
    """(batch, samples) at 16 kHz -> (batch, frames, 40) power, for the frames that lie entirely
    within the audio."""
    return mel_power(waveform, MEL)
