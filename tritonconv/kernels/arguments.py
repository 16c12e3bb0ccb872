"""Launch arguments that every algorithm shares: sizes, strides and constants of a geometry, by the kernels' names."""

from typing import Any

import torch
import triton.language as tl

from tritonconv.geometry import ConvGeometry, PoolGeometry, needs_int64

# no pooling: every output is a window of its own
UNIT_WINDOW = PoolGeometry((1, 1), (1, 1), (0, 0), (1, 1), (1, 1), (1, 1))


def picture_sizes(geometry: ConvGeometry) -> dict[str, int]:
    (H, W), (P, Q) = geometry.input_size, geometry.output_size
    return {"N": geometry.N, "H": H, "W": W, "P": P, "Q": Q}


def strides(tensor_name: str, axes: str, t: torch.Tensor) -> dict[str, int]:
    """Strides in elements, one argument an axis: x_stride_n, x_stride_c, …"""
    return {f"{tensor_name}_stride_{axis}": stride for axis, stride in zip(axes, t.stride(), strict=True)}


def filter_constants(geometry: ConvGeometry) -> dict[str, int]:
    """What a kernel is compiled for: channels of one group, the filter, and how it steps."""
    return {
        "GROUPS": geometry.groups,
        "C_in": geometry.C_in // geometry.groups,
        "C_out": geometry.C_out // geometry.groups,
        **sliding_constants(geometry),
    }


def sliding_constants(geometry: ConvGeometry) -> dict[str, int]:
    return {
        "R": geometry.filter_size[0],
        "S": geometry.filter_size[1],
        "conv_stride_h": geometry.stride[0],
        "conv_stride_w": geometry.stride[1],
        "pad_h": geometry.padding[0][0],
        "pad_w": geometry.padding[1][0],
        "dil_h": geometry.dilation[0],
        "dil_w": geometry.dilation[1],
    }


def window_constants(pool: PoolGeometry) -> dict[str, int]:
    return {
        "pool_h": pool.kernel[0],
        "pool_w": pool.kernel[1],
        "pool_stride_h": pool.stride[0],
        "pool_stride_w": pool.stride[1],
        "pool_pad_h": pool.padding[0],
        "pool_pad_w": pool.padding[1],
        "pool_dil_h": pool.dilation[0],
        "pool_dil_w": pool.dilation[1],
        "NO_PLACE": pool.no_place,
    }


def is_padded(geometry: ConvGeometry) -> bool:
    return any(before or after for before, after in geometry.padding)


def accumulator(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def numerics(x: torch.Tensor, *tensors: torch.Tensor) -> dict[str, Any]:
    """The accumulator's dtype for `x`, and offsets of 32 bits unless one of `tensors` needs 64."""
    return {"ACC": accumulator(x.dtype), "OFFSET": tl.int64 if needs_int64(*tensors) else tl.int32}


def allocate_output(
    x: torch.Tensor, geometry: ConvGeometry, layout: torch.memory_format, pool: PoolGeometry | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An uninitialised output in `layout`, and its place codes when it is pooled."""
    shape = geometry.output_shape if pool is None else (*geometry.output_shape[:2], *pool.output_size)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    if pool is None:
        return y, None
    return y, torch.empty(shape, dtype=pool.code_dtype, device=x.device, memory_format=layout)
