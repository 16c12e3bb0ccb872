"""Modules: torch.nn's own classes, with the forward pass on tritonconv's kernels.

Each class is a subclass of its namesake in torch.nn and adds no parameter, so that the constructor, the initial weights
drawn from a seed, state_dict and pickling are torch's, and a state_dict loads in either direction; repr says whose the
layer is. The two fused layers are convolutions that go on to ReLU and pooling: their parameters are the convolution's,
`weight` and `bias`. `Sequential` fuses its members when it is called, and leaves them what they are.
"""

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
)
from tritonconv.nn.patches import Fold, Unfold
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
)
from tritonconv.nn.resample import Upsample, UpsamplingBilinear2d, UpsamplingNearest2d

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvReLU2d",
    "ConvReLUMaxPool2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Fold",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "ReLU",
    "Sequential",
    "Unfold",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
]
