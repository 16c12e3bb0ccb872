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


def images(dy: torch.Tensor) -> dict[str, Any]:
    """How many images a gradient has whose pixels a kernel counts through, and their size."""
    return {"dy_N": dy.shape[0], "dy_size": grid.three(dy.shape[2:])}


def epilogue(problem: ConvProblem, then: Epilogue) -> dict[str, Any]:
    """What follows a forward kernel's sum. When pooling, the output is smaller than the convolution."""
    activation, pool = then.activation, then.pool
    return {
        "conv_size": grid.three(problem.output_size),
        "out_size": grid.three(problem.output_size if pool is None else pool.output_size),
        "POOL": None if pool is None else grid.window(pool),
        "NO_ARGMAX": None if pool is None else pool.no_argmax,
        "ACTIVATION": None if activation is None else activation.function,
        "ARGUMENT": None if activation is None else activation.argument,
        "PASSES": None if activation is None or pool is None else activation.passes,
    }


def tiled(
    operator: str, t: torch.Tensor, problem: ConvProblem | PoolProblem | None = None, **sizes: int
) -> tuple[int, dict[str, Any]]:
    """Programs that each take BLOCK_M pixels × BLOCK_N channels of `t`; and that tile with `t`'s N and C.

    The problem and further sizes tell tuned tiles apart.
    """
    pixels = t.shape[0] * math.prod(t.shape[2:])
    tile = tuning.pick(operator, t, problem, pixels=pixels, channels=t.shape[1], **sizes)
    programs = triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(t.shape[1], tile["BLOCK_N"])
    return programs, {"N": t.shape[0], "C": t.shape[1], **tile}


def operands(*others: torch.Tensor | None, **tensors: torch.Tensor | None) -> dict[str, Any]:
    """NAME_ptr and NAME_stride of each tensor, both None for none, and the dtype of offsets into any, others too."""
    found: dict[str, Any] = {"OFFSET": offsets(*others, *tensors.values())}
    for name, t in tensors.items():
        found[f"{name}_ptr"], found[f"{name}_stride"] = t, None if t is None else grid.strides(t)
    return found


def output(**tensor: torch.Tensor) -> dict[str, Any]:
    """NAME_ptr and NAME_stride of what a launcher fills, as `grid.output` reads them."""
    ((name, t),) = tensor.items()
    return {f"{name}_ptr": t, f"{name}_stride": grid.dense(t)}


def like_output(t: torch.Tensor | None, y: torch.Tensor) -> torch.Tensor | None:
    """What is read where y is written: `t`, or a copy with the strides of y."""
    return t if t is None or t.stride() == y.stride() else torch.empty_like(y, dtype=t.dtype).copy_(t)


def offsets(*tensors: torch.Tensor | None) -> tl.dtype:
    """32 bits unless one of the tensors needs 64."""
    return tl.int64 if needs_int64(*tensors) else tl.int32


def wide(t: torch.Tensor) -> torch.dtype:
    """What sums of it are taken in."""
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def accumulator(x: torch.Tensor) -> tl.dtype:
    return tl.float64 if wide(x) == torch.float64 else tl.float32
