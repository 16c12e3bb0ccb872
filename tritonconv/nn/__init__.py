"""Modules: torch.nn's own classes, with the forward pass on tritonconv's kernels.

Each class is a subclass of its namesake in torch.nn and adds no parameter, so that the constructor, the initial weights
drawn from a seed, state_dict and pickling are torch's, and a state_dict loads in either direction; repr says whose the
layer is. The two fused layers are convolutions that go on to ReLU and pooling: their parameters are the convolution's,
`weight` and `bias`. `Sequential` fuses its members when it is called, and leaves them what they are. What has nothing
to do with images is torch's own class: `import tritonconv.nn as nn` works in a model's file.
"""

from typing import Any

import torch.nn

from tritonconv import functional as functional
from tritonconv.nn.activation import ReLU
from tritonconv.nn.container import Sequential
from tritonconv.nn.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvReLU2d,
    ConvReLUMaxPool2d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    LazyConv1d,
    LazyConv2d,
    LazyConv3d,
    LazyConvTranspose1d,
    LazyConvTranspose2d,
    LazyConvTranspose3d,
)
from tritonconv.nn.patches import Fold, PixelShuffle, PixelUnshuffle, Unfold
from tritonconv.nn.pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
)
from tritonconv.nn.resample import Upsample, UpsamplingBilinear2d, UpsamplingNearest2d

__all__ = ["AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d"]
__all__ += ["AdaptiveMaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "Conv1d", "Conv2d", "Conv3d", "ConvReLU2d"]
__all__ += ["ConvReLUMaxPool2d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Fold", "LPPool1d"]
__all__ += ["LPPool2d", "LPPool3d", "LazyConv1d", "LazyConv2d", "LazyConv3d", "LazyConvTranspose1d"]
__all__ += ["LazyConvTranspose2d", "LazyConvTranspose3d", "MaxPool1d", "MaxPool2d", "MaxPool3d", "MaxUnpool1d"]
__all__ += ["MaxUnpool2d", "MaxUnpool3d", "PixelShuffle", "PixelUnshuffle", "ReLU", "Sequential", "Unfold", "Upsample"]
__all__ += ["UpsamplingBilinear2d", "UpsamplingNearest2d"]


def __getattr__(name: str) -> Any:
    if any(word in name for word in ("Conv", "Pool")):
        raise AttributeError(f"tritonconv.nn has no {name}, which torch.nn may have: no kernel for it yet")
    return getattr(torch.nn, name)
