"""im2col: the patches are written out as a matrix, and the convolution is that matrix times the filters.

unfold: columns[n, (c, r, s), p, q] = x[n, c, p·stride_h − pad_h + r·dil_h, q·stride_w − pad_w + s·dil_w], 0 outside x.
fold, its adjoint: dx[n, c, h, w] = Σ columns[n, (c, r, s), p, q] over the places that (h, w) was copied to.

The product is the tiled GEMM of implicit_gemm.py on the columns, a pointwise convolution of R·S·C_in channels. What the
algorithm costs is the columns: R·S times the input for stride 1. Any strides; sums in fp32 (fp64 for fp64).
Source: Chellapilla et al., High Performance Convolutional Neural Networks for Document Processing (2006).
"""

import math

import torch
import triton
import triton.language as tl

from tritonconv import tuning
from tritonconv.geometry import ConvGeometry, PoolGeometry
from tritonconv.jit import jit
from tritonconv.kernels.arguments import numerics, picture_sizes, sliding_constants, strides
from tritonconv.kernels.implicit_gemm import implicit_gemm_dgrad, implicit_gemm_forward, implicit_gemm_wgrad
from tritonconv.kernels.indexing import unravel_pixels, unravel_program


@jit
def unfold_kernel(
    x_ptr,  # (N, C, H, W), any strides
    columns_ptr,  # (N, C · R · S, P, Q)
    N,
    H,
    W,
    P,
    Q,
    x_stride_n,
    x_stride_c,
    x_stride_h,
    x_stride_w,
    columns_stride_n,
    columns_stride_j,
    columns_stride_p,
    columns_stride_q,
    J,  # C · R · S
    R: tl.constexpr,
    S: tl.constexpr,
    conv_stride_h: tl.constexpr,
    conv_stride_w: tl.constexpr,
    pad_h: tl.constexpr,
    pad_w: tl.constexpr,
    dil_h: tl.constexpr,
    dil_w: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program copies BLOCK_N of (c, r, s) for BLOCK_M output pixels. Grid: (pixel blocks · column blocks,)."""
    pid_m, _, pid_n = unravel_program(tl.program_id(0), 1, tl.cdiv(J, BLOCK_N), OFFSET)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    j = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q = unravel_pixels(offs_m, P, Q)
    c, r, s = unravel_pixels(j, R, S)
    valid = (n < N)[:, None] & (j < J)[None, :]
    h0 = p * conv_stride_h - pad_h
    w0 = q * conv_stride_w - pad_w
    h = h0[:, None] + (r * dil_h)[None, :]
    w = w0[:, None] + (s * dil_w)[None, :]
    valid_x = valid & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    x_ptrs_m = x_ptr + (n * x_stride_n + h0 * x_stride_h + w0 * x_stride_w)
    offs_x = c * x_stride_c + r * dil_h * x_stride_h + s * dil_w * x_stride_w
    x = tl.load(x_ptrs_m[:, None] + offs_x[None, :], mask=valid_x, other=0.0)
    columns_ptrs_m = columns_ptr + (n * columns_stride_n + p * columns_stride_p + q * columns_stride_q)
    tl.store(columns_ptrs_m[:, None] + (j * columns_stride_j)[None, :], x, mask=valid)


@jit
def fold_kernel(
    columns_ptr,  # (N, C · R · S, P, Q), any strides
    x_ptr,  # (N, C, H, W)
    N,
    H,
    W,
    P,
    Q,
    columns_stride_n,
    columns_stride_j,
    columns_stride_p,
    columns_stride_q,
    x_stride_n,
    x_stride_c,
    x_stride_h,
    x_stride_w,
    C,
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
    """One program gathers BLOCK_M pixels × BLOCK_N channels, tap by tap. Grid: (pixel blocks · channel blocks,)."""
    pid_m, _, pid_n = unravel_program(tl.program_id(0), 1, tl.cdiv(C, BLOCK_N), OFFSET)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    c = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, h, w = unravel_pixels(offs_m, H, W)
    valid_m = n < N
    valid_c = c < C
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for tap in range(R * S):
        reach_h = h + (pad_h - tap // S * dil_h)
        reach_w = w + (pad_w - tap % S * dil_w)
        p = reach_h // conv_stride_h
        q = reach_w // conv_stride_w
        valid = valid_m & (reach_h >= 0) & (p * conv_stride_h == reach_h) & (p < P)
        valid = valid & (reach_w >= 0) & (q * conv_stride_w == reach_w) & (q < Q)
        columns_ptrs_m = columns_ptr + (n * columns_stride_n + p * columns_stride_p + q * columns_stride_q)
        columns_ptrs = columns_ptrs_m[:, None] + ((c * (R * S) + tap) * columns_stride_j)[None, :]
        acc += tl.load(columns_ptrs, mask=valid[:, None] & valid_c[None, :], other=0.0).to(ACC)
    x_ptrs_m = x_ptr + (n * x_stride_n + h * x_stride_h + w * x_stride_w)
    x_ptrs = x_ptrs_m[:, None] + (c * x_stride_c)[None, :]
    tl.store(x_ptrs, acc.to(x_ptr.dtype.element_ty), mask=valid_m[:, None] & valid_c[None, :])


def unfold(x: torch.Tensor, geometry: ConvGeometry, layout: torch.memory_format) -> torch.Tensor:
    """The patches of x as (N, C · R · S, P, Q)."""
    columns = torch.empty(geometry.columns_shape, dtype=x.dtype, device=x.device, memory_format=layout)
    if columns.numel() == 0:
        return columns
    pixels = geometry.N * math.prod(geometry.output_size)
    tile = tuning.pick("unfold", columns, geometry, pixels=pixels, channels=columns.shape[1])
    # one program: BLOCK_M pixels × BLOCK_N of (c, r, s)
    unfold_kernel[(triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(columns.shape[1], tile["BLOCK_N"]),)](
        x_ptr=x,
        columns_ptr=columns,
        **picture_sizes(geometry),
        **strides("x", "nchw", x),
        **strides("columns", "njpq", columns),
        J=columns.shape[1],
        **sliding_constants(geometry),
        OFFSET=numerics(x, x, columns)["OFFSET"],
        **tile,
    )
    return columns


def fold(
    columns: torch.Tensor, geometry: ConvGeometry, layout: torch.memory_format, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """(N, C, H, W), in the columns' dtype or in `dtype`: each pixel the sum of its copies in (N, C · R · S, P, Q)."""
    x = torch.empty(geometry.input_shape, dtype=dtype or columns.dtype, device=columns.device, memory_format=layout)
    if x.numel() == 0:
        return x
    pixels = geometry.N * math.prod(geometry.input_size)
    tile = tuning.pick("fold", x, geometry, pixels=pixels, channels=geometry.C_in)
    # one program: BLOCK_M pixels × BLOCK_N channels
    fold_kernel[(triton.cdiv(pixels, tile["BLOCK_M"]) * triton.cdiv(geometry.C_in, tile["BLOCK_N"]),)](
        columns_ptr=columns,
        x_ptr=x,
        **picture_sizes(geometry),
        **strides("columns", "njpq", columns),
        **strides("x", "nchw", x),
        C=geometry.C_in,
        **sliding_constants(geometry),
        **numerics(columns, columns, x),
        **tile,
    )
    return x


def _filter_matrix(w: torch.Tensor) -> torch.Tensor:
    return w.reshape(w.shape[0], math.prod(w.shape[1:]), 1, 1)


def im2col_forward(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    geometry: ConvGeometry,
    layout: torch.memory_format,
    relu: bool = False,
    pool: PoolGeometry | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """y in `layout`, or the pooled y and the place code of each of its elements."""
    columns = unfold(x, geometry, layout)
    return implicit_gemm_forward(columns, _filter_matrix(w), b, geometry.on_columns(), layout, relu, pool)


def im2col_dgrad(
    dy: torch.Tensor, w: torch.Tensor, geometry: ConvGeometry, layout: torch.memory_format
) -> torch.Tensor:
    """dx in `layout`; the columns' gradient is kept in the accumulator's dtype until it is folded."""
    dtype = torch.float64 if dy.dtype == torch.float64 else torch.float32
    columns = implicit_gemm_dgrad(dy, _filter_matrix(w), geometry.on_columns(), layout, dtype)
    return fold(columns, geometry, layout, dy.dtype)


def im2col_wgrad(
    dy: torch.Tensor, x: torch.Tensor, geometry: ConvGeometry, layout: torch.memory_format, bias: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """dw in `layout`, and db when asked for."""
    columns = unfold(x, geometry, layout)
    dw, db = implicit_gemm_wgrad(dy, columns, geometry.on_columns(), torch.contiguous_format, bias)
    return dw.view(geometry.filter_shape).contiguous(memory_format=layout), db
