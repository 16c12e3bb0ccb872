"""ReLU. Its backward passes what arrives where the output is above zero or NaN, and is its own derivative."""

import torch

from tritonconv.kernels import relu as kernels
from tritonconv.ops.operator import Grads, Operator, Tensors, operators, register
from tritonconv.problems import require_shape, require_tensors


@register
class ReLU(Operator):
    """max(x, 0); NaN stays NaN."""

    schema = "relu(Tensor x) -> Tensor y"

    def problem(self) -> None:
        require_tensors("relu", input=self.x)

    def outputs(self, problem: None) -> Tensors:
        return (torch.empty_like(self.x),)

    def run(self, problem: None, *outputs: torch.Tensor) -> None:
        kernels.relu(self.x, *outputs)

    def saved(self) -> tuple[str, ...]:
        return ("y",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return (operators.relu_backward(*gradients, self.y),)


@register
class ReLUBackward(Operator):
    """dy where the output y is above zero or NaN."""

    schema = "relu_backward(Tensor dy, Tensor y) -> Tensor dx"

    def problem(self) -> None:
        require_tensors("relu_backward", dy=self.dy, y=self.y)
        require_shape("dy", self.dy, self.y.shape)

    def outputs(self, problem: None) -> Tensors:
        return (torch.empty_like(self.y),)

    def run(self, problem: None, *outputs: torch.Tensor) -> None:
        kernels.relu_backward(self.dy, self.y, *outputs)

    def saved(self) -> tuple[str, ...]:
        return ("y",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return (operators.relu_backward(*gradients, self.y),)
