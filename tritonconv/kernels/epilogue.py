"""Device helpers for what follows a convolution's sum: ReLU, and the running maximum of a pooling window."""

import triton.language as tl

from tritonconv.jit import jit


@jit
def relu_tile(values):
    """max(values, 0); NaN stays NaN, as in torch."""
    return tl.where(values <= 0, 0.0, values)


@jit
def is_better(value, best):
    """Whether a value replaces the best so far: of equals the first stays, of NaNs the last wins, as in torch."""
    return (value > best) | (value != value)


@jit
def keep_best(acc, best, code, place, valid, STORED: tl.constexpr):
    """A window's maximum and its place after one more place, `valid` (a vector) where that lies in the picture.

    Values are compared as the unfused chain would have stored them, in STORED, so that ties fall the same way.
    """
    value = tl.where(valid[:, None], acc.to(STORED).to(acc.dtype), -float("inf"))
    take = is_better(value, best)
    return tl.where(take, value, best), tl.where(take, place, code)
