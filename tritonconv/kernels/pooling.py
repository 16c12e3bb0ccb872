"""Pooling by a maximum, an average or an Lp norm.

y[n, c, p, q] = max over elements (i, j) of x[n, c, p·stride_h − pad_h + i·dil_h, q·stride_w − pad_w + j·dil_w]

Padding counts as −inf; a NaN wins; of equal values the first wins. Forward saves the argmax of each window,
i·KW + j (1 byte up to 255 elements), or NO_ARGMAX for a window wholly in the padding, which has no gradient.
An average sums instead, padding counts as 0, and divides (problems.PoolProblem); an Lp norm sums powers.
Backward gathers: each input pixel looks into the windows that reach it, so no two programs add to one element.
The tile is pixels × channels; any strides. Source: torch.nn.functional.max_pool2d, avg_pool2d and lp_pool2d.
"""

from typing import Any

import torch
import triton.language as tl

from tritonconv.jit import jit
from tritonconv.kernels import grid
from tritonconv.kernels.arguments import accumulator, operands, output, tiled
from tritonconv.kernels.epilogue import is_better
from tritonconv.problems import PoolProblem


@jit
def power(value, P: tl.constexpr):
    """value to the power of P, as torch.pow: NaN for a negative value and a P that is not whole."""
    if P == 1:
        result = value
    elif P == 2:
        result = value * value
    elif P == 0.5:
        result = tl.sqrt(value)
    else:
        size = tl.exp2(tl.log2(tl.abs(value)) * P)
        result = size if P % 2 == 0 else tl.where(value < 0, -size if P % 2 == 1 else float("nan"), size)
    return result


@jit
def average(total, position, in_size, WINDOW: tl.constexpr, DIVISOR: tl.constexpr):
    """The sums of the windows at `position`, (M, N), over their divisors."""
    if DIVISOR == "image" or DIVISOR == "padded":  # a window may have none, or not exist
        elements = tl.maximum(grid.elements(position, in_size, WINDOW, DIVISOR == "padded"), 1)
        count = elements.to(total.dtype)[:, None]
    else:
        count = DIVISOR
    # `/` is an approximation in compiled code, for float32
    return total / count if total.dtype == tl.float64 else tl.div_rn(total, tl.full((1, 1), 0.0, tl.float32) + count)


@jit
def pool_forward_kernel(
    x_ptr,  # (N, C, D, H, W), any strides
    x_stride,
    y_ptr,  # (N, C, Z, P, Q)
    y_stride,
    argmax_ptr,  # the strides of y, or None where there is no maximum
    index_ptr,  # the strides of y, int64, or None
    N,
    C,
    in_size,
    out_size,
    WINDOW: tl.constexpr,
    NO_ARGMAX: tl.constexpr,
    REDUCTION: tl.constexpr,  # "max", "average" or "lp"
    DIVISOR: tl.constexpr,
    NORM: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M windows × BLOCK_N channels. Grid: (window blocks · channel blocks,)."""
    offs_m, n, position, c, valid_m, valid_c = grid.tile_of_program(out_size, N, C, BLOCK_M, BLOCK_N, OFFSET)
    start = grid.start(position, WINDOW)
    FIRST: tl.constexpr = -float("inf") if REDUCTION == "max" else 0.0
    OUTSIDE: tl.constexpr = float("inf") if NORM < 0 else FIRST  # what adds nothing
    best = tl.full((BLOCK_M, BLOCK_N), FIRST, ACC)
    argmax = tl.full((BLOCK_M, BLOCK_N), NO_ARGMAX, tl.int32)
    for element in range(WINDOW[grid.TAPS]):
        reached = grid.reach(start, grid.tap(element, WINDOW), in_size, WINDOW)
        valid = grid.inside(reached, in_size, valid_m, WINDOW)
        x_ptrs = grid.tile(x_ptr, x_stride, n, reached, c)
        value = tl.load(x_ptrs, mask=valid[:, None] & valid_c[None, :], other=OUTSIDE).to(ACC)
        if REDUCTION == "max":
            # the first element inside the image stands for a window of −inf
            take = is_better(value, best) | ((argmax == NO_ARGMAX) & valid[:, None])
            best = tl.where(take, value, best)
            argmax = tl.where(take, element, argmax)
        else:
            best += power(value, NORM)
    if REDUCTION != "max":
        best = average(best, position, in_size, WINDOW, DIVISOR)
    if REDUCTION == "lp":
        best = power(best * WINDOW[grid.TAPS], 1 / NORM)
    offs_y, valid_y = grid.output(y_stride, offs_m, n, position, c, valid_m, valid_c, N)
    tl.store(y_ptr + offs_y, best, mask=valid_y)
    if argmax_ptr is not None:
        tl.store(argmax_ptr + offs_y, argmax, mask=valid_y)
    if index_ptr is not None:
        argmax_or_first = tl.where(argmax == NO_ARGMAX, 0, argmax)
        reached = grid.reach(grid.rows(start), grid.tap(argmax_or_first.to(tl.int64), WINDOW), in_size, WINDOW)
        # a window wholly in the padding names the nearest pixel
        tl.store(index_ptr + offs_y, grid.ravel(grid.clamp(reached, in_size), in_size), mask=valid_y)


@jit
def pool_backward_kernel(
    dy_ptr,  # (N, C, Z, P, Q), any strides
    dy_stride,
    argmax_ptr,  # (N, C, Z, P, Q), any strides, or None for an average
    argmax_stride,
    dx_ptr,  # (N, C, D, H, W)
    dx_stride,
    N,
    C,
    in_size,
    out_size,
    WINDOW: tl.constexpr,
    NO_ARGMAX: tl.constexpr,
    DIVISOR: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M input pixels × BLOCK_N channels, over the windows that can reach a pixel.

    Grid: (pixel blocks · channel blocks,). Windows that do not overlap reach a pixel once.
    """
    offs_m, n, position, c, valid_m, valid_c = grid.tile_of_program(in_size, N, C, BLOCK_M, BLOCK_N, OFFSET)
    last = grid.last_window(position, WINDOW)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for number in range(WINDOW[grid.COVERINGS]):
        window, element, valid = grid.covering(position, last, number, out_size, valid_m, WINDOW)
        valid_dy = valid[:, None] & valid_c[None, :]
        dy = tl.load(grid.tile(dy_ptr, dy_stride, n, window, c), mask=valid_dy, other=0.0).to(ACC)
        if argmax_ptr is None:
            acc += average(dy, window, in_size, WINDOW, DIVISOR)
        else:  # argmax and dy are loaded at once: neither waits for the other
            argmax = tl.load(grid.tile(argmax_ptr, argmax_stride, n, window, c), mask=valid_dy, other=NO_ARGMAX)
            acc += tl.where(argmax == element[:, None], dy, 0.0)
    offs_dx, valid_dx = grid.output(dx_stride, offs_m, n, position, c, valid_m, valid_c, N)
    tl.store(dx_ptr + offs_dx, acc, mask=valid_dx)


@jit
def max_pool_gather_kernel(
    x_ptr,  # (N, C, D, H, W), any strides
    x_stride,
    argmax_ptr,  # (N, C, Z, P, Q), any strides
    argmax_stride,
    y_ptr,  # (N, C, Z, P, Q)
    y_stride,
    N,
    C,
    in_size,
    out_size,
    WINDOW: tl.constexpr,
    NO_ARGMAX: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program reads, for BLOCK_M windows × BLOCK_N channels, x at each window's argmax; 0 for none.

    The adjoint of pool_backward_kernel. Grid: (window blocks · channel blocks,).
    """
    offs_m, n, position, c, valid_m, valid_c = grid.tile_of_program(out_size, N, C, BLOCK_M, BLOCK_N, OFFSET)
    valid = valid_m[:, None] & valid_c[None, :]
    argmax = tl.load(grid.tile(argmax_ptr, argmax_stride, n, position, c), mask=valid, other=NO_ARGMAX)
    start = grid.rows(grid.start(position, WINDOW))
    reached = grid.reach(start, grid.tap(argmax.to(tl.int32), WINDOW), in_size, WINDOW)
    x_ptrs = x_ptr + ((n * x_stride[0])[:, None] + (c * x_stride[1])[None, :] + grid.offset(reached, x_stride))
    value = tl.load(x_ptrs, mask=valid & (argmax != NO_ARGMAX), other=0.0)
    offs_y, valid_y = grid.output(y_stride, offs_m, n, position, c, valid_m, valid_c, N)
    tl.store(y_ptr + offs_y, value, mask=valid_y)


def _sizes(pool: PoolProblem) -> dict[str, Any]:
    return {
        "in_size": grid.three(pool.input_size),
        "out_size": grid.three(pool.output_size),
        "WINDOW": grid.window(pool),
        "NO_ARGMAX": pool.no_argmax,
    }


def pool_forward(
    x: torch.Tensor, y: torch.Tensor, argmax: torch.Tensor | None, index: torch.Tensor | None, pool: PoolProblem
) -> None:
    """Fill y, and of a maximum the argmax and int64 indices into the plane where they are given, strided as y."""
    if y.numel() > 0:
        programs, tile = tiled("pool_forward", y, pool)
        pool_forward_kernel[(programs,)](
            **operands(y, x=x) | output(y=y),
            argmax_ptr=argmax,
            index_ptr=index,
            **_sizes(pool),
            REDUCTION=pool.reduction,
            DIVISOR=pool.divisor,
            NORM=pool.norm,
            ACC=accumulator(x),
            **tile,
        )


def pool_backward(dy: torch.Tensor, argmax: torch.Tensor | None, dx: torch.Tensor, pool: PoolProblem) -> None:
    """Fill dx: each window's dy at its argmax, summed where windows overlap; of an average a share of it.

    The gradient of a norm is xᵖ⁻¹ · taps · that of an average, of dy · y¹⁻ᵖ.
    """
    if dx.numel() > 0:
        programs, tile = tiled("pool_backward", dx, pool)
        pool_backward_kernel[(programs,)](
            **operands(dx, dy=dy, argmax=argmax) | output(dx=dx),
            **_sizes(pool),
            DIVISOR=pool.divisor,
            ACC=accumulator(dy),
            **tile,
        )


def max_pool_gather(x: torch.Tensor, argmax: torch.Tensor, y: torch.Tensor, pool: PoolProblem) -> None:
    """Fill y, (N, C, P, Q), with x at each window's argmax."""
    if y.numel() > 0:
        programs, tile = tiled("max_pool_gather", y, pool)
        max_pool_gather_kernel[(programs,)](
            **operands(y, x=x, argmax=argmax) | output(y=y),
            **_sizes(pool),
            **tile,
        )
