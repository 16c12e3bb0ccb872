"""A network's layers: shapes, parameters, arithmetic, memory.

The first table is the library torchinfo's. The second counts as teaching material does: a layer's memory is the numbers
that it gives out for one image, an activation overwrites its input, and weights are without biases. The network lies
on the device "meta", so that the largest costs nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torchinfo
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from tabulate import tabulate
from torch import nn
from torchinfo.layer_info import LayerInfo

from examples.explain.lesson import Drawing, Lesson, build

BYTES = 4  # of a number in float32
NO_MEMORY = (nn.Flatten, nn.Dropout)  # a view, and nothing at all in evaluation


class Row(NamedTuple):
    """One layer of the second table; `memory` in numbers for one image."""

    layer: str
    output: str
    memory: int
    weights: int
    biases: int


def rows(layers: Sequence[LayerInfo], shape: Sequence[int]) -> list[Row]:
    """The input, and the layers that have parameters or change the size."""
    found = [Row("INPUT", size(shape), _numbers(shape), 0, 0)]
    for info in layers:
        layer, output = info.module, info.output_size[1:]
        parameters = dict(layer.named_parameters())
        if not parameters and not hasattr(layer, "kernel_size") and not isinstance(layer, nn.ZeroPad2d):
            continue
        counts = (parameters[name].numel() if name in parameters else 0 for name in ("weight", "bias"))
        found.append(Row(_name(layer, output), size(output), _numbers(output), *counts))
    return found


def lesson(network: str = "mnist-cnn3") -> Lesson:
    model, shape = build(network, "meta")
    statistics = torchinfo.summary(model, input_size=(1, *shape), device="meta", verbose=0)
    layers = [info for info in statistics.summary_list if info.is_leaf_layer]
    table = [[n, i.class_name, size(i.output_size[1:]), i.num_params, i.macs] for n, i in enumerate(layers)]
    table.append(["", "total", "", statistics.total_params, statistics.total_mult_adds])
    found = rows(layers, shape)
    memory, weights, biases = (sum(column) for column in list(zip(*found, strict=True))[2:])
    apart = found[0].memory + sum(_numbers(i.output_size[1:]) for i in layers if not isinstance(i.module, NO_MEMORY))
    totals = ["TOTAL", "", memory, BYTES * memory, weights, biases]
    lines = [
        f"{network}, one image; a bias counts as one multiply-add for each output",
        tabulate(table, ["layer", "", "output", "parameters", "multiply-adds"], intfmt=","),
        "",
        tabulate(
            [*([*row[:3], BYTES * row.memory, *row[3:]] for row in found), totals],
            ["layer", "output", "memory", "bytes", "weights", "biases"],
            intfmt=",",
        ),
        f"memory: {_both(memory)} an image forward",
        f"where each activation's output is kept too: {_both(apart)}",
        f"parameters: {_both(weights + biases)}",
    ]
    if network == "vgg16":
        lines.append(
            "24M numbers and 93 MB are often quoted for VGG16's memory; its layers add up to the figures above"
        )
    title = f"Memory and weights of {network}"
    alt = f"Bars for each layer of {network}: memory of one image, {memory:,} numbers in all, and {weights:,} weights"
    return Lesson(
        f"summary-{network}", title, "\n".join(lines), (Drawing(f"summary-{network}", alt, _bars(found, title)),)
    )


def size(output: Sequence[int]) -> str:
    """224x224x3 of (3, 224, 224)."""
    return "x".join(map(str, [*output[1:], output[0]]))


def _numbers(output: Sequence[int]) -> int:
    count = 1
    for length in output:
        count *= length
    return count


def _both(numbers: int) -> str:
    return f"{numbers:,} numbers * {BYTES} bytes = {BYTES * numbers / 1e6:.3g} MB"


def _name(layer: nn.Module, output: Sequence[int]) -> str:
    """CONV3-64, POOL2, FC-4096; else the class's name."""
    if isinstance(layer, nn.Linear):
        return f"FC-{output[0]}"
    kernel = getattr(layer, "kernel_size", "")
    kernel = kernel[0] if isinstance(kernel, tuple) else kernel
    if "Conv" in type(layer).__name__:
        return f"CONV{kernel}-{output[0]}"
    return f"POOL{kernel}" if kernel else type(layer).__name__.upper()


def _bars(found: Sequence[Row], title: str) -> Figure:
    figure = Figure(figsize=(10, 1.6 + 0.24 * len(found)), layout="constrained")
    figure.suptitle(title)
    columns = (
        ("memory of one image, numbers", [row.memory for row in found]),
        ("weights", [row.weights for row in found]),
    )
    for axes, (label, values) in zip(figure.subplots(1, 2, sharey=True), columns, strict=True):
        bars = axes.barh(range(len(found)), values, color="tab:blue" if "memory" in label else "tab:orange")
        axes.bar_label(
            bars, [f"{EngFormatter(places=1)(value)}" if value else "" for value in values], fontsize=7, padding=2
        )
        axes.set(xlabel=label, yticks=range(len(found)), xlim=(0, 1.15 * max(values)))
        axes.set_yticklabels([row.layer for row in found], fontsize=8)
        axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_ylim(len(found) - 0.5, -0.5)
    return figure
