"""Max pooling. Its backward and its gather, adjoint to each other, close under differentiation."""

import torch

from tritonconv.kernels import pooling
from tritonconv.ops.operator import Grads, Operator, Tensors, operators, register
from tritonconv.problems import PoolProblem, covered_problem, pool_problem, require_shape, require_tensors

WINDOW = "int[] kernel, int[] stride, int[] padding, int[] dilation"


@register
class MaxPool(Operator):
    """y, its place codes, and int64 indices into the plane when `return_indices` (else an empty tensor)."""

    schema = (
        f"max_pool(Tensor x, {WINDOW}, bool ceil_mode, bool return_indices) -> (Tensor y, Tensor code, Tensor indices)"
    )

    def problem(self) -> PoolProblem:
        require_tensors(f"max_pool{self.x.dim() - 2}d", input=self.x)
        return pool_problem(self.x.shape, *self.window, self.ceil_mode)

    def outputs(self, problem: PoolProblem) -> Tensors:
        shape = (*self.x.shape[:2], *problem.output_size)
        indices = (
            self.empty(self.x, shape, torch.int64) if self.return_indices else self.x.new_empty(0, dtype=torch.int64)
        )
        return self.empty(self.x, shape), self.empty(self.x, shape, problem.code_dtype), indices

    def run(self, problem: PoolProblem, *outputs: torch.Tensor) -> None:
        y, code, indices = outputs
        pooling.pool_forward(self.x, y, code, indices if self.return_indices else None, problem)

    def saved(self) -> tuple[str, ...]:
        return ("code",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        size = self.shapes["x"][2:]
        return (operators.max_pool_backward(gradients[0], self.code, size, *self.window, self.channels_last),)


@register
class MaxPoolBackward(Operator):
    """dx, (N, C, H, W): each window's dy at the place its code names."""

    schema = (
        f"max_pool_backward(Tensor dy, Tensor code, SymInt[] input_size, {WINDOW}, bool channels_last) -> Tensor dx"
    )

    def problem(self) -> PoolProblem:
        require_tensors("max_pool_backward", dy=self.dy)
        require_shape("dy", self.dy, self.code.shape)
        return covered_problem(self.input_size, self.code.shape[2:], *self.window)

    def outputs(self, problem: PoolProblem) -> Tensors:
        return (self.empty(self.dy, (*self.dy.shape[:2], *self.input_size)),)

    def run(self, problem: PoolProblem, *outputs: torch.Tensor) -> None:
        pooling.pool_backward(self.dy, self.code, outputs[0], problem)

    def saved(self) -> tuple[str, ...]:
        return ("code",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return (operators.max_pool_gather(gradients[0], self.code, *self.window, self.channels_last),)


@register
class MaxPoolGather(Operator):
    """(N, C, P, Q): x at the place each window's code names, 0 where it names none."""

    schema = f"max_pool_gather(Tensor x, Tensor code, {WINDOW}, bool channels_last) -> Tensor y"

    def problem(self) -> PoolProblem:
        require_tensors("max_pool_gather", x=self.x)
        return covered_problem(self.x.shape[2:], self.code.shape[2:], *self.window)

    def outputs(self, problem: PoolProblem) -> Tensors:
        return (self.empty(self.x, self.code.shape),)

    def run(self, problem: PoolProblem, *outputs: torch.Tensor) -> None:
        pooling.max_pool_gather(self.x, self.code, outputs[0], problem)

    def saved(self) -> tuple[str, ...]:
        return ("code",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        size = self.shapes["x"][2:]
        return (operators.max_pool_backward(gradients[0], self.code, size, *self.window, self.channels_last),)
