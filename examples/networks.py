"""The networks of the examples, written with torch.nn's own layers: `tritonconv.convert` swaps them."""

from torch import nn


def mnist_cnn3() -> nn.Sequential:
    """Three 3×3 convolutions and two dense layers for 28×28 digits: (N, 1, 28, 28) -> (N, 10), 370,454 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding="same"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 100),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(100, 10),
    )
