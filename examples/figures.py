"""Drawings of what a network learned and where it errs, as matplotlib figures."""

import io
from pathlib import Path

import atomic
import torch
from matplotlib.figure import Figure
from torch import nn

COLUMNS = 8
WRONG_SHOWN = 40


def save(path: Path, figure: Figure) -> None:
    """Write `figure` as a PNG file, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    atomic.write(path, buffer.getvalue())


def curves(step_losses: list[float], epochs: list[dict[str, float]]) -> Figure:
    """Loss and accuracy against the epoch, of the training set and of the test set."""
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
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for part, colour in (("train", "tab:blue"), ("test", "tab:orange")):
            axes.plot(ends, [row[f"{part}_{name}"] for row in epochs], "o-", color=colour, label=part)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    loss.set_yscale("log")
    return figure


def filters(weight: torch.Tensor) -> Figure:
    """The filters (C_out, C_in, R, S) of a first layer, averaged over channels; red: positive, blue: negative."""
    pictures = weight.mean(1)
    limit = pictures.abs().max().item()
    return _grid("Filters of the first convolution", list(pictures), [""] * len(pictures), "bwr", (-limit, limit))


def feature_maps(model: nn.Sequential, image: torch.Tensor) -> Figure:
    """What each convolution makes of one `image` (1, C, H, W), after its ReLU and pooling: a row of its first maps."""
    pictures, titles = [], []
    for number, maps in enumerate(_convolution_outputs(model, image), start=1):
        shown = list(maps[0, : COLUMNS - 1])
        pictures += [image[0, 0], *shown]
        titles += ["input"] + [f"conv {number}, map {channel}" for channel in range(len(shown))]
    return _grid("Feature maps of one digit", pictures, titles, "viridis")


def wrong(images: torch.Tensor, labels: torch.Tensor, predictions: torch.Tensor) -> Figure:
    """The digits (N, 1, H, W) taken for another, with their true and given label."""
    places = (labels != predictions).nonzero().flatten().tolist()
    titles = [f"true {labels[place]}, given {predictions[place]}" for place in places[:WRONG_SHOWN]]
    pictures = [images[place, 0] for place in places[:WRONG_SHOWN]]
    return _grid(f"{len(places):,} of {len(labels):,} digits are wrong", pictures, titles, "gray")


def confusion(labels: torch.Tensor, predictions: torch.Tensor) -> Figure:
    """How often each class (row) was given each label (column)."""
    counts = torch.bincount(labels * 10 + predictions, minlength=100).view(10, 10)
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts.log1p().numpy(), cmap="Blues")
    axes.set(xlabel="given label", ylabel="true label", xticks=range(10), yticks=range(10), title="Confusion")
    for row in range(10):
        for column in range(10):
            dark = counts[row, column] > counts.max() / 4
            axes.text(
                column, row, str(counts[row, column].item()), ha="center", va="center", color="w" if dark else "k"
            )
    return figure


def _convolution_outputs(model: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    """The picture that leaves each convolution's block: what the next convolution, or the flattening, reads."""
    outputs: list[torch.Tensor] = []
    for number, layer in enumerate(model):
        weight = getattr(layer, "weight", None)
        if isinstance(layer, nn.Flatten):
            return [*outputs, x]
        if number > 0 and weight is not None and weight.ndim == 4:
            outputs.append(x)
        x = layer(x)
    return [*outputs, x]


def _grid(title: str, pictures: list[torch.Tensor], titles: list[str], colours: str, limits=(None, None)) -> Figure:
    """Small pictures in rows."""
    rows = max(1, -(-len(pictures) // COLUMNS))
    figure = Figure(figsize=(1.5 * COLUMNS, 1.7 * rows + 0.6), layout="constrained")
    figure.suptitle(title)
    for number, axes in enumerate(figure.subplots(rows, COLUMNS, squeeze=False).flat):
        axes.set_axis_off()
        if number < len(pictures):
            axes.imshow(pictures[number].float().cpu().numpy(), cmap=colours, vmin=limits[0], vmax=limits[1])
            axes.set_title(titles[number], fontsize=8)
    return figure
