"""Four ways down to half the side and four ways up again, on one digit, with the error of each pair.

Down, each 2x2 window becomes one value: its first pixel, its maximum, its mean, or its L2 norm (halved, so that a
constant image keeps its value). Up: each value four times; at the place that max pooling remembers, with zeros around;
by bilinear interpolation; or by a transposed convolution, which adds a 4x4 bump for each value.
"""

import torch
from matplotlib.figure import Figure
from tabulate import tabulate

from examples.explain.lesson import Drawing, Lesson, digits, draw
from tritonconv import functional as F

DIGIT_3 = 1500  # the first 3 of lesson.digits
TENT = torch.tensor([0.25, 0.75, 0.75, 0.25])  # its steps of 2 add up to 1: bilinear interpolation away from borders
BUMP = (TENT[:, None] * TENT).view(1, 1, 4, 4)


def down(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """(N, 1, H, W) -> (N, 1, H / 2, W / 2), by each way."""
    return {
        "subsampling": F.interpolate(x, scale_factor=0.5, mode="nearest"),
        "max": F.max_pool2d(x, 2),
        "mean": F.avg_pool2d(x, 2),
        "L2": F.lp_pool2d(x, 2, 2) / 2,
    }


def up(small: torch.Tensor) -> dict[str, torch.Tensor]:
    """(N, 1, P, Q) -> (N, 1, 2 * P, 2 * Q), by each way that needs no more than the values."""
    return {
        "nearest": F.interpolate(small, scale_factor=2, mode="nearest"),
        "bilinear": F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False),
        "transposed conv": F.conv_transpose2d(small, BUMP, stride=2, padding=1),
    }


def unpooled(x: torch.Tensor) -> torch.Tensor:
    """The maxima of `x` back at their places, 0 elsewhere."""
    values, indices = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(values, indices, 2)


def error(image: torch.Tensor, original: torch.Tensor) -> float:
    """Root mean square error."""
    return (image - original).square().mean().sqrt().item()


def lesson() -> Lesson:
    original = digits()[0][DIGIT_3 : DIGIT_3 + 1]
    results = {way: (small, up(small)) for way, small in down(original).items()}
    results["max"][1]["max-unpooling"] = unpooled(original)
    ways = list(results["max"][1])
    rows = [[way, *(error(large[up], original) if up in large else None for up in ways)] for way, (_, large) in results.items()]
    figure = Figure(figsize=(11, 9), layout="constrained")
    figure.suptitle("Down to 14x14 (left) and up again to 28x28; root mean square error against the original")
    grid = figure.subplots(len(results), 2 + len(ways))
    for row, (way, (small, large)) in zip(grid, results.items(), strict=True):
        draw(row[0], original[0, 0], "original")
        draw(row[1], small[0, 0], way, limit=1)
        for axes, name in zip(row[2:], ways, strict=True):
            axes.set_axis_off()
            if name in large:
                draw(axes, large[name][0, 0], f"{name}: {error(large[name], original):.3f}", limit=1)
    best = min((value, row[0], way) for row in rows for way, value in zip(ways, row[1:], strict=True) if value)
    text = "Root mean square error of a digit (pixels from 0 to 1), by the way down (rows) and the way up\n"
    text += tabulate(rows, ["down", *ways], floatfmt=".4f", missingval="-")
    text += f"\nleast: {best[1]}, then {best[2]}, {best[0]:.4f}"
    alt = "A digit halved by subsampling, max, mean and L2 pooling, and doubled again by four ways, with errors"
    return Lesson("Down and up again", text, (Drawing("resampling", alt, figure),))
