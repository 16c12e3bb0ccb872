"""Split-K: partial sums of a gradient, one slice a split, added in a fixed order; bitwise the same run to run."""

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.geometry import needs_int64
from tritonconv.jit import jit


@jit
def sum_splits_kernel(
    partial_ptr,  # (SPLITS, numel), contiguous
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
    tl.store(out_ptr + offs, acc.to(out_ptr.dtype.element_ty), mask=valid)


def allocate_partial(
    splits: int, shape: tuple[int, ...], dy: torch.Tensor, layout: torch.memory_format = torch.contiguous_format
) -> torch.Tensor:
    """(splits, *shape) in the accumulator's dtype, or in dy's own when there is nothing to add."""
    dtype = dy.dtype
    if splits > 1 and dtype != torch.float64:
        dtype = torch.float32
    strides = torch.empty(shape, device="meta", memory_format=layout).stride()
    numel = torch.Size(shape).numel()
    return torch.empty_strided((splits, *shape), (numel, *strides), dtype=dtype, device=dy.device)


def sum_splits(partial: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The sum over the first axis, in `dtype`, with the other axes' strides."""
    if partial.shape[0] == 1:
        return partial[0]
    out = torch.empty_strided(partial.shape[1:], partial.stride()[1:], dtype=dtype, device=partial.device)
    if out.numel() == 0:
        return out
    tile = tuning.pick("sum_splits", partial, elements=out.numel())
    sum_splits_kernel[(triton.cdiv(out.numel(), tile["BLOCK_M"]),)](
        partial_ptr=partial,
        out_ptr=out,
        numel=out.numel(),
        SPLITS=partial.shape[0],
        OFFSET=tl.int64 if needs_int64(partial) else tl.int32,
        **tile,
    )
    return out
