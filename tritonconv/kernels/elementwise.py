"""Activations, element by element, and their gradients: y = f(x), dx = f'(saved) · dy, by epilogue.py's table.

Over tensors of any rank and any strides: axes that lie one behind the other in memory are merged, which leaves one axis
for a dense tensor.
"""

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.jit import Kernel, jit
from tritonconv.kernels.arguments import accumulator, offsets
from tritonconv.kernels.epilogue import Activation

MAX_AXES = 4


@jit
def _offsets(offs, size, stride):
    i3 = offs % size[3]
    rest = offs // size[3]
    i2 = rest % size[2]
    rest = rest // size[2]
    return rest // size[1] * stride[0] + rest % size[1] * stride[1] + i2 * stride[2] + i3 * stride[3]


@jit
def _apply(x_ptrs, dy_ptrs, out_ptrs, valid, FUNCTION: tl.constexpr, ARGUMENT: tl.constexpr, ACC: tl.constexpr):
    x = tl.load(x_ptrs, mask=valid, other=0.0).to(ACC)
    if dy_ptrs is not None:
        dy = tl.load(dy_ptrs, mask=valid, other=0.0).to(ACC)
        out = FUNCTION(dy, x, ARGUMENT)
    else:
        out = FUNCTION(x, ARGUMENT)
    tl.store(out_ptrs, out, mask=valid)


@jit
def elementwise_kernel(
    x_ptr,  # any strides
    x_stride,
    dy_ptr,  # any strides, or None in forward
    dy_stride,
    out_ptr,  # any strides
    out_stride,
    elements,
    size,  # of MAX_AXES axes, as are the strides
    FUNCTION: tl.constexpr,  # of x, or of dy and x
    ARGUMENT: tl.constexpr,  # and of this
    DENSE: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """One program: BLOCK_M elements of f(x), or of the gradient where x is what it reads. Grid: (blocks,).

    A whole block has a mask of its own: loads are wide without a word on how many elements there are.
    """
    first = tl.program_id(0).to(OFFSET) * BLOCK_M
    offs = first + tl.arange(0, BLOCK_M)
    x_ptrs, out_ptrs = x_ptr + offs, out_ptr + offs
    dy_ptrs = dy_ptr
    if dy_ptr is not None:
        dy_ptrs = dy_ptr + offs
    if not DENSE:
        x_ptrs = x_ptr + _offsets(offs, size, x_stride)
        out_ptrs = out_ptr + _offsets(offs, size, out_stride)
        if dy_ptr is not None:
            dy_ptrs = dy_ptr + _offsets(offs, size, dy_stride)
    if first + BLOCK_M <= elements:
        _apply(x_ptrs, dy_ptrs, out_ptrs, tl.full((BLOCK_M,), True, tl.int1), FUNCTION, ARGUMENT, ACC)
    else:
        _apply(x_ptrs, dy_ptrs, out_ptrs, offs < elements, FUNCTION, ARGUMENT, ACC)


def activate(x: torch.Tensor, y: torch.Tensor, activation: Activation) -> None:
    """Fill y with the activation of x."""
    _launch(activation.function, activation.argument, x, None, y)


def activate_backward(dy: torch.Tensor, saved: torch.Tensor, dx: torch.Tensor, activation: Activation) -> None:
    """Fill dx; `saved` is the activation's input or its output, as the table says."""
    _launch(activation.gradient, activation.argument, saved, dy, dx)


def _launch(function: Kernel, argument: float, x: torch.Tensor, dy: torch.Tensor | None, out: torch.Tensor) -> None:
    if out.numel() == 0:
        return
    tensors = [x, out, out if dy is None else dy]
    sizes, merged = _merge_axes(tensors)
    if len(sizes) > MAX_AXES:  # more axes than the kernel walks: one launch for each index of the first
        for i in range(x.shape[0]):
            _launch(function, argument, x[i], None if dy is None else dy[i], out[i])
        return
    is_dense = len(sizes) == 1 and all(strides == [1] for strides in merged)
    tile = tuning.pick("elementwise", x, elements=out.numel())
    x_stride, out_stride, dy_stride = (_pad(strides, 0) for strides in merged)
    # one program: BLOCK_M elements
    elementwise_kernel[(triton.cdiv(out.numel(), tile["BLOCK_M"]),)](
        x_ptr=x,
        x_stride=x_stride,
        dy_ptr=dy,
        dy_stride=dy_stride,
        out_ptr=out,
        out_stride=out_stride,
        elements=out.numel(),
        size=_pad([] if is_dense else sizes, 1),
        FUNCTION=function,
        ARGUMENT=argument,
        DENSE=is_dense,
        OFFSET=offsets(*tensors),
        ACC=accumulator(x),
        **tile,
    )


def _pad(values: list[int], fill: int) -> tuple[int, ...]:
    return (fill,) * (MAX_AXES - len(values)) + tuple(values)


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
