"""Resampling: each output pixel a weighted sum of input pixels whose places and weights vary by position.

y[n, c, p, q] = Σ_{i, j} rows.weight[p, i] · columns.weight[q, j] · x[n, c, rows.index[p, i], columns.index[q, j]]

Interpolation, area averages and adaptive average pooling are this, each with its tables, one an axis (tables.py). So is
the gradient: the same sum with the tables turned round, each input pixel with the outputs that it went to. An axis at a
time where that takes fewer terms. Any strides; sums in fp32 (fp64 for fp64). The tile is pixels × channels.
An adaptive maximum looks at the same places and keeps the largest and where it was; its gradient gathers. Max unpooling
gathers too, once every pixel has claimed its place: of several the last has it, so that two runs give the same.
Source: torch.nn.functional.interpolate, adaptive_avg_pool2d, adaptive_max_pool2d and max_unpool2d.
"""

import math
from typing import Any

import torch
import triton.language as tl

from tritonconv.jit import jit
from tritonconv.kernels import grid
from tritonconv.kernels.arguments import accumulator, operands, output, tiled, wide
from tritonconv.kernels.epilogue import is_better
from tritonconv.kernels.tables import Table, joined
from tritonconv.layouts import memory_format

# Terms of one pixel, over all axes, from which on an axis at a time is cheaper than all at once.
SEPARATE_FROM = 32


@jit
def resample_kernel(
    x_ptr,  # (N, C, D, H, W), any strides
    x_stride,
    index_ptr,  # of each axis (length, terms), one after the other; −1 where a pixel has fewer terms
    weight_ptr,
    y_ptr,  # (N, C, Z, P, Q)
    y_stride,
    N,
    C,
    out_size,
    TERMS: tl.constexpr,  # of each axis, 0 where it stays as it is
    ALL: tl.constexpr,  # terms of a pixel
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M output pixels × BLOCK_N channels. Grid: (pixel blocks · channel blocks,)."""
    offs_m, n, position, c, valid_m, valid_c = grid.tile_of_program(out_size, N, C, BLOCK_M, BLOCK_N, OFFSET)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for number in range(ALL):
        source, weight, valid = grid.source(index_ptr, weight_ptr, position, number, out_size, valid_m, TERMS, OFFSET)
        x = tl.load(grid.tile(x_ptr, x_stride, n, source, c), mask=valid[:, None] & valid_c[None, :], other=0.0)
        acc += x.to(ACC) * weight.to(ACC)[:, None]
    offs_y, valid_y = grid.output(y_stride, offs_m, n, position, c, valid_m, valid_c, N)
    tl.store(y_ptr + offs_y, acc, mask=valid_y)


@jit
def adaptive_max_kernel(
    x_ptr,  # (N, C, D, H, W), any strides
    x_stride,
    index_ptr,  # as above
    y_ptr,  # (N, C, Z, P, Q)
    y_stride,
    place_ptr,  # the strides of y, int64: the number of each maximum in its image
    N,
    C,
    in_size,
    out_size,
    TERMS: tl.constexpr,
    ALL: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M windows × BLOCK_N channels. Grid: (window blocks · channel blocks,)."""
    offs_m, n, position, c, valid_m, valid_c = grid.tile_of_program(out_size, N, C, BLOCK_M, BLOCK_N, OFFSET)
    best = tl.full((BLOCK_M, BLOCK_N), -float("inf"), ACC)
    place = tl.full((BLOCK_M, BLOCK_N), -1, OFFSET)
    for number in range(ALL):
        source, _one, valid = grid.source(index_ptr, None, position, number, out_size, valid_m, TERMS, OFFSET)
        x_ptrs = grid.tile(x_ptr, x_stride, n, source, c)
        value = tl.load(x_ptrs, mask=valid[:, None] & valid_c[None, :], other=-float("inf")).to(ACC)
        take = is_better(value, best) | ((place < 0) & valid[:, None])  # the first stands for a window of −inf
        best = tl.where(take, value, best)
        place = tl.where(take, grid.ravel(source, in_size)[:, None], place)
    offs_y, valid_y = grid.output(y_stride, offs_m, n, position, c, valid_m, valid_c, N)
    tl.store(y_ptr + offs_y, best, mask=valid_y)
    tl.store(place_ptr + offs_y, place.to(tl.int64), mask=valid_y)


@jit
def adaptive_max_backward_kernel(
    dy_ptr,  # (N, C, Z, P, Q), any strides
    dy_stride,
    place_ptr,  # (N, C, Z, P, Q), int64, any strides
    place_stride,
    index_ptr,  # of the tables turned round: the windows that have a pixel
    dx_ptr,  # (N, C, D, H, W)
    dx_stride,
    N,
    C,
    in_size,
    TERMS: tl.constexpr,
    ALL: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M input pixels × BLOCK_N channels. Grid: (pixel blocks · channel blocks,)."""
    offs_m, n, position, c, valid_m, valid_c = grid.tile_of_program(in_size, N, C, BLOCK_M, BLOCK_N, OFFSET)
    own = grid.ravel(position, in_size).to(tl.int64)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for number in range(ALL):
        window, _one, valid = grid.source(index_ptr, None, position, number, in_size, valid_m, TERMS, OFFSET)
        valid_dy = valid[:, None] & valid_c[None, :]
        dy = tl.load(grid.tile(dy_ptr, dy_stride, n, window, c), mask=valid_dy, other=0.0).to(ACC)
        place = tl.load(grid.tile(place_ptr, place_stride, n, window, c), mask=valid_dy, other=-1)
        acc += tl.where(place == own[:, None], dy, 0.0)
    offs_dx, valid_dx = grid.output(dx_stride, offs_m, n, position, c, valid_m, valid_c, N)
    tl.store(dx_ptr + offs_dx, acc, mask=valid_dx)


@jit
def gather_kernel(
    x_ptr,  # (N, C, D, H, W), any strides
    x_stride,
    place_ptr,  # (N, C, Z, P, Q), int32 or int64, any strides; −1 for none
    place_stride,
    y_ptr,  # (N, C, Z, P, Q)
    y_stride,
    N,
    C,
    in_size,
    out_size,
    places,  # in an image of x
    OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program reads x at BLOCK_M × BLOCK_N places, 0 for none. Grid: (pixel blocks · channel blocks,)."""
    offs_m, n, position, c, valid_m, valid_c = grid.tile_of_program(out_size, N, C, BLOCK_M, BLOCK_N, OFFSET)
    valid = valid_m[:, None] & valid_c[None, :]
    place = tl.load(grid.tile(place_ptr, place_stride, n, position, c), mask=valid, other=-1)
    valid_x = (place >= 0) & (place < places)
    _, source = grid.unravel(tl.where(valid_x, place, 0).to(OFFSET), in_size)
    x_ptrs = x_ptr + ((n * x_stride[0])[:, None] + (c * x_stride[1])[None, :] + grid.offset(source, x_stride))
    value = tl.load(x_ptrs, mask=valid_x, other=0.0)
    offs_y, valid_y = grid.output(y_stride, offs_m, n, position, c, valid_m, valid_c, N)
    tl.store(y_ptr + offs_y, value, mask=valid_y)


@jit
def claim_kernel(
    index_ptr,  # (N, C, P, Q), int64, any strides: of each pixel, the number of its place in the output
    index_stride,
    place_ptr,  # (N, C, H, W), int32 or int64, −1 at first: of each place, the number of the last pixel there
    place_stride,
    N,
    C,
    in_size,
    out_size,
    places,  # in an image
    OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program claims the places of BLOCK_M pixels × BLOCK_N channels. Grid: (pixel blocks · channel blocks,).

    The maximum of whole numbers is the same in any order.
    """
    _offs_m, n, position, c, valid_m, valid_c = grid.tile_of_program(in_size, N, C, BLOCK_M, BLOCK_N, OFFSET)
    valid = valid_m[:, None] & valid_c[None, :]
    index = tl.load(grid.tile(index_ptr, index_stride, n, position, c), mask=valid, other=-1)
    valid = valid & (index >= 0) & (index < places)
    _, place = grid.unravel(tl.where(valid, index, 0).to(OFFSET), out_size)
    place_ptrs = place_ptr + ((n * place_stride[0])[:, None] + (c * place_stride[1])[None, :])
    own = tl.broadcast_to(grid.ravel(position, in_size)[:, None], (BLOCK_M, BLOCK_N))
    own = own.to(place_ptr.dtype.element_ty)
    tl.atomic_max(place_ptrs + grid.offset(place, place_stride), own, mask=valid, sem="relaxed")


def resample(x: torch.Tensor, y: torch.Tensor, axes: tuple[Table, ...]) -> None:
    """Fill y, (N, C, P, Q): along each axis by its table."""
    if y.numel() == 0:
        return
    terms = [max(axis.terms, 1) for axis in axes]
    if math.prod(terms) >= SEPARATE_FROM and max(terms) < math.prod(terms):
        first = max(
            range(len(axes)), key=lambda i: axes[i].size / axes[i].length if terms[i] > 1 else 0.0
        )  # it shrinks the most
        size = [axes[i].length if i == first else axes[i].size for i in range(len(axes))]
        layout = memory_format(y.dim() > 3 and y.stride(1) == 1, y.dim())
        between = torch.empty((*x.shape[:2], *size), dtype=wide(x), device=x.device, memory_format=layout)
        _launch(x, between, tuple(axis if i == first else Table.identity(axis.size) for i, axis in enumerate(axes)))
        resample(between, y, tuple(Table.identity(axis.length) if i == first else axis for i, axis in enumerate(axes)))
    else:
        _launch(x, y, axes)


def _launch(x: torch.Tensor, y: torch.Tensor, axes: tuple[Table, ...]) -> None:
    index, weight = joined(_three(axes), y.device, wide(x))
    terms = _terms(axes)
    programs, tile = tiled("resample", y, terms=terms["ALL"])
    resample_kernel[(programs,)](
        **operands(y, index, weight, x=x) | output(y=y),
        index_ptr=index,
        weight_ptr=weight,
        out_size=grid.three(y.shape[2:]),
        **terms,
        ACC=accumulator(x),
        **tile,
    )


def adaptive_max(x: torch.Tensor, y: torch.Tensor, place: torch.Tensor, axes: tuple[Table, ...]) -> None:
    """Fill y and, strided like it, the number of each maximum in its image."""
    if y.numel() > 0:
        index, _ = joined(_three(axes), y.device, torch.float32)
        programs, tile = tiled("adaptive_max", y)
        adaptive_max_kernel[(programs,)](
            **operands(y, index, x=x) | output(y=y),
            index_ptr=index,
            place_ptr=place,
            in_size=grid.three(x.shape[2:]),
            out_size=grid.three(y.shape[2:]),
            **_terms(axes),
            ACC=accumulator(x),
            **tile,
        )


def adaptive_max_backward(dy: torch.Tensor, place: torch.Tensor, dx: torch.Tensor, axes: tuple[Table, ...]) -> None:
    """Fill dx: of each pixel, the dy of the windows whose maximum it was. The tables are turned round."""
    if dx.numel() > 0:
        index, _ = joined(_three(axes), dx.device, torch.float32)
        programs, tile = tiled("adaptive_max_backward", dx)
        adaptive_max_backward_kernel[(programs,)](
            **operands(dx, index, dy=dy, place=place) | output(dx=dx),
            index_ptr=index,
            in_size=grid.three(dx.shape[2:]),
            **_terms(axes),
            ACC=accumulator(dy),
            **tile,
        )


def unpool(x: torch.Tensor, index: torch.Tensor, y: torch.Tensor) -> None:
    """Fill y with each pixel of x at its index, numbered in y's images, and 0 elsewhere."""
    if y.numel() == 0:
        return
    few = math.prod(x.shape[2:]) < 2**31
    place = torch.full_like(y, -1, dtype=torch.int32 if few else torch.int64)
    if x.numel() > 0:
        programs, tile = tiled("claim", index)
        claim_kernel[(programs,)](
            **operands(index=index, place=place),
            in_size=grid.three(x.shape[2:]),
            out_size=grid.three(y.shape[2:]),
            places=math.prod(y.shape[2:]),
            **tile,
        )
    gather(x, place, y)


def gather(x: torch.Tensor, place: torch.Tensor, y: torch.Tensor) -> None:
    """Fill y with x at the places, numbered in each image."""
    if y.numel() > 0:
        programs, tile = tiled("gather", y)
        gather_kernel[(programs,)](
            **operands(y, x=x, place=place) | output(y=y),
            in_size=grid.three(x.shape[2:]),
            out_size=grid.three(y.shape[2:]),
            places=math.prod(x.shape[2:]),
            **tile,
        )


def _three(axes: tuple[Table, ...]) -> tuple[Table, ...]:
    return grid.three(axes, Table.identity(1))


def _terms(axes: tuple[Table, ...]) -> dict[str, Any]:
    terms = tuple(axis.terms for axis in _three(axes))
    return {"TERMS": terms, "ALL": math.prod(max(t, 1) for t in terms)}
