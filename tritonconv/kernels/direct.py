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
from tritonconv.geometry import ConvGeometry, PoolGeometry
from tritonconv.jit import jit
from tritonconv.kernels.arguments import (
    UNIT_WINDOW,
    allocate_output,
    filter_constants,
    numerics,
    picture_sizes,
    strides,
    window_constants,
)
from tritonconv.kernels.epilogue import keep_best, relu_tile
from tritonconv.kernels.indexing import unravel_pixels, unravel_program
from tritonconv.kernels.split_k import allocate_partial, sum_splits


@jit
def direct_forward_kernel(
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
    HAS_BIAS: tl.constexpr,
    RELU: tl.constexpr,
    POOL: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M output pixels (or pooling windows) × BLOCK_N output channels.

    Grid: (pixel blocks · channel blocks,). Pooling sums once for each place of the window and keeps the running
    maximum.
    """
    pid_m, _, pid_n = unravel_program(tl.program_id(0), 1, (GROUPS * C_out + BLOCK_N - 1) // BLOCK_N, OFFSET)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    k = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p_out, q_out = unravel_pixels(offs_m, P_pool, Q_pool)
    valid_m = n < N
    valid_k = k < GROUPS * C_out
    c0 = k // C_out * C_in

    if HAS_BIAS:
        bias = tl.load(b_ptr + k * b_stride, mask=valid_k, other=0.0).to(ACC)
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
        acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
        for tap in range(R * S):
            r = tap // S
            s = tap % S
            h = h0 + r * dil_h
            w = w0 + s * dil_w
            valid_x = (valid_pixel & (h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None]
            x_ptrs = (x_ptr + (n * x_stride_n + h * x_stride_h + w * x_stride_w))[:, None]
            if GROUPS > 1:
                x_ptrs += (c0 * x_stride_c)[None, :]
                valid_x = valid_x & valid_k[None, :]
            w_ptrs = w_ptr + (k * w_stride_k + r.to(OFFSET) * w_stride_r + s.to(OFFSET) * w_stride_s)
            for _ in range(C_in):
                x = tl.load(x_ptrs, mask=valid_x, other=0.0)
                f = tl.load(w_ptrs, mask=valid_k, other=0.0)
                acc += x.to(ACC) * f.to(ACC)[None, :]
                x_ptrs += x_stride_c
                w_ptrs += w_stride_c
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
    valid_y = valid_m[:, None] & valid_k[None, :]
    tl.store(y_ptr + offs_y, best.to(y_ptr.dtype.element_ty), mask=valid_y)
    if POOL:
        code = tl.where(best <= 0, NO_PLACE, code)  # a dead ReLU passes no gradient
        tl.store(code_ptr + offs_y, code.to(code_ptr.dtype.element_ty), mask=valid_y)


@jit
def direct_dgrad_kernel(
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
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M input pixels × BLOCK_N input channels. Grid: (pixel blocks · channel blocks,)."""
    pid_m, _, pid_n = unravel_program(tl.program_id(0), 1, (GROUPS * C_in + BLOCK_N - 1) // BLOCK_N, OFFSET)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    c = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, h, w = unravel_pixels(offs_m, H, W)
    valid_m = n < N
    valid_c = c < GROUPS * C_in
    k0 = c // C_in * C_out
    w_ptrs_c = w_ptr + (k0 * w_stride_k + c % C_in * w_stride_c)

    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for tap in range(R * S):
        r = tap // S
        s = tap % S
        reach_h = h + (pad_h - r * dil_h)
        reach_w = w + (pad_w - s * dil_w)
        p = reach_h // conv_stride_h
        q = reach_w // conv_stride_w
        valid_dy = valid_m & (reach_h >= 0) & (p * conv_stride_h == reach_h) & (p < P)
        valid_dy = (valid_dy & (reach_w >= 0) & (q * conv_stride_w == reach_w) & (q < Q))[:, None]
        dy_ptrs = (dy_ptr + (n * dy_stride_n + p * dy_stride_p + q * dy_stride_q))[:, None]
        if GROUPS > 1:
            dy_ptrs += (k0 * dy_stride_k)[None, :]
            valid_dy = valid_dy & valid_c[None, :]
        w_ptrs = w_ptrs_c + (r.to(OFFSET) * w_stride_r + s.to(OFFSET) * w_stride_s)
        for _ in range(C_out):
            dy = tl.load(dy_ptrs, mask=valid_dy, other=0.0)
            f = tl.load(w_ptrs, mask=valid_c, other=0.0)
            acc += dy.to(ACC) * f.to(ACC)[None, :]
            dy_ptrs += dy_stride_k
            w_ptrs += w_stride_k

    dx_ptrs_m = dx_ptr + (n * dx_stride_n + h * dx_stride_h + w * dx_stride_w)
    dx_ptrs = dx_ptrs_m[:, None] + (c * dx_stride_c)[None, :]
    tl.store(dx_ptrs, acc.to(dx_ptr.dtype.element_ty), mask=valid_m[:, None] & valid_c[None, :])


@jit
def direct_wgrad_kernel(
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
    HAS_BIAS: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: one (r, s, c) of BLOCK_N output channels' filters, over `steps` blocks of BLOCK_M output pixels.

    Grid: (splits · (r, s, c) · channel blocks,). For a bias gradient there is one (r, s, c) more, whose programs add up
    dy alone.
    """
    blocks_n: tl.constexpr = (GROUPS * C_out + BLOCK_N - 1) // BLOCK_N
    split, filters, pid_n = unravel_program(tl.program_id(0), R * S * C_in + HAS_BIAS, blocks_n, OFFSET)
    k = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    c = filters // (R * S)
    r = filters % (R * S) // S
    s = filters % S
    valid_k = k < GROUPS * C_out
    steps_w = steps
    valid_w = valid_k
    if HAS_BIAS:
        steps_w = steps * (filters < R * S * C_in)
        valid_w = valid_k & (filters < R * S * C_in)

    acc = tl.zeros((BLOCK_N,), ACC)
    for step in range(steps_w):
        n, p, q = unravel_pixels((split * steps + step) * BLOCK_M + tl.arange(0, BLOCK_M), P, Q)
        valid_m = n < N
        dy_ptrs_m = dy_ptr + (n * dy_stride_n + p * dy_stride_p + q * dy_stride_q)
        dy_ptrs = dy_ptrs_m[:, None] + (k * dy_stride_k)[None, :]
        dy = tl.load(dy_ptrs, mask=valid_m[:, None] & valid_k[None, :], other=0.0).to(ACC)
        h = p * conv_stride_h - pad_h + r * dil_h
        w = q * conv_stride_w - pad_w + s * dil_w
        valid_x = (valid_m & (h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None]
        x_ptrs_m = (x_ptr + (n * x_stride_n + h * x_stride_h + w * x_stride_w))[:, None]
        if GROUPS == 1:
            x = tl.load(x_ptrs_m + c * x_stride_c, mask=valid_x, other=0.0)
        else:
            x_ptrs = x_ptrs_m + ((k // C_out * C_in + c) * x_stride_c)[None, :]
            x = tl.load(x_ptrs, mask=valid_x & valid_k[None, :], other=0.0)
        acc += tl.sum(dy * x.to(ACC), 0)

    dw_ptrs = dw_ptr + split * dw_stride_split + c * dw_stride_c + r * dw_stride_r + s * dw_stride_s + k * dw_stride_k
    tl.store(dw_ptrs, acc.to(dw_ptr.dtype.element_ty), mask=valid_w)
    if HAS_BIAS:
        acc_b = tl.zeros((BLOCK_N,), ACC)
        for step in range(steps - steps_w):
            n, p, q = unravel_pixels((split * steps + step) * BLOCK_M + tl.arange(0, BLOCK_M), P, Q)
            dy_ptrs_m = dy_ptr + (n * dy_stride_n + p * dy_stride_p + q * dy_stride_q)
            dy_ptrs = dy_ptrs_m[:, None] + (k * dy_stride_k)[None, :]
            acc_b += tl.sum(tl.load(dy_ptrs, mask=(n < N)[:, None] & valid_k[None, :], other=0.0).to(ACC), 0)
        last = valid_k & (filters == R * S * C_in)
        tl.store(db_ptr + split * db_stride_split + k, acc_b.to(db_ptr.dtype.element_ty), mask=last)


def direct_forward(
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
    pixels = geometry.N * P_out * Q_out
    tile = tuning.pick("direct_forward", y, geometry, pixels=pixels, channels=geometry.C_out)
    # one program: BLOCK_M pixels × BLOCK_N channels
    grid = (triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(geometry.C_out, tile["BLOCK_N"]),)
    direct_forward_kernel[grid](
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
        HAS_BIAS=b is not None,
        RELU=relu,
        POOL=pool is not None,
        **numerics(x, x, w, y),
        **tile,
    )
    return y, code


def direct_dgrad(
    dy: torch.Tensor, w: torch.Tensor, geometry: ConvGeometry, layout: torch.memory_format
) -> torch.Tensor:
    """dx in `layout`."""
    dx = torch.empty(geometry.input_shape, dtype=dy.dtype, device=dy.device, memory_format=layout)
    if dx.numel() == 0:
        return dx
    pixels = geometry.N * math.prod(geometry.input_size)
    tile = tuning.pick("direct_dgrad", dx, geometry, pixels=pixels, channels=geometry.C_in)
    # one program: BLOCK_M pixels × BLOCK_N channels
    grid = (triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(geometry.C_in, tile["BLOCK_N"]),)
    direct_dgrad_kernel[grid](
        dy_ptr=dy,
        w_ptr=w,
        dx_ptr=dx,
        **picture_sizes(geometry),
        **strides("dy", "nkpq", dy),
        **strides("w", "kcrs", w),
        **strides("dx", "nchw", dx),
        **filter_constants(geometry),
        **numerics(dy, dy, w, dx),
        **tile,
    )
    return dx


def direct_wgrad(
    dy: torch.Tensor, x: torch.Tensor, geometry: ConvGeometry, layout: torch.memory_format, bias: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """dw in `layout`, and db when asked for, from one pass over dy."""
    pixels = geometry.N * math.prod(geometry.output_size)
    tile = tuning.pick("direct_wgrad", dy, geometry, pixels=pixels, channels=geometry.C_out)
    channel_blocks = triton.cdiv(geometry.C_out, tile["BLOCK_N"])
    filters = geometry.taps * geometry.C_in // geometry.groups
    splits, steps = tuning.split_k(dy, channel_blocks * filters, triton.cdiv(pixels, tile["BLOCK_M"]))
    dw = allocate_partial(splits, geometry.filter_shape, dy, layout)
    db = allocate_partial(splits, (geometry.C_out,), dy) if bias else None
    # one program: one (r, s, c) of BLOCK_N channels' filters, or their bias, over one split of the pixels
    direct_wgrad_kernel[(splits * (filters + bias) * channel_blocks,)](
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
        HAS_BIAS=bias,
        **numerics(dy, dy, x, dw),
        **tile,
    )
    return sum_splits(dw, dy.dtype), None if db is None else sum_splits(db, dy.dtype)
