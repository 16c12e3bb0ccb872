"""The operators' derivatives, each an autograd Function that torch.library makes of a (setup_context, backward) pair.

Every backward is built from operators that are themselves differentiable, so double backward needs no kernel of its
own. Convolution is bilinear, and its three operators close under differentiation. With y = conv(x, w),
dx = dgrad(dy, w), dw = wgrad(dy, x), and g the gradient that arrives:

| of    | by    | is                     |
| ----- | ----- | ---------------------- |
| conv  | x, w  | dgrad(g, w), wgrad(g, x) |
| dgrad | dy, w | conv(g, w), wgrad(dy, g) |
| wgrad | dy, x | conv(x, g), dgrad(dy, g) |

Pooling's backward and gather are adjoint to each other in the same way, and so are unfold and fold. Only the gradients
asked for are computed.
"""

from typing import Any

import torch

from tritonconv.geometry import conv_geometry, memory_format
from tritonconv.ops import (
    conv2d,
    conv2d_bias_relu_max_pool2d,
    conv2d_dgrad,
    conv2d_wgrad,
    fold,
    max_pool2d,
    max_pool2d_backward,
    max_pool2d_gather,
    relu,
    relu_backward,
    unfold,
)

Grads = tuple[torch.Tensor | None, ...]


def _is_channels_last(*tensors: torch.Tensor) -> bool:
    return memory_format(*tensors) == torch.channels_last


def _conv_grads(ctx: Any, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> Grads:
    """dx, dw, db of y = conv(x, w) + b, each only if asked for."""
    need_x, need_w, need_b = ctx.needs_input_grad[:3]
    stride, padding, dilation, groups = ctx.conv
    channels_last = _is_channels_last(x, w)
    dx = dw = db = None
    if need_x:
        size = x.shape[2:]
        dx = conv2d_dgrad(dy, w, size, stride, padding, dilation, groups, channels_last, ctx.algorithm)
    if need_w:
        size = w.shape[2:]
        dw, db = conv2d_wgrad(dy, x, size, stride, padding, dilation, groups, need_b, channels_last, ctx.algorithm)
    elif need_b:
        db = dy.sum((0, 2, 3))
    return dx, dw, db if need_b else None


def _conv2d_setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    x, w, _, *conv, ctx.relu, ctx.algorithm = inputs
    ctx.conv = tuple(conv)
    ctx.save_for_backward(x, w, output if ctx.relu else None)


def _conv2d_backward(ctx: Any, dy: torch.Tensor) -> Grads:
    x, w, y = ctx.saved_tensors
    if ctx.relu:
        dy = relu_backward(dy, y)
    return *_conv_grads(ctx, dy, x, w), *(None,) * 6


def _conv2d_dgrad_setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    dy, w, _, *conv, ctx.channels_last, ctx.algorithm = inputs
    ctx.conv = tuple(conv)
    ctx.save_for_backward(dy, w)


def _conv2d_dgrad_backward(ctx: Any, g: torch.Tensor) -> Grads:
    dy, w = ctx.saved_tensors
    d_dy = d_w = None
    if ctx.needs_input_grad[0]:
        d_dy = conv2d(g, w, None, *ctx.conv, False, ctx.algorithm)
    if ctx.needs_input_grad[1]:
        d_w, _ = conv2d_wgrad(dy, g, w.shape[2:], *ctx.conv, False, ctx.channels_last, ctx.algorithm)
    return d_dy, d_w, *(None,) * 7


def _conv2d_wgrad_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    dy, x, _, *conv, ctx.bias, ctx.channels_last, ctx.algorithm = inputs
    ctx.conv = tuple(conv)
    ctx.save_for_backward(dy, x)


def _conv2d_wgrad_backward(ctx: Any, g: torch.Tensor, g_bias: torch.Tensor) -> Grads:
    dy, x = ctx.saved_tensors
    d_dy = d_x = None
    if ctx.needs_input_grad[0]:
        d_dy = conv2d(x, g, g_bias if ctx.bias else None, *ctx.conv, False, ctx.algorithm)
    if ctx.needs_input_grad[1]:
        d_x = conv2d_dgrad(dy, g, x.shape[2:], *ctx.conv, ctx.channels_last, ctx.algorithm)
    return d_dy, d_x, *(None,) * 8


def _fused_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, w, _, *conv_and_pool, _, ctx.algorithm = inputs
    ctx.conv, ctx.pool = conv_and_pool[:4], conv_and_pool[4:]
    ctx.save_for_backward(x, w, output[1])


def _fused_backward(ctx: Any, dy: torch.Tensor, _: torch.Tensor) -> Grads:
    x, w, code = ctx.saved_tensors
    size = conv_geometry(x.shape, w.shape, None, *ctx.conv).output_size
    dy = max_pool2d_backward(dy, code, size, *ctx.pool, _is_channels_last(x, w))
    return *_conv_grads(ctx, dy, x, w), *(None,) * 10


def _max_pool2d_setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, *ctx.pool, _, _ = inputs
    ctx.input_size, ctx.channels_last = x.shape[2:], _is_channels_last(x)
    ctx.save_for_backward(output[1])


def _max_pool2d_backward(ctx: Any, dy: torch.Tensor, *_: torch.Tensor) -> Grads:
    (code,) = ctx.saved_tensors
    return max_pool2d_backward(dy, code, ctx.input_size, *ctx.pool, ctx.channels_last), *(None,) * 6


def _max_pool2d_backward_setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    _, code, _, *ctx.pool, ctx.channels_last = inputs
    ctx.save_for_backward(code)


def _max_pool2d_backward_backward(ctx: Any, g: torch.Tensor) -> Grads:
    (code,) = ctx.saved_tensors
    return max_pool2d_gather(g, code, *ctx.pool, ctx.channels_last), *(None,) * 7


def _max_pool2d_gather_setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    x, code, *ctx.pool, ctx.channels_last = inputs
    ctx.input_size = x.shape[2:]
    ctx.save_for_backward(code)


def _max_pool2d_gather_backward(ctx: Any, g: torch.Tensor) -> Grads:
    (code,) = ctx.saved_tensors
    return max_pool2d_backward(g, code, ctx.input_size, *ctx.pool, ctx.channels_last), *(None,) * 6


def _relu_setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    ctx.save_for_backward(output)


def _relu_backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
    return relu_backward(dy, *ctx.saved_tensors)


def _relu_backward_setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _relu_backward_backward(ctx: Any, g: torch.Tensor) -> Grads:
    return relu_backward(g, *ctx.saved_tensors), None


def _unfold_setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    x, *ctx.patch = inputs
    ctx.size = x.shape[2:]


def _unfold_backward(ctx: Any, g: torch.Tensor) -> Grads:
    return fold(g, ctx.size, *ctx.patch), *(None,) * 4


def _fold_setup(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    _, _, *ctx.patch = inputs


def _fold_backward(ctx: Any, g: torch.Tensor) -> Grads:
    return unfold(g, *ctx.patch), *(None,) * 5


for _op, _setup, _backward in (
    (conv2d, _conv2d_setup, _conv2d_backward),
    (conv2d_dgrad, _conv2d_dgrad_setup, _conv2d_dgrad_backward),
    (conv2d_wgrad, _conv2d_wgrad_setup, _conv2d_wgrad_backward),
    (conv2d_bias_relu_max_pool2d, _fused_setup, _fused_backward),
    (max_pool2d, _max_pool2d_setup, _max_pool2d_backward),
    (max_pool2d_backward, _max_pool2d_backward_setup, _max_pool2d_backward_backward),
    (max_pool2d_gather, _max_pool2d_gather_setup, _max_pool2d_gather_backward),
    (relu, _relu_setup, _relu_backward),
    (relu_backward, _relu_backward_setup, _relu_backward_backward),
    (unfold, _unfold_setup, _unfold_backward),
    (fold, _fold_setup, _fold_backward),
):
    torch.library.register_autograd(_op._qualified_op_name, _backward, setup_context=_setup)
