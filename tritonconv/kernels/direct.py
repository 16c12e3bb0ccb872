"""Direct convolution: a loop over channels and taps with a multiply-add, no matrix product.

The kernel for few channels and for depthwise filters, where a matrix unit would multiply mostly padding. The equation
is implicit_gemm.py's. Any strides. A tile is pixels × channels over *all* groups: output channel k reads input channel
k // C_out · C_in + c (C_in, C_out of one group). With one group that channel is the same for the whole tile, and the
input is loaded as a vector. Sums are in fp32 (fp64 for fp64) without any lower-precision product.
"""

import math

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.jit import jit
from tritonconv.kernels import grid
from tritonconv.kernels.arguments import accumulator, convolution, epilogue, images, like_output, operands, output
from tritonconv.kernels.epilogue import Epilogue, keep_best, store_output
from tritonconv.kernels.split_k import partial_sums, sum_pixels, sum_splits
from tritonconv.layouts import flat
from tritonconv.problems import ConvProblem


@jit
def direct_forward_kernel(
    x_ptr,  # (N, C_in, D, H, W), any strides
    x_stride,
    w_ptr,  # (C_out, C_in / groups, T, R, S), any strides
    w_stride,
    b_ptr,  # (C_out,) or None
    b_stride,
    scale_ptr,  # (C_out,) or None
    scale_stride,
    residual_ptr,  # the shape and strides of y, or None
    y_ptr,  # (N, C_out, Z, P, Q), pooled or not
    y_stride,
    argmax_ptr,  # the strides of y; the argmax of each pooled output
    N,
    in_size,
    conv_size,
    out_size,
    CHANNELS: tl.constexpr,  # (in, out) of one group
    GROUPS: tl.constexpr,
    FILTER: tl.constexpr,
    POOL: tl.constexpr,  # or None
    NO_ARGMAX: tl.constexpr,
    ACTIVATION: tl.constexpr,  # a function of a tile, or None
    ARGUMENT: tl.constexpr,
    PASSES: tl.constexpr,  # when pooling, where its gradient passes
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M output pixels (or pooling windows) × BLOCK_N output channels.

    Grid: (pixel blocks · channel blocks,). Pooling sums once for each element of the window and keeps the running
    maximum.
    """
    C_in: tl.constexpr = CHANNELS[0]
    C_out: tl.constexpr = CHANNELS[1]
    ELEMENTS: tl.constexpr = 1 if POOL is None else POOL[grid.TAPS]
    offs_m, n, position, k, valid_m, valid_k = grid.tile_of_program(
        out_size, N, GROUPS * C_out, BLOCK_M, BLOCK_N, OFFSET
    )
    c0 = k // C_out * C_in

    if b_ptr is not None:
        bias = tl.load(b_ptr + k * b_stride, mask=valid_k, other=0.0).to(ACC)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr + k * scale_stride, mask=valid_k, other=0.0).to(ACC)
    best = tl.full((BLOCK_M, BLOCK_N), -float("inf"), ACC)
    argmax = best if POOL is None else tl.full((BLOCK_M, BLOCK_N), NO_ARGMAX, tl.int32)

    for element in range(ELEMENTS):
        pixel, valid_pixel = position, valid_m
        if POOL is not None:
            pixel = grid.reach(grid.start(position, POOL), grid.tap(element, POOL), conv_size, POOL)
            valid_pixel = grid.inside(pixel, conv_size, valid_m, POOL)
        start = grid.start(pixel, FILTER)
        acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
        for number in range(FILTER[grid.TAPS]):
            tap = grid.cast(grid.tap(number, FILTER), OFFSET)
            reached = grid.reach(start, tap, in_size, FILTER)
            valid_x = grid.inside(reached, in_size, valid_pixel, FILTER)[:, None]
            x_ptrs = (x_ptr + (n * x_stride[0] + grid.offset(reached, x_stride)))[:, None]
            if GROUPS > 1:
                x_ptrs += (c0 * x_stride[1])[None, :]
                valid_x = valid_x & valid_k[None, :]
            w_ptrs = w_ptr + (k * w_stride[0] + grid.offset(tap, w_stride))
            for _c in range(C_in):
                x = tl.load(x_ptrs, mask=valid_x, other=0.0)
                f = tl.load(w_ptrs, mask=valid_k, other=0.0)
                acc += x.to(ACC) * f.to(ACC)[None, :]
                x_ptrs += x_stride[1]
                w_ptrs += w_stride[1]
        if scale_ptr is not None:
            acc *= scale[None, :]
        if b_ptr is not None:
            acc += bias[None, :]
        if residual_ptr is not None:
            offs_y, valid_y = grid.output(y_stride, offs_m, n, position, k, valid_m, valid_k, N)
            acc += tl.load(residual_ptr + offs_y, mask=valid_y, other=0.0).to(ACC)
        if ACTIVATION is not None:
            acc = ACTIVATION(acc, ARGUMENT)
        if POOL is not None:
            best, argmax = keep_best(acc, best, argmax, element, valid_pixel, y_ptr.dtype.element_ty)
        else:
            best = acc

    offs_y, valid_y = grid.output(y_stride, offs_m, n, position, k, valid_m, valid_k, N)
    store_output(y_ptr, argmax_ptr, offs_y, valid_y, best, argmax, NO_ARGMAX, PASSES)


@jit
def direct_dgrad_kernel(
    dy_ptr,  # (N, C_out, Z, P, Q), any strides
    dy_stride,
    w_ptr,  # (C_out, C_in / groups, T, R, S), any strides
    w_stride,
    b_ptr,  # of a transposed convolution, (C_in,), or None
    b_stride,
    dx_ptr,  # (N, C_in, D, H, W)
    dx_stride,
    N,
    in_size,
    out_size,
    CHANNELS: tl.constexpr,  # (in, out) of one group
    GROUPS: tl.constexpr,
    FILTER: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M input pixels × BLOCK_N input channels. Grid: (pixel blocks · channel blocks,)."""
    C_in: tl.constexpr = CHANNELS[0]
    C_out: tl.constexpr = CHANNELS[1]
    offs_m, n, position, c, valid_m, valid_c = grid.tile_of_program(in_size, N, GROUPS * C_in, BLOCK_M, BLOCK_N, OFFSET)
    k0 = c // C_in * C_out
    w_ptrs_c = w_ptr + (k0 * w_stride[0] + c % C_in * w_stride[1])

    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for number in range(FILTER[grid.TAPS]):
        tap = grid.cast(grid.tap(number, FILTER), OFFSET)
        pixel, valid_pixel = grid.window_at(position, tap, out_size, valid_m, FILTER, EXACT=True)
        valid_dy = valid_pixel[:, None]
        dy_ptrs = (dy_ptr + (n * dy_stride[0] + grid.offset(pixel, dy_stride)))[:, None]
        if GROUPS > 1:
            dy_ptrs += (k0 * dy_stride[1])[None, :]
            valid_dy = valid_dy & valid_c[None, :]
        w_ptrs = w_ptrs_c + grid.offset(tap, w_stride)
        for _k in range(C_out):
            dy = tl.load(dy_ptrs, mask=valid_dy, other=0.0)
            f = tl.load(w_ptrs, mask=valid_c, other=0.0)
            acc += dy.to(ACC) * f.to(ACC)[None, :]
            dy_ptrs += dy_stride[1]
            w_ptrs += w_stride[0]

    if b_ptr is not None:
        acc += tl.load(b_ptr + c * b_stride, mask=valid_c, other=0.0).to(ACC)[None, :]
    offs_dx, valid_dx = grid.output(dx_stride, offs_m, n, position, c, valid_m, valid_c, N)
    tl.store(dx_ptr + offs_dx, acc, mask=valid_dx)


@jit
def direct_wgrad_kernel(
    dy_ptr,  # (dy_N, C_out, *dy_size), any strides: its images, or the pixels of all of them
    dy_stride,
    dy_N,
    dy_size,
    x_ptr,  # (N, C_in, D, H, W), any strides
    x_stride,
    dw_ptr,  # (C_out, C_in / groups, T, R, S), of each split
    dw_stride,
    db_ptr,  # (C_out,), of each split, or None
    split_stride,
    N,
    in_size,
    out_size,
    steps,
    CHANNELS: tl.constexpr,  # (in, out) of one group
    GROUPS: tl.constexpr,
    FILTER: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: one (c, tap) of BLOCK_N output channels' filters, over `steps` blocks of BLOCK_M output pixels.

    Grid: (splits · (c, tap) · channel blocks,). For a bias gradient there is one (c, tap) more, whose programs add up
    dy alone.
    """
    C_in: tl.constexpr = CHANNELS[0]
    C_out: tl.constexpr = CHANNELS[1]
    HAS_BIAS: tl.constexpr = db_ptr is not None
    FILTERS: tl.constexpr = FILTER[grid.TAPS] * C_in
    blocks_n: tl.constexpr = (GROUPS * C_out + BLOCK_N - 1) // BLOCK_N
    split, filters, pid_n = grid.unravel_program(tl.program_id(0), FILTERS + HAS_BIAS, blocks_n, OFFSET)
    k = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    c = filters // FILTER[grid.TAPS]
    tap = grid.tap(filters % FILTER[grid.TAPS], FILTER)
    valid_k = k < GROUPS * C_out
    steps_w = steps
    valid_w = valid_k
    if HAS_BIAS:
        steps_w = steps * (filters < FILTERS)
        valid_w = valid_k & (filters < FILTERS)

    first = split * steps * BLOCK_M
    n, pixel, by = grid.block_of_pixels(first, out_size, BLOCK_M)
    n_dy, pixel_dy, by_dy = grid.block_of_pixels(first, dy_size, BLOCK_M)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)  # added up after the loop: between threads once
    for _step in range(steps_w):
        dy_ptrs = grid.tile(dy_ptr, dy_stride, n_dy, pixel_dy, k)
        dy = tl.load(dy_ptrs, mask=(n_dy < dy_N)[:, None] & valid_k[None, :], other=0.0).to(ACC)
        reached = grid.reach(grid.start(pixel, FILTER), tap, in_size, FILTER)
        valid_x = grid.inside(reached, in_size, n < N, FILTER)[:, None]
        x_ptrs_m = (x_ptr + (n * x_stride[0] + grid.offset(reached, x_stride)))[:, None]
        if GROUPS == 1:
            x = tl.load(x_ptrs_m + c * x_stride[1], mask=valid_x, other=0.0)
        else:
            x_ptrs = x_ptrs_m + ((k // C_out * C_in + c) * x_stride[1])[None, :]
            x = tl.load(x_ptrs, mask=valid_x & valid_k[None, :], other=0.0)
        acc += dy * x.to(ACC)
        n, pixel = grid.advance(n, pixel, by, out_size)
        n_dy, pixel_dy = grid.advance(n_dy, pixel_dy, by_dy, dy_size)

    first = split * split_stride
    offs_dw = first + k * dw_stride[0] + c * dw_stride[1] + grid.offset(tap, dw_stride)
    tl.store(dw_ptr + offs_dw, tl.sum(acc, 0), mask=valid_w)
    if HAS_BIAS:
        acc_b = sum_pixels(
            dy_ptr, dy_stride, k, valid_k, split * steps, steps - steps_w, dy_N, dy_size, ACC, BLOCK_M, BLOCK_N
        )
        last = valid_k & (filters == FILTERS)
        tl.store(db_ptr + (first + k), acc_b, mask=last)


def direct_forward(
    x: torch.Tensor,
    w: torch.Tensor,
    y: torch.Tensor,
    argmax: torch.Tensor | None,
    problem: ConvProblem,
    then: Epilogue,
) -> None:
    """Fill y, or the pooled y and the argmax of each of its windows."""
    if y.numel() == 0:
        return
    pixels = problem.N * math.prod(y.shape[2:])
    tile = tuning.pick("direct_forward", y, problem, pixels=pixels, channels=problem.C_out)
    # one program: BLOCK_M pixels × BLOCK_N channels
    programs = triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(problem.C_out, tile["BLOCK_N"])
    direct_forward_kernel[(programs,)](
        **operands(y, x=x, w=w, b=then.b, scale=then.scale) | output(y=y),
        residual_ptr=like_output(then.residual, y),
        argmax_ptr=argmax,
        **{**convolution(problem), **epilogue(problem, then)},
        ACC=accumulator(x),
        **tile,
    )


def direct_dgrad(
    dy: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, dx: torch.Tensor, problem: ConvProblem
) -> None:
    """Fill dx; of a transposed convolution with its bias."""
    if dx.numel() == 0:
        return
    pixels = problem.N * math.prod(problem.input_size)
    tile = tuning.pick("direct_dgrad", dx, problem, pixels=pixels, channels=problem.C_in)
    # one program: BLOCK_M pixels × BLOCK_N channels
    programs = triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(problem.C_in, tile["BLOCK_N"])
    direct_dgrad_kernel[(programs,)](
        **operands(dx, dy=dy, w=w, b=b) | output(dx=dx),
        **convolution(problem),
        ACC=accumulator(dy),
        **tile,
    )


def direct_wgrad(
    dy: torch.Tensor, x: torch.Tensor, dw: torch.Tensor, db: torch.Tensor | None, problem: ConvProblem
) -> None:
    """Fill dw, and db where it is given."""
    pixels = problem.N * math.prod(problem.output_size)
    tile = tuning.pick("direct_wgrad", dy, problem, pixels=pixels, channels=problem.C_out)
    channel_blocks = triton.cdiv(problem.C_out, tile["BLOCK_N"])
    filters = problem.taps * problem.C_in // problem.groups
    tiles = channel_blocks * filters
    splits, steps = tuning.split_k(dy, tiles, triton.cdiv(pixels, tile["BLOCK_M"]))
    partial = partial_sums(splits, dw, db, tuning.is_split(dy, tiles))
    dy = flat(dy)
    # one program: one (r, s, c) of BLOCK_N channels' filters, or their bias, over one split of the pixels
    direct_wgrad_kernel[(splits * (filters + (db is not None)) * channel_blocks,)](
        **operands(partial.dw, partial.db, dy=dy, x=x) | images(dy) | partial.arguments(),
        **convolution(problem),
        steps=steps,
        ACC=accumulator(dy),
        **tile,
    )
    sum_splits(partial, dw, db)
