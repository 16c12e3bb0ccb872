"""Max pooling. Its backward and its gather, adjoint to each other, close under differentiation."""

import torch

from tritonconv.kernels import pooling
from tritonconv.ops.operator import Grads, Operator, Tensors, operators, register
from tritonconv.problems import PoolProblem, covered_problem, pool_problem, require_shape, require_tensors

WINDOW = "int[] kernel, int[] stride, int[] padding, int[] dilation"


@register
class MaxPool(Operator):
    """y, its argmax, and int64 indices into the plane when `return_indices` (else an empty tensor)."""

    schema = (
        f"max_pool(Tensor x, {WINDOW}, bool ceil_mode, bool return_indices) "
        "-> (Tensor y, Tensor argmax, Tensor indices)"
    )

    def problem(self) -> PoolProblem:
        require_tensors(f"max_pool{self.x.dim() - 2}d", input=self.x)
        return pool_problem(self.x.shape, *self.window, self.ceil_mode)

    def outputs(self, problem: PoolProblem) -> Tensors:
        shape = (*self.x.shape[:2], *problem.output_size)
        indices = self.empty(self.x, shape if self.return_indices else (0,), torch.int64)
        return self.empty(self.x, shape), self.empty(self.x, shape, problem.argmax_dtype), indices

    def run(self, problem: PoolProblem, *outputs: torch.Tensor) -> None:
        y, argmax, indices = outputs
        pooling.pool_forward(self.x, y, argmax, indices if self.return_indices else None, problem)

    def saved(self) -> tuple[str, ...]:
        return ("argmax",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        size = self.shapes["x"][2:]
        return (operators.max_pool_backward(gradients[0], self.argmax, size, *self.window, self.channels_last),)


@register
class MaxPoolBackward(Operator):
    """dx, (N, C, H, W): each window's dy at its argmax."""

    schema = (
        f"max_pool_backward(Tensor dy, Tensor argmax, SymInt[] input_size, {WINDOW}, bool channels_last) -> Tensor dx"
    )

    def problem(self) -> PoolProblem:
        require_tensors("max_pool_backward", dy=self.dy)
        require_shape("dy", self.dy, self.argmax.shape)
        return covered_problem(self.input_size, self.argmax.shape[2:], *self.window)

    def outputs(self, problem: PoolProblem) -> Tensors:
        return (self.empty(self.dy, (*self.dy.shape[:2], *self.input_size)),)

    def run(self, problem: PoolProblem, *outputs: torch.Tensor) -> None:
        pooling.pool_backward(self.dy, self.argmax, outputs[0], problem)

    def saved(self) -> tuple[str, ...]:
        return ("argmax",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return (operators.max_pool_gather(gradients[0], self.argmax, *self.window, self.channels_last),)


@register
class MaxPoolGather(Operator):
    """(N, C, P, Q): x at each window's argmax, 0 where it has none."""

    schema = f"max_pool_gather(Tensor x, Tensor argmax, {WINDOW}, bool channels_last) -> Tensor y"

    def problem(self) -> PoolProblem:
        require_tensors("max_pool_gather", x=self.x)
        require_shape("x", self.x, (*self.argmax.shape[:2], *self.x.shape[2:]))
        return covered_problem(self.x.shape[2:], self.argmax.shape[2:], *self.window)

    def outputs(self, problem: PoolProblem) -> Tensors:
        return (self.empty(self.x, self.argmax.shape),)

    def run(self, problem: PoolProblem, *outputs: torch.Tensor) -> None:
        pooling.max_pool_gather(self.x, self.argmax, outputs[0], problem)

    def saved(self) -> tuple[str, ...]:
        return ("argmax",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        size = self.shapes["x"][2:]
        return (operators.max_pool_backward(gradients[0], self.argmax, size, *self.window, self.channels_last),)
