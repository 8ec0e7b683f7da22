"""musicnn: a small network that learnt to tag music, of which the features are used.

Pons and Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging",
2019 (arXiv 1909.06654), model MSD_musicnn, trained on the Million Song Dataset. The weights come
with the project; tools/convert_musicnn.py made them from the authors' package.
"""

from functools import cache
from pathlib import Path

# by name and before there are workers, for the reason given in features.py
import librosa.filters
import librosa.util.utils
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "data" / "msd_musicnn.safetensors"
SAMPLE_RATE = 16_000  # Hz
N_FFT, HOP, N_MELS = 512, 256, 96
PATCH_FRAMES = 187
PATCH_SAMPLES = (PATCH_FRAMES - 1) * HOP + N_FFT  # 3 s
EPS = 1e-3  # of every normalisation, TensorFlow's default
TIMBRAL = ((7, 38), (7, 67))  # frames and mels of the kernels that look for timbres, 204 each
TEMPORAL = (128, 64, 32)  # frames of those that look for rhythms in one mel band, 51 each
FRONT, MID = 2 * 204 + 3 * 51, 64  # channels
POOLED = 2 * (FRONT + 3 * MID)  # maximum and mean of each channel
PENULTIMATE = 200


class FrontConvolution(nn.Module):
    """(batch, 1, frames, mels) -> (batch, channels, frames): the maximum over the bands."""

    def __init__(self, n_out: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, n_out, kernel)
        self.norm = nn.BatchNorm1d(n_out, EPS)
        # an even kernel looks one frame further ahead than back
        self.padding = [0, 0, (kernel[0] - 1) // 2, kernel[0] // 2]

    def forward(self, image: Tensor) -> Tensor:
        # the maximum after ReLU and normalisation, but taken first, while the maps are at hand;
        # where the normalisation turns a channel over, its kernel is turned over to begin with
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


class MusiCNN(nn.Module):
    """(batch, frames, mels) of `log_mel`, 187 frames -> (batch, 1506), (batch, 200): maximum and
    mean over time of all layers' features, and what the last hidden layer makes of them."""

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
    """The trained network, in eval mode."""
    with torch.device("meta"):
        network = MusiCNN()
    weights = load_file(WEIGHTS)
    for name, tensor in network.named_buffers():  # that count batches: not needed to compute
        if name not in weights:
            weights[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
    network.load_state_dict(weights, assign=True)
    return network.eval()


def log_mel(audio: Tensor) -> Tensor:
    """(batch, samples) at 16 kHz -> (batch, frames, mels), log10(1 + 10,000 power); only frames
    that lie within the audio."""
    window, filters = _constants(audio.device)
    spectrum = torch.stft(audio, N_FFT, HOP, window=window, center=False, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)  # (batch, frames, bins)
    return torch.log10(1 + 1e4 * (power @ filters))


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    filters = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS)
    return torch.hann_window(N_FFT, device=device), torch.from_numpy(filters.T.copy()).to(device)
