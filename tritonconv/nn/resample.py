"""Interpolation."""

import torch

from tritonconv.nn.ours import Calls


class Upsample(Calls, torch.nn.Upsample, function="interpolate"):
    """(N, C, W), (N, C, H, W) or (N, C, D, H, W) at another size; see functional.interpolate.

    Source: torch.nn.Upsample.
    """

    antialias = False


class UpsamplingNearest2d(Upsample, torch.nn.UpsamplingNearest2d):
    """Upsample with mode="nearest".

    Source: torch.nn.UpsamplingNearest2d.
    """


class UpsamplingBilinear2d(Upsample, torch.nn.UpsamplingBilinear2d):
    """Upsample with mode="bilinear" and align_corners=True.

    Source: torch.nn.UpsamplingBilinear2d.
    """
