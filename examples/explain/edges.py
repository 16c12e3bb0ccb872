"""Edges by filters of two weights, and what flipping one does.

A filter that takes the left pixel from the right one answers where brightness changes along a row: at vertical edges,
with +1 from dark to bright and with -1 from bright to dark. Turned upright it finds horizontal edges. The letter L and
a digit show them.
"""

from itertools import zip_longest

import torch
from matplotlib.figure import Figure

from examples.explain.lesson import Drawing, Lesson, digits, draw
from tritonconv import functional as F

ALONG_ROW = torch.tensor([[[[-1.0, 1.0]]]])  # (C_out, C_in, R, S) = (1, 1, 1, 2): finds vertical edges
ALONG_COLUMN = ALONG_ROW.transpose(2, 3)  # (1, 1, 2, 1): finds horizontal edges
DIGIT_5 = 2500  # the first 5 of lesson.digits


def letter() -> torch.Tensor:
    """A white L, two pixels wide, in a black 8x8 image (1, 1, 8, 8)."""
    image = torch.zeros(1, 1, 8, 8)
    image[..., 1:7, 2:4] = 1
    image[..., 5:7, 2:7] = 1
    return image


def convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Convolution as mathematics has it: cross-correlation, which is what conv2d computes, with the filter flipped."""
    return F.conv2d(x, weight.flip(2, 3))


def lesson() -> Lesson:
    L, five = letter(), digits()[0][DIGIT_5 : DIGIT_5 + 1]
    vertical, horizontal = F.conv2d(L, ALONG_ROW), F.conv2d(L, ALONG_COLUMN)
    valid, same = F.conv2d(five, ALONG_ROW), F.conv2d(five, ALONG_ROW, padding="same")
    positive = F.relu(same)
    pooled = F.max_pool2d(positive, 2)
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[..., 2, 2] = 1
    weight = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    lines = [
        f"the letter L, {by(L)}; by the 1x2 filter (-1, 1), {by(vertical)}; by the 2x1 filter, {by(horizontal)}",
        *(
            "    " + "     ".join(row).rstrip()
            for row in zip_longest(*map(signs, (L, vertical, horizontal)), fillvalue="")
        ),
        f"a digit without padding: {by(five)} -> {by(valid)}; with a column of zeros at the right: -> {by(same)}",
        f"ReLU keeps {(positive > 0).sum()} positive answers and drops {(same < 0).sum()} negative ones",
        f"max pooling 2x2: {by(positive)} -> {by(pooled)}",
        f"one bright pixel, cross-correlated: {F.conv2d(impulse, weight).flatten().int().tolist()}, the filter turned",
        f"one bright pixel, convolved: {convolve(impulse, weight).flatten().int().tolist()}, the filter itself",
    ]
    edges = Figure(figsize=(11, 6), layout="constrained")
    edges.suptitle("Filters of two weights find edges: red +, blue -")
    axes = list(edges.subplots(2, 4).flat)
    draw(axes[0], L[0, 0], f"the letter L, {by(L)}")
    draw(axes[1], vertical[0, 0], f"1x2 filter (-1, 1): vertical edges, {by(vertical)}", signed=True, numbers=True)
    draw(axes[2], horizontal[0, 0], f"2x1 filter: horizontal edges, {by(horizontal)}", signed=True, numbers=True)
    draw(axes[3], F.relu(vertical)[0, 0], "ReLU keeps dark to bright", signed=True, numbers=True)
    draw(axes[4], five[0, 0], f"a digit, {by(five)}")
    for place, image, title in (
        (5, valid, f"1x2 filter, no padding: {by(valid)}"),
        (6, positive, f"a zero column at the right, ReLU: {by(positive)}"),
        (7, pooled, f"max pooling 2x2: {by(pooled)}"),
    ):
        scale = draw(axes[place], image[0, 0], title, signed=True, limit=1)
    edges.colorbar(scale, ax=axes[7], shrink=0.8)
    flipped = Figure(figsize=(11, 3.2), layout="constrained")
    flipped.suptitle("conv2d is cross-correlation; with a flipped filter it is the convolution of mathematics")
    axes = list(flipped.subplots(1, 4).flat)
    draw(axes[0], impulse[0, 0], "one bright pixel")
    draw(axes[1], weight[0, 0], "the filter", signed=True, numbers=True)
    draw(axes[2], F.conv2d(impulse, weight)[0, 0], "cross-correlation: the filter turned", signed=True, numbers=True)
    draw(axes[3], convolve(impulse, weight)[0, 0], "convolution: the filter", signed=True, numbers=True)
    drawings = (
        Drawing("edges", "The letter L and a digit, their edges by 1x2 and 2x1 filters, ReLU and max pooling", edges),
        Drawing("correlation", "One pixel cross-correlated with a 3x3 filter and convolved with it", flipped),
    )
    return Lesson("edges", "Edges by hand", "\n".join(lines), drawings)


def signs(image: torch.Tensor) -> list[str]:
    """A line for each row of an image (1, 1, H, W): + above 0, - below 0, a dot for 0."""
    return [" ".join(".+-"[int(value)] for value in row) for row in image[0, 0].sign().tolist()]


def by(image: torch.Tensor) -> str:
    """28x27 of an image (..., 28, 27)."""
    return f"{image.shape[-2]}x{image.shape[-1]}"
