"""Split-K: partial sums of a gradient, one slice a split, added in a fixed order; bitwise the same run to run."""

import math

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.jit import jit
from tritonconv.kernels import grid
from tritonconv.kernels.arguments import offsets, wide


@jit
def sum_splits_kernel(
    partial_ptr,  # (SPLITS · numel,)
    out_ptr,  # (numel,)
    numel,
    SPLITS: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """One program: BLOCK_M elements, added split by split. Grid: (blocks of elements,)."""
    offs = tl.program_id(0).to(OFFSET) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = offs < numel
    acc = tl.load(partial_ptr + offs, mask=valid, other=0.0)
    for split in range(1, SPLITS):
        acc += tl.load(partial_ptr + (offs + split * numel), mask=valid, other=0.0)
    tl.store(out_ptr + offs, acc, mask=valid)


@jit
def sum_pixels(
    dy_ptr, dy_stride, k, valid_k, first, steps, N, size, ACC: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr
):
    """dy of channels k, (BLOCK,), added up over `steps` blocks of PIXELS pixels from block `first`: a bias gradient."""
    total = tl.zeros((BLOCK,), ACC)
    for step in range(steps):
        n, pixel = grid.unravel((first + step) * PIXELS + tl.arange(0, PIXELS), size)
        dy_ptrs = grid.tile(dy_ptr, dy_stride, n, pixel, k)
        total += tl.sum(tl.load(dy_ptrs, mask=(n < N)[:, None] & valid_k[None, :], other=0.0).to(ACC), 0)
    return total


def partial_sums(splits: int, out: torch.Tensor | None) -> torch.Tensor | None:
    """(splits · rows, ...) to be added up into `out`, (rows, ...): of the accumulator's dtype; for one split `out`."""
    if out is None or splits == 1:
        return out
    rows, *size = out.shape
    strides = (math.prod(size), *out.stride()[1:])
    return torch.empty_strided((splits * rows, *size), strides, dtype=wide(out), device=out.device)


def sum_splits(partial: torch.Tensor | None, out: torch.Tensor | None) -> None:
    """Fill `out` with the sum of the splits; there is nothing to do for one."""
    if partial is None or out is None or partial is out or out.numel() == 0:
        return
    tile = tuning.pick("sum_splits", partial, elements=out.numel())
    sum_splits_kernel[(triton.cdiv(out.numel(), tile["BLOCK_M"]),)](
        partial_ptr=partial,
        out_ptr=out,
        numel=out.numel(),
        SPLITS=partial.numel() // out.numel(),
        OFFSET=offsets(partial),
        **tile,
    )
