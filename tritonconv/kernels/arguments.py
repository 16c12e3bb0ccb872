"""Launch arguments that every algorithm shares: sizes and constants of a geometry, by the kernels' names."""

from typing import Any

import torch
import triton.language as tl

from tritonconv.geometry import ConvGeometry, PoolGeometry, needs_int64
from tritonconv.kernels import grid


def convolution(geometry: ConvGeometry) -> dict[str, Any]:
    """Sizes, and what a kernel is compiled for: channels of one group, groups, the filter and how it steps."""
    return {
        "N": geometry.N,
        "in_size": grid.three(geometry.input_size),
        "out_size": grid.three(geometry.output_size),
        "CHANNELS": (geometry.C_in // geometry.groups, geometry.C_out // geometry.groups),
        "GROUPS": geometry.groups,
        "FILTER": grid.window(geometry),
    }


def epilogue(geometry: ConvGeometry, relu: bool, pool: PoolGeometry | None) -> dict[str, Any]:
    """What follows a forward kernel's sum. When pooling, the output is smaller than the convolution."""
    return {
        "conv_size": grid.three(geometry.output_size),
        "out_size": grid.three(geometry.output_size if pool is None else pool.output_size),
        "POOL": None if pool is None else grid.window(pool),
        "NO_PLACE": None if pool is None else pool.no_place,
        "RELU": relu,
    }


def accumulator(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def numerics(x: torch.Tensor, *tensors: torch.Tensor) -> dict[str, Any]:
    """The accumulator's dtype for `x`, and offsets of 32 bits unless one of `tensors` needs 64."""
    return {"ACC": accumulator(x.dtype), "OFFSET": tl.int64 if needs_int64(*tensors) else tl.int32}
