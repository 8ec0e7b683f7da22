"""The linear layers, where most of the Conformer's time goes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """(batch, frames, n_in) -> (batch, frames, n_out).

    In float32 on the CPU it is computed as a convolution of one frame: torch gives matrix products
    to MKL, which holds back on processors that are not Intel's, and convolutions to oneDNN, which
    does not (2.2 times faster on an AMD EPYC)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        image = x.transpose(1, 2).unsqueeze(2)  # (batch, n_in, 1, frames), channels last in memory
        convolved = F.conv2d(image, self.weight[:, :, None, None], self.bias)
        return convolved.squeeze(2).transpose(1, 2)
