"""ReLU: y = max(x, 0), NaN stays NaN; backward passes dy where y > 0 or y is NaN. Source: torch.nn.functional.relu.

Elementwise over tensors of any rank and any strides: axes that lie one behind the other in memory are merged, which
leaves one axis for a dense tensor.
"""

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.jit import jit
from tritonconv.kernels.arguments import numerics
from tritonconv.kernels.epilogue import relu_tile

MAX_AXES = 4


@jit
def _offsets(offs, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3):
    i3 = offs % size_3
    rest = offs // size_3
    i2 = rest % size_2
    rest = rest // size_2
    return rest // size_1 * stride_0 + rest % size_1 * stride_1 + i2 * stride_2 + i3 * stride_3


@jit
def relu_kernel(
    x_ptr,  # any strides
    dy_ptr,  # any strides, or None in forward
    out_ptr,  # any strides
    numel,
    size_0,
    size_1,
    size_2,
    size_3,
    x_stride_0,
    x_stride_1,
    x_stride_2,
    x_stride_3,
    dy_stride_0,
    dy_stride_1,
    dy_stride_2,
    dy_stride_3,
    out_stride_0,
    out_stride_1,
    out_stride_2,
    out_stride_3,
    DENSE: tl.constexpr,
    BACKWARD: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """One program: BLOCK_M elements of max(x, 0), or of dy where x (the output of ReLU) lives. Grid: (blocks,)."""
    offs = tl.program_id(0).to(OFFSET) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = offs < numel
    offs_x, offs_dy, offs_out = offs, offs, offs
    if not DENSE:
        offs_x = _offsets(offs, size_1, size_2, size_3, x_stride_0, x_stride_1, x_stride_2, x_stride_3)
        offs_out = _offsets(offs, size_1, size_2, size_3, out_stride_0, out_stride_1, out_stride_2, out_stride_3)
    x = tl.load(x_ptr + offs_x, mask=valid, other=0.0).to(ACC)
    if BACKWARD:
        if not DENSE:
            offs_dy = _offsets(offs, size_1, size_2, size_3, dy_stride_0, dy_stride_1, dy_stride_2, dy_stride_3)
        dy = tl.load(dy_ptr + offs_dy, mask=valid, other=0.0).to(ACC)
        out = tl.where(x <= 0, 0.0, dy)
    else:
        out = relu_tile(x)
    tl.store(out_ptr + offs_out, out.to(out_ptr.dtype.element_ty), mask=valid)


def relu(x: torch.Tensor, y: torch.Tensor) -> None:
    """Fill y with max(x, 0)."""
    _launch(x, None, y)


def relu_backward(dy: torch.Tensor, y: torch.Tensor, dx: torch.Tensor) -> None:
    """Fill dx with dy where y, the output of ReLU, is above zero or NaN."""
    _launch(y, dy, dx)


def _launch(x: torch.Tensor, dy: torch.Tensor | None, out: torch.Tensor) -> None:
    if out.numel() == 0:
        return
    tensors = [x, out, out if dy is None else dy]
    sizes, merged = _merge_axes(tensors)
    if len(sizes) > MAX_AXES:  # more axes than the kernel walks: one launch for each index of the first
        for i in range(x.shape[0]):
            _launch(x[i], None if dy is None else dy[i], out[i])
        return
    tile = tuning.pick("relu", x, elements=out.numel())
    named = zip(("x", "out", "dy"), merged, strict=True)
    # one program: BLOCK_M elements
    relu_kernel[(triton.cdiv(out.numel(), tile["BLOCK_M"]),)](
        x_ptr=x,
        dy_ptr=dy,
        out_ptr=out,
        numel=out.numel(),
        **{f"size_{axis}": size for axis, size in enumerate(_pad(sizes, 1))},
        **{f"{name}_stride_{axis}": s for name, strides in named for axis, s in enumerate(_pad(strides, 0))},
        DENSE=len(sizes) == 1 and all(strides == [1] for strides in merged),
        BACKWARD=dy is not None,
        **numerics(x, *tensors),
        **tile,
    )


def _pad(values: list[int], fill: int) -> list[int]:
    return [fill] * (MAX_AXES - len(values)) + values


def _merge_axes(tensors: list[torch.Tensor]) -> tuple[list[int], list[list[int]]]:
    """Sizes and each tensor's strides with axes ordered by the first tensor's strides and merged where all allow it."""
    first = tensors[0]
    axes = sorted(range(first.dim()), key=first.stride, reverse=True)
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in tensors]
    for axis in axes:
        size = first.shape[axis]
        if size == 1:
            continue
        steps = [t.stride(axis) for t in tensors]
        if sizes and all(s[-1] == step * size for s, step in zip(strides, steps, strict=True)):
            sizes[-1] *= size
            for s, step in zip(strides, steps, strict=True):
                s[-1] = step
        else:
            sizes.append(size)
            for s, step in zip(strides, steps, strict=True):
                s.append(step)
    if not sizes:
        return [1], [[1] for _ in tensors]
    return sizes, strides
