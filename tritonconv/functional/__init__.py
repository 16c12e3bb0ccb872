"""The public functions: torch.nn.functional's signatures, and keywords of our own for convolutions.

What has nothing to do with them is torch's own: `import tritonconv.functional as F` works in a model's file.
"""

from typing import Any

import torch.fx

from tritonconv.checks import Algorithm as Algorithm  # what `algorithm=` takes
from tritonconv.functional.activation import relu
from tritonconv.functional.conv import (
    conv1d,
    conv2d,
    conv2d_bias_relu,
    conv2d_bias_relu_max_pool2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from tritonconv.functional.patches import fold, pixel_shuffle, pixel_unshuffle, unfold
from tritonconv.functional.pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
)
from tritonconv.functional.resample import interpolate, upsample, upsample_bilinear, upsample_nearest

__all__ = ["adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d"]
__all__ += ["adaptive_max_pool2d", "adaptive_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "conv1d", "conv2d"]
__all__ += ["conv2d_bias_relu", "conv2d_bias_relu_max_pool2d", "conv3d", "conv_transpose1d", "conv_transpose2d"]
__all__ += ["conv_transpose3d", "fold", "interpolate", "lp_pool1d", "lp_pool2d", "lp_pool3d", "max_pool1d"]
__all__ += ["max_pool2d", "max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d", "pixel_shuffle"]
__all__ += ["pixel_unshuffle", "relu", "unfold", "upsample", "upsample_bilinear", "upsample_nearest"]

for _name in __all__:
    torch.fx.wrap(_name)  # a leaf of torch.fx's graphs: a Proxy has no sizes to check


def __getattr__(name: str) -> Any:
    if any(word in name for word in ("conv", "pool")):
        raise AttributeError(
            f"tritonconv.functional has no {name}, which torch.nn.functional may have: no kernel for it yet"
        )
    return getattr(torch.nn.functional, name)
