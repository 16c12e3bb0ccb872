"""A copy of an image, or of a filter, in channels_last: what a 16-bit product reads on a GPU in place of NCHW.

In NCHW neighbours along the reduced axis, the channels, lie an image apart: a product loads its tiles two bytes at a
time, without asynchronous copies. A copy reads and writes each element once; a product reads it once a tap, and again
for each block of output channels. tuning says where it is made, with the measurement.
"""

import math

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.jit import jit
from tritonconv.kernels import grid
from tritonconv.kernels.arguments import offsets
from tritonconv.layouts import step_over
from tritonconv.problems import ConvProblem


@jit
def relayout_kernel(
    x_ptr,  # (N, C, pixels), any strides
    x_stride,
    y_ptr,  # (N, pixels, C), dense
    C,
    pixels,
    OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M pixels of an image × BLOCK_N channels. Grid: (images · pixel blocks · channel blocks,)."""
    blocks_n = (C + BLOCK_N - 1) // BLOCK_N
    n, block_m, block_n = grid.unravel_program(tl.program_id(0), (pixels + BLOCK_M - 1) // BLOCK_M, blocks_n, OFFSET)
    offs_m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = (offs_m < pixels)[:, None] & (offs_n < C)[None, :]
    x_ptrs = x_ptr + n * x_stride[0] + (offs_m * x_stride[2])[:, None] + (offs_n * x_stride[1])[None, :]
    y_ptrs = y_ptr + n * pixels * C + (offs_m * C)[:, None] + offs_n[None, :]
    tl.store(y_ptrs, tl.load(x_ptrs, mask=valid, other=0.0), mask=valid)


def product_operand(t: torch.Tensor, problem: ConvProblem) -> torch.Tensor:
    """An image (N, C, H, W), or a filter, as a matrix product reads it best: itself, or a copy in channels_last."""
    step = step_over(t, range(2, t.dim()))
    channels = min(problem.C_in, problem.C_out) // problem.groups
    if t.stride(1) == 1 or step is None or not tuning.reads_channels_last(t.device, t.dtype, channels):
        return t
    N, C, *size = t.shape
    pixels = math.prod(size)
    copy = torch.empty((N, *size, C), dtype=t.dtype, device=t.device)
    tile = tuning.pick("relayout", t, pixels=N * pixels, channels=C)
    # one program: BLOCK_M pixels of an image × BLOCK_N channels
    relayout_kernel[(N * triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(C, tile["BLOCK_N"]),)](
        x_ptr=t,
        x_stride=(t.stride(0), t.stride(1), step),
        y_ptr=copy,
        C=C,
        pixels=pixels,
        OFFSET=offsets(t),
        **tile,
    )
    return copy.movedim(-1, 1)
