"""Interpolation and averages over windows that vary by position. Linear, and its own adjoint's adjoint."""

from typing import Any

import torch

from tritonconv.checks import require_tensors
from tritonconv.kernels import resample
from tritonconv.kernels.tables import Table, tables
from tritonconv.ops.operator import Grads, Operator, operators, register
from tritonconv.ops.pool import in_float32_in_3d

HOW = "str mode, float[] scales, bool align_corners, bool antialias"


class _Resample(Operator):
    """What the two operators share."""

    @property
    def keeps_3d(self) -> bool:  # type: ignore[override]
        return self.mode != "area"

    @property
    def how(self) -> tuple[Any, ...]:
        return self.mode, self.scales, self.align_corners, self.antialias

    def tables(self, sizes: Any, lengths: Any) -> tuple[Table, ...]:
        mode, scales, *how = self.how
        return tables(mode, tuple(sizes), tuple(lengths), tuple(scales), *how)


@register
class Resample(_Resample):
    """y, (N, C, *output_size). `scales` has length / size of each axis as the caller gave it, 0 if it did not."""

    schema = f"resample(Tensor x, SymInt[] output_size, {HOW}) -> Tensor y"

    def autocast(self, device: str) -> torch.dtype | None:
        if self.mode == "area":
            return in_float32_in_3d(self, device)
        return torch.float32 if device == "cuda" else None

    def problem(self) -> None:
        require_tensors("interpolate", input=self.x)

    def run(self, problem: None, *outputs: torch.Tensor) -> None:
        resample.resample(self.x, outputs[0], self.tables(self.x.shape[2:], self.output_size))

    def is_linked(self) -> bool:
        return self.mode == "area" and any(size != 1 for size in self.output_size)  # of one pixel torch takes the mean

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return (operators.resample_backward(*gradients, self.shapes["x"][2:], *self.how, self.channels_last),)


@register
class ResampleBackward(_Resample):
    """dx, (N, C, *input_size)."""

    schema = f"resample_backward(Tensor dy, SymInt[] input_size, {HOW}, bool channels_last) -> Tensor dx"

    def problem(self) -> None:
        require_tensors("resample_backward", dy=self.dy)

    def run(self, problem: None, *outputs: torch.Tensor) -> None:
        axes = self.tables(self.input_size, self.dy.shape[2:])
        resample.resample(self.dy, outputs[0], tuple(axis.turned for axis in axes))

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return (operators.resample(*gradients, self.shapes["dy"][2:], *self.how),)
