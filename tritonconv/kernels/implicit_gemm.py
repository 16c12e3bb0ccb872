"""Implicit GEMM: the convolution as a matrix product whose patches are formed on the fly.

y[n, k, p, q] = Σ_{r, s, c} x[n, c, p·stride_h − pad_h + r·dil_h, q·stride_w − pad_w + s·dil_w] · w[k, c, r, s]

| pass    | rows of the product (M) | columns (N)     | reduced over (K)          |
| ------- | ----------------------- | --------------- | ------------------------- |
| forward | output pixels (n, p, q) | C_out of a group | taps (r, s) × C_in        |
| dgrad   | input pixels (n, h, w)  | C_in of a group  | taps that reach × C_out   |
| wgrad   | C_out of a group        | (r, s, c)        | output pixels, in splits  |

Any strides. Products accumulate in fp32 (fp64 for fp64); `PRECISION` is tuning's.
A pointwise convolution makes the forward, dgrad and wgrad kernels plain tiled GEMMs: im2col.py uses them as that.
Source: Chetlur et al., cuDNN: Efficient Primitives for Deep Learning (2014), section 3; CUTLASS's naming.
"""

import math

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.geometry import ConvGeometry, PoolGeometry
from tritonconv.jit import jit
from tritonconv.kernels.arguments import (
    UNIT_WINDOW,
    allocate_output,
    filter_constants,
    is_padded,
    numerics,
    picture_sizes,
    strides,
    window_constants,
)
from tritonconv.kernels.epilogue import keep_best, relu_tile
from tritonconv.kernels.indexing import unravel_pixels, unravel_program, unravel_taps
from tritonconv.kernels.split_k import allocate_partial, sum_splits


@jit
def implicit_gemm_forward_kernel(
    x_ptr,  # (N, C_in, H, W), any strides
    w_ptr,  # (C_out, C_in / groups, R, S), any strides
    b_ptr,  # (C_out,) or None
    y_ptr,  # (N, C_out, P, Q), or (N, C_out, P_pool, Q_pool) when pooling
    code_ptr,  # the strides of y; the winning place of each pooled output
    N,
    H,
    W,
    P,
    Q,
    P_pool,
    Q_pool,
    x_stride_n,
    x_stride_c,
    x_stride_h,
    x_stride_w,
    w_stride_k,
    w_stride_c,
    w_stride_r,
    w_stride_s,
    b_stride,
    y_stride_n,
    y_stride_k,
    y_stride_p,
    y_stride_q,
    GROUPS: tl.constexpr,
    C_in: tl.constexpr,  # of one group
    C_out: tl.constexpr,  # of one group
    R: tl.constexpr,
    S: tl.constexpr,
    conv_stride_h: tl.constexpr,
    conv_stride_w: tl.constexpr,
    pad_h: tl.constexpr,
    pad_w: tl.constexpr,
    dil_h: tl.constexpr,
    dil_w: tl.constexpr,
    pool_h: tl.constexpr,
    pool_w: tl.constexpr,
    pool_stride_h: tl.constexpr,
    pool_stride_w: tl.constexpr,
    pool_pad_h: tl.constexpr,
    pool_pad_w: tl.constexpr,
    pool_dil_h: tl.constexpr,
    pool_dil_w: tl.constexpr,
    NO_PLACE: tl.constexpr,
    PADDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    RELU: tl.constexpr,
    POOL: tl.constexpr,
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

    Grid: (pixel blocks · groups · channel blocks,). Pooling runs the product once for each place of the window and
    keeps the running maximum, so the unpooled picture exists in registers alone.
    """
    pid_m, group, pid_n = unravel_program(tl.program_id(0), GROUPS, (C_out + BLOCK_N - 1) // BLOCK_N, OFFSET)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p_out, q_out = unravel_pixels(offs_m, P_pool, Q_pool)
    valid_m = n < N
    valid_n = offs_n < C_out
    k = group * C_out + offs_n
    w_ptrs_k = w_ptr + k * w_stride_k
    x_group = x_ptr + group * C_in * x_stride_c

    if HAS_BIAS:
        bias = tl.load(b_ptr + k * b_stride, mask=valid_n, other=0.0).to(ACC)
    best = tl.full((BLOCK_M, BLOCK_N), -float("inf"), ACC)
    if POOL:
        code = tl.full((BLOCK_M, BLOCK_N), NO_PLACE, tl.int32)

    for place in range(pool_h * pool_w):
        p = p_out * pool_stride_h - pool_pad_h + place // pool_w * pool_dil_h
        q = q_out * pool_stride_w - pool_pad_w + place % pool_w * pool_dil_w
        valid_pixel = valid_m
        if POOL:
            valid_pixel = valid_m & (p >= 0) & (p < P) & (q >= 0) & (q < Q)
        h0 = p * conv_stride_h - pad_h
        w0 = q * conv_stride_w - pad_w
        x_ptrs_m = x_group + (n * x_stride_n + h0 * x_stride_h + w0 * x_stride_w)
        acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
        for step in range(STEPS):
            r, s, c, valid_k = unravel_taps(step, C_in, R, S, BLOCK_K, FLATTEN_TAPS, OFFSET)
            valid_x = valid_pixel[:, None]
            if PADDED:
                h = h0[:, None] + (r * dil_h)[None, :]
                w = w0[:, None] + (s * dil_w)[None, :]
                valid_x = valid_x & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            offs_x = r * dil_h * x_stride_h + s * dil_w * x_stride_w + c * x_stride_c
            offs_w = r * w_stride_r + s * w_stride_s + c * w_stride_c
            x = tl.load(x_ptrs_m[:, None] + offs_x[None, :], mask=valid_x & valid_k[None, :], other=0.0)
            f = tl.load(w_ptrs_k[None, :] + offs_w[:, None], mask=valid_k[:, None] & valid_n[None, :], other=0.0)
            acc = tl.dot(x, f, acc, input_precision=PRECISION, out_dtype=ACC)
        if HAS_BIAS:
            acc += bias[None, :]
        if RELU:
            acc = relu_tile(acc)
        if POOL:
            best, code = keep_best(acc, best, code, place, valid_pixel, y_ptr.dtype.element_ty)
        else:
            best = acc

    offs_y = n * y_stride_n + p_out * y_stride_p + q_out * y_stride_q
    offs_y = offs_y[:, None] + (k * y_stride_k)[None, :]
    valid_y = valid_m[:, None] & valid_n[None, :]
    tl.store(y_ptr + offs_y, best.to(y_ptr.dtype.element_ty), mask=valid_y)
    if POOL:
        code = tl.where(best <= 0, NO_PLACE, code)  # a dead ReLU passes no gradient
        tl.store(code_ptr + offs_y, code.to(code_ptr.dtype.element_ty), mask=valid_y)


@jit
def implicit_gemm_dgrad_kernel(
    dy_ptr,  # (N, C_out, P, Q), any strides
    w_ptr,  # (C_out, C_in / groups, R, S), any strides
    dx_ptr,  # (N, C_in, H, W)
    N,
    H,
    W,
    P,
    Q,
    dy_stride_n,
    dy_stride_k,
    dy_stride_p,
    dy_stride_q,
    w_stride_k,
    w_stride_c,
    w_stride_r,
    w_stride_s,
    dx_stride_n,
    dx_stride_c,
    dx_stride_h,
    dx_stride_w,
    GROUPS: tl.constexpr,
    C_in: tl.constexpr,  # of one group
    C_out: tl.constexpr,  # of one group
    R: tl.constexpr,
    S: tl.constexpr,
    conv_stride_h: tl.constexpr,
    conv_stride_w: tl.constexpr,
    pad_h: tl.constexpr,
    pad_w: tl.constexpr,
    dil_h: tl.constexpr,
    dil_w: tl.constexpr,
    gcd_h: tl.constexpr,
    gcd_w: tl.constexpr,
    inverse_h: tl.constexpr,
    inverse_w: tl.constexpr,
    PHASES_H: tl.constexpr,
    PHASES_W: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program: BLOCK_M input pixels of one phase × BLOCK_N input channels of one group.

    Grid: (pixel blocks · phases · groups · channel blocks,). A phase holds the pixels with the same h mod conv_stride_h
    and w mod conv_stride_w: the same taps reach all of them, so no product is spent on zeros. With
    g = gcd(dil, stride) those taps are r₀, r₀ + stride/g, …, r₀ = (h + pad)/g · (dil/g)⁻¹ mod stride/g, or none when g
    does not divide h + pad. A stride past the picture has no more phases than pixels.
    """
    rest, group, pid_n = unravel_program(tl.program_id(0), GROUPS, (C_in + BLOCK_N - 1) // BLOCK_N, OFFSET)
    phase = (rest % (PHASES_H * PHASES_W)).to(tl.int32)
    phase_h = phase // PHASES_W
    phase_w = phase % PHASES_W
    offs_m = rest // (PHASES_H * PHASES_W) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, h, w = unravel_pixels(offs_m, (H + conv_stride_h - 1) // conv_stride_h, (W + conv_stride_w - 1) // conv_stride_w)
    h = h * conv_stride_h + phase_h
    w = w * conv_stride_w + phase_w
    valid_m = (n < N) & (h < H) & (w < W)
    valid_n = offs_n < C_in

    step_r = conv_stride_h // gcd_h
    step_s = conv_stride_w // gcd_w
    r0 = (phase_h + pad_h) // gcd_h * inverse_h % step_r
    s0 = (phase_w + pad_w) // gcd_w * inverse_w % step_s
    taps_r = tl.where((phase_h + pad_h) % gcd_h == 0, tl.maximum((R - r0 + step_r - 1) // step_r, 0), 0)
    taps_s = tl.where((phase_w + pad_w) % gcd_w == 0, tl.maximum((S - s0 + step_s - 1) // step_s, 0), 0)
    per_row = tl.maximum(taps_s, 1)  # the compiler may divide by it where the loop does not run
    blocks_k: tl.constexpr = (C_out + BLOCK_K - 1) // BLOCK_K

    dy_group = dy_ptr + group * C_out * dy_stride_k
    w_ptrs_c = w_ptr + group * C_out * w_stride_k + offs_n * w_stride_c
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for step in range(taps_r * taps_s * blocks_k):
        tap = step // blocks_k
        k = step % blocks_k * BLOCK_K + tl.arange(0, BLOCK_K).to(OFFSET)
        r = (r0 + tap // per_row * step_r).to(OFFSET)
        s = (s0 + tap % per_row * step_s).to(OFFSET)
        p = (h + (pad_h - r * dil_h)) // conv_stride_h
        q = (w + (pad_w - s * dil_w)) // conv_stride_w
        # both numerators are multiples of the stride; a negative one rounds to a negative quotient either way
        valid_dy = valid_m & (p >= 0) & (p < P) & (q >= 0) & (q < Q)
        valid_k = k < C_out
        dy_ptrs_m = dy_group + (n * dy_stride_n + p * dy_stride_p + q * dy_stride_q)
        dy = tl.load(
            dy_ptrs_m[:, None] + (k * dy_stride_k)[None, :], mask=valid_dy[:, None] & valid_k[None, :], other=0.0
        )
        offs_w = k * w_stride_k + r * w_stride_r + s * w_stride_s
        f = tl.load(w_ptrs_c[None, :] + offs_w[:, None], mask=valid_k[:, None] & valid_n[None, :], other=0.0)
        acc = tl.dot(dy, f, acc, input_precision=PRECISION, out_dtype=ACC)

    c = group * C_in + offs_n
    dx_ptrs_m = dx_ptr + (n * dx_stride_n + h * dx_stride_h + w * dx_stride_w)
    dx_ptrs = dx_ptrs_m[:, None] + (c * dx_stride_c)[None, :]
    tl.store(dx_ptrs, acc.to(dx_ptr.dtype.element_ty), mask=valid_m[:, None] & valid_n[None, :])


@jit
def implicit_gemm_wgrad_kernel(
    dy_ptr,  # (N, C_out, P, Q), any strides
    x_ptr,  # (N, C_in, H, W), any strides
    dw_ptr,  # (splits, C_out, C_in / groups, R, S)
    db_ptr,  # (splits, C_out) or None
    N,
    H,
    W,
    P,
    Q,
    dy_stride_n,
    dy_stride_k,
    dy_stride_p,
    dy_stride_q,
    x_stride_n,
    x_stride_c,
    x_stride_h,
    x_stride_w,
    dw_stride_split,
    dw_stride_k,
    dw_stride_c,
    dw_stride_r,
    dw_stride_s,
    db_stride_split,
    steps,
    GROUPS: tl.constexpr,
    C_in: tl.constexpr,  # of one group
    C_out: tl.constexpr,  # of one group
    R: tl.constexpr,
    S: tl.constexpr,
    conv_stride_h: tl.constexpr,
    conv_stride_w: tl.constexpr,
    pad_h: tl.constexpr,
    pad_w: tl.constexpr,
    dil_h: tl.constexpr,
    dil_w: tl.constexpr,
    PADDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
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
    """One program: BLOCK_M output channels × BLOCK_N of (r, s, c), over `steps` blocks of BLOCK_K output pixels.

    Grid: (splits · channel blocks · groups · tap blocks,). For a bias gradient there is one tap block more, whose
    programs add up dy in a loop of their own: a second use of dy inside the product's loop costs the pipeline a buffer,
    and then a copy overwrites what the matrix unit still reads (docs/decisions/0008).
    """
    rest, group, pid_n = unravel_program(tl.program_id(0), GROUPS, BLOCKS_N + HAS_BIAS, OFFSET)
    split = rest // BLOCKS_M
    offs_m = rest % BLOCKS_M * BLOCK_M + tl.arange(0, BLOCK_M)
    valid_m = offs_m < C_out
    k = group * C_out + offs_m
    r, s, c, valid_n = unravel_taps(pid_n, C_in, R, S, BLOCK_N, FLATTEN_TAPS, OFFSET)
    steps_w = steps
    if HAS_BIAS:
        steps_w = steps * (pid_n < BLOCKS_N)
        valid_n = valid_n & (pid_n < BLOCKS_N)
    offs_x = r * dil_h * x_stride_h + s * dil_w * x_stride_w + (group * C_in + c) * x_stride_c

    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for step in range(steps_w):
        n, p, q = unravel_pixels((split * steps + step) * BLOCK_K + tl.arange(0, BLOCK_K), P, Q)
        valid_k = n < N
        dy_ptrs_k = dy_ptr + (n * dy_stride_n + p * dy_stride_p + q * dy_stride_q)
        dy_ptrs = dy_ptrs_k[:, None] + (k * dy_stride_k)[None, :]
        dy = tl.load(dy_ptrs, mask=valid_k[:, None] & valid_m[None, :], other=0.0)
        h0 = p * conv_stride_h - pad_h
        w0 = q * conv_stride_w - pad_w
        valid_x = valid_k[:, None]
        if PADDED:
            h = h0[:, None] + (r * dil_h)[None, :]
            w = w0[:, None] + (s * dil_w)[None, :]
            valid_x = valid_x & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        x_ptrs_k = x_ptr + (n * x_stride_n + h0 * x_stride_h + w0 * x_stride_w)
        x = tl.load(x_ptrs_k[:, None] + offs_x[None, :], mask=valid_x & valid_n[None, :], other=0.0)
        acc = tl.dot(tl.trans(dy), x, acc, input_precision=PRECISION, out_dtype=ACC)

    offs_dw = (c * dw_stride_c + r * dw_stride_r + s * dw_stride_s)[None, :] + (k * dw_stride_k)[:, None]
    dw_ptrs = dw_ptr + split * dw_stride_split + offs_dw
    tl.store(dw_ptrs, acc.to(dw_ptr.dtype.element_ty), mask=valid_m[:, None] & valid_n[None, :])
    if HAS_BIAS:
        acc_b = tl.zeros((BLOCK_M,), ACC)
        for step in range(steps - steps_w):
            n, p, q = unravel_pixels((split * steps + step) * BLOCK_K + tl.arange(0, BLOCK_K), P, Q)
            dy_ptrs_k = dy_ptr + (n * dy_stride_n + p * dy_stride_p + q * dy_stride_q)
            dy_ptrs = dy_ptrs_k[:, None] + (k * dy_stride_k)[None, :]
            acc_b += tl.sum(tl.load(dy_ptrs, mask=(n < N)[:, None] & valid_m[None, :], other=0.0).to(ACC), 0)
        last = valid_m & (pid_n == BLOCKS_N)
        tl.store(db_ptr + split * db_stride_split + k, acc_b.to(db_ptr.dtype.element_ty), mask=last)


def implicit_gemm_forward(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    geometry: ConvGeometry,
    layout: torch.memory_format,
    relu: bool = False,
    pool: PoolGeometry | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """y in `layout`, or the pooled y and the place code of each of its elements."""
    y, code = allocate_output(x, geometry, layout, pool)
    if y.numel() == 0:
        return y, code
    P_out, Q_out = y.shape[2:]
    C_in, C_out = geometry.C_in // geometry.groups, geometry.C_out // geometry.groups
    pixels = geometry.N * P_out * Q_out
    sizes = {"pixels": pixels, "C_in": C_in, "C_out": C_out, "taps": geometry.taps, "pooled": pool is not None}
    tile = tuning.pick("implicit_gemm_forward", x, geometry, **sizes)
    if tile["FLATTEN_TAPS"]:
        steps = triton.cdiv(geometry.taps * C_in, tile["BLOCK_K"])
    else:
        steps = geometry.taps * triton.cdiv(C_in, tile["BLOCK_K"])
    # one program: BLOCK_M pixels × BLOCK_N channels of one group
    grid = (triton.cdiv(pixels, tile["BLOCK_M"]) * geometry.groups * triton.cdiv(C_out, tile["BLOCK_N"]),)
    implicit_gemm_forward_kernel[grid](
        x_ptr=x,
        w_ptr=w,
        b_ptr=b,
        y_ptr=y,
        code_ptr=code,
        P_pool=P_out,
        Q_pool=Q_out,
        b_stride=0 if b is None else b.stride(0),
        **picture_sizes(geometry),
        **strides("x", "nchw", x),
        **strides("w", "kcrs", w),
        **strides("y", "nkpq", y),
        **filter_constants(geometry),
        **window_constants(UNIT_WINDOW if pool is None else pool),
        PADDED=is_padded(geometry),
        HAS_BIAS=b is not None,
        RELU=relu,
        POOL=pool is not None,
        STEPS=steps,
        **numerics(x, x, w, y),
        PRECISION=tuning.dot_precision(x),
        **tile,
    )
    return y, code


def implicit_gemm_dgrad(
    dy: torch.Tensor,
    w: torch.Tensor,
    geometry: ConvGeometry,
    layout: torch.memory_format,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """dx in `layout`, in dy's dtype or in `dtype`."""
    dx = torch.empty(geometry.input_shape, dtype=dtype or dy.dtype, device=dy.device, memory_format=layout)
    if dx.numel() == 0:
        return dx
    C_in, C_out = geometry.C_in // geometry.groups, geometry.C_out // geometry.groups
    phases = tuple(map(min, geometry.stride, geometry.input_size))
    pixels = geometry.N * math.prod(map(triton.cdiv, geometry.input_size, geometry.stride))
    tile = tuning.pick("implicit_gemm_dgrad", dy, geometry, pixels=pixels, C_in=C_in, C_out=C_out, taps=geometry.taps)
    gcds = [math.gcd(d, s) for d, s in zip(geometry.dilation, geometry.stride, strict=True)]
    inverses = [pow(d // g, -1, s // g) for d, s, g in zip(geometry.dilation, geometry.stride, gcds, strict=True)]
    # one program: BLOCK_M pixels of one phase × BLOCK_N channels of one group
    blocks = triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(C_in, tile["BLOCK_N"])
    implicit_gemm_dgrad_kernel[(blocks * math.prod(phases) * geometry.groups,)](
        dy_ptr=dy,
        w_ptr=w,
        dx_ptr=dx,
        **picture_sizes(geometry),
        **strides("dy", "nkpq", dy),
        **strides("w", "kcrs", w),
        **strides("dx", "nchw", dx),
        **filter_constants(geometry),
        gcd_h=gcds[0],
        gcd_w=gcds[1],
        inverse_h=inverses[0],
        inverse_w=inverses[1],
        PHASES_H=phases[0],
        PHASES_W=phases[1],
        **numerics(dy, dy, w, dx),
        PRECISION=tuning.dot_precision(dy),
        **tile,
    )
    return dx


def implicit_gemm_wgrad(
    dy: torch.Tensor, x: torch.Tensor, geometry: ConvGeometry, layout: torch.memory_format, bias: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """dw in `layout`, and db when asked for, from one pass over dy."""
    C_in, C_out = geometry.C_in // geometry.groups, geometry.C_out // geometry.groups
    pixels = geometry.N * math.prod(geometry.output_size)
    tile = tuning.pick("implicit_gemm_wgrad", dy, geometry, pixels=pixels, C_in=C_in, C_out=C_out, taps=geometry.taps)
    if tile["FLATTEN_TAPS"]:
        blocks_n = triton.cdiv(geometry.taps * C_in, tile["BLOCK_N"])
    else:
        blocks_n = geometry.taps * triton.cdiv(C_in, tile["BLOCK_N"])
    blocks_m = triton.cdiv(C_out, tile["BLOCK_M"])
    splits, steps = tuning.split_k(dy, blocks_m * blocks_n * geometry.groups, triton.cdiv(pixels, tile["BLOCK_K"]))
    dw = allocate_partial(splits, geometry.filter_shape, dy, layout)
    db = allocate_partial(splits, (geometry.C_out,), dy) if bias else None
    # one program: BLOCK_M output channels × BLOCK_N of (r, s, c) of one group, or their bias, over a split of pixels
    implicit_gemm_wgrad_kernel[(splits * blocks_m * geometry.groups * (blocks_n + bias),)](
        dy_ptr=dy,
        x_ptr=x,
        dw_ptr=dw,
        db_ptr=db,
        **picture_sizes(geometry),
        **strides("dy", "nkpq", dy),
        **strides("x", "nchw", x),
        dw_stride_split=dw.stride(0),
        **strides("dw", "kcrs", dw[0]),
        db_stride_split=geometry.C_out,
        steps=steps,
        **filter_constants(geometry),
        PADDED=is_padded(geometry),
        HAS_BIAS=bias,
        BLOCKS_M=blocks_m,
        BLOCKS_N=blocks_n,
        **numerics(dy, dy, x, dw),
        PRECISION=tuning.dot_precision(dy),
        **tile,
    )
    return sum_splits(dw, dy.dtype), None if db is None else sum_splits(db, dy.dtype)
