"""The axes, known here alone: (D, H, W), with size 1 for those that an image lacks.

Positions, sizes and taps are tuples with one entry an axis; strides have two more before them, of N and C. What slides
over an image (a filter, a pooling window, a patch) is a constexpr tuple, see `window`. An axis along which it does
nothing (`IDLE`) costs no division and no comparison.
"""

import math
from typing import Any

import torch
import triton.language as tl

from tritonconv.geometry import ConvGeometry, PoolGeometry
from tritonconv.jit import jit

# Entries of a window, each a tuple over the axes: what it is made of, …
SIZE = tl.constexpr(0)
STRIDE = tl.constexpr(1)
PADDING = tl.constexpr(2)  # before
DILATION = tl.constexpr(3)
# … and what follows from that: whether it leaves the image anywhere, whether it does nothing (one element, steps of one
# and no padding), and how many of its positions may cover an element;
LEAVES = tl.constexpr(4)
IDLE = tl.constexpr(5)
COVERING = tl.constexpr(6)
# over all axes, its elements, and the positions that may cover one.
TAPS = tl.constexpr(7)
COVERINGS = tl.constexpr(8)

Window = tuple[Any, ...]


# --- host: what kernels are given ---


def three(values: Any, fill: Any = 1) -> tuple:
    """One entry for each of D, H and W."""
    return (fill,) * (3 - len(values)) + tuple(values)


def strides(t: torch.Tensor) -> tuple[int, ...]:
    """In elements, of N, C, D, H and W."""
    return (*t.stride()[:2], *three(t.stride()[2:], 0))


def window(geometry: ConvGeometry | PoolGeometry) -> Window:
    if isinstance(geometry, PoolGeometry):
        size, padding = geometry.kernel, geometry.padding
    else:
        size, padding = geometry.filter_size, tuple(before for before, _ in geometry.padding)
    axes = (three(size), three(geometry.stride), three(padding, 0), three(geometry.dilation))
    leaves, idle, covering = [], [], []
    both = zip(three(geometry.input_size), three(geometry.output_size), strict=True)
    for (length, positions), taps, step, before, spread in zip(both, *axes, strict=True):
        last = (positions - 1) * step - before + (taps - 1) * spread
        leaves.append(before > 0 or last >= length)
        idle.append(taps == step == 1 and before == 0)
        covering.append(((taps - 1) * spread + step) // step)
    counts = (math.prod(axes[0]), math.prod(covering))
    return (*axes, tuple(leaves), tuple(idle), tuple(covering), *counts)


# --- device: programs and positions ---


@jit
def unravel_program(pid, middle, inner, OFFSET: tl.constexpr):
    """(outer, middle, inner) place of a program in a grid of one axis: CUDA ends the other axes at 65,535."""
    pid = pid.to(OFFSET)
    return pid // inner // middle, pid // inner % middle, pid % inner


@jit
def unravel(offs, size):
    """(n, position) of positions numbered row by row, image by image."""
    lines = offs // size[2]
    planes = lines // size[1]
    n = planes // size[0]
    return n, (planes - n * size[0], lines - planes * size[1], offs - lines * size[2])


@jit
def ravel(position, size):
    """The number of a position in its image."""
    return (position[0] * size[1] + position[1]) * size[2] + position[2]


@jit
def offset(position, stride):
    """Elements from the first of a channel to `position`."""
    return position[0] * stride[2] + position[1] * stride[3] + position[2] * stride[4]


@jit
def rows(position):
    """(M, 1) of (M,)."""
    return (position[0][:, None], position[1][:, None], position[2][:, None])


@jit
def clamp(position, size):
    return (
        tl.minimum(tl.maximum(position[0], 0), size[0] - 1),
        tl.minimum(tl.maximum(position[1], 0), size[1] - 1),
        tl.minimum(tl.maximum(position[2], 0), size[2] - 1),
    )


# --- device: windows, from where they stand to what they cover ---


@jit
def tap(number, WINDOW: tl.constexpr):
    """(t, r, s) of an element of a window, numbered row by row."""
    row = number // WINDOW[SIZE][2]
    return (row // WINDOW[SIZE][1], row % WINDOW[SIZE][1], number % WINDOW[SIZE][2])


@jit
def start(position, WINDOW: tl.constexpr):
    """Where the first element of the window at `position` lies; outside the image where that is padding."""
    return (
        position[0] * WINDOW[STRIDE][0] - WINDOW[PADDING][0],
        position[1] * WINDOW[STRIDE][1] - WINDOW[PADDING][1],
        position[2] * WINDOW[STRIDE][2] - WINDOW[PADDING][2],
    )


@jit
def reach(start, tap, WINDOW: tl.constexpr):
    """Where a tap of the window that starts there lies."""
    return (
        start[0] + tap[0] * WINDOW[DILATION][0],
        start[1] + tap[1] * WINDOW[DILATION][1],
        start[2] + tap[2] * WINDOW[DILATION][2],
    )


@jit
def inside(position, size, valid, WINDOW: tl.constexpr):
    """`valid` where the position, reached by the window, lies in the image."""
    if WINDOW[LEAVES][0]:
        valid = valid & (position[0] >= 0) & (position[0] < size[0])
    if WINDOW[LEAVES][1]:
        valid = valid & (position[1] >= 0) & (position[1] < size[1])
    if WINDOW[LEAVES][2]:
        valid = valid & (position[2] >= 0) & (position[2] < size[2])
    return valid


# --- device: windows, from an element to those that cover it ---


@jit
def last_window(position, WINDOW: tl.constexpr):
    """The last window, along each axis, that may cover the element at `position`."""
    return (
        (position[0] + WINDOW[PADDING][0]) // WINDOW[STRIDE][0],
        (position[1] + WINDOW[PADDING][1]) // WINDOW[STRIDE][1],
        (position[2] + WINDOW[PADDING][2]) // WINDOW[STRIDE][2],
    )


@jit
def _covering_tap(position, window, size, valid, WINDOW: tl.constexpr, AXIS: tl.constexpr):
    """The tap of a window that lies at `position` on one axis, and whether there are such a window and such a tap."""
    inside = position + WINDOW[PADDING][AXIS] - window * WINDOW[STRIDE][AXIS]
    tap = inside // WINDOW[DILATION][AXIS]
    valid = valid & (window >= 0) & (window < size)
    return tap, valid & (tap < WINDOW[SIZE][AXIS]) & (tap * WINDOW[DILATION][AXIS] == inside)


@jit
def covering(position, last, number, size, valid, WINDOW: tl.constexpr):
    """Window `number` of those that may cover the element at `position`: where it stands, the number of its element
    there, and whether it stands there at all."""
    line = number // WINDOW[COVERING][2]
    z = last[0] - line // WINDOW[COVERING][1]
    p = last[1] - line % WINDOW[COVERING][1]
    q = last[2] - number % WINDOW[COVERING][2]
    s, valid = _covering_tap(position[2], q, size[2], valid, WINDOW, 2)
    place = s
    if not WINDOW[IDLE][1]:
        r, valid = _covering_tap(position[1], p, size[1], valid, WINDOW, 1)
        place += r * WINDOW[SIZE][2]
    if not WINDOW[IDLE][0]:
        t, valid = _covering_tap(position[0], z, size[0], valid, WINDOW, 0)
        place += t * (WINDOW[SIZE][1] * WINDOW[SIZE][2])
    return (z, p, q), place, valid
