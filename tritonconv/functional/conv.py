"""Convolutions, and what follows one in its kernel. Shapes are along two axes: one has W, three have D before H."""

from typing import Any

import torch

from tritonconv.checks import (
    Algorithm,
    PaddingMode,
    as_count,
    as_padding,
    as_sizes,
    require_batch,
    require_filter,
    require_flags,
    require_tensor,
)
from tritonconv.functional.arguments import IntOrInts, each_rank, window
from tritonconv.ops import operators, shortcut
from tritonconv.problems import transposed_size


def conv(
    rank: int,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: IntOrInts = 1,
    padding: str | IntOrInts = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    *,
    scale: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    activation: str | None = None,
    padding_mode: PaddingMode = "zeros",
    algorithm: Algorithm = "auto",
) -> torch.Tensor:
    """y[n, k, p, q] = bias[k] + Σ_{c, r, s} input[n, c, p·stride − padding + r·dilation, …] · weight[k, c, r, s].

    In the same kernel, if asked for: activation(Σ · scale[k] + bias[k] + residual[n, k, p, q]).

    Args:
        input: (N, C_in, H, W) or (C_in, H, W); float16, bfloat16, float32 or float64; any strides; CPU or GPU.
        weight: (C_out, C_in / groups, R, S), any strides.
        bias: (C_out,) or None.
        stride, dilation: steps in elements, one for all axes or one an axis.
        padding: zeros added on each side, in elements; or 'valid' for none, or 'same' for an output of the input's
            size (stride 1; of an odd number of zeros the odd one comes after).
        groups: C_in and C_out are split into that many groups; group i of the output sees group i of the input.
        scale: (C_out,) or None: a batch norm in evaluation, with its shift as the bias. In the input's dtype; or, where
            that has 16 bits, both in float32.
        residual: of the output's shape and in the input's dtype, any strides, or None.
        activation: "relu", "relu6", "leaky_relu", "leaky_relu(0.2)", "sigmoid", "tanh", "hardswish", "silu", "gelu",
            "gelu_tanh" or None. The gradient of the last four computes the convolution again, for it reads their input.
        padding_mode: what padding holds: 'zeros'; or the image again, 'reflect'ed without its edge (less padding than
            pixels), its edge 'replicate'd, or the opposite side, 'circular' (no more padding than pixels).
        algorithm: "direct" loops over taps; "im2col" writes the patches out and multiplies; "implicit_gemm" forms
            them on the fly; "auto" picks one of direct and implicit_gemm.

    Returns:
        (N, C_out, P, Q) or (C_out, P, Q) in the input's dtype; channels_last if input or weight is, with circular
        padding if weight is.

    Numerics: sums in float32 (float64 for float64). float32 products follow torch.backends.cudnn.conv.fp32_precision on
    a GPU: TF32 where it is allowed, else three TF32 products in place of one; "direct" always multiplies in float32.
    Under autocast it runs in the region's dtype. Differentiable to any order; bitwise the same from run to run.

    Raises:
        RuntimeError: sizes, devices or dtypes that do not go together.
        NotImplementedError: a dtype other than the four.
        TypeError: an argument of the wrong type.
        ValueError: an unknown algorithm, padding mode or activation.

    Source: torch.nn.functional.conv1d, conv2d and conv3d; the padding modes are torch.nn.functional.pad's.

    Example:
        >>> x, w = torch.ones(2, 3, 8, 8), torch.ones(4, 3, 5, 5)
        >>> tritonconv.functional.conv2d(x, w, padding=2, activation="relu").shape
        torch.Size([2, 4, 8, 8])
    """
    sliding = (stride, padding, dilation, groups, padding_mode)
    return convolve(f"conv{rank}d", rank, input, weight, bias, *sliding, algorithm, activation, None, scale, residual)


@shortcut
def conv2d_bias_relu(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: IntOrInts = 1,
    padding: str | IntOrInts = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    algorithm: Algorithm = "auto",
) -> torch.Tensor:
    """relu(conv2d(input, weight, bias, …)) in one kernel: nothing is stored between.

    Arguments, result, numerics and errors are conv2d's. Backward reads whether ReLU was dead from the output itself.

    Source: torch.nn.functional.conv2d and relu.

    Example:
        >>> x, w = torch.ones(2, 3, 8, 8), torch.ones(4, 3, 5, 5)
        >>> tritonconv.functional.conv2d_bias_relu(x, w).shape
        torch.Size([2, 4, 4, 4])
    """
    sliding = (stride, padding, dilation, groups, padding_mode)
    return convolve("conv2d_bias_relu", 2, input, weight, bias, *sliding, algorithm, activation="relu")


@shortcut
def conv2d_bias_relu_max_pool2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: IntOrInts = 1,
    padding: str | IntOrInts = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    *,
    padding_mode: PaddingMode = "zeros",
    pool_kernel_size: IntOrInts,
    pool_stride: IntOrInts | None = None,
    pool_padding: IntOrInts = 0,
    pool_dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    algorithm: Algorithm = "auto",
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

    Example:
        >>> x, w = torch.ones(2, 3, 8, 8), torch.ones(4, 3, 5, 5)
        >>> tritonconv.functional.conv2d_bias_relu_max_pool2d(x, w, pool_kernel_size=2).shape
        torch.Size([2, 4, 2, 2])
    """
    sliding = (stride, padding, dilation, groups, padding_mode)
    pool = window(2, pool_kernel_size, pool_stride, pool_padding, pool_dilation)
    require_flags("conv2d_bias_relu_max_pool2d", ceil_mode=ceil_mode)
    fused = (*sliding, algorithm, "relu", (*pool, ceil_mode))
    return convolve("conv2d_bias_relu_max_pool2d", 2, input, weight, bias, *fused)


def conv_transpose(
    rank: int,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
    *,
    algorithm: Algorithm = "auto",
) -> torch.Tensor:
    """y[n, k, h, w] = bias[k] + Σ input[n, c, p, q] · weight[c, k, r, s] over h = p·stride − padding + r·dilation, …

    The adjoint of conv2d, which shrinks where this grows.

    Args:
        input: (N, C_in, H, W) or (C_in, H, W); float16, bfloat16, float32 or float64; any strides; CPU or GPU.
        weight: (C_in, C_out / groups, R, S), any strides.
        bias: (C_out,) or None.
        stride, dilation: steps in elements, one for all axes or one an axis.
        padding: elements left out of the output on each side.
        output_padding: elements added to the output behind, less than stride or than dilation.
        groups: C_in and C_out are split into that many groups.
        algorithm: as in conv2d.

    Returns:
        (N, C_out, P, Q) or (C_out, P, Q) in the input's dtype; channels_last if input or weight is.
        P = (H − 1)·stride − 2·padding + dilation·(R − 1) + output_padding + 1.

    Numerics and errors are conv2d's.

    Source: torch.nn.functional.conv_transpose1d, conv_transpose2d and conv_transpose3d.

    Example:
        >>> x, w = torch.ones(2, 3, 8, 8), torch.ones(3, 4, 2, 2)
        >>> tritonconv.functional.conv_transpose2d(x, w, stride=2).shape
        torch.Size([2, 4, 16, 16])
    """
    name = f"conv_transpose{rank}d"
    x, unbatched = require_batch(name, input, rank)
    require_filter(name, weight, rank)
    if bias is not None:
        require_tensor(name, "bias", bias)
    groups = as_count(name, "groups", groups)
    steps, spread = as_sizes("stride", stride, rank), as_sizes("dilation", dilation, rank)
    pads, added = as_sizes("padding", padding, rank), as_sizes("output_padding", output_padding, rank)
    b_shape = None if bias is None else bias.shape
    size = transposed_size(x.shape, weight.shape, b_shape, steps, pads, added, spread, groups)
    flat = [pad for p, a in zip(pads, added, strict=True) for pad in (p, p - a)]
    y = operators.convolution_transpose(x, weight, bias, size, steps, flat, spread, groups, algorithm)
    return y.squeeze(0) if unbatched else y


def convolve(
    name: str,
    rank: int,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: IntOrInts,
    padding: str | IntOrInts,
    dilation: IntOrInts,
    groups: int,
    padding_mode: str,
    algorithm: str,
    activation: str | None = None,
    pool: tuple[Any, ...] | None = None,
    scale: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """A convolution along `rank` axes, its epilogue, and max pooling by `pool`: a window and ceil_mode."""
    x, unbatched = require_batch(name, input, rank)
    require_filter(name, weight, rank)
    for key, t in (("bias", bias), ("scale", scale), ("residual", residual)):
        if t is not None:
            require_tensor(name, key, t)
    groups = as_count(name, "groups", groups)
    steps, spread = as_sizes("stride", stride, rank), as_sizes("dilation", dilation, rank)
    sliding = (steps, as_padding(padding, tuple(weight.shape[2:]), steps, spread), spread, groups, padding_mode)
    if pool is None:
        if residual is not None and unbatched:
            residual = residual.unsqueeze(0)
        y = operators.convolution(x, weight, bias, scale, residual, *sliding, activation, None, algorithm)
    else:
        y, _ = operators.convolution_max_pool(x, weight, bias, scale, *sliding, activation, *pool, algorithm)
    return y.squeeze(0) if unbatched else y


conv1d, conv2d, conv3d = each_rank(conv)
conv_transpose1d, conv_transpose2d, conv_transpose3d = each_rank(conv_transpose)
