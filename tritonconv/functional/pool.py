"""Pooling, along one, two and three axes. Shapes below are along two: one axis has W alone, three have D before H."""

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, overload

import torch

from tritonconv.checks import Sizes, as_count, as_sizes, require_batch, require_flags, require_tensor
from tritonconv.functional.arguments import IntOrInts, each_rank, window
from tritonconv.ops import operators, shortcut
from tritonconv.problems import unpooled_size

Tensors = tuple[torch.Tensor, torch.Tensor]
OutputSize = IntOrInts | Sequence[int | None] | None


class _MaxPool(Protocol):
    """The two answers of a max pooling."""

    @overload
    def __call__(
        self,
        input: torch.Tensor,
        kernel_size: IntOrInts,
        stride: IntOrInts | None = None,
        padding: IntOrInts = 0,
        dilation: IntOrInts = 1,
        ceil_mode: bool = False,
        return_indices: Literal[False] = False,
    ) -> torch.Tensor: ...

    @overload
    def __call__(
        self,
        input: torch.Tensor,
        kernel_size: IntOrInts,
        stride: IntOrInts | None = None,
        padding: IntOrInts = 0,
        dilation: IntOrInts = 1,
        ceil_mode: bool = False,
        *,
        return_indices: Literal[True],
    ) -> Tensors: ...

    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class _AdaptiveMaxPool(Protocol):
    """The two answers of an adaptive max pooling."""

    @overload
    def __call__(
        self, input: torch.Tensor, output_size: OutputSize, return_indices: Literal[False] = False
    ) -> torch.Tensor: ...

    @overload
    def __call__(self, input: torch.Tensor, output_size: OutputSize, return_indices: Literal[True]) -> Tensors: ...

    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def max_pool(
    rank: int,
    input: torch.Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """y[n, c, p, q] = max over the window of input[n, c, p·stride − padding + i·dilation, …].

    A NaN wins, the first of equals wins, a window of −inf gives −inf. A window wholly in the padding (possible with
    ceil_mode and dilation) gives −inf, an index inside the plane and no gradient.

    Args:
        input: (N, C, H, W) or (C, H, W); float16, bfloat16, float32 or float64; any strides; CPU or GPU.
        kernel_size, stride, padding, dilation: in elements, one for all axes or one an axis; stride is kernel_size
            unless given, padding at most half the window.
        ceil_mode: round the output size up.
        return_indices: also return where each maximum was.

    Returns:
        (N, C, P, Q) or (C, P, Q) in the input's dtype and memory format; with return_indices also int64 indices
        h · W + w into the plane, of the same shape.

    Raises:
        RuntimeError: sizes that do not go together.
        NotImplementedError: a dtype other than the four.
        TypeError: an argument of the wrong type.

    Source: torch.nn.functional.max_pool1d, max_pool2d and max_pool3d.

    Example:
        >>> tritonconv.functional.max_pool2d(torch.ones(2, 3, 8, 8), 2).shape
        torch.Size([2, 3, 4, 4])
    """
    x, unbatched = require_batch(f"max_pool{rank}d", input, rank)
    sliding = window(rank, kernel_size, stride, padding, dilation)
    require_flags(f"max_pool{rank}d", ceil_mode=ceil_mode)
    y, _, indices = operators.max_pool(x, *sliding, ceil_mode, return_indices)
    if unbatched:
        y, indices = y.squeeze(0), indices.squeeze(0) if return_indices else indices
    return (y, indices) if return_indices else y


def max_unpool(
    rank: int,
    input: torch.Tensor,
    indices: torch.Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
) -> torch.Tensor:
    """The image that has each input pixel at its index, and 0 elsewhere; of several at one index the last.

    Args:
        input: (N, C, P, Q) or (C, P, Q), as max_pool returns it; any strides; CPU or GPU.
        indices: int64, of the input's shape: h · W + w in the output's plane, as max_pool returns them.
        kernel_size, stride, padding: max_pool's.
        output_size: (H, W), or with two entries before, where several sizes pool to the input's.

    Returns:
        (N, C, H, W) or (C, H, W) in the input's dtype; channels_last if input is. H = (P − 1)·stride + kernel_size −
        2·padding unless given.

    Raises:
        ValueError: an output_size of the wrong length or too far from that.
        RuntimeError: sizes that do not go together, indices that are not int64 or (on a GPU asynchronously) outside.
        NotImplementedError: a dtype other than the four.

    Source: torch.nn.functional.max_unpool1d, max_unpool2d and max_unpool3d.

    Example:
        >>> y, indices = tritonconv.functional.max_pool2d(torch.ones(2, 3, 8, 8), 2, return_indices=True)
        >>> tritonconv.functional.max_unpool2d(y, indices, 2).shape
        torch.Size([2, 3, 8, 8])
    """
    name = f"max_unpool{rank}d"
    x, unbatched = require_batch(name, input, rank)
    require_tensor(name, "indices", indices)
    kernel, steps, pads, _ = window(rank, kernel_size, stride, padding)
    if indices.shape != input.shape:
        raise RuntimeError(
            f"Expected shape of indices to be same as that of the input tensor ({list(input.shape)}) but got indices "
            f"tensor with shape: {list(indices.shape)}"
        )
    size = unpooled_size(input.shape, kernel, steps, pads, output_size)
    y = operators.max_unpool(x, indices.unsqueeze(0) if unbatched else indices, size)
    return y.squeeze(0) if unbatched else y


def avg_pool(
    rank: int,
    input: torch.Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor:
    """y[n, c, p, q] = Σ over the window of input[n, c, p·stride − padding + i, …], divided by how many elements it has.

    Args:
        input: (N, C, H, W) or (C, H, W); float16, bfloat16, float32 or float64; any strides; CPU or GPU.
        kernel_size, stride, padding: in elements, one for all axes or one an axis; stride is kernel_size unless given,
            padding (with zeros) at most half the window.
        ceil_mode: round the output size up.
        count_include_pad: count the padding's zeros too, but not what lies beyond.
        divisor_override: divide by this number instead; not along one axis.

    Returns:
        (N, C, P, Q) or (C, P, Q) in the input's dtype and memory format, contiguous along three axes. Sums in float32
        (float64 for float64).

    Raises:
        RuntimeError: sizes that do not go together, or a divisor of 0.
        NotImplementedError: a dtype other than the four.
        TypeError: an argument of the wrong type.

    Source: torch.nn.functional.avg_pool1d, avg_pool2d and avg_pool3d.

    Example:
        >>> tritonconv.functional.avg_pool2d(torch.ones(2, 3, 8, 8), 3, stride=2, padding=1).shape
        torch.Size([2, 3, 4, 4])
    """
    x, unbatched = require_batch(f"avg_pool{rank}d", input, rank)
    sliding = window(rank, kernel_size, stride, padding)[:3]
    require_flags(f"avg_pool{rank}d", ceil_mode=ceil_mode, count_include_pad=count_include_pad)
    if divisor_override is not None:
        divisor_override = as_count(f"avg_pool{rank}d", "divisor_override", divisor_override)
    y = operators.average_pool(x, *sliding, ceil_mode, count_include_pad, divisor_override)
    return y.squeeze(0) if unbatched else y


def lp_pool(
    rank: int,
    input: torch.Tensor,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
) -> torch.Tensor:
    """y[n, c, p, q] = (Σ over the window of input[n, c, p·stride + i, …]ᵖ)^(1/p), p = norm_type, a root of the sum.

    A window that ceil_mode lets reach beyond the input counts as if it were whole, as torch does: its sum is scaled.
    The gradient is 0 where y is 0.

    Args:
        input: (N, C, H, W) or (C, H, W); float16, bfloat16, float32 or float64; any strides; CPU or GPU.
        norm_type: p, not 0. Of inf and -inf y is the window's largest and smallest magnitude.
        kernel_size, stride: in elements, one for all axes or one an axis; stride is kernel_size by default.
        ceil_mode: round the output size up.

    Returns:
        (N, C, P, Q) or (C, P, Q) in the input's dtype and memory format, contiguous along three axes.

    Raises:
        RuntimeError: sizes that do not go together.
        ZeroDivisionError: norm_type is 0.
        NotImplementedError: a dtype other than the four, or a norm_type that requires a gradient.
        TypeError: an argument of the wrong type.

    Source: torch.nn.functional.lp_pool1d, lp_pool2d and lp_pool3d.

    Example:
        >>> tritonconv.functional.lp_pool2d(torch.ones(2, 3, 8, 8), norm_type=2, kernel_size=2).shape
        torch.Size([2, 3, 4, 4])
    """
    x, unbatched = require_batch(f"lp_pool{rank}d", input, rank)
    kernel, steps, padding, dilation = window(rank, kernel_size, stride, 0)
    require_flags(f"lp_pool{rank}d", ceil_mode=ceil_mode)
    if isinstance(norm_type, str):
        raise TypeError(f"lp_pool{rank}d(): argument 'norm_type' must be a number, but got norm_type={norm_type!r}")
    if isinstance(norm_type, torch.Tensor) and norm_type.requires_grad:
        raise NotImplementedError(
            f"lp_pool{rank}d() has no gradient by norm_type: expected a number, or a tensor that requires none, but "
            f"got norm_type={norm_type!r}"
        )
    if math.isinf(norm_type):
        sign = math.copysign(1, norm_type)
        y = sign * operators.max_pool(sign * x.abs(), kernel, steps, padding, dilation, ceil_mode, False)[0]
    else:
        y = operators.lp_pool(x, float(norm_type), kernel, steps, ceil_mode)
    return y.squeeze(0) if unbatched else y


def adaptive_avg_pool(rank: int, input: torch.Tensor, output_size: OutputSize) -> torch.Tensor:
    """The average of each of P × Q windows that cover the input; window p has the rows from ⌊p·H/P⌋ to ⌈(p + 1)·H/P⌉.

    Args:
        input: (N, C, H, W) or (C, H, W); float16, bfloat16, float32 or float64; any strides; CPU or GPU.
        output_size: (P, Q), or one number for all axes; None for the input's own.

    Returns:
        (N, C, P, Q) or (C, P, Q) in the input's dtype and memory format, contiguous along three axes. Sums in float32
        (float64 for float64).

    Raises:
        RuntimeError: sizes that do not go together.
        NotImplementedError: a dtype other than the four.
        TypeError: an argument of the wrong type.

    Source: torch.nn.functional.adaptive_avg_pool1d, adaptive_avg_pool2d and adaptive_avg_pool3d.

    Example:
        >>> tritonconv.functional.adaptive_avg_pool2d(torch.ones(2, 3, 8, 8), 5).shape
        torch.Size([2, 3, 5, 5])
    """
    x, unbatched, sizes = _adaptive(f"adaptive_avg_pool{rank}d", rank, input, output_size)
    y = operators.resample(x, sizes, "area", (0.0,) * rank, False, False)
    return y.squeeze(0) if unbatched else y


def adaptive_max_pool(rank: int, input: torch.Tensor, output_size: OutputSize, return_indices: bool = False) -> Any:
    """The maximum of each of P × Q windows that cover the input, as in adaptive_avg_pool; NaN wins.

    Args:
        input, output_size: as in adaptive_avg_pool.
        return_indices: also return where each maximum was.

    Returns:
        (N, C, P, Q) or (C, P, Q) in the input's dtype and memory format, contiguous along three axes; with
        return_indices also int64 indices h · W + w into the plane, of the same shape.

    Errors are adaptive_avg_pool's.

    Source: torch.nn.functional.adaptive_max_pool1d, adaptive_max_pool2d and adaptive_max_pool3d.

    Example:
        >>> tritonconv.functional.adaptive_max_pool2d(torch.ones(2, 3, 8, 8), 5).shape
        torch.Size([2, 3, 5, 5])
    """
    x, unbatched, sizes = _adaptive(f"adaptive_max_pool{rank}d", rank, input, output_size)
    y, indices = operators.adaptive_max_pool(x, sizes)
    if unbatched:
        y, indices = y.squeeze(0), indices.squeeze(0)
    return (y, indices) if return_indices else y


def _adaptive(name: str, rank: int, input: torch.Tensor, output_size: Any) -> tuple[torch.Tensor, bool, Sizes]:
    """A batch, whether it was made one, and the output's size, the input's where it is None."""
    x, unbatched = require_batch(name, input, rank)
    given = output_size if isinstance(output_size, list | tuple) else (output_size,) * rank
    if rank > 1 and len(given) >= input.dim():
        raise ValueError(f"Input dimension should be at least {len(given) + 1}, but got output_size={output_size!r}")
    if len(given) == 1 != rank:
        raise RuntimeError(f"output_size must be one number or {rank}, but got output_size={output_size!r}")
    if any(size is None for size in given):
        numbers = as_sizes("output_size", [0 if size is None else size for size in given], rank)
        axes = zip(given, numbers, x.shape[2:], strict=True)
        sizes = tuple(length if size is None else number for size, number, length in axes)
    else:
        sizes = as_sizes("output_size", output_size, rank)
    if min(x.shape[1:]) == 0:
        raise RuntimeError(f"Expected input to have non-zero size for non-batch dimensions, but got {list(x.shape)}")
    if min(sizes) < 0:
        raise RuntimeError(f"elements of output_size must be greater than or equal to 0, but got {output_size!r}")
    return x, unbatched, sizes


max_pool1d: _MaxPool
max_pool2d: _MaxPool
max_pool3d: _MaxPool
max_pool1d, max_pool2d, max_pool3d = each_rank(max_pool)
max_unpool1d, max_unpool2d, max_unpool3d = each_rank(max_unpool)
_, avg_pool2d, avg_pool3d = each_rank(avg_pool)
lp_pool1d, lp_pool2d, lp_pool3d = each_rank(lp_pool)
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = each_rank(adaptive_avg_pool)
adaptive_max_pool1d: _AdaptiveMaxPool
adaptive_max_pool2d: _AdaptiveMaxPool
adaptive_max_pool3d: _AdaptiveMaxPool
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = each_rank(adaptive_max_pool)


@shortcut
def avg_pool1d(
    input: torch.Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> torch.Tensor:
    """avg_pool2d along one axis, which takes no divisor.

    Source: torch.nn.functional.avg_pool1d.

    Example:
        >>> tritonconv.functional.avg_pool1d(torch.ones(2, 3, 8), 2).shape
        torch.Size([2, 3, 4])
    """
    return avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad)
