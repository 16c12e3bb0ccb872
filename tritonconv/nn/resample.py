"""Interpolation."""

import torch

from tritonconv import functional
from tritonconv.nn.ours import Ours


class Upsample(Ours, torch.nn.Upsample):
    """(N, C, W), (N, C, H, W) or (N, C, D, H, W) at another size; see functional.interpolate.

    Source: torch.nn.Upsample.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        how = (self.mode, self.align_corners)
        recompute = self.recompute_scale_factor
        return functional.interpolate(input, self.size, self.scale_factor, *how, recompute_scale_factor=recompute)


class UpsamplingNearest2d(Upsample, torch.nn.UpsamplingNearest2d):
    """Upsample with mode="nearest".

    Source: torch.nn.UpsamplingNearest2d.
    """


class UpsamplingBilinear2d(Upsample, torch.nn.UpsamplingBilinear2d):
    """Upsample with mode="bilinear" and align_corners=True.

    Source: torch.nn.UpsamplingBilinear2d.
    """
