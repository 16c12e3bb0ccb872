"""The public functions: torch.nn.functional's signatures, plus `algorithm=` for convolutions."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.fx

from tritonconv.ops import operators
from tritonconv.problems import (
    as_count,
    as_padding,
    as_sizes,
    fold_problem,
    require_batch,
    require_filter,
    require_tensor,
)

IntOrPair = int | Sequence[int]


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: IntOrPair = 1,
    padding: str | IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
) -> torch.Tensor:
    """y[n, k, p, q] = bias[k] + Σ_{c, r, s} input[n, c, p·stride − padding + r·dilation, …] · weight[k, c, r, s].

    Args:
        input: (N, C_in, H, W) or (C_in, H, W); float16, bfloat16, float32 or float64; any strides; CPU or GPU.
        weight: (C_out, C_in / groups, R, S), any strides.
        bias: (C_out,) or None.
        stride, dilation: steps in elements, one for both axes or (vertical, horizontal).
        padding: zeros added on each side, in elements; or 'valid' for none, or 'same' for an output of the input's
            size (stride 1; of an odd number of zeros the odd one comes after).
        groups: C_in and C_out are split into that many groups; group i of the output sees group i of the input.
        algorithm: "direct" loops over taps; "im2col" writes the patches out and multiplies; "implicit_gemm" forms
            them on the fly; "auto" picks one of direct and implicit_gemm.

    Returns:
        (N, C_out, P, Q) or (C_out, P, Q) in the input's dtype; channels_last if input or weight is.

    Numerics: sums in float32 (float64 for float64). float32 products follow torch.backends.cudnn.conv.fp32_precision on
    a GPU: TF32 where it is allowed, else three TF32 products in place of one; "direct" always multiplies in float32.
    Under autocast it runs in the region's dtype. Differentiable twice; bitwise the same from run to run.

    Raises:
        RuntimeError: sizes, devices or dtypes that do not go together.
        NotImplementedError: a dtype other than the four.
        TypeError: an argument of the wrong type.
        ValueError: an unknown algorithm.

    Source: torch.nn.functional.conv2d.
    """
    return _conv2d("conv2d", input, None, algorithm, weight, bias, stride, padding, dilation, groups)


def conv2d_bias_relu(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: IntOrPair = 1,
    padding: str | IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
) -> torch.Tensor:
    """relu(conv2d(input, weight, bias, …)) in one kernel: nothing is stored between.

    Arguments, result, numerics and errors are conv2d's. Backward reads whether ReLU was dead from the output itself.

    Source: torch.nn.functional.conv2d and relu.
    """
    return _conv2d("conv2d_bias_relu", input, "relu", algorithm, weight, bias, stride, padding, dilation, groups)


def conv2d_bias_relu_max_pool2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: IntOrPair = 1,
    padding: str | IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    pool_kernel_size: IntOrPair,
    pool_stride: IntOrPair | None = None,
    pool_padding: IntOrPair = 0,
    pool_dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    algorithm: str = "auto",
) -> torch.Tensor:
    """max_pool2d(relu(conv2d(input, weight, bias, …)), pool_kernel_size, …) in one kernel.

    The unpooled image is never stored. Forward saves one argmax for each pooled output, or "dead"; backward needs no
    more. For a 2×2 pool in float32 that is 1 byte for each pooled output instead of the 24 that torch's unfused chain
    saves: 4 · 4 of ReLU's output and 8 of an int64 index.

    Arguments: conv2d's, and max_pool2d's with the prefix pool_. Windows that overlap compute the convolution again.

    Returns:
        (N, C_out, P', Q') or (C_out, P', Q') in the input's dtype; channels_last if input or weight is.

    Raises:
        What conv2d and max_pool2d raise.

    Source: torch.nn.functional.conv2d, relu and max_pool2d.
    """
    x, unbatched = require_batch("conv2d_bias_relu_max_pool2d", input, 2)
    window = _window(pool_kernel_size, pool_stride, pool_padding, pool_dilation)
    conv = _conv_arguments("conv2d_bias_relu_max_pool2d", weight, bias, stride, padding, dilation, groups)
    y, _ = operators.convolution_max_pool(x, *conv, "relu", *window, ceil_mode, algorithm)
    return y.squeeze(0) if unbatched else y


def max_pool2d(
    input: torch.Tensor,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
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
    x, unbatched = require_batch("max_pool2d", input, 2)
    window = _window(kernel_size, stride, padding, dilation)
    y, _, indices = operators.max_pool(x, *window, ceil_mode, return_indices)
    if unbatched:
        y, indices = y.squeeze(0), indices.squeeze(0) if return_indices else indices
    return (y, indices) if return_indices else y


def relu(input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """max(input, 0), elementwise; NaN stays NaN.

    Args:
        input: any shape and strides; float16, bfloat16, float32 or float64; CPU or GPU.
        inplace: write the result into `input`, and return that.

    Raises:
        NotImplementedError: a dtype other than the four.
        TypeError: input is not a tensor.

    Source: torch.nn.functional.relu.
    """
    require_tensor("relu", "input", input)
    y = operators.activate(input, "relu")
    return input.copy_(y) if inplace else y


def unfold(
    input: torch.Tensor,
    kernel_size: IntOrPair,
    dilation: IntOrPair = 1,
    padding: IntOrPair = 0,
    stride: IntOrPair = 1,
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
    output_size: IntOrPair,
    kernel_size: IntOrPair,
    dilation: IntOrPair = 1,
    padding: IntOrPair = 0,
    stride: IntOrPair = 1,
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


def _conv2d(
    operator: str, input: torch.Tensor, activation: str | None, algorithm: str, *convolution: Any
) -> torch.Tensor:
    x, unbatched = require_batch(operator, input, 2)
    y = operators.convolution(x, *_conv_arguments(operator, *convolution), activation, algorithm)
    return y.squeeze(0) if unbatched else y


def _conv_arguments(
    operator: str,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: IntOrPair,
    padding: str | IntOrPair,
    dilation: IntOrPair,
    groups: int,
) -> tuple[Any, ...]:
    """Weight, bias, stride, flat padding, dilation and groups as the operators take them."""
    require_filter(operator, weight, 2)
    if bias is not None:
        require_tensor(operator, "bias", bias)
    groups = as_count(operator, "groups", groups)
    steps, spread = as_sizes("stride", stride, 2), as_sizes("dilation", dilation, 2)
    return weight, bias, steps, as_padding(padding, tuple(weight.shape[2:]), steps, spread), spread, groups


def _window(
    kernel_size: IntOrPair, stride: IntOrPair | None, padding: IntOrPair, dilation: IntOrPair
) -> tuple[tuple[int, ...], ...]:
    kernel = as_sizes("kernel_size", kernel_size, 2)
    steps = kernel if stride is None or (isinstance(stride, Sequence) and not stride) else as_sizes("stride", stride, 2)
    return kernel, steps, as_sizes("padding", padding, 2), as_sizes("dilation", dilation, 2)


def _patch(
    kernel_size: IntOrPair, stride: IntOrPair, padding: IntOrPair, dilation: IntOrPair
) -> tuple[tuple[int, ...], ...]:
    """Kernel, stride, flat padding and dilation as unfold and fold take them."""
    kernel, steps, pads, spread = _window(kernel_size, stride, padding, dilation)
    return kernel, steps, (pads[0], pads[0], pads[1], pads[1]), spread


for _name in ("conv2d", "conv2d_bias_relu", "conv2d_bias_relu_max_pool2d", "max_pool2d", "relu", "unfold", "fold"):
    torch.fx.wrap(_name)  # a leaf of torch.fx's graphs: a Proxy has no sizes to check
