"""Resampling: each output pixel a weighted sum of input pixels whose places and weights vary by position.

y[n, c, p, q] = Σ_{i, j} rows.weight[p, i] · columns.weight[q, j] · x[n, c, rows.index[p, i], columns.index[q, j]]

Interpolation, area averages and adaptive average pooling are this, each with its tables, one an axis (tables.py). So is
the gradient: the same sum with the tables turned round, each input pixel with the outputs that it went to. An axis at a
time where that takes fewer terms. Any strides; sums in fp32 (fp64 for fp64). The tile is pixels × channels.
Source: torch.nn.functional.interpolate and adaptive_avg_pool2d.
"""

import math

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.jit import jit
from tritonconv.kernels import grid
from tritonconv.kernels.arguments import numerics
from tritonconv.kernels.tables import Table, joined
from tritonconv.problems import memory_format

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
    pid_m, _, pid_n = grid.unravel_program(tl.program_id(0), 1, tl.cdiv(C, BLOCK_N), OFFSET)
    c = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, position = grid.unravel(pid_m * BLOCK_M + tl.arange(0, BLOCK_M), out_size)
    valid_m = n < N
    valid_c = c < C
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for number in range(ALL):
        source, weight, valid = grid.source(index_ptr, weight_ptr, position, number, out_size, valid_m, TERMS, OFFSET)
        x = tl.load(grid.tile(x_ptr, x_stride, n, source, c), mask=valid[:, None] & valid_c[None, :], other=0.0)
        acc += x.to(ACC) * weight.to(ACC)[:, None]
    tl.store(grid.tile(y_ptr, y_stride, n, position, c), acc, mask=valid_m[:, None] & valid_c[None, :])


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
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        layout = memory_format(y.dim() > 3 and y.stride(1) == 1, y.dim())
        between = torch.empty((*x.shape[:2], *size), dtype=wide, device=x.device, memory_format=layout)
        _launch(x, between, tuple(axis if i == first else Table.identity(axis.size) for i, axis in enumerate(axes)))
        resample(between, y, tuple(Table.identity(axis.length) if i == first else axis for i, axis in enumerate(axes)))
    else:
        _launch(x, y, axes)


def _launch(x: torch.Tensor, y: torch.Tensor, axes: tuple[Table, ...]) -> None:
    axes = (Table.identity(1),) * (3 - len(axes)) + axes
    index, weight = joined(axes, y.device, torch.float64 if x.dtype == torch.float64 else torch.float32)
    pixels = y.shape[0] * math.prod(y.shape[2:])
    tile = tuning.pick("resample", y, None, pixels=pixels, channels=y.shape[1])
    resample_kernel[(triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(y.shape[1], tile["BLOCK_N"]),)](
        x_ptr=x,
        x_stride=grid.strides(x),
        index_ptr=index,
        weight_ptr=weight,
        y_ptr=y,
        y_stride=grid.strides(y),
        N=y.shape[0],
        C=y.shape[1],
        out_size=grid.three(y.shape[2:]),
        TERMS=tuple(axis.terms for axis in axes),
        ALL=math.prod(max(axis.terms, 1) for axis in axes),
        **numerics(x, x, index, weight, y),
        **tile,
    )
