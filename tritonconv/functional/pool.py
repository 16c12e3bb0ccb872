"""Pooling."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, overload

import torch

from tritonconv.checks import Sizes, as_sizes, require_batch
from tritonconv.functional.arguments import IntOrInts, window
from tritonconv.ops import operators


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
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def _two_answers(function: Callable[..., Any]) -> _MaxPool:
    return function


@_two_answers
def max_pool1d(
    input: torch.Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """max_pool2d along one axis: input (N, C, W) or (C, W), output (N, C, Q) or (C, Q).

    Indices count along W. Arguments and errors are max_pool2d's.

    Source: torch.nn.functional.max_pool1d.
    """
    return _max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@_two_answers
def max_pool2d(
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
        kernel_size, stride, padding, dilation: in elements, one for both axes or (vertical, horizontal); stride is
            kernel_size unless given, padding at most half the window.
        ceil_mode: round the output size up.
        return_indices: also return where each maximum was.

    Returns:
        (N, C, P, Q) or (C, P, Q) in the input's dtype and memory format; with return_indices also int64 indices
        h · W + w into the plane, of the same shape.

    Raises:
        RuntimeError: sizes that do not go together.
        NotImplementedError: a dtype other than the four.
        TypeError: an argument of the wrong type.

    Source: torch.nn.functional.max_pool2d.
    """
    return _max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@_two_answers
def max_pool3d(
    input: torch.Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """max_pool2d along three axes: input (N, C, D, H, W) or (C, D, H, W), output (N, C, Z, P, Q).

    Indices are (d · H + h) · W + w. Arguments and errors are max_pool2d's.

    Source: torch.nn.functional.max_pool3d.
    """
    return _max_pool("max_pool3d", 3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def avg_pool1d(
    input: torch.Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> torch.Tensor:
    """avg_pool2d along one axis: input (N, C, W) or (C, W).

    Source: torch.nn.functional.avg_pool1d.
    """
    sliding = window(1, kernel_size, stride, padding)[:3]
    return _avg_pool("avg_pool1d", 1, input, *sliding, ceil_mode, count_include_pad, None)


def avg_pool2d(
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
        kernel_size, stride, padding: in elements, one for both axes or (vertical, horizontal); stride is kernel_size
            unless given, padding (with zeros) at most half the window.
        ceil_mode: round the output size up.
        count_include_pad: count the padding's zeros too, but not what lies beyond.
        divisor_override: divide by this number instead.

    Returns:
        (N, C, P, Q) or (C, P, Q) in the input's dtype and memory format. Sums in float32 (float64 for float64).

    Raises:
        RuntimeError: sizes that do not go together, or a divisor of 0.
        NotImplementedError: a dtype other than the four.
        TypeError: an argument of the wrong type.

    Source: torch.nn.functional.avg_pool2d.
    """
    sliding = window(2, kernel_size, stride, padding)[:3]
    return _avg_pool("avg_pool2d", 2, input, *sliding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: torch.Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor:
    """avg_pool2d along three axes: input (N, C, D, H, W) or (C, D, H, W); contiguous output, as torch's.

    Source: torch.nn.functional.avg_pool3d.
    """
    sliding = window(3, kernel_size, stride, padding)[:3]
    return _avg_pool("avg_pool3d", 3, input, *sliding, ceil_mode, count_include_pad, divisor_override)


def lp_pool1d(
    input: torch.Tensor,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
) -> torch.Tensor:
    """lp_pool2d along one axis: input (N, C, W) or (C, W).

    Source: torch.nn.functional.lp_pool1d.
    """
    return _lp_pool("lp_pool1d", 1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
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
        norm_type: p, not 0.
        kernel_size, stride: in elements, one for both axes or (vertical, horizontal); stride is kernel_size by default.
        ceil_mode: round the output size up.

    Returns:
        (N, C, P, Q) or (C, P, Q) in the input's dtype and memory format.

    Raises:
        RuntimeError: sizes that do not go together.
        ZeroDivisionError: norm_type is 0.
        NotImplementedError: a dtype other than the four.

    Source: torch.nn.functional.lp_pool2d.
    """
    return _lp_pool("lp_pool2d", 2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: torch.Tensor,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
) -> torch.Tensor:
    """lp_pool2d along three axes: input (N, C, D, H, W) or (C, D, H, W); contiguous output, as torch's.

    Source: torch.nn.functional.lp_pool3d.
    """
    return _lp_pool("lp_pool3d", 3, input, norm_type, kernel_size, stride, ceil_mode)


def adaptive_avg_pool1d(input: torch.Tensor, output_size: IntOrInts) -> torch.Tensor:
    """adaptive_avg_pool2d along one axis: input (N, C, W) or (C, W).

    Source: torch.nn.functional.adaptive_avg_pool1d.
    """
    return _adaptive_avg_pool("adaptive_avg_pool1d", 1, input, output_size)


def adaptive_avg_pool2d(input: torch.Tensor, output_size: IntOrInts | Sequence[int | None] | None) -> torch.Tensor:
    """The average of each of P × Q windows that cover the input; window p has the rows from ⌊p·H/P⌋ to ⌈(p + 1)·H/P⌉.

    Args:
        input: (N, C, H, W) or (C, H, W); float16, bfloat16, float32 or float64; any strides; CPU or GPU.
        output_size: (P, Q), or one number for both; None for the input's own.

    Returns:
        (N, C, P, Q) or (C, P, Q) in the input's dtype and memory format. Sums in float32 (float64 for float64).

    Raises:
        RuntimeError: sizes that do not go together.
        NotImplementedError: a dtype other than the four.
        TypeError: an argument of the wrong type.

    Source: torch.nn.functional.adaptive_avg_pool2d.
    """
    return _adaptive_avg_pool("adaptive_avg_pool2d", 2, input, output_size)


def adaptive_avg_pool3d(input: torch.Tensor, output_size: IntOrInts | Sequence[int | None] | None) -> torch.Tensor:
    """adaptive_avg_pool2d along three axes: input (N, C, D, H, W) or (C, D, H, W); contiguous output, as torch's.

    Source: torch.nn.functional.adaptive_avg_pool3d.
    """
    return _adaptive_avg_pool("adaptive_avg_pool3d", 3, input, output_size)


def adaptive_max_pool1d(input: torch.Tensor, output_size: IntOrInts, return_indices: bool = False) -> Any:
    """adaptive_max_pool2d along one axis: input (N, C, W) or (C, W).

    Source: torch.nn.functional.adaptive_max_pool1d.
    """
    return _adaptive_max_pool("adaptive_max_pool1d", 1, input, output_size, return_indices)


def adaptive_max_pool2d(
    input: torch.Tensor, output_size: IntOrInts | Sequence[int | None] | None, return_indices: bool = False
) -> Any:
    """The maximum of each of P × Q windows that cover the input, as in adaptive_avg_pool2d; NaN wins.

    Args:
        input, output_size: as in adaptive_avg_pool2d.
        return_indices: also return where each maximum was.

    Returns:
        (N, C, P, Q) or (C, P, Q) in the input's dtype and memory format; with return_indices also int64 indices
        h · W + w into the plane, of the same shape.

    Errors are adaptive_avg_pool2d's.

    Source: torch.nn.functional.adaptive_max_pool2d.
    """
    return _adaptive_max_pool("adaptive_max_pool2d", 2, input, output_size, return_indices)


def adaptive_max_pool3d(
    input: torch.Tensor, output_size: IntOrInts | Sequence[int | None] | None, return_indices: bool = False
) -> Any:
    """adaptive_max_pool2d along three axes: input (N, C, D, H, W) or (C, D, H, W); contiguous output, as torch's.

    Source: torch.nn.functional.adaptive_max_pool3d.
    """
    return _adaptive_max_pool("adaptive_max_pool3d", 3, input, output_size, return_indices)


def _max_pool(
    name: str,
    rank: int,
    input: torch.Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    dilation: IntOrInts,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    x, unbatched = require_batch(name, input, rank)
    sliding = window(rank, kernel_size, stride, padding, dilation)
    y, _, indices = operators.max_pool(x, *sliding, ceil_mode, return_indices)
    if unbatched:
        y, indices = y.squeeze(0), indices.squeeze(0) if return_indices else indices
    return (y, indices) if return_indices else y


def _avg_pool(name: str, rank: int, input: torch.Tensor, *average: Any) -> torch.Tensor:
    x, unbatched = require_batch(name, input, rank)
    y = operators.average_pool(x, *average)
    return y.squeeze(0) if unbatched else y


def _lp_pool(
    name: str,
    rank: int,
    input: torch.Tensor,
    norm_type: float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    ceil_mode: bool,
) -> torch.Tensor:
    x, unbatched = require_batch(name, input, rank)
    kernel, steps, *_ = window(rank, kernel_size, stride, 0)
    y = operators.lp_pool(x, float(norm_type), kernel, steps, ceil_mode)
    return y.squeeze(0) if unbatched else y


def _adaptive_avg_pool(name: str, rank: int, input: torch.Tensor, output_size: Any) -> torch.Tensor:
    x, unbatched, sizes = _adaptive(name, rank, input, output_size)
    y = operators.resample(x, sizes, "area", (0.0,) * rank, False, False)
    return y.squeeze(0) if unbatched else y


def _adaptive_max_pool(name: str, rank: int, input: torch.Tensor, output_size: Any, return_indices: bool) -> Any:
    x, unbatched, sizes = _adaptive(name, rank, input, output_size)
    y, indices = operators.adaptive_max_pool(x, sizes)
    if unbatched:
        y, indices = y.squeeze(0), indices.squeeze(0)
    return (y, indices) if return_indices else y


def _adaptive(name: str, rank: int, input: torch.Tensor, output_size: Any) -> tuple[torch.Tensor, bool, Sizes]:
    """A batch, whether it was made one, and the output's size, the input's where it is None."""
    x, unbatched = require_batch(name, input, rank)
    given = output_size if isinstance(output_size, list | tuple) else (output_size,) * rank
    filled = [length if size is None else size for size, length in zip(given, x.shape[2:], strict=False)]
    sizes = as_sizes("output_size", filled if len(given) == rank else output_size, rank)
    if min(x.shape[1:]) == 0:
        raise RuntimeError(f"Expected input to have non-zero size for non-batch dimensions, but got {list(x.shape)}")
    if min(sizes) < 0:
        raise RuntimeError(f"elements of output_size must be greater than or equal to 0, but got {output_size!r}")
    return x, unbatched, sizes
