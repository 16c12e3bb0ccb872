"""Interpolation."""

import torch

from tritonconv.nn.ours import Calls


class Upsample(Calls, torch.nn.Upsample, function="interpolate"):
    """(N, C, W), (N, C, H, W) or (N, C, D, H, W) at another size; see functional.interpolate.

    Source: torch.nn.Upsample.

    Example:
        >>> tritonconv.nn.Upsample(scale_factor=1.5, mode="bilinear")(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 3, 12, 12])
    """

    antialias = False


class UpsamplingNearest2d(Upsample, torch.nn.UpsamplingNearest2d):
    """Upsample with mode="nearest".

    Source: torch.nn.UpsamplingNearest2d.

    Example:
        >>> tritonconv.nn.UpsamplingNearest2d(scale_factor=2)(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 3, 16, 16])
    """


class UpsamplingBilinear2d(Upsample, torch.nn.UpsamplingBilinear2d):
    """Upsample with mode="bilinear" and align_corners=True.

    Source: torch.nn.UpsamplingBilinear2d.

    Example:
        >>> tritonconv.nn.UpsamplingBilinear2d(scale_factor=2)(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 3, 16, 16])
    """
