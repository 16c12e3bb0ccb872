"""The axes, known here alone: (D, H, W), with size 1 for those that an image lacks.

Positions, sizes and taps are tuples with one entry an axis; strides have two more before them, of N and C. What slides
over an image (a filter, a pooling window, a patch) is a constexpr tuple, see `window`. An axis along which it does
nothing (`IDLE`) costs no division and no comparison.
"""

import math
from typing import Any

import torch
import triton.language as tl

from tritonconv.checks import PADDING_MODES
from tritonconv.jit import jit
from tritonconv.problems import ConvProblem, PoolProblem

# Entries of a window, each a tuple over the axes: what it is made of, …
SIZE = tl.constexpr(0)
STRIDE = tl.constexpr(1)
PADDING = tl.constexpr(2)  # before
DILATION = tl.constexpr(3)
# … and what follows from that: whether it reads zeros outside the image, whether it does nothing (one element, one
# step for each of the image, no padding), and how many of its positions may cover an element;
LEAVES = tl.constexpr(4)
IDLE = tl.constexpr(5)
COVERING = tl.constexpr(6)
# over all axes, its elements, and the positions that may cover one.
TAPS = tl.constexpr(7)
COVERINGS = tl.constexpr(8)
# Along each axis, what padding repeats, a place in PADDING_MODES; ZEROS where it repeats nothing or there is none.
MODE = tl.constexpr(9)
ZEROS, REFLECT, REPLICATE, CIRCULAR = map(tl.constexpr, range(4))

Window = tuple[Any, ...]


# --- host: what kernels are given ---


def three(values: Any, fill: Any = 1) -> tuple:
    """One entry for each of D, H and W."""
    return (fill,) * (3 - len(values)) + tuple(values)


def strides(t: torch.Tensor) -> tuple[int, ...] | int:
    """In elements, of N, C, D, H and W; of a vector its one."""
    return t.stride(0) if t.dim() == 1 else (*t.stride()[:2], *three(t.stride()[2:], 0))


def dense(t: torch.Tensor) -> tuple[int, ...]:
    """In elements, of a new image: of N and C alone in NCHW, where the latter is its pixels; else as `strides`."""
    return strides(t) if t.stride(1) == 1 else t.stride()[:2]  # type: ignore[return-value]


def window(problem: ConvProblem | PoolProblem) -> Window:
    w = problem.window
    axes = (three(w.size), three(w.stride), three([before for before, _ in w.padding], 0), three(w.dilation))
    leaves, idle, covering, modes = [], [], [], []
    both = zip(three(problem.input_size), three(problem.output_size), strict=True)
    for (length, positions), taps, step, before, spread in zip(both, *axes, strict=True):
        last = (positions - 1) * step - before + (taps - 1) * spread
        is_outside = before > 0 or last >= length
        leaves.append(is_outside and w.mode == "zeros")
        modes.append(PADDING_MODES.index(w.mode) if is_outside else 0)  # type: ignore[arg-type]
        idle.append(taps == step == 1 and before == 0 and positions == length)
        covering.append(((taps - 1) * spread + step) // step)
    counts = (math.prod(axes[0]), math.prod(covering))
    return (*axes, tuple(leaves), tuple(idle), tuple(covering), *counts, tuple(modes))


# Entries of the phases of a strided convolution's dgrad: how many, the gcd of stride and dilation, and the inverse of
# dilation/gcd modulo stride/gcd, over the axes; how many in all.
COUNT = tl.constexpr(0)
GCD = tl.constexpr(1)
INVERSE = tl.constexpr(2)
TOTAL = tl.constexpr(3)


def phases(problem: ConvProblem) -> tuple[Any, ...]:
    """Positions that are the same modulo the stride share a phase; a phase without a position does not exist."""
    counts = three(tuple(map(min, problem.window.stride, problem.input_size)))
    axes = list(zip(three(problem.window.stride), three(problem.window.dilation), strict=True))
    gcds = tuple(math.gcd(stride, dilation) for stride, dilation in axes)
    inverses = tuple(pow(d // g, -1, s // g) for (s, d), g in zip(axes, gcds, strict=True))
    return counts, gcds, inverses, math.prod(counts)


def phase_size(problem: ConvProblem) -> tuple[int, ...]:
    """Positions of the largest phase."""
    return three([-(-size // stride) for size, stride in zip(problem.input_size, problem.window.stride, strict=True)])


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
def block_of_pixels(first, size, BLOCK: tl.constexpr):
    """(n, position) of BLOCK positions from number `first` on, and what `advance` moves them to the next block by."""
    n, position = unravel(first + tl.arange(0, BLOCK), size)
    return n, position, unravel(tl.full((), BLOCK, tl.int32), size)


@jit
def _moved(place, by, size):
    """A place on one axis, moved on by less than the axis's size, and what that carries over to the axis before."""
    place += by
    is_over = place >= size
    return tl.where(is_over, place - size, place), is_over.to(tl.int32)


@jit
def advance(n, position, by, size):
    """`unravel` of positions as many further on as `by` is `unravel` of; of flat images without a division."""
    w, carry = _moved(position[2], by[1][2], size[2])
    h, carry = _moved(position[1], by[1][1] + carry, size[1])
    planes = n * size[0] + position[0] + (by[0] * size[0] + by[1][0] + carry)
    n = planes // size[0]
    return n, (planes - n * size[0], h, w)


@jit
def tile_of_program(size, N, C, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, OFFSET: tl.constexpr):
    """Numbers, n and position (M,) of a program's pixels, its channels c (N,), and which there are of both.

    The grid is (pixel blocks · channel blocks,).
    """
    pid_m, _, pid_n = unravel_program(tl.program_id(0), 1, tl.cdiv(C, BLOCK_N), OFFSET)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n, position = unravel(offs_m, size)
    c = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    return offs_m, n, position, c, n < N, c < C


@jit
def ravel(position, size):
    """The number of a position in its image."""
    return (position[0] * size[1] + position[1]) * size[2] + position[2]


@jit
def offset(position, stride):
    """Elements from the first of a channel to `position`."""
    return position[0] * stride[2] + position[1] * stride[3] + position[2] * stride[4]


@jit
def tile(ptr, stride, n, position, c):
    """Pointers to pixels (M,) × channels (N,): (M, N)."""
    return (ptr + (n * stride[0] + offset(position, stride)))[:, None] + (c * stride[1])[None, :]


@jit
def output(stride, offs_m, n, position, c, valid_m, valid_c, N):
    """Offsets (M, N) of an output's pixels × channels, and which there are; `dense` gave its strides.

    In NCHW by the pixels' numbers and a division of its own: after `unravel` the compiler no longer sees that
    neighbouring pixels are neighbours in memory, and would store them one by one instead of 16 bytes at a time.
    """
    if len(stride) == 2:
        n = offs_m // stride[1]
        rows, valid_m = offs_m + n * (stride[0] - stride[1]), n < N
    else:
        rows = n * stride[0] + offset(position, stride)
    return rows[:, None] + (c * stride[1])[None, :], valid_m[:, None] & valid_c[None, :]


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
    t = row // WINDOW[SIZE][1]
    r = row % WINDOW[SIZE][1]
    s = number % WINDOW[SIZE][2]
    return (t, r, s)


@jit
def cast(tap, OFFSET: tl.constexpr):
    return (tap[0].to(OFFSET), tap[1].to(OFFSET), tap[2].to(OFFSET))


@jit
def start(position, WINDOW: tl.constexpr):
    """Where the first element of the window at `position` lies; outside the image where that is padding."""
    return (
        position[0] * WINDOW[STRIDE][0] - WINDOW[PADDING][0],
        position[1] * WINDOW[STRIDE][1] - WINDOW[PADDING][1],
        position[2] * WINDOW[STRIDE][2] - WINDOW[PADDING][2],
    )


@jit
def dilate(tap, WINDOW: tl.constexpr):
    """How far a tap lies from the first one."""
    return (tap[0] * WINDOW[DILATION][0], tap[1] * WINDOW[DILATION][1], tap[2] * WINDOW[DILATION][2])


@jit
def _repeated(place, size, MODE: tl.constexpr):
    """The place in the image that a place in the padding along one axis repeats."""
    if MODE == REFLECT:
        place = size - 1 - tl.abs(size - 1 - tl.abs(place))
    elif MODE == REPLICATE:
        place = tl.minimum(tl.maximum(place, 0), size - 1)
    elif MODE == CIRCULAR:
        place = tl.where(place < 0, place + size, tl.where(place < size, place, place - size))
    return place


@jit
def reach(start, tap, size, WINDOW: tl.constexpr):
    """Where a tap of the window that starts there lies; of padding that repeats the image, what it repeats."""
    shift = dilate(tap, WINDOW)
    return (
        _repeated(start[0] + shift[0], size[0], WINDOW[MODE][0]),
        _repeated(start[1] + shift[1], size[1], WINDOW[MODE][1]),
        _repeated(start[2] + shift[2], size[2], WINDOW[MODE][2]),
    )


@jit
def reach_product(ptr, rows, start, shift, columns, size, stride, WINDOW: tl.constexpr):
    """Pointers (M, K) to what `reach` finds for every start (M,) and shift (K,).

    `rows` (M,) and `columns` (K,) are elements from ptr to each image and each channel.
    """
    if WINDOW[MODE][0] == ZEROS:
        rows += start[0] * stride[2]
        columns += shift[0] * stride[2]
    if WINDOW[MODE][1] == ZEROS:
        rows += start[1] * stride[3]
        columns += shift[1] * stride[3]
    if WINDOW[MODE][2] == ZEROS:
        rows += start[2] * stride[4]
        columns += shift[2] * stride[4]
    ptrs = (ptr + rows)[:, None] + columns[None, :]
    if WINDOW[MODE][0] != ZEROS:
        ptrs += _repeated(start[0][:, None] + shift[0][None, :], size[0], WINDOW[MODE][0]) * stride[2]
    if WINDOW[MODE][1] != ZEROS:
        ptrs += _repeated(start[1][:, None] + shift[1][None, :], size[1], WINDOW[MODE][1]) * stride[3]
    if WINDOW[MODE][2] != ZEROS:
        ptrs += _repeated(start[2][:, None] + shift[2][None, :], size[2], WINDOW[MODE][2]) * stride[4]
    return ptrs


@jit
def _within(place, size):
    """0 ≤ place < size in one comparison: without a sign a negative place is a large one."""
    UNSIGNED: tl.constexpr = tl.uint64 if place.dtype == tl.int64 else tl.uint32
    return place.to(UNSIGNED, bitcast=True) < size


@jit
def inside(position, size, valid, WINDOW: tl.constexpr):
    """`valid` where the position, reached by the window, lies in the image."""
    if WINDOW[LEAVES][0]:
        valid = valid & _within(position[0], size[0])
    if WINDOW[LEAVES][1]:
        valid = valid & _within(position[1], size[1])
    if WINDOW[LEAVES][2]:
        valid = valid & _within(position[2], size[2])
    return valid


@jit
def inside_product(start, shift, size, valid, WINDOW: tl.constexpr):
    """`inside` of every start (M,) plus every shift (K,): (M, K), or (M, 1) where no window reads zeros."""
    valid = valid[:, None]
    if WINDOW[LEAVES][0]:
        d = start[0][:, None] + shift[0][None, :]
        valid = valid & _within(d, size[0])
    if WINDOW[LEAVES][1]:
        h = start[1][:, None] + shift[1][None, :]
        valid = valid & _within(h, size[1])
    if WINDOW[LEAVES][2]:
        w = start[2][:, None] + shift[2][None, :]
        valid = valid & _within(w, size[2])
    return valid


@jit
def filter_block(
    step, C: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr, FLATTEN_TAPS: tl.constexpr, OFFSET: tl.constexpr
):
    """Taps, channels and validity of block `step` of the taps × channels that make one output.

    With FLATTEN_TAPS a block runs on across taps, and each entry of the tap is (BLOCK,). Without, it is one tap's
    channels, and they are (1,) and broadcast, so that everything that depends on them alone stays a vector.
    """
    CHANNELS: tl.constexpr = C if C > 0 else 1  # with no channel there is no block, but the code must compile
    if FLATTEN_TAPS:
        j = step * BLOCK + tl.arange(0, BLOCK).to(OFFSET)
        number = j // CHANNELS
        c = j - number * C
        valid = number < WINDOW[TAPS]
    else:
        blocks: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
        number = step // blocks + tl.arange(0, 1).to(OFFSET)
        c = step % blocks * BLOCK + tl.arange(0, BLOCK).to(OFFSET)
        valid = c < C
    return tap(number, WINDOW), c, valid


@jit
def _axis_elements(position, size, WINDOW: tl.constexpr, AXIS: tl.constexpr, PADDED: tl.constexpr):
    first = position * WINDOW[STRIDE][AXIS] - WINDOW[PADDING][AXIS]
    end = tl.minimum(first + WINDOW[SIZE][AXIS], size + (WINDOW[PADDING][AXIS] if PADDED else 0))
    return end - (first if PADDED else tl.maximum(first, 0))


@jit
def elements(position, size, WINDOW: tl.constexpr, PADDED: tl.constexpr):
    """How many elements of the window at `position` lie in the image, or in the padded one. For dilation 1."""
    plane = _axis_elements(position[1], size[1], WINDOW, 1, PADDED) * _axis_elements(
        position[2], size[2], WINDOW, 2, PADDED
    )
    return _axis_elements(position[0], size[0], WINDOW, 0, PADDED) * plane


# --- device: windows, from an element to those that cover it ---


@jit
def _axis_window(position, tap, size, valid, WINDOW: tl.constexpr, AXIS: tl.constexpr, EXACT: tl.constexpr):
    if WINDOW[IDLE][AXIS]:
        window = position
    else:
        inside = position + (WINDOW[PADDING][AXIS] - tap * WINDOW[DILATION][AXIS])
        window = inside // WINDOW[STRIDE][AXIS]
        if EXACT:
            valid = valid & _within(window, size) & (window * WINDOW[STRIDE][AXIS] == inside)
        else:
            valid = valid & _within(window, size)
    return window, valid


@jit
def window_at(position, tap, size, valid, WINDOW: tl.constexpr, EXACT: tl.constexpr):
    """Where the window stands whose `tap` lies at `position`, and whether there is one.

    Without EXACT the taps are those of the position's phase: the division leaves no rest, and a negative numerator
    gives a negative quotient however it is rounded.
    """
    z, valid = _axis_window(position[0], tap[0], size[0], valid, WINDOW, 0, EXACT)
    p, valid = _axis_window(position[1], tap[1], size[1], valid, WINDOW, 1, EXACT)
    q, valid = _axis_window(position[2], tap[2], size[2], valid, WINDOW, 2, EXACT)
    return (z, p, q), valid


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
    valid = valid & _within(window, size)
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
    element = s
    if not WINDOW[IDLE][1]:
        r, valid = _covering_tap(position[1], p, size[1], valid, WINDOW, 1)
        element += r * WINDOW[SIZE][2]
    if not WINDOW[IDLE][0]:
        t, valid = _covering_tap(position[0], z, size[0], valid, WINDOW, 0)
        element += t * (WINDOW[SIZE][1] * WINDOW[SIZE][2])
    return (z, p, q), element, valid


# --- device: pixels that are sums over places of their own (resample.py) ---


@jit
def _axis_source(index_ptr, weight_ptr, position, first, term, TERMS: tl.constexpr, valid, OFFSET: tl.constexpr):
    """Where a term of a pixel lies on one axis, −1 for none, and its weight; the axis's table starts at `first`."""
    place = tl.load(index_ptr + (first + position * TERMS + term), mask=valid, other=-1).to(OFFSET)
    weight = 1.0
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + (first + position * TERMS + term), mask=valid, other=0.0)
    return place, weight


@jit
def source(index_ptr, weight_ptr, position, number, size, valid, TERMS: tl.constexpr, OFFSET: tl.constexpr):
    """Where term `number` of the pixels at `position` lies, its weight, and whether there is one."""
    COLUMNS: tl.constexpr = TERMS[2] if TERMS[2] > 0 else 1
    ROWS: tl.constexpr = TERMS[1] if TERMS[1] > 0 else 1
    d, h, w = position[0], position[1], position[2]
    weight = 1.0
    found = valid
    if TERMS[0] > 0:
        d, share = _axis_source(index_ptr, weight_ptr, d, 0, number // (ROWS * COLUMNS), TERMS[0], valid, OFFSET)
        weight, found = share, found & (d >= 0)
    if TERMS[1] > 0:
        first = size[0] * TERMS[0]
        h, share = _axis_source(index_ptr, weight_ptr, h, first, number // COLUMNS % ROWS, TERMS[1], valid, OFFSET)
        weight, found = weight * share, found & (h >= 0)
    if TERMS[2] > 0:
        first = size[0] * TERMS[0] + size[1] * TERMS[1]
        w, share = _axis_source(index_ptr, weight_ptr, w, first, number % COLUMNS, TERMS[2], valid, OFFSET)
        weight, found = weight * share, found & (w >= 0)
    return (d, h, w), weight, found


# --- device: phases ---


@jit
def phase(number, PHASES: tl.constexpr):
    row = number // PHASES[COUNT][2]
    return (row // PHASES[COUNT][1], row % PHASES[COUNT][1], number % PHASES[COUNT][2])


@jit
def in_phase(position, phase, size, valid, WINDOW: tl.constexpr):
    """The position in the image of a phase's position, and whether there is one."""
    d = position[0] * WINDOW[STRIDE][0] + phase[0]
    h = position[1] * WINDOW[STRIDE][1] + phase[1]
    w = position[2] * WINDOW[STRIDE][2] + phase[2]
    return (d, h, w), valid & (d < size[0]) & (h < size[1]) & (w < size[2])


@jit
def _axis_taps(phase, WINDOW: tl.constexpr, PHASES: tl.constexpr, AXIS: tl.constexpr):
    step: tl.constexpr = WINDOW[STRIDE][AXIS] // PHASES[GCD][AXIS]
    padded = phase + WINDOW[PADDING][AXIS]
    first = padded // PHASES[GCD][AXIS] * PHASES[INVERSE][AXIS] % step
    count = tl.maximum((WINDOW[SIZE][AXIS] - first + step - 1) // step, 0)
    return first, tl.where(padded % PHASES[GCD][AXIS] == 0, count, 0)


@jit
def phase_taps(phase, WINDOW: tl.constexpr, PHASES: tl.constexpr):
    """The first tap that reaches a phase, how many do along each axis, and in all."""
    first_t, count_t = _axis_taps(phase[0], WINDOW, PHASES, 0)
    first_r, count_r = _axis_taps(phase[1], WINDOW, PHASES, 1)
    first_s, count_s = _axis_taps(phase[2], WINDOW, PHASES, 2)
    return (first_t, first_r, first_s), (count_t, count_r, count_s), count_t * count_r * count_s


@jit
def phase_tap(number, first, count, WINDOW: tl.constexpr, PHASES: tl.constexpr):
    """(t, r, s) of tap `number` of those that reach a phase."""
    # there may be none: the compiler may divide by their count where the loop over them does not run
    of_row = tl.maximum(count[2], 1)
    of_plane = tl.maximum(count[1], 1)
    row = number // of_row
    return (
        first[0] + row // of_plane * (WINDOW[STRIDE][0] // PHASES[GCD][0]),
        first[1] + row % of_plane * (WINDOW[STRIDE][1] // PHASES[GCD][1]),
        first[2] + number % of_row * (WINDOW[STRIDE][2] // PHASES[GCD][2]),
    )
