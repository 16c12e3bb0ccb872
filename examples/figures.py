"""Drawings of what a network learned and where it errs, as matplotlib figures."""

import io
import math
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import nn

from examples import atomic
from examples.data import Dataset
from examples.training import as_float

COLUMNS = 8
MISCLASSIFIED_SHOWN = 40
PAIRS_SHOWN = 5


def save(path: Path, figure: Figure) -> None:
    """Write `figure` as a PNG file, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    atomic.write(path, buffer.getvalue())


def drawings(model: nn.Sequential, images: Dataset, metrics: dict[str, Any]) -> dict[str, Figure]:
    """All there is to see of a run, by name: its model with the weights tested, its images, its metrics.json."""
    labels, predictions = images.test_labels.cpu(), torch.tensor(metrics["test_predictions"])
    found = {
        "curves": curves(metrics["step_losses"], metrics["epochs"]),
        "misclassified": misclassified(images.test_images.cpu(), labels, predictions, images.classes),
        "confusion": confusion(labels, predictions, images.classes),
        "confused": confused_images(images.test_images.cpu(), labels, predictions, images.classes),
    }
    for number, layer in enumerate(_convolutions(model), start=1):
        found[f"filters-{number}"] = filters(layer.get_parameter("weight").detach().cpu(), number)
    if _convolutions(model):
        model.eval()
        with torch.no_grad():
            found["feature_maps"] = feature_maps(model, as_float(images.test_images[:1]))
    return found


def curves(step_losses: list[float], epochs: list[dict[str, float]]) -> Figure:
    """Loss and accuracy against the epoch, of the training images and of the validation images."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    ends = [row["epoch"] for row in epochs]
    steps_an_epoch = len(step_losses) / len(epochs)
    loss.plot(
        [(step + 1) / steps_an_epoch for step in range(len(step_losses))],
        step_losses,
        linewidth=0.6,
        color="tab:gray",
        label="each step",
    )
    marker = "o-" if len(ends) <= 100 else "-"
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for part, color in (("train", "tab:blue"), ("validation", "tab:orange")):
            if f"{part}_{name}" in epochs[0]:
                axes.plot(ends, [row[f"{part}_{name}"] for row in epochs], marker, color=color, label=part)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    loss.set_yscale("log")
    return figure


def filters(weight: torch.Tensor, number: int) -> Figure:
    """The filters (C_out, C_in, *size) of a convolution: a row a filter, a column a channel. Of one channel: a grid."""
    weight = weight if weight.ndim == 4 else weight[:, :, None]  # a signal's filters are one pixel high
    C_out, C_in, R, S = weight.shape
    columns = COLUMNS if C_in == 1 else C_in
    rows = -(-C_out * C_in // columns)
    mosaic = torch.full((rows * (R + 1) - 1, columns * (S + 1) - 1), torch.nan)
    for place, drawn in enumerate(weight.flatten(0, 1)):
        top, left = place // columns * (R + 1), place % columns * (S + 1)
        mosaic[top : top + R, left : left + S] = drawn
    figure = Figure(figsize=(9, max(2.5, min(9, 9 * mosaic.shape[0] / mosaic.shape[1]) + 1)), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    channels = "of one channel" if C_in == 1 else f"(rows) of {C_in} channels (columns)"
    axes.set_title(f"Convolution {number}: {C_out} filters {channels}")
    limit, colors = weight.abs().max().item(), matplotlib.colormaps["bwr"].with_extremes(bad="0.8")
    drawn = axes.imshow(mosaic.numpy(), cmap=colors, vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, label="weight")
    return figure


def feature_maps(model: nn.Sequential, image: torch.Tensor) -> Figure:
    """What each convolution makes of an `image` (1, C, *size), after activation and pooling: a row of first maps."""
    maps, titles = [], []
    for number, output in enumerate(_convolution_outputs(model, image), start=1):
        shown = list(output[0, : COLUMNS - 1])
        blanks = [None] * (COLUMNS - 1 - len(shown))
        maps += [image[0, 0], *shown, *blanks]
        titles += ["input"] + [f"conv {number}, map {channel}" for channel in range(len(shown))] + [""] * len(blanks)
    return _grid("Feature maps of one image", maps, titles, "viridis")


def misclassified(
    images: torch.Tensor, labels: torch.Tensor, predictions: torch.Tensor, classes: tuple[str, ...]
) -> Figure:
    """The images (N, 1, *size) taken for another class, with their true and predicted label."""
    places = (labels != predictions).nonzero().flatten().tolist()
    shown = places[:MISCLASSIFIED_SHOWN]
    titles = [f"true {classes[labels[place]]}\npredicted {classes[predictions[place]]}" for place in shown]
    title = f"{len(places):,} of {len(labels):,} images are misclassified"
    return _grid(title, [images[place, 0] for place in shown], titles, "gray")


def confused(labels: torch.Tensor, predictions: torch.Tensor, classes: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """The pairs of classes most often taken for one another, in either direction, with how often."""
    counts = _counts(labels, predictions, len(classes))
    both = (counts + counts.T).triu(1)
    order = both.flatten().sort(descending=True, stable=True).indices[:PAIRS_SHOWN].tolist()
    pairs = [divmod(place, len(classes)) for place in order]
    return [(classes[a], classes[b], int(both[a, b])) for a, b in pairs if both[a, b]]


def confused_images(
    images: torch.Tensor, labels: torch.Tensor, predictions: torch.Tensor, classes: tuple[str, ...]
) -> Figure:
    """A row for each of the most confused pairs: images (N, 1, *size) of the one class taken for the other."""
    drawn: list[torch.Tensor | None] = []
    titles = []
    for pair in confused(labels, predictions, classes):
        found = {classes.index(pair[0]), classes.index(pair[1])}
        places = [
            n for n, both in enumerate(zip(labels.tolist(), predictions.tolist(), strict=True)) if set(both) == found
        ]
        for place in places[:COLUMNS]:
            drawn.append(images[place, 0])
            titles.append(f"true {classes[labels[place]]}\npredicted {classes[predictions[place]]}")
        blanks = COLUMNS - len(places[:COLUMNS])
        drawn, titles = drawn + [None] * blanks, titles + [""] * blanks
    return _grid("The most confused pairs, a row each", drawn, titles, "gray")


def confusion(labels: torch.Tensor, predictions: torch.Tensor, classes: tuple[str, ...]) -> Figure:
    """How often each class (row) was predicted as each other (column)."""
    counts = _counts(labels, predictions, len(classes))
    figure = Figure(figsize=(7, 7), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts.log1p().numpy(), cmap="Blues")
    told = ", ".join(f"{a} and {b} ({count})" for a, b, count in confused(labels, predictions, classes))
    axes.set(xlabel="predicted label", ylabel="true label")
    axes.set_title(f"Most confused: {told}" if told else "No confusion", fontsize=10, wrap=True)
    axes.set_xticks(range(len(classes)), classes, rotation=90 if max(map(len, classes)) > 2 else 0)
    axes.set_yticks(range(len(classes)), classes)
    for row, line in enumerate(counts.tolist()):
        for column, count in enumerate(line):
            dark = math.log1p(count) > 0.6 * math.log1p(counts.max())
            axes.text(column, row, str(count), ha="center", va="center", color="w" if dark else "k")
    return figure


def _counts(labels: torch.Tensor, predictions: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(classes, classes)


def _convolutions(model: nn.Sequential) -> list[nn.Module]:
    return [layer for layer in model if getattr(layer, "weight", torch.empty(0)).ndim >= 3]


def _convolution_outputs(model: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    """What leaves each convolution's block: what the next convolution, or the flattening, reads."""
    outputs: list[torch.Tensor] = []
    seen, convolutions = 0, _convolutions(model)
    for layer in model:
        if seen and (layer in convolutions or isinstance(layer, nn.Flatten)):
            outputs.append(x)
        if isinstance(layer, nn.Flatten):
            return outputs
        seen += layer in convolutions
        x = layer(x)
    return [*outputs, x]


def _grid(title: str, drawn: list[torch.Tensor | None], titles: list[str], colors: str) -> Figure:
    """Small images or signals in rows; None leaves a place empty."""
    rows = max(1, -(-len(drawn) // COLUMNS))
    figure = Figure(figsize=(1.5 * COLUMNS, 1.7 * rows + 0.6), layout="constrained")
    figure.suptitle(title)
    for axes, content, text in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, drawn, titles, strict=False):
        if content is not None and content.ndim == 1:
            axes.plot(content.float().cpu().numpy(), linewidth=1)
        elif content is not None:
            axes.imshow(content.float().cpu().numpy(), cmap=colors)
        axes.set_title(text, fontsize=8)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure
