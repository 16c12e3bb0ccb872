"""Pooling by a maximum, an average or an Lp norm.

Max pooling's backward and its gather are adjoint to each other and close under differentiation; so are average pooling
and its backward, which are linear.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from tritonconv.checks import require_shape, require_tensors
from tritonconv.kernels import pooling, resample
from tritonconv.kernels.arguments import wide
from tritonconv.kernels.tables import Table, tables
from tritonconv.layouts import is_channels_last
from tritonconv.ops.operator import Grads, Operator, Tensors, operators, register
from tritonconv.problems import PoolProblem, average_problem, covered_problem, lp_problem, pool_problem

WINDOW = "int[] kernel, int[] stride, int[] padding, int[] dilation"
AVERAGE = "int[] kernel, int[] stride, int[] padding, bool ceil_mode, bool count_include_pad, int? divisor"


def in_float32_in_3d(self: Operator, device: str) -> torch.dtype | None:
    """On a CPU, as torch's."""
    return torch.float32 if device == "cpu" and self.x.dim() == 5 else None


@register
class MaxPool(Operator):
    """y, its argmax, and int64 indices into the plane when `return_indices` (else an empty tensor)."""

    schema = (
        f"max_pool(Tensor x, {WINDOW}, bool ceil_mode, bool return_indices) "
        "-> (Tensor y, Tensor argmax, Tensor indices)"
    )

    def autocast(self, device: str) -> torch.dtype | None:
        return None if self.return_indices else in_float32_in_3d(self, device)

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

    def is_linked(self) -> bool:
        return True

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        return (operators.max_pool_gather(given["x"], self.argmax, *self.window, self.channels_last),)


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

    def run(self, problem: PoolProblem, *outputs: torch.Tensor) -> None:
        pooling.max_pool_gather(self.x, self.argmax, outputs[0], problem)

    def saved(self) -> tuple[str, ...]:
        return ("argmax",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        size = self.shapes["x"][2:]
        return (operators.max_pool_backward(gradients[0], self.argmax, size, *self.window, self.channels_last),)


@register
class MaxUnpool(Operator):
    """y, (N, C, *output_size): x at its indices into the plane, 0 elsewhere."""

    schema = "max_unpool(Tensor x, Tensor indices, SymInt[] output_size) -> Tensor y"
    keeps_3d = False

    @property
    def channels_last(self) -> bool:  # type: ignore[override]
        return is_channels_last(self.x)

    def autocast(self, device: str) -> torch.dtype | None:
        return torch.float32 if device == "cpu" else None

    def problem(self) -> None:
        require_tensors(f"max_unpool{self.x.dim() - 2}d", input=self.x)
        require_shape("indices", self.indices, self.x.shape)
        if self.indices.dtype != torch.int64:
            raise RuntimeError(f"elements in indices should be type int64 but got: {self.indices.dtype}")

    def run(self, problem: None, *outputs: torch.Tensor) -> None:
        if outputs[0].numel() == 0:
            return
        places = math.prod(self.output_size)
        volume = f"output volumes are of size {'x'.join(map(str, self.output_size))}: indices from 0 to {places - 1}"
        is_inside = ((self.indices >= 0) & (self.indices < places)).all()
        torch._assert_async(is_inside, f"Found an invalid max index ({volume})")  # on a GPU nothing waits for it
        resample.unpool(self.x, self.indices, outputs[0])

    def saved(self) -> tuple[str, ...]:
        return ("indices",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return operators.max_unpool_backward(gradients[0], self.indices), None


class _Gather(Operator):
    """(N, C, P, Q): x at the indices into its plane."""

    def problem(self) -> None:
        require_tensors(self.name, x=self.x)
        require_shape("x", self.x, (*self.indices.shape[:2], *self.x.shape[2:]))

    def outputs(self, problem: None) -> Tensors:
        return (self.empty(self.x, self.indices.shape),)

    def run(self, problem: None, *outputs: torch.Tensor) -> None:
        resample.gather(self.x, self.indices, outputs[0])

    def saved(self) -> tuple[str, ...]:
        return ("indices",)


@register
class MaxUnpoolBackward(_Gather):
    """dx: x is dy, read at the index also of a pixel that another one covers, as in torch."""

    schema = "max_unpool_backward(Tensor x, Tensor indices) -> Tensor dx"
    channels_last = False

    def backward(self, *gradients: torch.Tensor) -> Grads:
        """Sums of what came from one place: index_put is the same from run to run, scatter_add is not."""
        (g,) = gradients
        N, C, *size = self.shapes["x"]
        image, channel = torch.arange(N, device=g.device)[:, None, None], torch.arange(C, device=g.device)[:, None]
        pixels = (N, C, math.prod(self.indices.shape[2:]))
        places = (image, channel, self.indices.reshape(pixels))
        d_x = g.new_zeros(N, C, math.prod(size)).index_put(places, g.reshape(pixels), accumulate=True)
        return d_x.view(self.shapes["x"]), None


class _Average(Operator):
    """What average pooling and its backward share."""

    keeps_3d = False

    @property
    def average(self) -> tuple[Any, ...]:
        return self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad, self.divisor


@register
class AveragePool(_Average):
    """Each window's average, (N, C, P, Q)."""

    schema = f"average_pool(Tensor x, {AVERAGE}) -> Tensor y"
    autocast = in_float32_in_3d

    def problem(self) -> PoolProblem:
        require_tensors(f"avg_pool{self.x.dim() - 2}d", input=self.x)
        return average_problem(self.x.shape, *self.average)

    def run(self, problem: PoolProblem, *outputs: torch.Tensor) -> None:
        pooling.pool_forward(self.x, outputs[0], None, None, problem)

    def is_linked(self) -> bool:
        return True

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return (operators.average_pool_backward(*gradients, self.shapes["x"][2:], *self.average, self.channels_last),)


@register
class AveragePoolBackward(_Average):
    """dx, (N, C, H, W): of each window's dy the share that its divisor gives."""

    schema = f"average_pool_backward(Tensor dy, SymInt[] input_size, {AVERAGE}, bool channels_last) -> Tensor dx"

    def problem(self) -> PoolProblem:
        require_tensors("average_pool_backward", dy=self.dy)
        problem = average_problem((*self.dy.shape[:2], *self.input_size), *self.average)
        require_shape("dy", self.dy, (*self.dy.shape[:2], *problem.output_size))
        return problem

    def run(self, problem: PoolProblem, *outputs: torch.Tensor) -> None:
        pooling.pool_backward(self.dy, None, outputs[0], problem)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return (operators.average_pool(*gradients, *self.average),)


@register
class LpPool(Operator):
    """Each window's (Σ xᵖ)^(1/p), (N, C, P, Q)."""

    keeps_3d = False
    schema = "lp_pool(Tensor x, float norm, int[] kernel, int[] stride, bool ceil_mode) -> Tensor y"

    def autocast(self, device: str) -> torch.dtype | None:
        return torch.float32 if device == "cuda" else in_float32_in_3d(self, device)  # torch's power there

    def problem(self) -> PoolProblem:
        require_tensors(f"lp_pool{self.x.dim() - 2}d", input=self.x)
        return lp_problem(self.x.shape, self.norm, self.kernel, self.stride, self.ceil_mode)

    def run(self, problem: PoolProblem, *outputs: torch.Tensor) -> None:
        pooling.pool_forward(self.x, outputs[0], None, None, problem)

    def saved(self) -> tuple[str, ...]:
        return "x", "y"

    def factors(self) -> tuple[torch.Tensor, torch.Tensor, tuple[Any, ...]]:
        """Its derivative: times xᵖ⁻¹, the average by that window, times taps · y¹⁻ᵖ; 0 where y is 0, as in torch."""
        x, y, p = self.x.to(wide(self.x)), self.y.to(wide(self.y)), self.norm  # a power may leave half precision
        outer = (y.masked_fill(y == 0, 1.0) ** (1 - p) * math.prod(self.kernel)).masked_fill(y == 0, 0.0)
        return x ** (p - 1), outer, (self.kernel, self.stride, (0,) * len(self.kernel), self.ceil_mode, True, None)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        (dy,) = gradients
        inner, outer, average = self.factors()
        # a window whose norm is 0 gets none, were dy infinite
        share = torch.where(outer == 0, 0.0, dy.to(outer.dtype) * outer)
        dx = operators.average_pool_backward(share, self.shapes["x"][2:], *average, self.channels_last)
        return ((dx * inner).to(dy.dtype),)

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        inner, outer, average = self.factors()
        t = operators.average_pool(given["x"] * inner, *average)  # type: ignore[operator]
        return ((t * outer).to(self.y.dtype),)


class _Adaptive(Operator):
    """What the adaptive maximum and its backward share."""

    keeps_3d = False

    @staticmethod
    def tables(sizes: Sequence[int], lengths: Sequence[int]) -> tuple[Table, ...]:
        return tables("area", tuple(sizes), tuple(lengths), (0.0,) * len(sizes), False, False)


@register
class AdaptiveMaxPool(_Adaptive):
    """The maximum of each of `output_size` windows that cover the image, and its int64 index into the plane."""

    schema = "adaptive_max_pool(Tensor x, SymInt[] output_size) -> (Tensor y, Tensor indices)"
    autocast = in_float32_in_3d

    def problem(self) -> None:
        require_tensors(f"adaptive_max_pool{self.x.dim() - 2}d", input=self.x)

    def outputs(self, problem: None) -> Tensors:
        shape = (*self.x.shape[:2], *self.output_size)
        return self.empty(self.x, shape), self.empty(self.x, shape, torch.int64)

    def run(self, problem: None, *outputs: torch.Tensor) -> None:
        y, indices = outputs
        resample.adaptive_max(self.x, y, indices, self.tables(self.x.shape[2:], self.output_size))

    def saved(self) -> tuple[str, ...]:
        return ("indices",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        size = self.shapes["x"][2:]
        return (operators.adaptive_max_pool_backward(gradients[0], self.indices, size, self.channels_last),)

    def is_linked(self) -> bool:
        return True

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        return (operators.adaptive_max_pool_gather(given["x"], self.indices, self.channels_last),)


@register
class AdaptiveMaxPoolBackward(_Adaptive):
    """dx, (N, C, H, W): each window's dy at its index."""

    schema = (
        "adaptive_max_pool_backward(Tensor dy, Tensor indices, SymInt[] input_size, bool channels_last) -> Tensor dx"
    )

    def problem(self) -> None:
        require_tensors("adaptive_max_pool_backward", dy=self.dy)
        require_shape("dy", self.dy, self.indices.shape)

    def run(self, problem: None, *outputs: torch.Tensor) -> None:
        axes = self.tables(self.input_size, self.dy.shape[2:])
        resample.adaptive_max_backward(self.dy, self.indices, outputs[0], tuple(axis.turned for axis in axes))

    def saved(self) -> tuple[str, ...]:
        return ("indices",)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return (operators.adaptive_max_pool_gather(gradients[0], self.indices, self.channels_last),)


@register
class AdaptiveMaxPoolGather(_Gather):
    """Each window's maximum: the adjoint of AdaptiveMaxPoolBackward."""

    schema = "adaptive_max_pool_gather(Tensor x, Tensor indices, bool channels_last) -> Tensor y"
    keeps_3d = False

    def backward(self, *gradients: torch.Tensor) -> Grads:
        size = self.shapes["x"][2:]
        return (operators.adaptive_max_pool_backward(gradients[0], self.indices, size, self.channels_last),)
