"""The receptive field: what a unit sees of the input.

It grows with each layer, and faster behind a stride and with dilation, in a network as in stacks of 3x3 convolutions.
fields.py has the recurrence, and a gradient that confirms every field shown here.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tabulate import tabulate
from torch import nn

from examples.explain.fields import Stage, seen, stages, support, window
from examples.explain.lesson import ArgumentError, Drawing, Lesson, build
from tritonconv.nn import Conv2d

CHANNELS = 64  # C in the count of weights; any number gives the same multiples of C^2
SIDE = 31  # of the image that the stacks see


def stack(*options: dict[str, Any], kernel: int = 3) -> list[nn.Module]:
    """A convolution of one channel for each `options`; only their sizes matter."""
    return [Conv2d(1, 1, kernel, device="meta", **each) for each in options]


STACKS = {
    "stride 1": stack({}, {}, {}),
    "stride 2": stack({"stride": 2}, {"stride": 2}, {"stride": 2}),
    "dilation 1, 2, 4": stack({"dilation": 1}, {"dilation": 2}, {"dilation": 4}),
}


def sizes(layers: Sequence[nn.Module]) -> list[int]:
    """The side of the field behind each layer of a stack, each confirmed by a gradient."""
    shape = (1, SIDE, SIDE)
    found = stages(layers, shape)
    for depth, stage in enumerate(found, start=1):
        seen(layers[:depth], shape, middle(stage))
    return [stage.fields[0].size for stage in found]


def weights(kernel: int, layers: int) -> float:
    """Of that many convolutions from C to C channels, in units of C^2."""
    return layers * Conv2d(CHANNELS, CHANNELS, kernel, bias=False, device="meta").weight.numel() / CHANNELS**2


def lesson(network: str = "mnist-cnn3", layer: int | None = None, unit: Sequence[int] | None = None) -> Lesson:
    """`layer` counts from 0 and is the last with a window unless given; `unit` is (row, column), the middle one."""
    model, shape = build(network, "meta")
    found = stages(model, shape)
    windows = [number for number, each in enumerate(model) if hasattr(each, "kernel_size")]
    number = (windows or [len(model) - 1])[-1] if layer is None else layer
    if not 0 <= number < len(model):
        raise ArgumentError("layer", f"{number} is no layer of {network}, which has 0 to {len(model) - 1}")
    counts = found[number].units
    at = middle(found[number]) if unit is None else tuple(unit)
    if len(at) != len(counts) or not all(0 <= place < count for place, count in zip(at, counts, strict=True)):
        first, last = by([0] * len(counts), ","), by([count - 1 for count in counts], ",")
        raise ArgumentError("unit", f"{by(at, ',')} is no unit of layer {number}, which has {first} to {last}")
    gradient = seen(list(model)[: number + 1], shape, at)
    if not gradient.any():
        raise ArgumentError("unit", f"{by(at, ',')} of layer {number} sees nothing but padding")
    region = " and ".join(f"{first} to {last}" for first, last in support(gradient))
    stacked = {name: sizes(layers) for name, layers in STACKS.items()}
    title = f"Unit {by(at, ',')} of layer {number} of {network} sees pixels {region}"
    lines = [
        f"{network}: the field of a unit along the first axis, in pixels, behind each layer",
        _table(model, found, shape),
        f"{title}: by the recurrence and by the gradient",
        "\nthe side of the field behind each of three convolutions 3x3, by the recurrence and by the gradient",
        *(f"{name}: {by(sides, ', ')}" for name, sides in stacked.items()),
        f"two 3x3 see {sizes(stack({}, {}))[-1]} pixels a side with {weights(3, 2):g} C^2 weights,"
        f" one 5x5 sees {sizes(stack({}, kernel=5))[-1]} with {weights(5, 1):g} C^2",
    ]
    alt = f"Gradient of one unit over the input, and a frame around its receptive field: {title}"
    drawings = (Drawing(f"receptive-{network}", alt, _unit(gradient, title)), _stacks(stacked))
    return Lesson(f"receptive-{network}", f"The receptive field in {network}", "\n".join(lines), drawings)


def middle(stage: Stage) -> tuple[int, ...]:
    return tuple(count // 2 for count in stage.units)


def by(numbers: Sequence[int], separator: str = "x") -> str:
    return separator.join(map(str, numbers))


def _table(model: Iterable[nn.Module], found: list[Stage], shape: Sequence[int]) -> str:
    rows: list[list[object]] = [["", "input", *[""] * 4, by(shape[1:]), 1, 1, 0]]
    for number, (layer, (fields, units)) in enumerate(zip(model, found, strict=True)):
        options = window(layer, 0) if hasattr(layer, "kernel_size") else [""] * 4
        rows.append([str(number), type(layer).__name__, *options, by(units), *fields[0]])
    head = ["layer", "", "kernel", "stride", "padding", "dilation", "units", "size", "jump", "start"]
    return tabulate(rows, head)


def _unit(gradient: torch.Tensor, title: str) -> Figure:
    """The gradient over the input, and its support in red: a frame in an image, a span of a line."""
    relative = (gradient / gradient.max()).numpy()
    (top, bottom), (left, right) = [*support(gradient), *support(gradient)][:2]
    figure = Figure(figsize=(6.5, 5.5 if gradient.dim() == 2 else 3), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots()
    axes.set_xlabel("pixel")
    if gradient.dim() == 1:
        axes.bar(range(len(relative)), relative)
        axes.axvspan(left - 0.5, right + 0.5, color="red", alpha=0.15, label="the receptive field")
        axes.legend()
        axes.set_ylabel("gradient, largest = 1")
    else:
        picture = axes.imshow(relative, cmap="viridis", vmin=0, vmax=1)
        frame: dict[str, Any] = {"facecolor": "none", "edgecolor": "red", "linewidth": 2, "clip_on": False}
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, **frame))
        axes.set_ylabel("pixel")
        figure.colorbar(picture, label="gradient, largest = 1; red: the receptive field")
    return figure


def _stacks(stacked: dict[str, list[int]]) -> Drawing:
    figure = Figure(figsize=(11, 4), layout="constrained")
    figure.suptitle("What one unit sees through three convolutions 3x3, along one axis")
    for axes, (name, layers) in zip(figure.subplots(1, 3), STACKS.items(), strict=True):
        _cone(axes, layers)
        axes.set(title=f"{name}: {by(stacked[name], ', ')}", xlabel="pixel", yticks=range(4))
        axes.set_yticklabels(["input", "conv 1", "conv 2", "conv 3"])
    alt = "; ".join(f"{name}: a unit sees {by(sides, ', ')} pixels" for name, sides in stacked.items())
    return Drawing("receptive-stacks", alt, figure)


def _cone(axes: Axes, layers: Sequence[nn.Module]) -> None:
    """All units of all layers as dots above the middle of what they see; those that the middle one uses, joined."""
    found = stages(layers, (1, SIDE, SIDE))
    centres = [list(range(SIDE))]
    for stage in found:
        field = stage.fields[0]
        centres.append([field.start + unit * field.jump + (field.size - 1) // 2 for unit in range(stage.units[0])])
    used = {middle(found[-1])[0]}
    for depth in range(len(layers), 0, -1):
        kernel, stride, padding, dilation = window(layers[depth - 1], 0)
        below = set()
        for unit in used:
            for tap in range(kernel):
                source = unit * stride - padding + tap * dilation
                axes.plot([centres[depth][unit], centres[depth - 1][source]], [depth, depth - 1], "tab:red", lw=0.8)
                below.add(source)
        axes.plot([centres[depth][unit] for unit in used], [depth] * len(used), "o", color="tab:red", zorder=3)
        used = below
    axes.plot(sorted(used), [0] * len(used), "o", color="tab:red", zorder=3)
    for depth, places in enumerate(centres):
        axes.plot(places, [depth] * len(places), "o", color="lightgray", markersize=4, zorder=2)
