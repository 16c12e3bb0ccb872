"""Patches of an image as columns, and back."""

import torch

from tritonconv import functional
from tritonconv.nn.ours import Ours


class Unfold(Ours, torch.nn.Unfold):
    """The patches of an image, (N, C, H, W) or (C, H, W), as columns (N, C · R · S, L) or (C · R · S, L).

    Source: torch.nn.Unfold.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)


class Fold(Ours, torch.nn.Fold):
    """Unfold's adjoint: columns (N, C · R · S, L) or (C · R · S, L) added up to an image of `output_size`.

    Source: torch.nn.Fold.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)
