"""Split-K: partial sums of the gradients of filters and bias, added in a fixed order; bitwise the same run to run."""

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.jit import jit
from tritonconv.kernels import grid
from tritonconv.kernels.arguments import offsets, wide


@jit
def sum_splits_kernel(
    partial_ptr,  # (splits, numel)
    dw_ptr,  # (C_out, channels, taps), or in channels_last: of the first `filters` of a split's elements
    db_ptr,  # of the others, or None
    numel,
    filters,
    channels,
    splits,
    TAPS: tl.constexpr,  # or 1 where dw lies as a split does
    OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program: BLOCK_M elements, BLOCK_K splits at a time, in a fixed order. Grid: (blocks of elements,)."""
    offs = tl.program_id(0).to(OFFSET) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = offs < numel
    acc = tl.zeros((BLOCK_M,), partial_ptr.dtype.element_ty)
    for first in range(0, splits, BLOCK_K):
        split = first + tl.arange(0, BLOCK_K)
        ptrs = partial_ptr + ((split.to(OFFSET) * numel)[:, None] + offs[None, :])
        acc += tl.sum(tl.load(ptrs, mask=(split < splits)[:, None] & valid[None, :], other=0.0), 0)
    offs_dw = offs
    if TAPS > 1:
        rest = offs // channels
        offs_dw = (rest // TAPS * channels + offs % channels) * TAPS + rest % TAPS
    tl.store(dw_ptr + offs_dw, acc, mask=offs < filters)
    if db_ptr is not None:
        tl.store(db_ptr + (offs - filters), acc, mask=valid & (offs >= filters))


@jit
def sum_pixels(
    dy_ptr, dy_stride, k, valid_k, first, steps, N, size, ACC: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr
):
    """dy of channels k, (BLOCK,), added up over `steps` blocks of PIXELS pixels from block `first`: a bias gradient."""
    total = tl.zeros((PIXELS, BLOCK), ACC)
    n, pixel, by = grid.block_of_pixels(first * PIXELS, size, PIXELS)
    for _step in range(steps):
        dy_ptrs = grid.tile(dy_ptr, dy_stride, n, pixel, k)
        total += tl.load(dy_ptrs, mask=(n < N)[:, None] & valid_k[None, :], other=0.0).to(ACC)
        n, pixel = grid.advance(n, pixel, by, size)
    return tl.sum(total, 0)


class Partial(NamedTuple):
    """Where a wgrad kernel writes its sums, and how many elements on from a split's the next one's are."""

    dw: torch.Tensor
    dw_stride: Any
    db: torch.Tensor | None
    split_stride: int
    whole: torch.Tensor | None = None  # (splits, elements of dw and of db), where there are several

    def arguments(self) -> dict[str, Any]:
        """As the kernels have them."""
        return {
            "dw_ptr": self.dw,
            "dw_stride": self.dw_stride,
            "db_ptr": self.db,
            "split_stride": self.split_stride,
        }


def partial_sums(splits: int, dw: torch.Tensor, db: torch.Tensor | None, is_split: bool = True) -> Partial:
    """Scratch of the accumulator's dtype: each split's dw, then its db. Without splits the gradients themselves.

    There dw is channels_last whatever it is itself: a product's columns are channels, and lie side by side only there.
    What a larger batch splits goes there as an only split too: so it is the same kernel.
    """
    if not is_split:
        return Partial(dw, grid.strides(dw), db, 0)
    filters, (C_out, C_in, *size) = dw.numel(), dw.shape
    whole = torch.empty((splits, filters + (0 if db is None else db.numel())), dtype=wide(dw), device=dw.device)
    first = whole[0, :filters].view(C_out, *size, C_in).movedim(-1, 1)
    of_bias = None if db is None else whole[:, filters:]
    return Partial(whole[:, :filters], grid.strides(first), of_bias, whole.shape[1], whole)


def sum_splits(partial: Partial, dw: torch.Tensor, db: torch.Tensor | None) -> None:
    """Fill dw, and db where it is given, with the sum of the splits."""
    scratch = partial.whole
    if scratch is None or scratch.numel() == 0:
        return
    splits, numel = scratch.shape
    tile = tuning.pick("sum_splits", scratch, elements=numel)
    sum_splits_kernel[(triton.cdiv(numel, tile["BLOCK_M"]),)](
        partial_ptr=scratch,
        dw_ptr=dw,
        db_ptr=db,
        numel=numel,
        filters=dw.numel(),
        channels=dw.shape[1],
        splits=splits,
        TAPS=1 if 1 in (dw.stride(1), dw.shape[1]) else math.prod(dw.shape[2:]),
        OFFSET=offsets(scratch),
        **tile,
    )
