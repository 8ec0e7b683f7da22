"""MusicFM, the encoder of "A Foundation Model for Music Informatics" (Won, Hung and Le 2023,
arXiv 2311.03318), for inference: 316 million parameters, 25 frames a second."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from musicfm.conformer import Layer, rotations
from musicfm.frontend import N_FFT, SAMPLE_RATE, Subsampling, log_mel


@dataclass(frozen=True)
class MusicFMConfig:
    """Sizes of the network; the defaults are those of the published weights."""

    n_mels: int = 128
    conv_dim: int = 512  # channels of the convolutions before the Conformer
    encoder_dim: int = 1024
    encoder_depth: int = 12  # layers
    n_heads: int = 16
    ff_dim: int = 4096
    conv_kernel: int = 31  # frames
    rotary_base: float = 10_000.0


class MusicFM(nn.Module):
    """Use `load_checkpoint` to get one with trained weights. `.to` moves it and sets its precision;
    the spectrogram is always computed in float32."""

    def __init__(self, config: MusicFMConfig, mel_mean: float, mel_std: float) -> None:
        """`mel_mean` and `mel_std`, in dB, normalise the log-mels as in training."""
        super().__init__()
        self.config, self.mel_mean, self.mel_std = config, mel_mean, mel_std
        dim = config.encoder_dim
        self.subsampling = Subsampling(config.n_mels, config.conv_dim, dim)
        self.layers = nn.ModuleList(
            Layer(dim, config.n_heads, config.ff_dim, config.conv_kernel)
            for _ in range(config.encoder_depth)
        )
        self.norm = nn.LayerNorm(dim)

    @torch.inference_mode()
    def hidden_state(self, waveform: Tensor, layer: int) -> Tensor:
        """(batch, samples) at 24 kHz in [-1, 1] -> (batch, frames, dim) at 25 Hz after `layer`.

        Layer 0 is the input of the first layer, 12 the output of the last, after the closing layer
        norm. Layers above `layer` are not computed. All excerpts of a batch must have the same
        length, because padding would not be masked. Raises ValueError for a layer that does not
        exist, or a waveform of half a window or less."""
        depth = self.config.encoder_depth
        if not 0 <= layer <= depth:
            raise ValueError(f"layer {layer}: must be 0 to {depth}")
        if waveform.ndim != 2 or waveform.shape[1] <= N_FFT // 2:
            raise ValueError(
                f"waveform of shape {tuple(waveform.shape)}: must be (batch, samples) with more "
                f"than {N_FFT // 2} samples ({N_FFT / 2 / SAMPLE_RATE:.3f} s)"
            )
        mel = (log_mel(waveform, self.config.n_mels) - self.mel_mean) / self.mel_std
        x: Tensor = self.subsampling(mel)
        head_dim = self.config.encoder_dim // self.config.n_heads
        positions = rotations(x.shape[1], head_dim, self.config.rotary_base, like=x)
        for conformer_layer in self.layers[:layer]:
            x = conformer_layer(x, positions)
        return self.norm(x) if layer == depth else x
