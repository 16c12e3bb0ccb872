"""Launch arguments that every algorithm shares: sizes and constants of a problem, by the kernels' names."""

import math
from typing import Any

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.kernels import grid
from tritonconv.kernels.epilogue import Epilogue
from tritonconv.layouts import needs_int64
from tritonconv.problems import ConvProblem, PoolProblem


def convolution(problem: ConvProblem) -> dict[str, Any]:
    """Sizes, and what a kernel is compiled for: channels of one group, groups, the filter and how it steps."""
    return {
        "N": problem.N,
        "in_size": grid.three(problem.input_size),
        "out_size": grid.three(problem.output_size),
        "CHANNELS": (problem.C_in // problem.groups, problem.C_out // problem.groups),
        "GROUPS": problem.groups,
        "FILTER": grid.window(problem),
    }


def epilogue(problem: ConvProblem, then: Epilogue) -> dict[str, Any]:
    """What follows a forward kernel's sum. When pooling, the output is smaller than the convolution."""
    b, scale, residual, activation, pool = then
    return {
        "b_ptr": b,
        "b_stride": 0 if b is None else b.stride(0),
        "scale_ptr": scale,
        "scale_stride": 0 if scale is None else scale.stride(0),
        "residual_ptr": residual,
        "residual_stride": (0,) * 5 if residual is None else grid.strides(residual),
        "conv_size": grid.three(problem.output_size),
        "out_size": grid.three(problem.output_size if pool is None else pool.output_size),
        "POOL": None if pool is None else grid.window(pool),
        "NO_ARGMAX": None if pool is None else pool.no_argmax,
        "ACTIVATION": None if activation is None else activation.function,
        "ARGUMENT": None if activation is None else activation.argument,
        "PASSES": None if activation is None or pool is None else activation.passes,
    }


def tiled(operator: str, t: torch.Tensor, pool: PoolProblem | None = None) -> tuple[int, dict[str, Any]]:
    """Programs that each take BLOCK_M pixels × BLOCK_N channels of `t`; and that tile with `t`'s N and C."""
    pixels = t.shape[0] * math.prod(t.shape[2:])
    tile = tuning.pick(operator, t, pool, pixels=pixels, channels=t.shape[1])
    programs = triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(t.shape[1], tile["BLOCK_N"])
    return programs, {"N": t.shape[0], "C": t.shape[1], **tile}


def numerics(x: torch.Tensor, *tensors: torch.Tensor | None) -> dict[str, Any]:
    """The accumulator's dtype for `x`, and offsets of 32 bits unless one of `tensors` needs 64."""
    accumulator = tl.float64 if x.dtype == torch.float64 else tl.float32
    return {"ACC": accumulator, "OFFSET": tl.int64 if needs_int64(*tensors) else tl.int32}
