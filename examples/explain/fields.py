"""Receptive fields, by a recurrence over the layers and by the support of a gradient.

A layer with kernel k, stride s, dilation d and p zeros before the first pixel turns (size, jump, start) into

    size + (k - 1) * d * jump,    jump * s,    start - p * jump

where jump is the distance in pixels between the fields of neighbouring units, and start the first pixel of unit 0's.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from tritonconv import functional as F

WINDOW = ("kernel_size", "stride", "padding", "dilation")


class Field(NamedTuple):
    """Along one axis, unit i sees `size` pixels from start + i * jump on; those below 0 are padding."""

    size: int = 1
    jump: int = 1
    start: int = 0

    def of(self, unit: int, length: int) -> tuple[int, int]:
        """The first and the last pixel that a unit sees of `length`; the last is below the first where it sees none."""
        first = self.start + unit * self.jump
        return max(first, 0), min(first + self.size, length) - 1


class Stage(NamedTuple):
    """Behind one layer: the field and the number of units along each axis."""

    fields: tuple[Field, ...]
    units: tuple[int, ...]


def stages(layers: Iterable[nn.Module], shape: Sequence[int]) -> list[Stage]:
    """A stage for each layer, of images `shape` = (C, *size)."""
    x = torch.empty(1, *shape, device="meta")
    before = Stage((Field(),) * (len(shape) - 1), tuple(shape[1:]))
    found = []
    for layer in layers:
        x = layer(x)
        fields = tuple(step(layer, axis, *each) for axis, each in enumerate(zip(*before, strict=True)))
        dense = (1,) * len(before.units)
        units = dense if isinstance(layer, nn.Linear) else tuple(x.shape[2:]) or before.units
        before = Stage(fields, units)
        found.append(before)
    return found


def step(layer: nn.Module, axis: int, field: Field, units: int) -> Field:
    """The recurrence: the field behind `layer`, which reads that many units of `field`."""
    if isinstance(layer, nn.Linear):  # reads them all
        return Field(field.size + (units - 1) * field.jump, 0, field.start)
    if isinstance(layer, nn.ZeroPad2d):  # (left, right, top, bottom)
        return field._replace(start=field.start - layer.padding[2 - 2 * axis] * field.jump)
    kernel, stride, padding, dilation = window(layer, axis)
    size = field.size + (kernel - 1) * dilation * field.jump
    return Field(size, field.jump * stride, field.start - padding * field.jump)


def window(layer: nn.Module, axis: int) -> tuple[int, int, int, int]:
    """Kernel, stride, zeros before the first pixel and dilation along an axis; those of 1x1 without a kernel."""
    if not hasattr(layer, "kernel_size"):
        return 1, 1, 0, 1
    values = (getattr(layer, name, 1) for name in WINDOW)
    kernel, stride, padding, dilation = (value[axis] if isinstance(value, tuple) else value for value in values)
    if isinstance(layer.padding, str):  # of an odd number of zeros the odd one comes after
        padding = dilation * (kernel - 1) // 2 if layer.padding == "same" else 0
    return kernel, stride, padding, dilation


def gradient(layers: Iterable[nn.Module], shape: Sequence[int], unit: Sequence[int]) -> torch.Tensor:
    """Of one unit behind `layers` with respect to the image (*size), with every window an average, in float64.

    What is summed is then positive: nothing cancels, and what a unit sees has a gradient. Max pooling sends its
    gradient to one pixel, but any pixel of its window can be that one: its average has them all. Channels, activations
    and norms do not change what a unit sees: there is one channel, and the others are left out.
    """
    rank = len(shape) - 1
    image = torch.ones(1, 1, *shape[1:], dtype=torch.float64, requires_grad=True)
    y = image
    for layer in layers:
        if isinstance(layer, nn.Linear):
            y = y.mean().view(1, 1, *(1,) * rank)
        elif isinstance(layer, nn.ZeroPad2d):
            y = layer(y)
        elif hasattr(layer, "kernel_size"):
            kernel = [window(layer, axis)[0] for axis in range(rank)]
            weight = torch.full((1, 1, *kernel), 1 / math.prod(kernel), dtype=torch.float64)
            options: dict[str, Any] = {name: getattr(layer, name, 1) for name in WINDOW[1:]}
            y = getattr(F, f"conv{rank}d")(y, weight, **options)
    return torch.autograd.grad(y[0, 0][tuple(unit)], image)[0][0, 0]


def support(image: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """The first and the last index along each axis where `image` is not 0; none where it is 0 everywhere."""
    if not image.any():
        return ()
    return tuple((int(places.min()), int(places.max())) for places in image.nonzero().T)


def seen(layers: Sequence[nn.Module], shape: Sequence[int], unit: Sequence[int]) -> torch.Tensor:
    """The gradient of a unit behind `layers`; raises ArithmeticError where its support is not the field."""
    fields = stages(layers, shape)[-1].fields
    expected = tuple(field.of(*each) for field, *each in zip(fields, unit, shape[1:], strict=True))
    if any(last < first for first, last in expected):
        expected = ()
    found = gradient(layers, shape, unit)
    if support(found) != expected:
        raise ArithmeticError(f"the gradient's support is {support(found)}, the field {expected}")
    return found
