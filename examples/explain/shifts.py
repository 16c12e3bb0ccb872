"""Convolution commutes with shifts; max pooling damps them.

Equivariance: to shift an image and convolve it is to convolve it and shift the result. It is exact where the border
wraps around; zero padding breaks it near the border. Invariance: a pooled map changes less than its input does: the
wider the window the less, and a maximum over the whole map not at all. How much less is measured here.
"""

import torch
from matplotlib.figure import Figure
from tabulate import tabulate

from examples.explain.lesson import Drawing, Lesson, digits, draw, require_equal
from tritonconv import functional as F
from tritonconv.checks import PaddingMode

SHIFTS = range(5)
SHOWN = 2  # the shift that is drawn
MODES: tuple[PaddingMode, ...] = ("circular", "zeros")
WINDOWS = {1: (), 2: (2,), 4: (2, 2), 7: (7,), 28: (2, 2, 7)}  # of max pooling: a maximum of maxima is one of all
MEASURES = ("relative change", "share of values that stay")
EVERY = 50  # of the 5,000 digits, for the pooling


def shift(x: torch.Tensor, pixels: int) -> torch.Tensor:
    """To the right; what leaves there enters at the left."""
    return x.roll(pixels, -1)


def equivariance(x: torch.Tensor, weight: torch.Tensor, mode: PaddingMode, pixels: int) -> torch.Tensor:
    """conv(shift(x)) - shift(conv(x)): 0 wherever both are the same."""
    after, before = (F.conv2d(image, weight, padding="same", padding_mode=mode) for image in (shift(x, pixels), x))
    return after - shift(before, pixels)


def inner(difference: torch.Tensor, pixels: int) -> torch.Tensor:
    """The columns whose 3x3 windows touch neither the border nor, after the shift, what crossed it."""
    return difference[..., 1 + pixels : -1]


def pool(x: torch.Tensor, window: int) -> torch.Tensor:
    for step in WINDOWS[window]:
        x = F.max_pool2d(x, step)
    return x


def change(x: torch.Tensor, window: int, pixels: int) -> tuple[float, float]:
    """What the shift does to the pooled images: norm of the difference over the norm; share of values that stay.

    Of the values that are not 0 both times, those stay that move by less than a twentieth of white.
    """
    before, after = (pool(image, window) for image in (x, shift(x, pixels)))
    moved = (after - before)[(before > 0) | (after > 0)].abs()
    return ((after - before).norm() / before.norm()).item(), (moved < 0.05).double().mean().item()


def lesson() -> Lesson:
    many = digits()[0][::EVERY]
    image = many[50:51, :, 4:24, 4:24]  # without MNIST's margin, so that the digit meets the border
    weight = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    rows = []
    for pixels in SHIFTS:
        circular, zeros = (equivariance(image, weight, mode, pixels) for mode in MODES)
        require_equal("circular padding", circular, torch.zeros_like(circular))
        require_equal("zero padding, inside", inner(zeros, pixels), torch.zeros_like(inner(zeros, pixels)))
        rows.append([pixels, *(d.abs().max().item() for d in (circular, inner(zeros, pixels), zeros))])
    text = "largest |conv(shift(x)) - shift(conv(x))| of one digit, by padding\n"
    text += tabulate(rows, ["shift", "circular", "zeros, inside", "zeros, at border"], floatfmt=".3g")
    changes = {window: [change(many, window, pixels) for pixels in SHIFTS] for window in WINDOWS}
    for measure, title in enumerate(MEASURES):
        table = [[pixels, *(changes[window][pixels][measure] for window in WINDOWS)] for pixels in SHIFTS]
        head = ["shift", *map(_name, WINDOWS)]
        text += f"\n\n{title}, {len(many)} digits, max pooling by window\n" + tabulate(table, head, floatfmt=".2f")
    return Lesson("shifts", "Shifts", text, (_commute(image, weight), _changes(changes)))


def _name(window: int) -> str:
    return f"{window}x{window}" if window > 1 else "none"


def _commute(image: torch.Tensor, weight: torch.Tensor) -> Drawing:
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    figure.suptitle(f"Shift by {SHOWN} pixels, then convolve; or convolve, then shift")
    axes = list(figure.subplots(2, 4).flat)
    draw(axes[0], image[0, 0], "digit")
    draw(axes[4], shift(image, SHOWN)[0, 0], "shifted digit")
    for place, mode in zip((0, 4), MODES, strict=True):
        maps = F.conv2d(shift(image, SHOWN), weight, padding="same", padding_mode=mode)
        difference = equivariance(image, weight, mode, SHOWN)
        limit = maps.abs().max().item()
        draw(axes[place + 1], maps[0, 0], f"shift, conv; padding {mode}", signed=True, limit=limit)
        draw(axes[place + 2], (maps - difference)[0, 0], "conv, shift", signed=True, limit=limit)
        largest = difference.abs().max()
        scale = draw(axes[place + 3], difference[0, 0], f"difference, at most {largest:.3g}", signed=True, limit=limit)
        figure.colorbar(scale, ax=axes[place + 3], shrink=0.8)
    alt = f"With circular padding shift and convolution commute; with zeros they differ in {SHOWN + 2} columns at most"
    return Drawing("shifts", alt, figure)


def _changes(changes: dict[int, list[tuple[float, float]]]) -> Drawing:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle("What a shift changes in max-pooled digits")
    for measure, axes in enumerate(figure.subplots(1, 2)):
        for window, values in changes.items():
            axes.plot(SHIFTS, [value[measure] for value in values], "o-", label=_name(window))
        axes.set(xlabel="shift in pixels", ylabel=MEASURES[measure], xticks=SHIFTS, ylim=(-0.05, None))
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), title="window", loc="outside right center")
    alt = "Change of max-pooled digits by shifts of 0 to 4 pixels: the wider the window, the smaller the change"
    return Drawing("shifts-pooling", alt, figure)
