"""Device helpers that every algorithm shares: from a flat index to a pixel, a tap, a channel."""

import triton.language as tl

from tritonconv.jit import jit


@jit
def unravel_pixels(offs, height, width):
    """(n, row, column) of pixels numbered row by row, picture by picture."""
    lines = offs // width
    n = lines // height
    return n, lines - n * height, offs - lines * width


@jit
def unravel_program(pid, middle, inner, OFFSET: tl.constexpr):
    """(outer, middle, inner) place of a program in a grid of one axis: CUDA ends the other axes at 65,535."""
    pid = pid.to(OFFSET)
    return pid // inner // middle, pid // inner % middle, pid % inner


@jit
def unravel_taps(
    step,
    C: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    BLOCK: tl.constexpr,
    FLATTEN_TAPS: tl.constexpr,
    OFFSET: tl.constexpr,
):
    """Filter row, filter column, channel and validity of block `step` of the R·S·C products of one output.

    With FLATTEN_TAPS a block runs on across taps: r, s and c are (BLOCK,). Without, it is one tap's channels: r and s
    are (1,) and broadcast, so that everything that depends on them alone stays a vector.
    """
    CHANNELS: tl.constexpr = C if C > 0 else 1  # with no channel there is no block, but the code must compile
    if FLATTEN_TAPS:
        j = step * BLOCK + tl.arange(0, BLOCK).to(OFFSET)
        tap = j // CHANNELS
        c = j - tap * C
        valid = tap < R * S
    else:
        blocks: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
        tap = step // blocks + tl.arange(0, 1).to(OFFSET)
        c = step % blocks * BLOCK + tl.arange(0, BLOCK).to(OFFSET)
        valid = c < C
    r = tap // S
    return r, tap - r * S, c, valid
