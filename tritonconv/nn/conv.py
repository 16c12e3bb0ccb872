"""Convolutions."""

from typing import Any, ClassVar

import torch

from tritonconv import functional
from tritonconv.checks import Algorithm, PaddingMode, require_algorithm
from tritonconv.functional.arguments import IntOrInts
from tritonconv.functional.arguments import window as sliding
from tritonconv.functional.conv import convolve
from tritonconv.kernels.arguments import wide
from tritonconv.nn.ours import Ours


class _Convolution(Ours, torch.nn.modules.conv._ConvNd):
    """What all convolutions share."""

    rank: ClassVar[int]
    algorithm: Algorithm = "auto"  # on the class too: an instance that torch made, then swapped or unpickled, has none

    def __init__(self, *arguments: Any, algorithm: Algorithm) -> None:
        super().__init__(*arguments)
        require_algorithm(algorithm)
        self.algorithm = algorithm

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return shown if self.algorithm == "auto" else f"{shown}, algorithm={self.algorithm}"


class _Conv(_Convolution):
    """What Conv1d, Conv2d and Conv3d share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrInts,
        stride: IntOrInts = 1,
        padding: str | IntOrInts = 0,
        dilation: IntOrInts = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        algorithm: Algorithm = "auto",
    ) -> None:
        sizes: Any = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        super().__init__(*sizes, bias, padding_mode, device, dtype, algorithm=algorithm)

    @property
    def _how(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "algorithm")
        return {name: getattr(self, name) for name in names}

    # The method that torch's own forward hands its weight and bias to, and that subclasses of a convolution call.
    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return getattr(functional, f"conv{self.rank}d")(input, weight, bias, **self._how)

    def fused(self, input: torch.Tensor, norm: Any, activation: str | None, pool: Any) -> torch.Tensor:
        """This layer, a batch norm in evaluation, an activation and max pooling, or some of them, as one operator."""
        scale, bias, window = None, self.bias, None
        if norm is not None:
            scale = torch.rsqrt(norm.running_var.to(wide(norm.running_var)) + norm.eps)  # not rounded to 16 bits
            scale = scale if norm.weight is None else scale * norm.weight
            mean = norm.running_mean
            shift = -mean * scale if norm.bias is None else torch.addcmul(norm.bias, mean, scale, value=-1)
            bias = shift if bias is None else torch.addcmul(shift, bias, scale)
        if pool is not None:
            window = sliding(self.rank, pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        return convolve(
            *(f"conv{self.rank}d", self.rank, input, self.weight, bias),
            **self._how,
            activation=activation,
            pool=window and (*window, pool.ceil_mode),
            scale=scale,
        )


class Conv1d(_Conv, torch.nn.Conv1d):
    """Conv2d along one axis: input (N, in_channels, W) or (in_channels, W), output (N, out_channels, Q).

    Source: torch.nn.Conv1d.

    Example:
        >>> tritonconv.nn.Conv1d(3, 4, 5, padding=2)(torch.ones(2, 3, 8)).shape
        torch.Size([2, 4, 8])
    """

    rank = 1


class Conv2d(_Conv, torch.nn.Conv2d):
    """y[n, k, p, q] = bias[k] + Σ over c, r, s of weight[k, c, r, s] · x[n, c, p·stride + r·dilation − padding, ...]

    input: (N, in_channels, H, W) or (in_channels, H, W); fp16, bf16, fp32 or fp64; any strides.
    Returns (N, out_channels, P, Q) or (out_channels, P, Q), channels_last where torch would answer so.
    `algorithm` is "auto", "direct", "im2col" or "implicit_gemm"; it may be set on a built layer too.

    Raises:
        ValueError: torch.nn.Conv2d's own, or an unknown algorithm.

    Source: torch.nn.Conv2d.

    Example:
        >>> tritonconv.nn.Conv2d(3, 4, 5, padding=2)(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 4, 8, 8])
    """

    rank = 2


class Conv3d(_Conv, torch.nn.Conv3d):
    """Conv2d along three axes: input (N, in_channels, D, H, W) or (in_channels, D, H, W).

    Source: torch.nn.Conv3d.

    Example:
        >>> tritonconv.nn.Conv3d(3, 4, 5, padding=2)(torch.ones(2, 3, 8, 8, 8)).shape
        torch.Size([2, 4, 8, 8, 8])
    """

    rank = 3


class _ConvTranspose(_Convolution, torch.nn.modules.conv._ConvTransposeNd):
    """What ConvTranspose1d, ConvTranspose2d and ConvTranspose3d share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrInts,
        stride: IntOrInts = 1,
        padding: IntOrInts = 0,
        output_padding: IntOrInts = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrInts = 1,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        algorithm: Algorithm = "auto",
    ) -> None:
        sizes: Any = (in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation)
        super().__init__(*sizes, padding_mode, device, dtype, algorithm=algorithm)

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        if self.padding_mode != "zeros":
            raise ValueError(
                f"padding_mode must be 'zeros' for {type(self).__name__}, but got padding_mode={self.padding_mode!r}"
            )
        sizes: Any = (self.stride, self.padding, self.kernel_size, self.rank, self.dilation)
        added = self._output_padding(input, output_size, *sizes)
        function = getattr(functional, f"conv_transpose{self.rank}d")
        window = (self.stride, self.padding, added, self.groups, self.dilation)
        return function(input, self.weight, self.bias, *window, algorithm=self.algorithm)


class ConvTranspose1d(_ConvTranspose, torch.nn.ConvTranspose1d):
    """ConvTranspose2d along one axis: input (N, in_channels, W) or (in_channels, W).

    Source: torch.nn.ConvTranspose1d.

    Example:
        >>> tritonconv.nn.ConvTranspose1d(3, 4, 2, stride=2)(torch.ones(2, 3, 8)).shape
        torch.Size([2, 4, 16])
    """

    rank = 1


class ConvTranspose2d(_ConvTranspose, torch.nn.ConvTranspose2d):
    """The adjoint of Conv2d; see functional.conv_transpose2d.

    input: (N, in_channels, H, W) or (in_channels, H, W); fp16, bf16, fp32 or fp64; any strides. forward takes an
    `output_size` too, (P, Q), where the stride leaves several possible.
    Returns (N, out_channels, P, Q) or (out_channels, P, Q), channels_last where torch would answer so.

    Raises:
        ValueError: torch.nn.ConvTranspose2d's own, or an unknown algorithm.

    Source: torch.nn.ConvTranspose2d.

    Example:
        >>> tritonconv.nn.ConvTranspose2d(3, 4, 2, stride=2)(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 4, 16, 16])
    """

    rank = 2


class ConvTranspose3d(_ConvTranspose, torch.nn.ConvTranspose3d):
    """ConvTranspose2d along three axes: input (N, in_channels, D, H, W) or (in_channels, D, H, W).

    Source: torch.nn.ConvTranspose3d.

    Example:
        >>> tritonconv.nn.ConvTranspose3d(3, 4, 2, stride=2)(torch.ones(2, 3, 8, 8, 8)).shape
        torch.Size([2, 4, 16, 16, 16])
    """

    rank = 3


class ConvReLU2d(Conv2d):
    """y = max(0, conv2d(x)), one kernel: nothing is stored between the two.

    Takes Conv2d's arguments and raises its errors; shapes as Conv2d.

    Source: torch.nn.Sequential(Conv2d, ReLU).

    Example:
        >>> tritonconv.nn.ConvReLU2d(3, 4, 5)(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 4, 4, 4])
    """

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.conv2d_bias_relu(input, weight, bias, **self._how)


class ConvReLUMaxPool2d(Conv2d):
    """y = max_pool2d(max(0, conv2d(x))), one trainable operator: the unpooled image is never stored.

    Takes Conv2d's arguments, then MaxPool2d's under names that begin with `pool_` (all by keyword), and raises Conv2d's
    errors; a pooling window that does not fit raises RuntimeError in forward, as in torch.
    Returns (N, out_channels, P', Q') or (out_channels, P', Q'), the size after pooling.

    Source: torch.nn.Sequential(Conv2d, ReLU, MaxPool2d).

    Example:
        >>> tritonconv.nn.ConvReLUMaxPool2d(3, 4, 5, pool_kernel_size=2)(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 4, 2, 2])
    """

    pool_kernel_size: IntOrInts
    pool_stride: IntOrInts
    pool_padding: IntOrInts
    pool_dilation: IntOrInts
    ceil_mode: bool

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrInts,
        stride: IntOrInts = 1,
        padding: str | IntOrInts = 0,
        dilation: IntOrInts = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        pool_kernel_size: IntOrInts,
        pool_stride: IntOrInts | None = None,
        pool_padding: IntOrInts = 0,
        pool_dilation: IntOrInts = 1,
        ceil_mode: bool = False,
        algorithm: Algorithm = "auto",
    ) -> None:
        sizes = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        super().__init__(*sizes, bias, padding_mode, device, dtype, algorithm=algorithm)
        self.pool_kernel_size = pool_kernel_size
        self.pool_stride = pool_kernel_size if pool_stride is None else pool_stride
        self.pool_padding = pool_padding
        self.pool_dilation = pool_dilation
        self.ceil_mode = ceil_mode

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.conv2d_bias_relu_max_pool2d(input, weight, bias, **self._how, **self._pool)

    @property
    def _pool(self) -> dict[str, Any]:
        names = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode")
        return {name: getattr(self, name) for name in names}

    def extra_repr(self) -> str:
        return ", ".join([super().extra_repr(), *(f"{name}={value}" for name, value in self._pool.items())])


def _lazy(kind: Any) -> Any:
    """`kind` that takes its in_channels from the first input, and then is one."""
    name = f"Lazy{kind.__name__}"
    size = ", 8" * kind.rank
    example = f">>> tritonconv.nn.{name}(4, 1)(torch.ones(2, 3{size})).shape\n        torch.Size([2, 4{size}])"
    doc = f"A lazy {kind.__name__}: torch.nn.{name}.\n\n    Example:\n        {example}\n    "
    members = {"cls_to_become": kind, "__module__": __name__, "__doc__": doc}
    return type(name, (getattr(torch.nn, name), kind), members)


LazyConv1d, LazyConv2d, LazyConv3d = map(_lazy, (Conv1d, Conv2d, Conv3d))
LazyConvTranspose1d, LazyConvTranspose2d, LazyConvTranspose3d = map(
    _lazy, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
)
