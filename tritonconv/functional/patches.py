"""Patches of an image as columns, and back."""

import math

import torch

from tritonconv.checks import Sizes, as_count, as_sizes, require_batch, require_tensor
from tritonconv.functional.arguments import IntOrInts, window
from tritonconv.ops import operators
from tritonconv.problems import fold_problem


def unfold(
    input: torch.Tensor,
    kernel_size: IntOrInts,
    dilation: IntOrInts = 1,
    padding: IntOrInts = 0,
    stride: IntOrInts = 1,
) -> torch.Tensor:
    """The patches that a convolution multiplies, as columns (im2col); zeros where a patch leaves the input.

    Args:
        input: (N, C, H, W) or (C, H, W); float16, bfloat16, float32 or float64; any strides; CPU or GPU.
        kernel_size, dilation, padding, stride: in elements, one for both axes or (vertical, horizontal).

    Returns:
        (N, C · R · S, L) or (C · R · S, L), L the number of positions of the patch, in the input's dtype.

    Raises:
        RuntimeError: sizes that do not go together.
        NotImplementedError: a dtype other than the four.

    Source: torch.nn.functional.unfold.

    Example:
        >>> tritonconv.functional.unfold(torch.ones(2, 3, 8, 8), 3, padding=1).shape
        torch.Size([2, 27, 64])
    """
    x, unbatched = require_batch("unfold", input, 2)
    columns = operators.unfold(x, *_patch(kernel_size, stride, padding, dilation), False).flatten(2)
    return columns.squeeze(0) if unbatched else columns


def fold(
    input: torch.Tensor,
    output_size: IntOrInts,
    kernel_size: IntOrInts,
    dilation: IntOrInts = 1,
    padding: IntOrInts = 0,
    stride: IntOrInts = 1,
) -> torch.Tensor:
    """The adjoint of unfold (col2im): each element of the output is the sum of its copies in the columns.

    Args:
        input: (N, C · R · S, L) or (C · R · S, L); float16, bfloat16, float32 or float64; any strides; CPU or GPU.
        output_size: (H, W), what unfold was given.
        kernel_size, dilation, padding, stride: in elements, as given to unfold.

    Returns:
        (N, C, H, W) or (C, H, W) in the input's dtype. Sums in float32 (float64 for float64).

    Raises:
        RuntimeError: sizes that do not go together.
        NotImplementedError: a dtype other than the four.

    Source: torch.nn.functional.fold.

    Example:
        >>> tritonconv.functional.fold(torch.ones(2, 27, 64), (8, 8), 3, padding=1).shape
        torch.Size([2, 3, 8, 8])
    """
    columns, unbatched = require_batch("fold", input, 1)
    kernel, *sliding = _patch(kernel_size, stride, padding, dilation)
    size = as_sizes("output_size", output_size, 2)
    problem = fold_problem(columns.shape, size, kernel, *sliding)
    y = operators.fold(columns.unflatten(2, problem.output_size), size, kernel, *sliding, False)
    return y.squeeze(0) if unbatched else y


def pixel_shuffle(input: torch.Tensor, upscale_factor: int) -> torch.Tensor:
    """y[…, c, h·r + i, w·r + j] = input[…, c·r² + i·r + j, h, w], r = upscale_factor: channels become pixels.

    Args:
        input: (*, C · r², H, W); float16, bfloat16, float32 or float64; any strides; CPU or GPU.
        upscale_factor: r, positive.

    Returns:
        (*, C, H · r, W · r) in the input's dtype and memory format.

    Raises:
        RuntimeError: sizes that do not go together.
        NotImplementedError: a dtype other than the four.
        TypeError: an argument of the wrong type.

    Source: torch.nn.functional.pixel_shuffle; Shi et al. (2016).

    Example:
        >>> tritonconv.functional.pixel_shuffle(torch.ones(1, 8, 4, 4), 2).shape
        torch.Size([1, 2, 8, 8])
    """
    r, *batch, C, H, W = _shuffle("pixel_shuffle", input, "upscale_factor", upscale_factor)
    if C % r**2:
        raise RuntimeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, "
            f"but input.size(-3)={C} is not divisible by {r**2}"
        )
    shape = (*batch, C // r**2, H * r, W * r)
    if input.numel() == 0:
        return input.reshape(shape)
    y = operators.fold(input if len(batch) == 1 else input.reshape(math.prod(batch), C, H, W), shape[-2:], *_blocks(r))
    return y if len(batch) == 1 else y.reshape(shape)


def pixel_unshuffle(input: torch.Tensor, downscale_factor: int) -> torch.Tensor:
    """The inverse of pixel_shuffle: pixels become channels.

    Args:
        input: (*, C, H · r, W · r), as in pixel_shuffle.
        downscale_factor: r, positive.

    Returns:
        (*, C · r², H, W) in the input's dtype and memory format.

    Errors are pixel_shuffle's.

    Source: torch.nn.functional.pixel_unshuffle.

    Example:
        >>> tritonconv.functional.pixel_unshuffle(torch.ones(1, 2, 8, 8), 2).shape
        torch.Size([1, 8, 4, 4])
    """
    r, *batch, C, H, W = _shuffle("pixel_unshuffle", input, "downscale_factor", downscale_factor)
    for name, axis, size in (("height", -2, H), ("width", -1, W)):
        if size % r:
            raise RuntimeError(
                f"pixel_unshuffle expects {name} to be divisible by downscale_factor, but input.size({axis})={size} "
                f"is not divisible by {r}"
            )
    shape = (*batch, C * r**2, H // r, W // r)
    if input.numel() == 0:
        return input.reshape(shape)
    y = operators.unfold(input if len(batch) == 1 else input.reshape(math.prod(batch), C, H, W), *_blocks(r))
    return y if len(batch) == 1 else y.reshape(shape)


def _shuffle(operator: str, input: torch.Tensor, name: str, factor: int) -> Sizes:
    """The factor, and the input's sizes."""
    require_tensor(operator, "input", input)
    factor = as_count(operator, name, factor)
    if input.dim() < 3:
        raise RuntimeError(
            f"{operator} expects input to have at least 3 dimensions, but got input with {input.dim()} dimension(s)"
        )
    if factor <= 0:
        raise RuntimeError(f"{operator} expects a positive {name}, but got {factor}")
    return factor, *input.shape


def _blocks(r: int) -> tuple[Sizes, Sizes, Sizes, Sizes, bool]:
    """Patches that lie side by side; the memory format is the input's."""
    return (r, r), (r, r), (0, 0, 0, 0), (1, 1), True


def _patch(
    kernel_size: IntOrInts, stride: IntOrInts, padding: IntOrInts, dilation: IntOrInts
) -> tuple[Sizes, Sizes, Sizes, Sizes]:
    """Kernel, stride, flat padding and dilation as unfold and fold take them."""
    kernel, steps, pads, spread = window(2, kernel_size, stride, padding, dilation)
    return kernel, steps, (pads[0], pads[0], pads[1], pads[1]), spread
