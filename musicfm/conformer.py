"""One Conformer layer (Gulati et al. 2020, arXiv 2005.08100), equivalent to the one MusicFM was
trained with: Wav2Vec2Conformer of transformers, with rotary positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicfm.linear import Linear


def rotations(n_frames: int, head_dim: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles of each position, (frames, 1, head_dim / 2), on the device
    of `like`."""
    powers = torch.arange(0, head_dim, 2, device=like.device, dtype=torch.float32) / head_dim
    positions = torch.arange(n_frames, device=like.device, dtype=torch.float32)
    angles = (positions[:, None] / base**powers)[:, None, :]
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate each pair of dimensions (i, i + head_dim / 2) of (batch, frames, heads, head_dim) by
    the angles of its frame (Su et al. 2021, arXiv 2104.09864)."""
    first, second = heads.float().chunk(2, dim=-1)
    rotated = [first * cosines - second * sines, second * cosines + first * sines]
    return torch.cat(rotated, dim=-1).to(heads.dtype)


class Attention(nn.Module):
    """Multi-head self-attention. The rotary positions apply to the input of the query and key
    projections, not to their output as in later models; values have no positions."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query_key = Linear(dim, 2 * dim)
        self.value = Linear(dim, dim)
        self.output = Linear(dim, dim)

    def forward(self, x: Tensor, positions: tuple[Tensor, Tensor]) -> Tensor:
        shape = (*x.shape[:2], self.n_heads, -1)  # (batch, frames, heads, head_dim)
        rotated = rotate(x.view(shape), *positions).flatten(2)
        query, key = self.query_key(rotated).chunk(2, dim=-1)
        q, k, v = (t.reshape(shape).transpose(1, 2) for t in (query, key, self.value(x)))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        output: Tensor = self.output(attended)
        return output


class Convolution(nn.Module):
    """Pointwise with a gate, depthwise, pointwise. The weights of the depthwise convolution include
    its batch normalisation."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gated = Linear(dim, 2 * dim, bias=False)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.output = Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gated = F.glu(self.gated(self.norm(x)), dim=-1)
        over_time = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        output: Tensor = self.output(F.silu(over_time))
        return output


def feed_forward(dim: int, inner: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), Linear(dim, inner), nn.SiLU(), Linear(inner, dim))


class Layer(nn.Module):
    """(batch, frames, dim) -> the same shape."""

    def __init__(self, dim: int, n_heads: int, ff_dim: int, kernel: int) -> None:
        super().__init__()
        self.first_half = feed_forward(dim, ff_dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, n_heads)
        self.convolution = Convolution(dim, kernel)
        self.second_half = feed_forward(dim, ff_dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, positions: tuple[Tensor, Tensor]) -> Tensor:
        x = x + 0.5 * self.first_half(x)
        x = x + self.attention(self.attention_norm(x), positions)
        x = x + self.convolution(x)
        x = x + 0.5 * self.second_half(x)
        normalised: Tensor = self.norm(x)
        return normalised
