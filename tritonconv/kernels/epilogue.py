"""What follows a convolution's sum: scale, bias, residual, an activation, and the running maximum of a pooling window.

An activation is a row of `ACTIVATIONS`: kernels take its functions as constants. Each takes the row's argument last.
A curvature is of whole tensors, by torch's arithmetic: it is wanted where a gradient is differentiated, to any order.
Source: torch.nn.functional.relu, relu6, leaky_relu, hardswish, silu, gelu, sigmoid and tanh.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import triton.language as tl

from tritonconv.jit import Kernel, jit
from tritonconv.problems import PoolProblem


class Activation(NamedTuple):
    """An activation on tiles, and what its derivatives need."""

    function: Kernel  # (values) -> values
    gradient: Kernel  # (dy, saved) -> dx
    saves: Literal["input", "output"]  # what `gradient` reads; what is saved of a convolution is its output alone
    # (output) -> where dy passes as it is; elsewhere dx is 0. A pooled output keeps no more than that of its argmax, so
    # an activation without it, whose gradient is more than 0 or 1, cannot be pooled in a convolution's epilogue.
    passes: Kernel | None = None
    # (dy, saved) -> the derivative of `gradient` by `saved`; None where it is 0
    curvature: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    argument: float = 0.0


class Epilogue(NamedTuple):
    """y = activation(sum · scale + b + residual), and its largest in each window of `pool`."""

    b: torch.Tensor | None = None  # (C_out,)
    scale: torch.Tensor | None = None  # (C_out,)
    residual: torch.Tensor | None = None  # as y, any strides
    activation: Activation | None = None
    pool: PoolProblem | None = None


@jit
def relu(values, ARGUMENT: tl.constexpr):
    """max(values, 0); NaN stays NaN, as in torch."""
    return tl.where(values <= 0, 0.0, values)


@jit
def relu_gradient(dy, output, ARGUMENT: tl.constexpr):
    return tl.where(output <= 0, 0.0, dy)


@jit
def relu_passes(output):
    return (output > 0) | (output != output)


@jit
def relu6(values, ARGUMENT: tl.constexpr):
    return tl.where(values <= 0, 0.0, tl.where(values >= 6, 6.0, values))


@jit
def relu6_gradient(dy, output, ARGUMENT: tl.constexpr):
    return tl.where((output <= 0) | (output >= 6), 0.0, dy)


@jit
def relu6_passes(output):
    return ((output > 0) & (output < 6)) | (output != output)


@jit
def leaky_relu(values, ARGUMENT: tl.constexpr):
    return tl.where(values > 0, values, values * ARGUMENT)


@jit
def leaky_relu_gradient(dy, saved, ARGUMENT: tl.constexpr):
    return tl.where(saved > 0, dy, dy * ARGUMENT)


@jit
def hardswish(values, ARGUMENT: tl.constexpr):
    return values * relu6(values + 3, 0.0) / 6


@jit
def hardswish_gradient(dy, x, ARGUMENT: tl.constexpr):
    return tl.where(x <= -3, 0.0, tl.where(x < 3, dy * (x / 3 + 0.5), dy))


def hardswish_curvature(dy, x):
    return torch.where((x > -3) & (x < 3), dy / 3, 0.0)


@jit
def logistic(values):
    return 1 / (1 + tl.exp(-values))


@jit
def sigmoid(values, ARGUMENT: tl.constexpr):
    return logistic(values)


@jit
def sigmoid_gradient(dy, y, ARGUMENT: tl.constexpr):
    return dy * y * (1 - y)


def sigmoid_curvature(dy, y):
    return dy * (1 - 2 * y)


@jit
def silu(values, ARGUMENT: tl.constexpr):
    return values / (1 + tl.exp(-values))


@jit
def silu_gradient(dy, x, ARGUMENT: tl.constexpr):
    s = logistic(x)
    return dy * s * (1 + x * (1 - s))


def silu_curvature(dy, x):
    s = torch.sigmoid(x)
    return dy * s * (1 - s) * (2 + x * (1 - 2 * s))


@jit
def tanh(values, ARGUMENT: tl.constexpr):
    """By a series near 0, where the quotient would cancel."""
    e = tl.exp(-2 * tl.abs(values))
    far = (1 - e) / (1 + e)
    v2 = values * values
    near = values * (1 + v2 * (-1 / 3 + v2 * (2 / 15 + v2 * (-17 / 315 + v2 * (62 / 2835)))))
    return tl.where(tl.abs(values) < 0.05, near, tl.where(values < 0, -far, far))


@jit
def tanh_gradient(dy, y, ARGUMENT: tl.constexpr):
    return dy * (1 - y * y)


def tanh_curvature(dy, y):
    return -2 * dy * y


@jit
def _normal(x):
    """The normal distribution and its density."""
    return 0.5 * (1 + tl.erf(x * 0.7071067811865476)), 0.3989422804014327 * tl.exp(-0.5 * x * x)


@jit
def gelu(values, ARGUMENT: tl.constexpr):
    share, _ = _normal(values)
    return values * share


@jit
def gelu_gradient(dy, x, ARGUMENT: tl.constexpr):
    share, density = _normal(x)
    return dy * (share + x * density)


def gelu_curvature(dy, x):
    return dy * 0.3989422804014327 * torch.exp(-0.5 * x * x) * (2 - x * x)


@jit
def _tanh_of_cubic(x):
    """t = tanh(u) of GELU's approximation, and the derivative of u."""
    K: tl.constexpr = 0.7978845608028654
    return tanh(K * (x + 0.044715 * x * x * x), 0.0), K * (1 + 0.134145 * x * x)


@jit
def gelu_tanh(values, ARGUMENT: tl.constexpr):
    t, _ = _tanh_of_cubic(values)
    return 0.5 * values * (1 + t)


@jit
def gelu_tanh_gradient(dy, x, ARGUMENT: tl.constexpr):
    t, du = _tanh_of_cubic(x)
    return dy * 0.5 * (1 + t + x * (1 - t * t) * du)


def gelu_tanh_curvature(dy, x):
    K = 0.7978845608028654
    t, du, ddu = torch.tanh(K * (x + 0.044715 * x**3)), K * (1 + 0.134145 * x * x), K * 0.26829 * x
    return dy * (1 - t * t) * (du + 0.5 * x * (ddu - 2 * t * du * du))


ACTIVATIONS = {
    "relu": Activation(relu, relu_gradient, "output", relu_passes),
    "relu6": Activation(relu6, relu6_gradient, "output", relu6_passes),
    "leaky_relu": Activation(leaky_relu, leaky_relu_gradient, "output", argument=0.01),
    "sigmoid": Activation(sigmoid, sigmoid_gradient, "output", curvature=sigmoid_curvature),
    "tanh": Activation(tanh, tanh_gradient, "output", curvature=tanh_curvature),
    "hardswish": Activation(hardswish, hardswish_gradient, "input", curvature=hardswish_curvature),
    "silu": Activation(silu, silu_gradient, "input", curvature=silu_curvature),
    "gelu": Activation(gelu, gelu_gradient, "input", curvature=gelu_curvature),
    "gelu_tanh": Activation(gelu_tanh, gelu_tanh_gradient, "input", curvature=gelu_tanh_curvature),
}


def activation(name: Any) -> Activation:
    """The row of a name, or of one with its argument: "leaky_relu(0.2)".

    Raises:
        ValueError: there is none.
    """
    known, _, given = str(name).partition("(")
    row = ACTIVATIONS.get(known)
    try:
        argument = float(given.removesuffix(")")) if given else None
    except ValueError:
        row = None
    if row is None or (given and known != "leaky_relu"):
        names = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"activation must be None, 'leaky_relu(0.2)' or one of {names}, but got activation={name!r}")
    if argument is None:
        return row
    # a negative slope leaves no sign in the output to tell the two halves apart
    return row._replace(argument=argument, saves="output" if argument >= 0 else "input")


@jit
def is_better(value, best):
    """Whether a value replaces the best so far: of equals the first stays, of NaNs the last wins, as in torch."""
    return (value > best) | (value != value)


@jit
def keep_best(acc, best, argmax, element, valid, STORED: tl.constexpr):
    """A window's maximum and its argmax after one more element, `valid` (a vector) where that lies in the image.

    Values are compared as the unfused chain would have stored them, in STORED, so that ties fall the same way.
    """
    value = tl.where(valid[:, None], acc.to(STORED).to(acc.dtype), -float("inf"))
    take = is_better(value, best)
    return tl.where(take, value, best), tl.where(take, element, argmax)


@jit
def store_output(y_ptr, argmax_ptr, offs, valid, best, argmax, NO_ARGMAX: tl.constexpr, PASSES: tl.constexpr):
    """A forward kernel's tile, (M, N), and where it is pooled the argmax that gradients go to."""
    tl.store(y_ptr + offs, best, mask=valid)
    if argmax_ptr is not None:
        argmax = tl.where(PASSES(best), argmax, NO_ARGMAX)  # a dead ReLU passes no gradient
        tl.store(argmax_ptr + offs, argmax, mask=valid)
