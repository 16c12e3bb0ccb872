"""The operators, registered with torch.library: schema, CPU and GPU implementation, fake (meta) one, autocast rule.

Spatial arguments are in elements; `padding` is flat, before and after each axis: [top, bottom, left, right]. A place
code is what backward needs to know of a pooled output: see kernels/pooling.py. `channels_last` gives a gradient's
memory format, which is the forward's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tritonconv import tuning
from tritonconv.geometry import (
    ConvGeometry,
    PoolGeometry,
    conv_geometry,
    fold_geometry,
    memory_format,
    pool_geometry,
    require_algorithm,
    require_tensors,
    unfold_geometry,
    window_geometry,
)
from tritonconv.kernels import direct, im2col, implicit_gemm, pooling
from tritonconv.kernels import relu as relu_kernels

Ints = Sequence[int]

_FORWARD = {
    "direct": direct.direct_forward,
    "im2col": im2col.im2col_forward,
    "implicit_gemm": implicit_gemm.implicit_gemm_forward,
}
_DGRAD = {
    "direct": direct.direct_dgrad,
    "im2col": im2col.im2col_dgrad,
    "implicit_gemm": implicit_gemm.implicit_gemm_dgrad,
}
_WGRAD = {
    "direct": direct.direct_wgrad,
    "im2col": im2col.im2col_wgrad,
    "implicit_gemm": implicit_gemm.implicit_gemm_wgrad,
}

_library = torch.library.Library("tritonconv", "DEF")


def _register(schema: str, fake: Callable) -> Callable[[Callable], Any]:
    """Define `schema` and register the decorated function for CPU and GPU, and `fake` for tensors without data."""
    name = schema[: schema.index("(")]

    def decorate(fn: Callable) -> Any:
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        for key in ("CPU", "CUDA"):
            _library.impl(name, fn, key)
        torch.library.register_fake(f"tritonconv::{name}", fake, lib=_library)
        return getattr(torch.ops.tritonconv, name)

    return decorate


def _empty(
    like: torch.Tensor, shape: Ints, layout: torch.memory_format, dtype: torch.dtype | None = None
) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=dtype or like.dtype, device=like.device, memory_format=layout)


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


# --- convolution ---


def _checked(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, conv: tuple[Ints, Ints, Ints, int], algorithm: str
) -> ConvGeometry:
    require_algorithm(algorithm)
    require_tensors("conv2d", input=x, weight=w, bias=b)
    return conv_geometry(x.shape, w.shape, None if b is None else b.shape, *conv)


def _conv2d_fake(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    relu: bool,
    algorithm: str,
) -> torch.Tensor:
    geometry = _checked(x, w, b, (stride, padding, dilation, groups), algorithm)
    return _empty(x, geometry.output_shape, memory_format(x, w))


@_register(
    "conv2d(Tensor x, Tensor w, Tensor? b, int[] stride, int[] padding, int[] dilation, int groups, bool relu, "
    "str algorithm) -> Tensor",
    _conv2d_fake,
)
def conv2d(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    relu: bool,
    algorithm: str,
) -> torch.Tensor:
    """y = conv(x, w) + b, or relu of it; (N, C_out, P, Q)."""
    geometry = _checked(x, w, b, (stride, padding, dilation, groups), algorithm)
    forward = _FORWARD[tuning.pick_algorithm(geometry, algorithm, "conv2d", x)]
    return forward(x, w, b, geometry, memory_format(x, w), relu)[0]


def _conv2d_dgrad_fake(dy: torch.Tensor, w: torch.Tensor, input_size: Ints, *args: Any) -> torch.Tensor:
    *_, groups, channels_last, _ = args
    shape = (dy.shape[0], w.shape[1] * groups, *input_size)
    return _empty(dy, shape, _layout(channels_last))


@_register(
    "conv2d_dgrad(Tensor dy, Tensor w, SymInt[] input_size, int[] stride, int[] padding, int[] dilation, int groups, "
    "bool channels_last, str algorithm) -> Tensor",
    _conv2d_dgrad_fake,
)
def conv2d_dgrad(
    dy: torch.Tensor,
    w: torch.Tensor,
    input_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    channels_last: bool,
    algorithm: str,
) -> torch.Tensor:
    """The gradient of a convolution's input, (N, C_in, H, W), from its output's."""
    require_tensors("conv2d_dgrad", dy=dy, w=w)
    shape = (dy.shape[0], w.shape[1] * groups, *input_size)
    geometry = conv_geometry(shape, w.shape, None, stride, padding, dilation, groups)
    _require_shape("dy", dy, geometry.output_shape)
    return _DGRAD[tuning.pick_algorithm(geometry, algorithm, "conv2d_dgrad", dy)](
        dy, w, geometry, _layout(channels_last)
    )


def _conv2d_wgrad_fake(
    dy: torch.Tensor, x: torch.Tensor, filter_size: Ints, *args: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    *_, groups, bias, channels_last, _ = args
    shape = (dy.shape[1], x.shape[1] // groups, *filter_size)
    dw = _empty(dy, shape, _layout(channels_last))
    return dw, dy.new_empty(dy.shape[1] if bias else 0)


@_register(
    "conv2d_wgrad(Tensor dy, Tensor x, int[] filter_size, int[] stride, int[] padding, int[] dilation, int groups, "
    "bool bias, bool channels_last, str algorithm) -> (Tensor, Tensor)",
    _conv2d_wgrad_fake,
)
def conv2d_wgrad(
    dy: torch.Tensor,
    x: torch.Tensor,
    filter_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    bias: bool,
    channels_last: bool,
    algorithm: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of a convolution's filter and, when `bias`, of its bias (else an empty tensor)."""
    require_tensors("conv2d_wgrad", dy=dy, x=x)
    w_shape = (dy.shape[1], x.shape[1] // groups, *filter_size)
    geometry = conv_geometry(x.shape, w_shape, None, stride, padding, dilation, groups)
    _require_shape("dy", dy, geometry.output_shape)
    wgrad = _WGRAD[tuning.pick_algorithm(geometry, algorithm, "conv2d_wgrad", dy)]
    dw, db = wgrad(dy, x, geometry, _layout(channels_last), bias)
    return dw, dy.new_empty(0) if db is None else db


def _require_shape(name: str, t: torch.Tensor, shape: Ints) -> None:
    if tuple(t.shape) != tuple(shape):
        raise RuntimeError(f"expected {name} of size {list(shape)}, but got {name} of size {list(t.shape)}")


# --- convolution, bias, ReLU and max pooling in one ---


def _fused_geometry(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    conv: tuple[Ints, Ints, Ints, int],
    pool: tuple[Ints, Ints, Ints, Ints, bool],
    algorithm: str,
) -> tuple[ConvGeometry, PoolGeometry]:
    geometry = _checked(x, w, b, conv, algorithm)
    return geometry, pool_geometry(geometry.output_shape, *pool)


def _fused_fake(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, *args: Any) -> tuple[Any, Any]:
    *conv_and_pool, algorithm = args
    geometry, pool = _fused_geometry(x, w, b, tuple(conv_and_pool[:4]), tuple(conv_and_pool[4:]), algorithm)
    shape = (*geometry.output_shape[:2], *pool.output_size)
    layout = memory_format(x, w)
    y = _empty(x, shape, layout)
    return y, _empty(x, shape, layout, pool.code_dtype)


@_register(
    "conv2d_bias_relu_max_pool2d(Tensor x, Tensor w, Tensor? b, int[] stride, int[] padding, int[] dilation, "
    "int groups, int[] pool_kernel, int[] pool_stride, int[] pool_padding, int[] pool_dilation, bool ceil_mode, "
    "str algorithm) -> (Tensor, Tensor)",
    _fused_fake,
)
def conv2d_bias_relu_max_pool2d(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    pool_kernel: Ints,
    pool_stride: Ints,
    pool_padding: Ints,
    pool_dilation: Ints,
    ceil_mode: bool,
    algorithm: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """max_pool2d(relu(conv(x, w) + b)) and its place codes; the unpooled picture is never stored."""
    geometry, pool = _fused_geometry(
        x,
        w,
        b,
        (stride, padding, dilation, groups),
        (pool_kernel, pool_stride, pool_padding, pool_dilation, ceil_mode),
        algorithm,
    )
    forward = _FORWARD[tuning.pick_algorithm(geometry, algorithm, "conv2d_bias_relu_max_pool2d", x)]
    y, code = forward(x, w, b, geometry, memory_format(x, w), True, pool)
    assert code is not None
    return y, code


# --- max pooling ---


def _max_pool2d_fake(
    x: torch.Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool, indices: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pool = pool_geometry(x.shape, kernel, stride, padding, dilation, ceil_mode)
    shape, layout = (*x.shape[:2], *pool.output_size), memory_format(x)
    y = _empty(x, shape, layout)
    code = _empty(x, shape, layout, pool.code_dtype)
    if not indices:
        return y, code, x.new_empty(0, dtype=torch.int64)
    return y, code, _empty(x, shape, layout, torch.int64)


@_register(
    "max_pool2d(Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation, bool ceil_mode, bool indices) "
    "-> (Tensor, Tensor, Tensor)",
    _max_pool2d_fake,
)
def max_pool2d(
    x: torch.Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool, indices: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y, its place codes, and int64 indices into the plane when `indices` (else an empty tensor)."""
    require_tensors("max_pool2d", input=x)
    pool = pool_geometry(x.shape, kernel, stride, padding, dilation, ceil_mode)
    y, code, index = pooling.max_pool_forward(x, pool, memory_format(x), indices)
    return y, code, x.new_empty(0, dtype=torch.int64) if index is None else index


def _backward_pool(
    code: torch.Tensor, input_size: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> PoolGeometry:
    return window_geometry(input_size, code.shape[2:], kernel, stride, padding, dilation)


def _max_pool2d_backward_fake(dy: torch.Tensor, code: torch.Tensor, input_size: Ints, *args: Any) -> torch.Tensor:
    return _empty(dy, (*dy.shape[:2], *input_size), _layout(args[-1]))


@_register(
    "max_pool2d_backward(Tensor dy, Tensor code, SymInt[] input_size, int[] kernel, int[] stride, int[] padding, "
    "int[] dilation, bool channels_last) -> Tensor",
    _max_pool2d_backward_fake,
)
def max_pool2d_backward(
    dy: torch.Tensor,
    code: torch.Tensor,
    input_size: Ints,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    channels_last: bool,
) -> torch.Tensor:
    """dx, (N, C, H, W): each window's dy at the place its code names."""
    require_tensors("max_pool2d_backward", dy=dy)
    _require_shape("dy", dy, code.shape)
    pool = _backward_pool(code, input_size, kernel, stride, padding, dilation)
    return pooling.max_pool_backward(dy, code, pool, _layout(channels_last))


def _max_pool2d_gather_fake(x: torch.Tensor, code: torch.Tensor, *args: Any) -> torch.Tensor:
    return _empty(x, code.shape, _layout(args[-1]))


@_register(
    "max_pool2d_gather(Tensor x, Tensor code, int[] kernel, int[] stride, int[] padding, int[] dilation, "
    "bool channels_last) -> Tensor",
    _max_pool2d_gather_fake,
)
def max_pool2d_gather(
    x: torch.Tensor,
    code: torch.Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    channels_last: bool,
) -> torch.Tensor:
    """(N, C, P, Q): x at the place each window's code names, 0 where it names none; max_pool2d_backward's adjoint."""
    require_tensors("max_pool2d_gather", x=x)
    pool = _backward_pool(code, x.shape[2:], kernel, stride, padding, dilation)
    return pooling.max_pool_gather(x, code, pool, _layout(channels_last))


# --- ReLU ---


@_register("relu(Tensor x) -> Tensor", torch.empty_like)
def relu(x: torch.Tensor) -> torch.Tensor:
    """max(x, 0); NaN stays NaN."""
    require_tensors("relu", input=x)
    return relu_kernels.relu(x)


@_register("relu_backward(Tensor dy, Tensor y) -> Tensor", lambda dy, y: torch.empty_like(y))
def relu_backward(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """dy where the output y is above zero or NaN."""
    require_tensors("relu_backward", dy=dy, y=y)
    _require_shape("dy", dy, y.shape)
    return relu_kernels.relu_backward(dy, y)


# --- unfold and fold ---


def _unfold_fake(x: torch.Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> torch.Tensor:
    return x.new_empty(unfold_geometry(x.shape, kernel, stride, padding, dilation).output_shape)


@_register("unfold(Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation) -> Tensor", _unfold_fake)
def unfold(x: torch.Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> torch.Tensor:
    """The patches of x, (N, C · R · S, P, Q)."""
    require_tensors("unfold", input=x)
    return im2col.unfold(x, unfold_geometry(x.shape, kernel, stride, padding, dilation), torch.contiguous_format)


def _fold_fake(columns: torch.Tensor, output_size: Ints, kernel: Ints, *args: Any) -> torch.Tensor:
    return columns.new_empty((columns.shape[0], columns.shape[1] // (kernel[0] * kernel[1]), *output_size))


@_register(
    "fold(Tensor columns, SymInt[] output_size, int[] kernel, int[] stride, int[] padding, int[] dilation) -> Tensor",
    _fold_fake,
)
def fold(
    columns: torch.Tensor, output_size: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> torch.Tensor:
    """(N, C, *output_size): each element the sum of its copies in the patches (N, C · R · S, P, Q)."""
    require_tensors("fold", input=columns)
    geometry = fold_geometry(columns.shape, output_size, kernel, stride, padding, dilation)
    return im2col.fold(columns, geometry, torch.contiguous_format)


# --- autocast: convolutions run in the dtype of the region, as torch's own do; the rest follow their input ---


def _register_autocast(op: Any, device: str) -> None:
    key = "Autocast" + device.upper()

    def cast(t: Any) -> Any:
        eligible = isinstance(t, torch.Tensor) and t.is_floating_point() and t.dtype != torch.float64
        return t.to(torch.get_autocast_dtype(device)) if eligible and t.device.type == device else t

    def run(*args: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))):
            return op(*map(cast, args))

    _library.impl(op._qualified_op_name.split("::")[1], run, key)


for _op in (conv2d, conv2d_bias_relu_max_pool2d):
    for _device in ("cpu", "cuda"):
        _register_autocast(_op, _device)
