"""Four ways down to half the side and four ways up again.

Down, each 2x2 window becomes one value: its first pixel, its maximum, its mean, or its L2 norm (halved, so that a
constant image keeps its value). Up: each value four times; by bilinear interpolation; by a transposed convolution,
which adds a 4x4 filter for each value, with weights fitted to other digits; or at the place that max pooling
remembers, with zeros around. One digit shows each pair and its error.
"""

from typing import Any

import torch
from matplotlib.figure import Figure
from tabulate import tabulate

from examples.explain.lesson import Drawing, Lesson, digits, draw
from tritonconv import functional as F

DIGIT_3 = 1500  # the first 3 of lesson.digits
FITTED = slice(1, None, 50)  # the digits that weights are fitted to
TENT = torch.tensor([0.25, 0.75, 0.75, 0.25])  # of bilinear interpolation: moved on by 2 and added, it gives 1
DOUBLING: dict[str, Any] = {"stride": 2, "padding": 1}  # with a 4x4 filter, (P, Q) -> (2 * P, 2 * Q)


def down(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """(N, 1, H, W) -> (N, 1, H / 2, W / 2), by each way."""
    return {
        "subsampling": F.interpolate(x, scale_factor=0.5, mode="nearest"),
        "max": F.max_pool2d(x, 2),
        "mean": F.avg_pool2d(x, 2),
        "L2": F.lp_pool2d(x, 2, 2) / 2,
    }


def up(small: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """(N, 1, P, Q) -> (N, 1, 2 * P, 2 * Q), by each way that needs the values alone; `weight` is (1, 1, 4, 4)."""
    return {
        "nearest": F.interpolate(small, scale_factor=2, mode="nearest"),
        "bilinear": F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False),
        "transposed conv": F.conv_transpose2d(small, weight, **DOUBLING),
    }


def fit(small: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """The filter (1, 1, 4, 4) whose transposed convolution of `small` is nearest to `original` in squares."""
    one_each = F.conv_transpose2d(small, torch.eye(16).view(1, 16, 4, 4), **DOUBLING)  # a channel for each weight
    return torch.linalg.lstsq(one_each.movedim(1, -1).flatten(0, 2), original.reshape(-1, 1)).solution.view(1, 1, 4, 4)


def unpool(x: torch.Tensor) -> torch.Tensor:
    """The maxima of `x` back at their places, 0 elsewhere."""
    values, indices = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(values, indices, 2)


def error(image: torch.Tensor, original: torch.Tensor) -> float:
    """Root mean square error."""
    return (image - original).square().mean().sqrt().item()


def lesson() -> Lesson:
    original, others = digits()[0][DIGIT_3 : DIGIT_3 + 1], digits()[0][FITTED]
    small, fitted = down(original), down(others)
    large = {way: up(image, fit(fitted[way], others)) for way, image in small.items()}
    large["max"]["max-unpooling"] = unpool(original)
    ways = list(large["max"])
    errors = {(way, back): error(image, original) for way, row in large.items() for back, image in row.items()}
    text = "Root mean square error of a digit (pixels from 0 to 1), by the way down (rows) and the way up\n"
    rows = [[way, *(errors.get((way, back)) for back in ways)] for way in small]
    text += tabulate(rows, ["down", *ways], floatfmt=".4f", missingval="-")
    text += "\nleast: {} then {}, {:.4f}".format(*min(errors, key=errors.__getitem__), min(errors.values()))
    tent = up(small["mean"], (TENT[:, None] * TENT).view(1, 1, 4, 4))
    difference = (tent["transposed conv"] - tent["bilinear"]).abs().max()
    text += (
        f"\na transposed convolution with tent weights differs from bilinear interpolation by {difference:.1g} at most"
    )
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle("Down to 14x14 and up again to 28x28, with the root mean square error against the original")
    for axes, (way, image) in zip(figure.subplots(len(small), 2 + len(ways)), small.items(), strict=True):
        draw(axes[0], original[0, 0], "original")
        draw(axes[1], image[0, 0], f"{way}, 14x14", limit=1)
        for place, back in enumerate(ways, start=2):
            axes[place].set_axis_off()
            if back in large[way]:
                draw(axes[place], large[way][back][0, 0], f"{back}: {errors[way, back]:.3f}", limit=1)
    alt = "A digit halved by subsampling, max, mean and L2 pooling, and doubled again by four ways, with errors"
    return Lesson("resampling", "Down and up again", text, (Drawing("resampling", alt, figure),))
