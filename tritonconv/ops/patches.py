"""unfold (im2col) and fold (col2im), adjoint to each other; where patches do not overlap, pixel (un)shuffling."""

from typing import Any

import torch

from tritonconv.checks import Sizes, require_tensors
from tritonconv.kernels import im2col
from tritonconv.ops.operator import Grads, Operator, Tensors, operators, register
from tritonconv.problems import ConvProblem, fold_problem, unfold_problem

PATCH = "int[] kernel, int[] stride, int[] padding, int[] dilation, bool keeps_format"


class _Patches(Operator):
    """What the two share. Without `keeps_format` they answer contiguous images, as torch."""

    @property
    def how(self) -> tuple[Any, ...]:
        return *self.window, self.keeps_format

    def output(self, t: torch.Tensor, shape: Sizes) -> Tensors:
        return (self.empty(t, shape) if self.keeps_format else t.new_empty(shape),)


@register
class Unfold(_Patches):
    """The patches of x, (N, C · R · S, P, Q)."""

    schema = f"unfold(Tensor x, {PATCH}) -> Tensor columns"

    def problem(self) -> ConvProblem:
        require_tensors("unfold", input=self.x)
        return unfold_problem(self.x.shape, *self.window)

    def outputs(self, problem: ConvProblem) -> Tensors:
        return self.output(self.x, problem.output_shape)

    def run(self, problem: ConvProblem, *outputs: torch.Tensor) -> None:
        im2col.unfold(self.x, outputs[0], problem)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return (operators.fold(*gradients, self.shapes["x"][2:], *self.how),)


@register
class Fold(_Patches):
    """(N, C, *output_size): each element the sum of its copies in the patches (N, C · R · S, P, Q)."""

    schema = f"fold(Tensor columns, SymInt[] output_size, {PATCH}) -> Tensor y"

    def problem(self) -> ConvProblem:
        require_tensors("fold", input=self.columns)
        return fold_problem(self.columns.shape, self.output_size, *self.window)

    def outputs(self, problem: ConvProblem) -> Tensors:
        return self.output(self.columns, problem.input_shape)

    def run(self, problem: ConvProblem, *outputs: torch.Tensor) -> None:
        im2col.fold(self.columns, None, outputs[0], problem)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return (operators.unfold(*gradients, *self.how),)
