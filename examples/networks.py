"""The networks of the examples, written with torch.nn's own layers: `tritonconv.convert` swaps them.

    INPUT → [[CONV → ACTIVATION → NORM?]×N → POOL? → DROPOUT?]×M → [DENSE → ACTIVATION → NORM? → DROPOUT?]×K → OUTPUT

Where a paper or a page of teaching material leaves a width open, the common choice is taken and said.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn


class Block(NamedTuple):
    """Convolutions of `channels` each, then pooling over windows of `pool`, or none for 0."""

    channels: Sequence[int]
    kernel: int = 3
    pool: int = 2
    padding: Any = None  # None: the network's


def network(
    shape: Sequence[int],
    *blocks: Block,
    dense: Sequence[int] = (),
    classes: int = 10,
    activation: Callable[[], nn.Module] = nn.ReLU,
    padding: Any = "same",
    stride: int = 1,
    norm: bool = False,
    pooling: str = "MaxPool",
    dropout: tuple[float, float] = (0.0, 0.0),
) -> nn.Sequential:
    """A classifier of images (C, *size) into `classes`, along as many axes as the images have.

    `dropout` has the shares that a block and a dense layer drop; with `norm` a batch norm follows each activation.
    """
    channels, *size = shape
    rank = len(size)
    Conv, Norm, Pool = (getattr(nn, f"{name}{rank}d") for name in ("Conv", "BatchNorm", pooling))
    layers: list[nn.Module] = []
    for block in blocks:
        border = padding if block.padding is None else block.padding
        for width in block.channels:
            layers += [Conv(channels, width, block.kernel, stride, border), activation()]
            layers += [Norm(width)] if norm else []
            channels = width
            if border != "same":
                size = [(length + 2 * border - block.kernel) // stride + 1 for length in size]
        if block.pool:
            layers.append(Pool(block.pool))
            size = [length // block.pool for length in size]
        layers += [nn.Dropout(dropout[0])] if dropout[0] else []
    layers.append(nn.Flatten())
    features = channels * math.prod(size)
    for width in dense:
        layers += [nn.Linear(features, width), activation()]
        layers += [nn.BatchNorm1d(width)] if norm else []
        layers += [nn.Dropout(dropout[1])] if dropout[1] else []
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


DIGIT = (1, 28, 28)
_nielsen = functools.partial(network, DIGIT, padding=0)
_both = (Block([20], 5), Block([40], 5))

NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "mnist-cnn3": lambda: network(
        *(DIGIT, Block([32]), Block([64]), Block([64], pool=0)), dense=[100], dropout=(0.0, 0.3)
    ),
    "mnist-conv1": lambda: network(DIGIT, Block([16], 2)),
    # widths and shares as in Keras's example of that shape
    "mnist-dropout": lambda: network(DIGIT, Block([32, 64]), dense=[128], padding=0, dropout=(0.25, 0.5)),
    # LeCun et al. 1998, section II: 6 and 16 maps, of 28×28 images in a border of 2; means that learn no factor
    "lenet-1995": lambda: nn.Sequential(
        nn.ZeroPad2d(2),
        *network(
            *((1, 32, 32), Block([6], 5), Block([16], 5)),
            dense=[120, 84],
            activation=nn.Tanh,
            padding=0,
            pooling="AvgPool",
        ),
    ),
    "nielsen-1": lambda: _nielsen(Block([20], 5), dense=[100], activation=nn.Sigmoid),
    "nielsen-2": lambda: _nielsen(*_both, dense=[100], activation=nn.Sigmoid),
    "nielsen-relu": lambda: _nielsen(*_both, dense=[100]),
    "nielsen-final": lambda: _nielsen(*_both, dense=[100, 100], dropout=(0.0, 0.5)),
    "fashion-cnn": lambda: network(
        *(DIGIT, Block([32, 32]), Block([64, 64])), dense=[512], norm=True, dropout=(0.25, 0.5)
    ),
    # filters a power of two, dense layers of one width: 32 and 64, 128
    "emnist-double": lambda: network(
        *(DIGIT, Block([32, 32], 2), Block([64, 64], 2)), dense=[128, 128], dropout=(0.25, 0.5)
    ),
    "mnist1d-cnn": lambda: network((1, 40), Block([15, 15, 15], pool=0), padding=0, stride=2),
    "mnist1d-mlp": lambda: network((1, 40), dense=[285, 135, 60]),
    # ours, small enough for a CPU
    "mnist-best": lambda: network(
        *(DIGIT, Block([32], 5, padding=0), Block([64, 64]), Block([128, 128])),
        dense=[128],
        norm=True,
        dropout=(0.3, 0.0),
    ),
    "vgg16": lambda: network(
        *((3, 224, 224), Block([64] * 2), Block([128] * 2), Block([256] * 3), Block([512] * 3), Block([512] * 3)),
        dense=[4096, 4096],
        classes=1000,
        dropout=(0.0, 0.5),
    ),
}


def mnist_cnn3() -> nn.Sequential:
    """Three 3×3 convolutions and two dense layers for 28×28 digits: (N, 1, 28, 28) -> (N, 10), 370,454 parameters."""
    return NETWORKS["mnist-cnn3"]()
