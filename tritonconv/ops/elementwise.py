"""Activations, by the rows of kernels/epilogue.py's table."""

import torch

from tritonconv.checks import require_activation, require_shape, require_tensors
from tritonconv.kernels import elementwise
from tritonconv.kernels.epilogue import ACTIVATIONS
from tritonconv.ops.operator import Grads, Operator, Tensors, operators, register


@register
class Activate(Operator):
    """y = activation(x), elementwise."""

    schema = "activate(Tensor x, str activation) -> Tensor y"
    is_elementwise = True

    def problem(self) -> None:
        require_activation(self.activation, ACTIVATIONS)
        require_tensors(self.activation, input=self.x)

    def outputs(self, problem: None) -> Tensors:
        return (torch.empty_like(self.x),)

    def run(self, problem: None, *outputs: torch.Tensor) -> None:
        elementwise.activate(self.x, outputs[0], ACTIVATIONS[self.activation])

    def saved(self) -> tuple[str, ...]:
        return ("y",) if ACTIVATIONS[self.activation].saves == "output" else ("x",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        (dy,) = gradients
        return (operators.activate_backward(dy, getattr(self, *self.saved()), self.activation),)

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        return self.backward(given["x"])  # type: ignore[arg-type]


@register
class ActivateBackward(Operator):
    """dx, from dy and from what the activation saved, its input or its output."""

    schema = "activate_backward(Tensor dy, Tensor x_or_y, str activation) -> Tensor dx"
    is_elementwise = True

    def problem(self) -> None:
        require_activation(self.activation, ACTIVATIONS)
        require_tensors(f"{self.activation}_backward", dy=self.dy, x_or_y=self.x_or_y)
        require_shape("dy", self.dy, self.x_or_y.shape)

    def outputs(self, problem: None) -> Tensors:
        return (torch.empty_like(self.x_or_y),)

    def run(self, problem: None, *outputs: torch.Tensor) -> None:
        elementwise.activate_backward(self.dy, self.x_or_y, outputs[0], ACTIVATIONS[self.activation])

    def saved(self) -> tuple[str, ...]:
        return ("x_or_y",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        if ACTIVATIONS[self.activation].passes is None:
            raise NotImplementedError(f"the second derivative of {self.activation} is not implemented")
        return operators.activate_backward(*gradients, self.x_or_y, self.activation), None

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        (dx, _) = self.backward(torch.zeros_like(self.x_or_y) if given["dy"] is None else given["dy"])
        return (dx,)
