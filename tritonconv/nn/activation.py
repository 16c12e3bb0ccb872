"""Activations."""

import torch

from tritonconv import functional
from tritonconv.nn.ours import Ours


class ReLU(Ours, torch.nn.ReLU):
    """y = max(0, x), of any shape; NaN stays NaN.

    Source: torch.nn.ReLU.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.relu(input, inplace=self.inplace)
