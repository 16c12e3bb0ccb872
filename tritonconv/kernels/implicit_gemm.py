"""Implicit GEMM: the convolution as a matrix product whose patches are formed on the fly.

y[n, k, p, q] = Σ_{r, s, c} x[n, c, p·stride_h − pad_h + r·dil_h, q·stride_w − pad_w + s·dil_w] · w[k, c, r, s]

| pass    | rows of the product (M) | columns (N)     | reduced over (K)          |
| ------- | ----------------------- | --------------- | ------------------------- |
| forward | output pixels (n, p, q) | C_out of a group | taps (r, s) × C_in        |
| dgrad   | input pixels (n, h, w)  | C_in of a group  | taps that reach × C_out   |
| wgrad   | C_out of a group        | (r, s, c)        | output pixels, in splits  |

Any strides; on a GPU 16-bit NCHW is copied first (relayout.py). Products accumulate in fp32 (fp64 for fp64);
`PRECISION` is tuning's.
A pointwise convolution makes the forward, dgrad and wgrad kernels plain tiled GEMMs: im2col.py uses them as that.
Source: Chetlur et al., cuDNN: Efficient Primitives for Deep Learning (2014), section 3; CUTLASS's naming.
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
from tritonconv.kernels.relayout import product_operand
from tritonconv.kernels.split_k import partial_sums, sum_pixels, sum_splits
from tritonconv.layouts import flat
from tritonconv.problems import ConvProblem


@jit
def implicit_gemm_forward_kernel(
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
    FLATTEN_TAPS: tl.constexpr,
    STEPS: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program: BLOCK_M output pixels (or pooling windows) × BLOCK_N output channels of one group.

    Grid: (pixel blocks · groups · channel blocks,). Pooling runs the product once for each element of the window and
    keeps the running maximum, so the unpooled image exists in registers alone.
    """
    C_in: tl.constexpr = CHANNELS[0]
    C_out: tl.constexpr = CHANNELS[1]
    ELEMENTS: tl.constexpr = 1 if POOL is None else POOL[grid.TAPS]
    pid_m, group, pid_n = grid.unravel_program(tl.program_id(0), GROUPS, (C_out + BLOCK_N - 1) // BLOCK_N, OFFSET)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n, position = grid.unravel(offs_m, out_size)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    valid_m = n < N
    valid_n = offs_n < C_out
    k = group * C_out + offs_n
    w_ptrs_k = w_ptr + k * w_stride[0]
    x_group = x_ptr + group * C_in * x_stride[1]

    if b_ptr is not None:
        bias = tl.load(b_ptr + k * b_stride, mask=valid_n, other=0.0).to(ACC)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr + k * scale_stride, mask=valid_n, other=0.0).to(ACC)
    best = tl.full((BLOCK_M, BLOCK_N), -float("inf"), ACC)
    argmax = best if POOL is None else tl.full((BLOCK_M, BLOCK_N), NO_ARGMAX, tl.int32)

    for element in range(ELEMENTS):
        pixel, valid_pixel = position, valid_m
        if POOL is not None:
            pixel = grid.reach(grid.start(position, POOL), grid.tap(element, POOL), conv_size, POOL)
            valid_pixel = grid.inside(pixel, conv_size, valid_m, POOL)
        start = grid.start(pixel, FILTER)
        acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
        for step in range(STEPS):
            tap, c, valid_k = grid.filter_block(step, C_in, FILTER, BLOCK_K, FLATTEN_TAPS, OFFSET)
            shift = grid.dilate(tap, FILTER)
            valid_x = grid.inside_product(start, shift, in_size, valid_pixel, FILTER)
            rows, columns = n * x_stride[0], c * x_stride[1]
            x_ptrs = grid.reach_product(x_group, rows, start, shift, columns, in_size, x_stride, FILTER)
            offs_w = grid.offset(tap, w_stride) + c * w_stride[1]
            x = tl.load(x_ptrs, mask=valid_x & valid_k[None, :], other=0.0)
            f = tl.load(w_ptrs_k[None, :] + offs_w[:, None], mask=valid_k[:, None] & valid_n[None, :], other=0.0)
            acc = tl.dot(x, f, acc, input_precision=PRECISION, out_dtype=ACC)
        if scale_ptr is not None:
            acc *= scale[None, :]
        if b_ptr is not None:
            acc += bias[None, :]
        if residual_ptr is not None:
            offs_y, valid_y = grid.output(y_stride, offs_m, n, position, k, valid_m, valid_n, N)
            acc += tl.load(residual_ptr + offs_y, mask=valid_y, other=0.0).to(ACC)
        if ACTIVATION is not None:
            acc = ACTIVATION(acc, ARGUMENT)
        if POOL is not None:
            best, argmax = keep_best(acc, best, argmax, element, valid_pixel, y_ptr.dtype.element_ty)
        else:
            best = acc

    offs_y, valid_y = grid.output(y_stride, offs_m, n, position, k, valid_m, valid_n, N)
    store_output(y_ptr, argmax_ptr, offs_y, valid_y, best, argmax, NO_ARGMAX, PASSES)


@jit
def implicit_gemm_dgrad_kernel(
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
    phase_size,  # pixels of the largest phase
    CHANNELS: tl.constexpr,  # (in, out) of one group
    GROUPS: tl.constexpr,
    FILTER: tl.constexpr,
    PHASES: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program: BLOCK_M input pixels of one phase × BLOCK_N input channels of one group.

    Grid: (pixel blocks · phases · groups · channel blocks,). A phase holds the pixels with the same position modulo the
    stride: the same taps reach all of them, so no product is spent on zeros. With g = gcd(dilation, stride) those taps
    are r₀, r₀ + stride/g, …, r₀ = (h + padding)/g · (dilation/g)⁻¹ mod stride/g, or none when g does not divide
    h + padding (docs/math.md). A stride past the image has no more phases than pixels.
    """
    C_in: tl.constexpr = CHANNELS[0]
    C_out: tl.constexpr = CHANNELS[1]
    rest, group, pid_n = grid.unravel_program(tl.program_id(0), GROUPS, (C_in + BLOCK_N - 1) // BLOCK_N, OFFSET)
    phase = grid.phase((rest % PHASES[grid.TOTAL]).to(tl.int32), PHASES)
    offs_m = rest // PHASES[grid.TOTAL] * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, position = grid.unravel(offs_m, phase_size)
    position, valid_m = grid.in_phase(position, phase, in_size, n < N, FILTER)
    valid_n = offs_n < C_in

    first, count, taps = grid.phase_taps(phase, FILTER, PHASES)
    blocks_k: tl.constexpr = (C_out + BLOCK_K - 1) // BLOCK_K
    dy_group = dy_ptr + group * C_out * dy_stride[1]
    w_ptrs_c = w_ptr + group * C_out * w_stride[0] + offs_n * w_stride[1]
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for step in range(taps * blocks_k):
        tap = grid.cast(grid.phase_tap(step // blocks_k, first, count, FILTER, PHASES), OFFSET)
        k = step % blocks_k * BLOCK_K + tl.arange(0, BLOCK_K).to(OFFSET)
        pixel, valid_dy = grid.window_at(position, tap, out_size, valid_m, FILTER, EXACT=False)
        valid_k = k < C_out
        dy_ptrs = grid.tile(dy_group, dy_stride, n, pixel, k)
        dy = tl.load(dy_ptrs, mask=valid_dy[:, None] & valid_k[None, :], other=0.0)
        offs_w = k * w_stride[0] + grid.offset(tap, w_stride)
        f = tl.load(w_ptrs_c[None, :] + offs_w[:, None], mask=valid_k[:, None] & valid_n[None, :], other=0.0)
        acc = tl.dot(dy, f, acc, input_precision=PRECISION, out_dtype=ACC)

    c = group * C_in + offs_n
    if b_ptr is not None:
        acc += tl.load(b_ptr + c * b_stride, mask=valid_n, other=0.0).to(ACC)[None, :]
    offs_dx, valid_dx = grid.output(dx_stride, offs_m, n, position, c, valid_m, valid_n, N)
    tl.store(dx_ptr + offs_dx, acc, mask=valid_dx)


@jit
def implicit_gemm_wgrad_kernel(
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
    FLATTEN_TAPS: tl.constexpr,
    BLOCKS_M: tl.constexpr,
    BLOCKS_N: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program: BLOCK_M output channels × BLOCK_N of (tap, c), over `steps` blocks of BLOCK_K output pixels.

    Grid: (splits · channel blocks · groups · tap blocks,). For a bias gradient there is one tap block more, whose
    programs add up dy in a loop of their own: a second use of dy inside the product's loop costs the pipeline a buffer,
    and then a copy overwrites what the matrix unit still reads (docs/decisions/0008).
    """
    C_in: tl.constexpr = CHANNELS[0]
    C_out: tl.constexpr = CHANNELS[1]
    HAS_BIAS: tl.constexpr = db_ptr is not None
    rest, group, pid_n = grid.unravel_program(tl.program_id(0), GROUPS, BLOCKS_N + HAS_BIAS, OFFSET)
    split = rest // BLOCKS_M
    offs_m = rest % BLOCKS_M * BLOCK_M + tl.arange(0, BLOCK_M)
    valid_m = offs_m < C_out
    k = group * C_out + offs_m
    tap, c, valid_n = grid.filter_block(pid_n, C_in, FILTER, BLOCK_N, FLATTEN_TAPS, OFFSET)
    shift = grid.dilate(tap, FILTER)
    steps_w = steps
    if HAS_BIAS:
        steps_w = steps * (pid_n < BLOCKS_N)
        valid_n = valid_n & (pid_n < BLOCKS_N)

    first = split * steps * BLOCK_K
    n, pixel, by = grid.block_of_pixels(first, out_size, BLOCK_K)
    n_dy, pixel_dy, by_dy = grid.block_of_pixels(first, dy_size, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for _step in range(steps_w):
        rows, columns = k * dy_stride[1], n_dy * dy_stride[0] + grid.offset(pixel_dy, dy_stride)
        # transposed where it is loaded: what is transposed after that goes through registers on sm_80, and in float32
        dy_ptrs = (dy_ptr + rows)[:, None] + columns[None, :]
        dy = tl.load(dy_ptrs, mask=valid_m[:, None] & (n_dy < dy_N)[None, :], other=0.0)
        start = grid.start(pixel, FILTER)
        valid_x = grid.inside_product(start, shift, in_size, n < N, FILTER)
        rows, columns = n * x_stride[0], (group * C_in + c) * x_stride[1]
        x_ptrs = grid.reach_product(x_ptr, rows, start, shift, columns, in_size, x_stride, FILTER)
        x = tl.load(x_ptrs, mask=valid_x & valid_n[None, :], other=0.0)
        acc = tl.dot(dy, x, acc, input_precision=PRECISION, out_dtype=ACC)
        n, pixel = grid.advance(n, pixel, by, out_size)
        n_dy, pixel_dy = grid.advance(n_dy, pixel_dy, by_dy, dy_size)

    first = split * split_stride
    offs_dw = (c * dw_stride[1] + grid.offset(tap, dw_stride))[None, :] + (first + k * dw_stride[0])[:, None]
    tl.store(dw_ptr + offs_dw, acc, mask=valid_m[:, None] & valid_n[None, :])
    if HAS_BIAS:
        acc_b = sum_pixels(
            dy_ptr, dy_stride, k, valid_m, split * steps, steps - steps_w, dy_N, dy_size, ACC, BLOCK_K, BLOCK_M
        )
        last = valid_m & (pid_n == BLOCKS_N)
        tl.store(db_ptr + (first + k), acc_b, mask=last)


def implicit_gemm_forward(
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
    C_in, C_out = problem.C_in // problem.groups, problem.C_out // problem.groups
    pixels = problem.N * math.prod(y.shape[2:])
    sizes = {"pixels": pixels, "C_in": C_in, "C_out": C_out, "taps": problem.taps}
    is_added = then.residual is not None
    is_curved = then.activation is not None and then.activation.curvature is not None
    # registers go to what follows the sum
    sizes |= {
        "pooled": then.pool is not None,
        "residual": is_added,
        "crowded": is_added or is_curved,
    }
    x, w = product_operand(x, problem), product_operand(w, problem)
    tile = tuning.pick("implicit_gemm_forward", x, problem, **sizes)
    if tile["FLATTEN_TAPS"]:
        steps = triton.cdiv(problem.taps * C_in, tile["BLOCK_K"])
    else:
        steps = problem.taps * triton.cdiv(C_in, tile["BLOCK_K"])
    # one program: BLOCK_M pixels × BLOCK_N channels of one group
    programs = triton.cdiv(pixels, tile["BLOCK_M"]) * problem.groups * triton.cdiv(C_out, tile["BLOCK_N"])
    implicit_gemm_forward_kernel[(programs,)](
        **operands(y, x=x, w=w, b=then.b, scale=then.scale) | output(y=y),
        residual_ptr=like_output(then.residual, y),
        argmax_ptr=argmax,
        **{**convolution(problem), **epilogue(problem, then)},
        STEPS=steps,
        ACC=accumulator(x),
        PRECISION=tuning.dot_precision(x),
        **tile,
    )


def implicit_gemm_dgrad(
    dy: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, dx: torch.Tensor, problem: ConvProblem
) -> None:
    """Fill dx, whose dtype may be another than dy's; of a transposed convolution with its bias."""
    if dx.numel() == 0:
        return
    C_in, C_out = problem.C_in // problem.groups, problem.C_out // problem.groups
    phases, size = grid.phases(problem), grid.phase_size(problem)
    dy, w = product_operand(dy, problem), product_operand(w, problem)
    pixels = problem.N * math.prod(size)
    # elements that are wider, or a pointer for each
    crowded = dx.dtype != dy.dtype or (phases[3] > 1 and dx.stride(1) != 1)
    sizes = {"pixels": pixels, "C_in": C_in, "C_out": C_out, "taps": problem.taps, "crowded": crowded}
    tile = tuning.pick("implicit_gemm_dgrad", dy, problem, **sizes)
    # one program: BLOCK_M pixels of one phase × BLOCK_N channels of one group
    blocks = triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(C_in, tile["BLOCK_N"])
    implicit_gemm_dgrad_kernel[(blocks * phases[3] * problem.groups,)](
        **operands(dy=dy, w=w, b=b, dx=dx) | (output(dx=dx) if phases[3] == 1 else {}),  # a phase's pixels lie apart
        **convolution(problem),
        phase_size=size,
        PHASES=phases,
        ACC=accumulator(dy),
        PRECISION=tuning.dot_precision(dy),
        **tile,
    )


def implicit_gemm_wgrad(
    dy: torch.Tensor, x: torch.Tensor, dw: torch.Tensor, db: torch.Tensor | None, problem: ConvProblem
) -> None:
    """Fill dw, and db where it is given."""
    C_in, C_out = problem.C_in // problem.groups, problem.C_out // problem.groups
    pixels = problem.N * math.prod(problem.output_size)
    dy, x = product_operand(dy, problem), product_operand(x, problem)
    tile = tuning.pick("implicit_gemm_wgrad", dy, problem, pixels=pixels, C_in=C_in, C_out=C_out, taps=problem.taps)
    if tile["FLATTEN_TAPS"]:
        blocks_n = triton.cdiv(problem.taps * C_in, tile["BLOCK_N"])
    else:
        blocks_n = problem.taps * triton.cdiv(C_in, tile["BLOCK_N"])
    blocks_m = triton.cdiv(C_out, tile["BLOCK_M"])
    tiles = blocks_m * blocks_n * problem.groups
    splits, steps = tuning.split_k(dy, tiles, triton.cdiv(pixels, tile["BLOCK_K"]))
    partial = partial_sums(splits, dw, db, tuning.is_split(dy, tiles))
    dy = flat(dy)
    # one program: BLOCK_M output channels × BLOCK_N of (r, s, c) of one group, or their bias, over a split of pixels
    implicit_gemm_wgrad_kernel[(splits * blocks_m * problem.groups * (blocks_n + (db is not None)),)](
        **operands(partial.dw, partial.db, dy=dy, x=x) | images(dy) | partial.arguments(),
        **convolution(problem),
        steps=steps,
        BLOCKS_M=blocks_m,
        BLOCKS_N=blocks_n,
        ACC=accumulator(dy),
        PRECISION=tuning.dot_precision(dy),
        **tile,
    )
    sum_splits(partial, dw, db)
