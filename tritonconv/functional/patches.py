"""Patches of an image as columns, and back."""

import torch

from tritonconv.checks import Sizes, as_sizes, require_batch
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
    """
    x, unbatched = require_batch("unfold", input, 2)
    columns = operators.unfold(x, *_patch(kernel_size, stride, padding, dilation)).flatten(2)
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
    """
    columns, unbatched = require_batch("fold", input, 1)
    kernel, *sliding = _patch(kernel_size, stride, padding, dilation)
    size = as_sizes("output_size", output_size, 2)
    problem = fold_problem(columns.shape, size, kernel, *sliding)
    y = operators.fold(columns.unflatten(2, problem.output_size), size, kernel, *sliding)
    return y.squeeze(0) if unbatched else y


def _patch(
    kernel_size: IntOrInts, stride: IntOrInts, padding: IntOrInts, dilation: IntOrInts
) -> tuple[Sizes, Sizes, Sizes, Sizes]:
    """Kernel, stride, flat padding and dilation as unfold and fold take them."""
    kernel, steps, pads, spread = window(2, kernel_size, stride, padding, dilation)
    return kernel, steps, (pads[0], pads[0], pads[1], pads[1]), spread
