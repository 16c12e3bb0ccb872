"""Activations, by the rows of kernels/epilogue.py's table."""

import torch

from tritonconv.checks import require_shape, require_tensors
from tritonconv.kernels import elementwise, epilogue
from tritonconv.kernels.arguments import wide
from tritonconv.layouts import empty_elementwise
from tritonconv.ops.operator import Grads, Operator, Tensors, operators, register


class _Elementwise(Operator):
    """What the operators here share."""

    is_elementwise = True

    @property
    def row(self) -> epilogue.Activation:
        return epilogue.activation(self.activation)


@register
class Activate(_Elementwise):
    """y = activation(x), elementwise."""

    schema = "activate(Tensor x, str activation) -> Tensor y"

    def problem(self) -> epilogue.Activation:
        row = self.row
        require_tensors(self.activation, input=self.x)
        return row

    def outputs(self, problem: epilogue.Activation) -> Tensors:
        return (empty_elementwise(self.x),)

    def run(self, problem: epilogue.Activation, *outputs: torch.Tensor) -> None:
        elementwise.activate(self.x, outputs[0], problem)

    def saved(self) -> tuple[str, ...]:
        return ("y",) if self.row.saves == "output" else ("x",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        (dy,) = gradients
        return (operators.activate_backward(dy, getattr(self, *self.saved()), self.activation),)

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        return self.backward(given["x"])  # type: ignore[arg-type]


@register
class ActivateBackward(_Elementwise):
    """dx, from dy and from what the activation saved, its input or its output."""

    schema = "activate_backward(Tensor dy, Tensor x_or_y, str activation) -> Tensor dx"

    def problem(self) -> epilogue.Activation:
        row = self.row
        require_tensors(f"{self.activation}_backward", dy=self.dy, x_or_y=self.x_or_y)
        require_shape("dy", self.dy, self.x_or_y.shape)
        return row

    def outputs(self, problem: epilogue.Activation) -> Tensors:
        return (empty_elementwise(self.x_or_y),)

    def run(self, problem: epilogue.Activation, *outputs: torch.Tensor) -> None:
        elementwise.activate_backward(self.dy, self.x_or_y, outputs[0], problem)

    def saved(self) -> tuple[str, ...]:
        return ("x_or_y",) if self.row.curvature is None else ("dy", "x_or_y")

    def curvature(self, given: torch.Tensor | None) -> torch.Tensor | None:
        """`given`, of x_or_y, times the derivative by it; None where that is 0."""
        if given is None or self.row.curvature is None:
            return None
        dtype = wide(self.x_or_y)
        return (given * self.row.curvature(self.dy.to(dtype), self.x_or_y.to(dtype))).to(given.dtype)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        (g,) = gradients
        d_dy = operators.activate_backward(g, self.x_or_y, self.activation)
        return d_dy, self.curvature(g if self.needs["x_or_y"] else None)

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        t = operators.activate_backward(given["dy"], self.x_or_y, self.activation)
        bent = self.curvature(given["x_or_y"])
        return (t if bent is None else t + bent,)
