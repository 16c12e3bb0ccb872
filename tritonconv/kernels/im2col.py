"""im2col: the patches are written out as a matrix, and the convolution is that matrix times the filters.

unfold: columns[n, (c, r, s), p, q] = x[n, c, p·stride_h − pad_h + r·dil_h, q·stride_w − pad_w + s·dil_w], 0 outside x.
fold, its adjoint: dx[n, c, h, w] = Σ columns[n, (c, r, s), p, q] over the copies of (h, w).

The product is the tiled GEMM of implicit_gemm.py on the columns, a pointwise convolution of R·S·C_in channels. What the
algorithm costs is the columns: R·S times the input for stride 1. Any strides; sums in fp32 (fp64 for fp64).
Source: Chellapilla et al., High Performance Convolutional Neural Networks for Document Processing (2006).
"""

import math
from typing import Any

import torch
import triton.language as tl

from tritonconv import tuning
from tritonconv.jit import jit
from tritonconv.kernels import grid
from tritonconv.kernels.arguments import accumulator, operands, output, tiled, wide
from tritonconv.kernels.epilogue import Epilogue
from tritonconv.kernels.implicit_gemm import implicit_gemm_dgrad, implicit_gemm_forward, implicit_gemm_wgrad
from tritonconv.layouts import is_channels_last, memory_format
from tritonconv.problems import ConvProblem


@jit
def unfold_kernel(
    x_ptr,  # (N, C, D, H, W), any strides
    x_stride,
    columns_ptr,  # (N, C · T · R · S, Z, P, Q)
    columns_stride,
    N,
    C,  # of the columns
    in_size,
    out_size,
    PATCH: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program copies BLOCK_N of (c, tap) for BLOCK_M output pixels. Grid: (pixel blocks · column blocks,)."""
    offs_m, n, pixel, j, valid_m, valid_j = grid.tile_of_program(out_size, N, C, BLOCK_M, BLOCK_N, OFFSET)
    c = j // PATCH[grid.TAPS]
    shift = grid.dilate(grid.tap(j % PATCH[grid.TAPS], PATCH), PATCH)
    start = grid.start(pixel, PATCH)
    valid = valid_m[:, None] & valid_j[None, :]
    valid_x = valid & grid.inside_product(start, shift, in_size, valid_m, PATCH)
    rows, columns = n * x_stride[0], c * x_stride[1]
    x_ptrs = grid.reach_product(x_ptr, rows, start, shift, columns, in_size, x_stride, PATCH)
    x = tl.load(x_ptrs, mask=valid_x, other=0.0)
    offs_columns, valid_columns = grid.output(columns_stride, offs_m, n, pixel, j, valid_m, valid_j, N)
    tl.store(columns_ptr + offs_columns, x, mask=valid_columns)


@jit
def fold_kernel(
    columns_ptr,  # (N, C · T · R · S, Z, P, Q), any strides
    columns_stride,
    b_ptr,  # of a transposed convolution, (C,), or None
    b_stride,
    x_ptr,  # (N, C, D, H, W)
    x_stride,
    N,
    C,
    in_size,
    out_size,
    PATCH: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program gathers BLOCK_M pixels × BLOCK_N channels, tap by tap. Grid: (pixel blocks · channel blocks,)."""
    offs_m, n, position, c, valid_m, valid_c = grid.tile_of_program(in_size, N, C, BLOCK_M, BLOCK_N, OFFSET)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for number in range(PATCH[grid.TAPS]):
        pixel, valid = grid.window_at(position, grid.tap(number, PATCH), out_size, valid_m, PATCH, EXACT=True)
        columns_ptrs = grid.tile(columns_ptr, columns_stride, n, pixel, c * PATCH[grid.TAPS] + number)
        acc += tl.load(columns_ptrs, mask=valid[:, None] & valid_c[None, :], other=0.0).to(ACC)
    if b_ptr is not None:
        acc += tl.load(b_ptr + c * b_stride, mask=valid_c, other=0.0).to(ACC)[None, :]
    offs_x, valid_x = grid.output(x_stride, offs_m, n, position, c, valid_m, valid_c, N)
    tl.store(x_ptr + offs_x, acc, mask=valid_x)


def _patch(problem: ConvProblem) -> dict[str, Any]:
    return {
        "in_size": grid.three(problem.input_size),
        "out_size": grid.three(problem.output_size),
        "PATCH": grid.window(problem),
    }


def unfold(x: torch.Tensor, columns: torch.Tensor, problem: ConvProblem) -> None:
    """Fill the columns, (N, C · R · S, P, Q), with the patches of x."""
    if columns.numel() > 0:
        programs, tile = tiled("unfold", columns, problem)
        unfold_kernel[(programs,)](**operands(columns, x=x) | output(columns=columns), **_patch(problem), **tile)


def fold(columns: torch.Tensor, b: torch.Tensor | None, x: torch.Tensor, problem: ConvProblem) -> None:
    """Fill x, (N, C, H, W): each pixel the sum of its copies in the columns, (N, C · R · S, P, Q), and of a bias."""
    if x.numel() > 0:
        programs, tile = tiled("fold", x, problem)
        fold_kernel[(programs,)](
            **operands(x, columns=columns, b=b) | output(x=x), **_patch(problem), ACC=accumulator(columns), **tile
        )


def _filter_matrix(w: torch.Tensor) -> torch.Tensor:
    return w.reshape(w.shape[0], math.prod(w.shape[1:]), 1, 1)


def _columns(like: torch.Tensor, problem: ConvProblem, dtype: torch.dtype) -> torch.Tensor:
    """Uninitialised columns, in the memory format of `like` or the one that their product reads best."""
    channels = problem.C_in // problem.groups * problem.taps
    is_last = is_channels_last(like) or tuning.reads_channels_last(like.device, dtype, channels)
    layout = memory_format(is_last, like.dim())
    return torch.empty(problem.columns_shape, dtype=dtype, device=like.device, memory_format=layout)


def im2col_forward(
    x: torch.Tensor,
    w: torch.Tensor,
    y: torch.Tensor,
    argmax: torch.Tensor | None,
    problem: ConvProblem,
    then: Epilogue,
) -> None:
    """Fill y, or the pooled y and the argmax of each of its windows."""
    columns = _columns(y, problem, x.dtype)
    unfold(x, columns, problem)
    implicit_gemm_forward(columns, _filter_matrix(w), y, argmax, problem.on_columns(), then)


def im2col_dgrad(
    dy: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, dx: torch.Tensor, problem: ConvProblem
) -> None:
    """Fill dx, of a transposed convolution with its bias; the columns stay in the accumulator's dtype until folded."""
    columns = _columns(dx, problem, wide(dy))
    implicit_gemm_dgrad(dy, _filter_matrix(w), None, columns, problem.on_columns())
    fold(columns, b, dx, problem)


def im2col_wgrad(
    dy: torch.Tensor, x: torch.Tensor, dw: torch.Tensor, db: torch.Tensor | None, problem: ConvProblem
) -> None:
    """Fill dw, and db where it is given."""
    columns = _columns(dw, problem, x.dtype)
    unfold(x, columns, problem)
    matrix = dw if dw.is_contiguous() else torch.empty(dw.shape, dtype=dw.dtype, device=dw.device)
    implicit_gemm_wgrad(dy, columns, _filter_matrix(matrix), db, problem.on_columns())
    if matrix is not dw:
        dw.copy_(matrix)
