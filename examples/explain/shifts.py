"""Convolution commutes with shifts; max pooling is nearly unmoved by small ones.

Equivariance: to shift an image and convolve it is to convolve it and shift the result. It is exact where the border
wraps around; zero padding breaks it near the border. Invariance: a pooled map changes less than its input does, the
less the wider the window, and a maximum over all of the map does not change.
"""

import torch
from matplotlib.figure import Figure
from tabulate import tabulate

from examples.explain.lesson import Drawing, Lesson, digits, draw, require_equal
from tritonconv import functional as F

SHIFTS = range(5)
SHOWN = 2  # the shift that is drawn
WINDOWS = (2, 4, 7, 28)  # of max pooling; each divides 28
EVERY = 50  # of the 5,000 digits, for the pooling


def shift(x: torch.Tensor, pixels: int) -> torch.Tensor:
    """To the right; what leaves there enters at the left."""
    return x.roll(pixels, -1)


def equivariance(x: torch.Tensor, weight: torch.Tensor, mode: F.PaddingMode, pixels: int) -> torch.Tensor:
    """conv(shift(x)) - shift(conv(x)): 0 wherever both are the same."""
    conv = {"padding": "same", "padding_mode": mode}
    return F.conv2d(shift(x, pixels), weight, **conv) - shift(F.conv2d(x, weight, **conv), pixels)


def inner(difference: torch.Tensor, pixels: int) -> torch.Tensor:
    """The columns whose 3x3 windows touch neither the border nor, after the shift, what crossed it."""
    return difference[..., 1 + pixels : -1]


def change(x: torch.Tensor, window: int, pixels: int) -> float:
    """How far the shift moves the pooled images, as a share of their length: norm of the difference over the norm."""
    before, after = (F.max_pool2d(image, window) for image in (x, shift(x, pixels)))
    return ((after - before).norm() / before.norm()).item()


def lesson() -> Lesson:
    many = digits()[0][::EVERY]
    image = many[50:51, :, 4:24, 4:24]  # without MNIST's margin, so that the digit meets the border
    weight = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    rows = []
    for pixels in SHIFTS:
        circular, zeros = (equivariance(image, weight, mode, pixels) for mode in ("circular", "zeros"))
        require_equal("circular padding", circular, torch.zeros_like(circular))
        require_equal("zero padding, inside", inner(zeros, pixels), torch.zeros_like(inner(zeros, pixels)))
        errors = (difference.abs().max().item() for difference in (circular, inner(zeros, pixels), zeros))
        rows.append([pixels, *errors, change(many, 1, pixels), *(change(many, window, pixels) for window in WINDOWS)])
    pools = [f"max pool {window}" for window in WINDOWS]
    head = ["shift", "circular", "zeros, inside", "zeros, at border", "no pooling", *pools]
    text = f"Largest |conv(shift(x)) - shift(conv(x))| of one digit; relative change of {len(many)} pooled digits\n"
    text += tabulate(rows, head, floatfmt=".3g")
    return Lesson("Shifts", text, (_commute(image, weight), _change(rows, pools)))


def _commute(image: torch.Tensor, weight: torch.Tensor) -> Drawing:
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    figure.suptitle(f"Shift by {SHOWN} pixels, then convolve; or convolve, then shift")
    axes = list(figure.subplots(2, 4).flat)
    for place, mode in ((0, "circular"), (4, "zeros")):
        maps = F.conv2d(shift(image, SHOWN), weight, padding="same", padding_mode=mode)
        difference = equivariance(image, weight, mode, SHOWN)
        limit = maps.abs().max().item()
        draw(axes[place], shift(image, SHOWN)[0, 0], "shifted digit")
        draw(axes[place + 1], maps[0, 0], f"shift, conv; padding {mode}", signed=True, limit=limit)
        draw(axes[place + 2], (maps - difference)[0, 0], "conv, shift", signed=True, limit=limit)
        largest = difference.abs().max()
        scale = draw(axes[place + 3], difference[0, 0], f"difference, at most {largest:.3g}", signed=True, limit=limit)
        figure.colorbar(scale, ax=axes[place + 3], shrink=0.8)
    alt = f"With circular padding shift and convolution commute; with zeros they differ in {SHOWN + 2} columns at most"
    return Drawing("shifts", alt, figure)


def _change(rows: list[list[float]], pools: list[str]) -> Drawing:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for column, label in enumerate(["no pooling", *pools], start=4):
        axes.plot(SHIFTS, [row[column] for row in rows], "o-", label=label)
    axes.set(xlabel="shift in pixels", ylabel="relative change", xticks=SHIFTS, ylim=(-0.05, None))
    axes.set_title("Change of max-pooled digits by a shift")
    axes.legend()
    axes.grid(alpha=0.3)
    alt = "Relative change of digits by shifts of 0 to 4 pixels: the wider the pooling window, the smaller"
    return Drawing("shifts-pooling", alt, figure)
