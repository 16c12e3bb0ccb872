"""Max pooling.

y[n, c, p, q] = max over places (i, j) of x[n, c, p·stride_h − pad_h + i·dil_h, q·stride_w − pad_w + j·dil_w]

Padding counts as −inf; a NaN wins; of equal values the first place wins. Forward keeps one code a window, the winning
place i·KW + j (1 byte up to 255 places), or NO_PLACE for a window wholly in the padding, which has no gradient.
Backward gathers: each input pixel looks into the windows that reach it, so no two programs add to one element.
The tile is pixels × channels; any strides. Source: torch.nn.functional.max_pool2d.
"""

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.geometry import PoolGeometry
from tritonconv.jit import jit
from tritonconv.kernels.arguments import numerics, strides, window_constants
from tritonconv.kernels.epilogue import is_better
from tritonconv.kernels.indexing import unravel_pixels, unravel_program


@jit
def max_pool_forward_kernel(
    x_ptr,  # (N, C, H, W), any strides
    y_ptr,  # (N, C, P, Q)
    code_ptr,  # the strides of y
    index_ptr,  # the strides of y, int64, or None
    N,
    C,
    H,
    W,
    P,
    Q,
    x_stride_n,
    x_stride_c,
    x_stride_h,
    x_stride_w,
    y_stride_n,
    y_stride_c,
    y_stride_p,
    y_stride_q,
    pool_h: tl.constexpr,
    pool_w: tl.constexpr,
    pool_stride_h: tl.constexpr,
    pool_stride_w: tl.constexpr,
    pool_pad_h: tl.constexpr,
    pool_pad_w: tl.constexpr,
    pool_dil_h: tl.constexpr,
    pool_dil_w: tl.constexpr,
    NO_PLACE: tl.constexpr,
    HAS_INDEX: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M windows × BLOCK_N channels. Grid: (window blocks · channel blocks,)."""
    pid_m, _, pid_n = unravel_program(tl.program_id(0), 1, tl.cdiv(C, BLOCK_N), OFFSET)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    c = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q = unravel_pixels(offs_m, P, Q)
    valid_m = n < N
    valid_c = c < C
    h0 = p * pool_stride_h - pool_pad_h
    w0 = q * pool_stride_w - pool_pad_w
    best = tl.full((BLOCK_M, BLOCK_N), -float("inf"), ACC)
    code = tl.full((BLOCK_M, BLOCK_N), NO_PLACE, tl.int32)
    for place in range(pool_h * pool_w):
        h = h0 + place // pool_w * pool_dil_h
        w = w0 + place % pool_w * pool_dil_w
        valid = valid_m & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        x_ptrs_m = x_ptr + (n * x_stride_n + h * x_stride_h + w * x_stride_w)
        x_ptrs = x_ptrs_m[:, None] + (c * x_stride_c)[None, :]
        value = tl.load(x_ptrs, mask=valid[:, None] & valid_c[None, :], other=-float("inf")).to(ACC)
        # the first place inside the picture stands for a window of −inf
        take = is_better(value, best) | ((code == NO_PLACE) & valid[:, None])
        best = tl.where(take, value, best)
        code = tl.where(take, place, code)
    offs_y = (n * y_stride_n + p * y_stride_p + q * y_stride_q)[:, None] + (c * y_stride_c)[None, :]
    valid_y = valid_m[:, None] & valid_c[None, :]
    tl.store(y_ptr + offs_y, best.to(y_ptr.dtype.element_ty), mask=valid_y)
    tl.store(code_ptr + offs_y, code.to(code_ptr.dtype.element_ty), mask=valid_y)
    if HAS_INDEX:
        place_or_first = tl.where(code == NO_PLACE, 0, code)
        h_best = h0[:, None] + place_or_first // pool_w * pool_dil_h
        w_best = w0[:, None] + place_or_first % pool_w * pool_dil_w
        # a window wholly in the padding names the nearest pixel
        h_best = tl.minimum(tl.maximum(h_best, 0), H - 1)
        w_best = tl.minimum(tl.maximum(w_best, 0), W - 1)
        tl.store(index_ptr + offs_y, h_best.to(tl.int64) * W + w_best, mask=valid_y)


@jit
def max_pool_backward_kernel(
    dy_ptr,  # (N, C, P, Q), any strides
    code_ptr,  # (N, C, P, Q), any strides
    dx_ptr,  # (N, C, H, W)
    N,
    C,
    H,
    W,
    P,
    Q,
    dy_stride_n,
    dy_stride_c,
    dy_stride_p,
    dy_stride_q,
    code_stride_n,
    code_stride_c,
    code_stride_p,
    code_stride_q,
    dx_stride_n,
    dx_stride_c,
    dx_stride_h,
    dx_stride_w,
    pool_h: tl.constexpr,
    pool_w: tl.constexpr,
    pool_stride_h: tl.constexpr,
    pool_stride_w: tl.constexpr,
    pool_pad_h: tl.constexpr,
    pool_pad_w: tl.constexpr,
    pool_dil_h: tl.constexpr,
    pool_dil_w: tl.constexpr,
    NO_PLACE: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: BLOCK_M input pixels × BLOCK_N channels, over the windows that can reach a pixel.

    Grid: (pixel blocks · channel blocks,). Windows that do not overlap reach a pixel once.
    """
    pid_m, _, pid_n = unravel_program(tl.program_id(0), 1, tl.cdiv(C, BLOCK_N), OFFSET)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    c = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, h, w = unravel_pixels(offs_m, H, W)
    valid_m = n < N
    valid_c = c < C
    windows_h: tl.constexpr = ((pool_h - 1) * pool_dil_h + pool_stride_h) // pool_stride_h
    windows_w: tl.constexpr = ((pool_w - 1) * pool_dil_w + pool_stride_w) // pool_stride_w
    p_last = (h + pool_pad_h) // pool_stride_h
    q_last = (w + pool_pad_w) // pool_stride_w
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for window in range(windows_h * windows_w):
        p = p_last - window // windows_w
        q = q_last - window % windows_w
        inside_h = h + pool_pad_h - p * pool_stride_h
        inside_w = w + pool_pad_w - q * pool_stride_w
        i = inside_h // pool_dil_h
        j = inside_w // pool_dil_w
        valid = valid_m & (p >= 0) & (p < P) & (i < pool_h) & (i * pool_dil_h == inside_h)
        valid = valid & (q >= 0) & (q < Q) & (j < pool_w) & (j * pool_dil_w == inside_w)
        valid_dy = valid[:, None] & valid_c[None, :]
        code_ptrs_m = code_ptr + (n * code_stride_n + p * code_stride_p + q * code_stride_q)
        code = tl.load(code_ptrs_m[:, None] + (c * code_stride_c)[None, :], mask=valid_dy, other=NO_PLACE)
        dy_ptrs_m = dy_ptr + (n * dy_stride_n + p * dy_stride_p + q * dy_stride_q)
        dy = tl.load(dy_ptrs_m[:, None] + (c * dy_stride_c)[None, :], mask=valid_dy, other=0.0).to(ACC)
        # code and dy are loaded at once: neither waits for the other
        acc += tl.where(code == (i * pool_w + j)[:, None], dy, 0.0)
    dx_ptrs_m = dx_ptr + (n * dx_stride_n + h * dx_stride_h + w * dx_stride_w)
    dx_ptrs = dx_ptrs_m[:, None] + (c * dx_stride_c)[None, :]
    tl.store(dx_ptrs, acc.to(dx_ptr.dtype.element_ty), mask=valid_m[:, None] & valid_c[None, :])


@jit
def max_pool_gather_kernel(
    x_ptr,  # (N, C, H, W), any strides
    code_ptr,  # (N, C, P, Q), any strides
    y_ptr,  # (N, C, P, Q)
    N,
    C,
    H,
    W,
    P,
    Q,
    x_stride_n,
    x_stride_c,
    x_stride_h,
    x_stride_w,
    code_stride_n,
    code_stride_c,
    code_stride_p,
    code_stride_q,
    y_stride_n,
    y_stride_c,
    y_stride_p,
    y_stride_q,
    pool_h: tl.constexpr,
    pool_w: tl.constexpr,
    pool_stride_h: tl.constexpr,
    pool_stride_w: tl.constexpr,
    pool_pad_h: tl.constexpr,
    pool_pad_w: tl.constexpr,
    pool_dil_h: tl.constexpr,
    pool_dil_w: tl.constexpr,
    NO_PLACE: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program reads, for BLOCK_M windows × BLOCK_N channels, x at the place each window's code names; 0 for none.

    The adjoint of max_pool_backward_kernel. Grid: (window blocks · channel blocks,).
    """
    pid_m, _, pid_n = unravel_program(tl.program_id(0), 1, tl.cdiv(C, BLOCK_N), OFFSET)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    c = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q = unravel_pixels(offs_m, P, Q)
    valid = (n < N)[:, None] & (c < C)[None, :]
    code_ptrs_m = code_ptr + (n * code_stride_n + p * code_stride_p + q * code_stride_q)
    code = tl.load(code_ptrs_m[:, None] + (c * code_stride_c)[None, :], mask=valid, other=NO_PLACE)
    code = code.to(tl.int32)
    h = (p * pool_stride_h - pool_pad_h)[:, None] + code // pool_w * pool_dil_h
    w = (q * pool_stride_w - pool_pad_w)[:, None] + code % pool_w * pool_dil_w
    x_ptrs = x_ptr + ((n * x_stride_n)[:, None] + (c * x_stride_c)[None, :] + h * x_stride_h + w * x_stride_w)
    value = tl.load(x_ptrs, mask=valid & (code != NO_PLACE), other=0.0)
    y_ptrs_m = y_ptr + (n * y_stride_n + p * y_stride_p + q * y_stride_q)
    tl.store(y_ptrs_m[:, None] + (c * y_stride_c)[None, :], value, mask=valid)


def _sizes(x_shape: torch.Size, pool: PoolGeometry) -> dict[str, int]:
    (H, W), (P, Q) = pool.input_size, pool.output_size
    return {"N": x_shape[0], "C": x_shape[1], "H": H, "W": W, "P": P, "Q": Q}


def _grid(operator: str, t: torch.Tensor, pool: PoolGeometry) -> tuple[tuple[int], tuning.Tile]:
    """One program: BLOCK_M pixels × BLOCK_N channels of `t`."""
    pixels = t.shape[0] * t.shape[2] * t.shape[3]
    tile = tuning.pick(operator, t, pool, pixels=pixels, channels=t.shape[1])
    return (triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(t.shape[1], tile["BLOCK_N"]),), tile


def max_pool_forward(
    x: torch.Tensor, pool: PoolGeometry, layout: torch.memory_format, indices: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """y, the place codes, and int64 indices into the plane when asked for; all in `layout`."""
    shape = (*x.shape[:2], *pool.output_size)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    code = torch.empty(shape, dtype=pool.code_dtype, device=x.device, memory_format=layout)
    index = torch.empty(shape, dtype=torch.int64, device=x.device, memory_format=layout) if indices else None
    if y.numel() > 0:
        grid, tile = _grid("max_pool_forward", y, pool)
        max_pool_forward_kernel[grid](
            x_ptr=x,
            y_ptr=y,
            code_ptr=code,
            index_ptr=index,
            **_sizes(x.shape, pool),
            **strides("x", "nchw", x),
            **strides("y", "ncpq", y),
            **window_constants(pool),
            HAS_INDEX=indices,
            **numerics(x, x, y),
            **tile,
        )
    return y, code, index


def max_pool_backward(
    dy: torch.Tensor, code: torch.Tensor, pool: PoolGeometry, layout: torch.memory_format
) -> torch.Tensor:
    """dx: each window's dy at the place its code names, summed where windows overlap."""
    shape = (*dy.shape[:2], *pool.input_size)
    dx = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=layout)
    if dx.numel() > 0:
        grid, tile = _grid("max_pool_backward", dx, pool)
        max_pool_backward_kernel[grid](
            dy_ptr=dy,
            code_ptr=code,
            dx_ptr=dx,
            **_sizes(dx.shape, pool),
            **strides("dy", "ncpq", dy),
            **strides("code", "ncpq", code),
            **strides("dx", "nchw", dx),
            **window_constants(pool),
            **numerics(dy, dy, code, dx),
            **tile,
        )
    return dx


def max_pool_gather(
    x: torch.Tensor, code: torch.Tensor, pool: PoolGeometry, layout: torch.memory_format
) -> torch.Tensor:
    """(N, C, P, Q): x at the place each window's code names."""
    y = torch.empty(code.shape, dtype=x.dtype, device=x.device, memory_format=layout)
    if y.numel() > 0:
        grid, tile = _grid("max_pool_gather", y, pool)
        max_pool_gather_kernel[grid](
            x_ptr=x,
            code_ptr=code,
            y_ptr=y,
            **_sizes(x.shape, pool),
            **strides("x", "nchw", x),
            **strides("code", "ncpq", code),
            **strides("y", "ncpq", y),
            **window_constants(pool),
            OFFSET=numerics(x, x, code, y)["OFFSET"],
            **tile,
        )
    return y
