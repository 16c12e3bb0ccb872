"""What follows a convolution's sum: the table of activations, and the running maximum of a pooling window.

An activation is a row of `ACTIVATIONS`: kernels take its functions as constants. Source: torch.nn.functional.relu.
"""

from typing import Literal, NamedTuple

import triton.language as tl

from tritonconv.jit import Kernel, jit


class Activation(NamedTuple):
    """An activation on tiles, and what its backward needs."""

    function: Kernel  # (values) -> values
    gradient: Kernel  # (dy, saved) -> dx
    saves: Literal["input", "output"]  # what `gradient` reads
    # (output) -> where dy passes as it is; elsewhere dx is 0. A pooled output keeps no more than that of its argmax, so
    # an activation without it, whose gradient is more than 0 or 1, cannot be pooled in a convolution's epilogue.
    passes: Kernel | None = None


@jit
def relu(values):
    """max(values, 0); NaN stays NaN, as in torch."""
    return tl.where(values <= 0, 0.0, values)


@jit
def relu_gradient(dy, output):
    return tl.where(output <= 0, 0.0, dy)


@jit
def relu_passes(output):
    return (output > 0) | (output != output)


ACTIVATIONS = {"relu": Activation(relu, relu_gradient, "output", relu_passes)}


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
