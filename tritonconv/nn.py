"""Modules: torch.nn's own classes, with the forward pass on tritonconv's kernels.

Each class is a subclass of its namesake in torch.nn and adds no parameter, so that the constructor, the initial weights
drawn from a seed, repr, state_dict and pickling are torch's, and a state_dict loads in either direction. The two fused
layers are convolutions that go on to ReLU and pooling: their parameters are the convolution's, `weight` and `bias`.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn.common_types import _size_2_t

from tritonconv import functional
from tritonconv.problems import require_algorithm

__all__ = ["Conv2d", "ConvReLU2d", "ConvReLUMaxPool2d", "MaxPool2d", "ReLU"]

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class Conv2d(torch.nn.Conv2d):
    """y[n, k, p, q] = bias[k] + Σ over c, r, s of weight[k, c, r, s] · x[n, c, p·stride + r·dilation − padding, ...]

    input: (N, in_channels, H, W) or (in_channels, H, W); fp16, bf16, fp32 or fp64; any strides.
    Returns (N, out_channels, P, Q) or (out_channels, P, Q), channels_last where torch would answer so.
    `algorithm` is "auto", "direct", "im2col" or "implicit_gemm"; it may be set on a built layer too.

    Raises:
        ValueError: torch.nn.Conv2d's own, or an unknown algorithm.
        NotImplementedError: a padding_mode other than "zeros".

    Source: torch.nn.Conv2d.
    """

    algorithm: str = "auto"  # on the class too: an instance that torch made, then swapped or unpickled, has none

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _size_2_t,
        stride: _size_2_t = 1,
        padding: str | _size_2_t = 0,
        dilation: _size_2_t = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        algorithm: str = "auto",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        require_algorithm(algorithm)
        self._require_zeros()
        self.algorithm = algorithm

    def _require_zeros(self) -> None:
        if self.padding_mode != "zeros":
            raise NotImplementedError(
                f"padding_mode={self.padding_mode!r} is not implemented yet: until it comes use padding_mode='zeros', "
                "or torch.nn.functional.pad before a convolution with padding=0"
            )

    def _convolve(self, function: Callable[..., torch.Tensor], *tensors: Any, **pool: Any) -> torch.Tensor:
        self._require_zeros()
        window = (self.stride, self.padding, self.dilation, self.groups)
        return function(*tensors, *window, **pool, algorithm=self.algorithm)

    # The method that torch's own forward hands its weight and bias to, and that subclasses of a convolution call.
    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._convolve(functional.conv2d, input, weight, bias)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return shown if self.algorithm == "auto" else f"{shown}, algorithm={self.algorithm}"


class ConvReLU2d(Conv2d):
    """y = max(0, conv2d(x)), one kernel: nothing is stored between the two.

    Takes Conv2d's arguments and raises its errors; shapes as Conv2d.

    Source: torch.nn.Sequential(Conv2d, ReLU).
    """

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._convolve(functional.conv2d_bias_relu, input, weight, bias)


class ConvReLUMaxPool2d(Conv2d):
    """y = max_pool2d(max(0, conv2d(x))), one trainable operator: the unpooled image is never stored.

    Takes Conv2d's arguments, then MaxPool2d's under names that begin with `pool_` (all by keyword), and raises Conv2d's
    errors; a pooling window that does not fit raises RuntimeError in forward, as in torch.
    Returns (N, out_channels, P', Q') or (out_channels, P', Q'), the size after pooling.

    Source: torch.nn.Sequential(Conv2d, ReLU, MaxPool2d).
    """

    pool_kernel_size: _size_2_t
    pool_stride: _size_2_t
    pool_padding: _size_2_t
    pool_dilation: _size_2_t
    ceil_mode: bool

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _size_2_t,
        stride: _size_2_t = 1,
        padding: str | _size_2_t = 0,
        dilation: _size_2_t = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        pool_kernel_size: _size_2_t,
        pool_stride: _size_2_t | None = None,
        pool_padding: _size_2_t = 0,
        pool_dilation: _size_2_t = 1,
        ceil_mode: bool = False,
        algorithm: str = "auto",
    ) -> None:
        sizes = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        super().__init__(*sizes, bias, padding_mode, device, dtype, algorithm=algorithm)
        self.pool_kernel_size = pool_kernel_size
        self.pool_stride = pool_kernel_size if pool_stride is None else pool_stride
        self.pool_padding = pool_padding
        self.pool_dilation = pool_dilation
        self.ceil_mode = ceil_mode

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._convolve(functional.conv2d_bias_relu_max_pool2d, input, weight, bias, **self._pool)

    @property
    def _pool(self) -> dict[str, Any]:
        names = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode")
        return {name: getattr(self, name) for name in names}

    def extra_repr(self) -> str:
        return ", ".join([super().extra_repr(), *(f"{name}={value}" for name, value in self._pool.items())])


class MaxPool2d(torch.nn.MaxPool2d):
    """y[n, c, p, q] = the largest x[n, c, p·stride + r·dilation − padding, ...] over the window; NaN wins.

    input: (N, C, H, W) or (C, H, W); fp16, bf16, fp32 or fp64; any strides.
    Returns (N, C, P, Q) or (C, P, Q), and with `return_indices` the int64 indices in the plane (H, W).

    Raises:
        RuntimeError: in forward, as in torch: the window does not fit.

    Source: torch.nn.MaxPool2d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return functional.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class ReLU(torch.nn.ReLU):
    """y = max(0, x), of any shape; NaN stays NaN.

    Source: torch.nn.ReLU.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.relu(input, inplace=self.inplace)
