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
    if FLATTEN_TAPS:
        j = step * BLOCK + tl.arange(0, BLOCK).to(OFFSET)
        tap = j // C
        c = j - tap * C
        valid = tap < R * S
    else:
        tap = step // ((C + BLOCK - 1) // BLOCK) + tl.arange(0, 1).to(OFFSET)
        c = step % ((C + BLOCK - 1) // BLOCK) * BLOCK + tl.arange(0, BLOCK).to(OFFSET)
        valid = c < C
    r = tap // S
    return r, tap - r * S, c, valid
