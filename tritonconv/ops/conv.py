"""Convolution, its two gradients, and its fusion with ReLU and max pooling.

The convolution is bilinear, and its three operators close under differentiation. With y = conv(x, w),
dx = dgrad(dy, w), dw = wgrad(dy, x), and g the gradient that arrives:

| of    | by    | is                     |
| ----- | ----- | ---------------------- |
| conv  | x, w  | dgrad(g, w), wgrad(g, x) |
| dgrad | dy, w | conv(g, w), wgrad(dy, g) |
| wgrad | dy, x | conv(x, g), dgrad(dy, g) |
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import conv_flop_count

from tritonconv import tuning
from tritonconv.checks import require_algorithm, require_shape, require_tensors
from tritonconv.kernels import direct, im2col, implicit_gemm, resample
from tritonconv.kernels.arguments import wide
from tritonconv.kernels.epilogue import Activation, Epilogue, activation
from tritonconv.kernels.tables import Table
from tritonconv.layouts import is_channels_last, memory_format
from tritonconv.ops.operator import Grads, Operator, Tensors, operators, register
from tritonconv.problems import ConvProblem, PoolProblem, conv_problem, pool_problem


class Algorithm(NamedTuple):
    """The launchers of one way to compute a convolution."""

    forward: Callable[..., None]
    dgrad: Callable[..., None]
    wgrad: Callable[..., None]


ALGORITHMS = {
    "direct": Algorithm(direct.direct_forward, direct.direct_dgrad, direct.direct_wgrad),
    "im2col": Algorithm(im2col.im2col_forward, im2col.im2col_dgrad, im2col.im2col_wgrad),
    "implicit_gemm": Algorithm(
        implicit_gemm.implicit_gemm_forward, implicit_gemm.implicit_gemm_dgrad, implicit_gemm.implicit_gemm_wgrad
    ),
}
WINDOW = "int[] stride, int[] padding, int[] dilation, int groups"
PADDED = f"{WINDOW}, str padding_mode"
NONE = (None, None, None)  # neither bias nor scale nor residual


class _Convolution(Operator):
    """What the operators here share."""

    padding_mode = "zeros"  # where it is no argument

    def __getattr__(self, name: str) -> Any:
        if name == "channels_last" and self.padding_mode == "circular":
            return is_channels_last(self.w)  # torch pads circularly into a contiguous image
        return super().__getattr__(name)

    @property
    def window(self) -> Any:
        return self.stride, self.padding, self.dilation, self.groups, self.padding_mode

    def chosen(self, problem: ConvProblem, x: torch.Tensor) -> Algorithm:
        return ALGORITHMS[tuning.pick_algorithm(problem, self.algorithm, self.name, x)]

    @property
    def row(self) -> Activation | None:
        """Of the table of activations."""
        return activation(self.activation) if self.activation else None

    def may_be_last(self, problem: ConvProblem) -> bool:
        """What of channels_last is contiguous as well leaves an activation contiguous, as in torch."""
        is_both = problem.C_out == 1 or math.prod(problem.output_size) == 1 or 0 in problem.output_shape
        return self.row is None or not is_both

    def forward_problem(self) -> ConvProblem:
        require_algorithm(self.algorithm)
        name = f"conv{self.x.dim() - 2}d"
        named = {"input": self.x, "weight": self.w, "bias": self.b, "scale": self.scale}
        if self.scale is not None and self.scale.dtype == wide(self.x) != self.x.dtype:  # of 16 bits
            require_tensors(name, scale=named.pop("scale"), bias=named.pop("bias"))
        require_tensors(name, **named)
        if self.scale is not None:
            require_shape("scale", self.scale, self.w.shape[:1])
        return conv_problem(self.x.shape, self.w.shape, None if self.b is None else self.b.shape, *self.window)

    def gradients(self, dy: torch.Tensor) -> Grads:
        """dx, dw, db, d_scale of y = conv(x, w) · scale + b, each only if asked for."""
        dx = dw = db = d_scale = None
        of_channel = (0, *range(2, dy.dim()))
        summed = dy
        if self.scale is not None:
            dy = (dy * self.scale.view(-1, *(1,) * (dy.dim() - 2))).to(dy.dtype)
        if self.needs["scale"]:
            products = operators.convolution(self.x, self.w, *NONE, *self.window, None, None, self.algorithm)
            d_scale = (summed * products).sum(of_channel)
        last = (self.channels_last, self.algorithm)
        if self.needs["x"]:
            size, layout = self.shapes["x"][2:], self.channels_last
            if self.padding_mode != "zeros":  # as the gradient of torch's pad
                layout = self.padding_mode != "circular" and is_channels_last(self.x)
            dx = operators.convolution_dgrad(dy, self.w, size, *self.window, layout, self.algorithm)
            if self.padding_mode in ("reflect", "replicate") and torch.is_grad_enabled():
                dx = dx + self.x[:0].sum(0, keepdim=True)  # as in torch, a penalty has a gradient by x, zeros
        if self.needs["w"]:
            size = self.shapes["w"][2:]
            with_bias = self.needs["b"] and self.scale is None
            dw, db = operators.convolution_wgrad(dy, self.x, size, *self.window, with_bias, *last)
        if self.needs["b"] and (self.scale is not None or not self.needs["w"]):
            db = summed.sum(of_channel)
        return dx, dw, db if self.needs["b"] else None, d_scale

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        """Each is linear in two tensors and a scale; what is added goes with the second."""
        added = {name: given.pop(name, None) for name in ("b", "residual")}
        scale = given.pop("scale", None)
        (one, d_one), (two, d_two) = given.items()
        values = vars(self) | {"b": None, "residual": None, "activation": None}
        terms = [self.call(values | {one: d_one}), self.call(values | {two: d_two, **added})]
        if scale is not None:
            terms.append(self.call(values | {"scale": scale}))
        return (sum(terms[1:], terms[0]),)

    def adjoint_gradients(self, name: str, g: torch.Tensor, channels_last: bool | None) -> Grads:
        """The gradients of dgrad(t, w) by t, the argument of that name, and by w, each only if asked for."""
        d_t = d_w = None
        if self.needs[name]:
            d_t = operators.convolution(g, self.w, *NONE, *self.window, None, channels_last, self.algorithm)
        if self.needs["w"]:
            last = (False, self.channels_last, self.algorithm)
            d_w, _ = operators.convolution_wgrad(getattr(self, name), g, self.shapes["w"][2:], *self.window, *last)
        return d_t, d_w

    def batch_axis(self, name: str, batched: Sequence[str]) -> int | None:
        """With a batch of filters, channels; else images."""
        of_filters = ("w", "b", "scale")
        if not any(key in batched for key in of_filters):
            return None if name in of_filters else 0
        return int(name not in of_filters)

    def flops(self) -> int:
        problem = self.problem()
        conv = problem[0] if isinstance(problem, tuple) else problem  # with a pooling's
        return conv_flop_count(list(conv.input_shape), list(conv.filter_shape), list(conv.output_shape))


def in_its_regions_dtype(self: Operator, device: str) -> torch.dtype:
    return torch.get_autocast_dtype(device)


@register
class Conv(_Convolution):
    """y = conv(x, w) · scale + b + residual, or an activation of it; (N, C_out, P, Q)."""

    schema = (
        f"convolution(Tensor x, Tensor w, Tensor? b, Tensor? scale, Tensor? residual, {PADDED}, str? activation, "
        "bool? channels_last, str algorithm) -> Tensor y"
    )
    autocast = in_its_regions_dtype

    def __getattr__(self, name: str) -> Any:
        if name == "channels_last" and self.padding_mode != "circular":  # whatever the residual is
            return is_channels_last(self.x, self.w)
        return super().__getattr__(name)

    def problem(self) -> ConvProblem:
        problem = self.forward_problem()
        if self.residual is not None:
            require_tensors(f"conv{self.x.dim() - 2}d", input=self.x, residual=self.residual)
            require_shape("residual", self.residual, problem.output_shape)
        return problem

    def outputs(self, problem: ConvProblem) -> Tensors:
        return (self.empty(self.x, problem.output_shape, None, self.may_be_last(problem)),)

    def run(self, problem: ConvProblem, *outputs: torch.Tensor) -> None:
        then = Epilogue(self.b, self.scale, self.residual, self.row)
        self.chosen(problem, self.x).forward(self.x, self.w, *outputs, None, problem, then)

    def saved(self) -> tuple[str, ...]:
        scale = () if self.scale is None else ("scale",)
        if self.row is None:
            return "x", "w", *scale
        if self.row.saves == "output":
            return "x", "w", *scale, "y"
        return tuple(name for name in ("x", "w", "b", "scale", "residual") if getattr(self, name) is not None)

    def activated(self, t: Any) -> torch.Tensor:
        """Through the activation's derivative. What reads its input has it computed again."""
        if self.row is None:
            return t
        y_or_input = self.y if self.row.saves == "output" else self.call(vars(self) | {"activation": None})
        return operators.activate_backward(t, y_or_input, self.activation)

    def backward(self, *gradients: torch.Tensor) -> Grads:
        dy = self.activated(*gradients)
        return *self.gradients(dy), dy if self.needs["residual"] else None

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        (t,) = super().tangents(**given)
        return (self.activated(t),)


@register
class ConvDgrad(_Convolution):
    """The gradient of a convolution's input, (N, C_in, H, W), from its output's."""

    schema = (
        f"convolution_dgrad(Tensor dy, Tensor w, SymInt[] input_size, {PADDED}, bool channels_last, str algorithm) "
        "-> Tensor dx"
    )

    def problem(self) -> ConvProblem:
        require_tensors("convolution_dgrad", dy=self.dy, w=self.w)
        shape = (self.dy.shape[0], self.w.shape[1] * self.groups, *self.input_size)
        problem = conv_problem(shape, self.w.shape, None, *self.window)
        require_shape("dy", self.dy, problem.output_shape)
        return problem

    def outputs(self, problem: ConvProblem) -> Tensors:
        return (self.empty(self.dy, problem.input_shape),)

    def run(self, problem: ConvProblem, *outputs: torch.Tensor) -> None:
        dgrad = self.chosen(problem, self.dy).dgrad
        if problem.window.mode == "zeros":
            dgrad(self.dy, self.w, None, *outputs, problem)
        else:  # of the padded image, then of padding
            (dx,), padded = outputs, problem.on_padded()
            layout = memory_format(is_channels_last(dx), dx.dim())
            between = torch.empty(padded.input_shape, dtype=wide(dx), device=dx.device, memory_format=layout)
            dgrad(self.dy, self.w, None, between, padded)
            axes = zip(problem.input_size, problem.window.padding, strict=True)
            repeats = [Table.padding(problem.window.mode, size, *pads).turned for size, pads in axes]
            resample.resample(between, dx, tuple(repeats))

    def saved(self) -> tuple[str, ...]:
        return "dy", "w"

    def backward(self, *gradients: torch.Tensor) -> Grads:
        return self.adjoint_gradients("dy", gradients[0], None)


@register
class ConvTranspose(_Convolution):
    """y, (N, C_out, *output_size): the adjoint of the convolution whose filter w (C_in, C_out / groups, R, S) is; + b.

    `padding` after each axis is what makes that convolution answer the size of x: the argument less output_padding.
    """

    schema = (
        f"convolution_transpose(Tensor x, Tensor w, Tensor? b, SymInt[] output_size, {WINDOW}, str algorithm) "
        "-> Tensor y"
    )
    autocast = in_its_regions_dtype

    def problem(self) -> ConvProblem:
        require_algorithm(self.algorithm)
        require_tensors(f"conv_transpose{self.x.dim() - 2}d", input=self.x, weight=self.w, bias=self.b)
        shape = (self.x.shape[0], self.w.shape[1] * self.groups, *self.output_size)
        problem = conv_problem(shape, self.w.shape, None, *self.window)
        require_shape("input", self.x, problem.output_shape)
        return problem

    def outputs(self, problem: ConvProblem) -> Tensors:
        return (self.empty(self.x, problem.input_shape),)

    def run(self, problem: ConvProblem, *outputs: torch.Tensor) -> None:
        self.chosen(problem, self.x).dgrad(self.x, self.w, self.b, *outputs, problem)

    def saved(self) -> tuple[str, ...]:
        return "x", "w"

    def backward(self, *gradients: torch.Tensor) -> Grads:
        (g,) = gradients
        dx, dw = self.adjoint_gradients("x", g, self.channels_last)
        return dx, dw, g.sum((0, *range(2, g.dim()))) if self.needs["b"] else None


@register
class ConvWgrad(_Convolution):
    """The gradients of a convolution's filter and, when `bias`, of its bias (else an empty tensor)."""

    schema = (
        f"convolution_wgrad(Tensor dy, Tensor x, int[] filter_size, {PADDED}, bool bias, bool channels_last, "
        "str algorithm) -> (Tensor dw, Tensor db)"
    )

    def problem(self) -> ConvProblem:
        require_tensors("convolution_wgrad", dy=self.dy, x=self.x)
        w_shape = (self.dy.shape[1], self.x.shape[1] // self.groups, *self.filter_size)
        problem = conv_problem(self.x.shape, w_shape, None, *self.window)
        require_shape("dy", self.dy, problem.output_shape)
        return problem

    def outputs(self, problem: ConvProblem) -> Tensors:
        dw = self.empty(self.dy, problem.filter_shape)
        return dw, self.dy.new_empty(problem.C_out if self.bias else 0)

    def flops(self) -> int:
        return super().flops() * self.groups  # so does torch, for a filter's gradient alone

    def run(self, problem: ConvProblem, *outputs: torch.Tensor) -> None:
        dw, db = outputs
        self.chosen(problem, self.dy).wgrad(self.dy, self.x, dw, db if self.bias else None, problem)

    def saved(self) -> tuple[str, ...]:
        return "dy", "x"

    def backward(self, *gradients: torch.Tensor) -> Grads:
        g, g_bias = gradients
        d_dy = d_x = None
        if self.needs["dy"]:
            b = g_bias if self.bias else None
            d_dy = operators.convolution(self.x, g, b, None, None, *self.window, None, None, self.algorithm)
        if self.needs["x"]:
            last = (self.channels_last, self.algorithm)
            d_x = operators.convolution_dgrad(self.dy, g, self.shapes["x"][2:], *self.window, *last)
        return d_dy, d_x

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        dw, db = self.call(vars(self) | {"dy": given["dy"]})
        return dw + self.call(vars(self) | {"x": given["x"], "bias": False})[0], db

    def batch_axis(self, name: str, batched: Sequence[str]) -> int | None:
        return int(name in ("dy", "x"))


@register
class ConvMaxPool(_Convolution):
    """Max pooling of the activation of conv(x, w) + b, and its argmax; the unpooled image is never stored."""

    schema = (
        f"convolution_max_pool(Tensor x, Tensor w, Tensor? b, Tensor? scale, {PADDED}, str activation, "
        "int[] pool_kernel, int[] pool_stride, int[] pool_padding, int[] pool_dilation, bool ceil_mode, str algorithm) "
        "-> (Tensor y, Tensor argmax)"
    )
    autocast = in_its_regions_dtype

    @property
    def pool(self) -> tuple[Any, Any, Any, Any]:
        return self.pool_kernel, self.pool_stride, self.pool_padding, self.pool_dilation

    def problem(self) -> tuple[ConvProblem, PoolProblem]:
        problem = self.forward_problem()
        if self.row is None or self.row.passes is None:
            raise NotImplementedError(
                f"max pooling in a convolution's kernel needs an activation whose gradient is 0 or 1, but got "
                f"activation={self.activation!r}"
            )
        return problem, pool_problem(problem.output_shape, *self.pool, self.ceil_mode)

    def outputs(self, problem: tuple[ConvProblem, PoolProblem]) -> Tensors:
        conv, pool = problem
        shape, may_be_last = (*conv.output_shape[:2], *pool.output_size), self.may_be_last(conv)
        return tuple(self.empty(self.x, shape, dtype, may_be_last) for dtype in (None, pool.argmax_dtype))

    def run(self, problem: tuple[ConvProblem, PoolProblem], *outputs: torch.Tensor) -> None:
        conv, pool = problem
        then = Epilogue(self.b, self.scale, None, self.row, pool)
        self.chosen(conv, self.x).forward(self.x, self.w, *outputs, conv, then)

    def saved(self) -> tuple[str, ...]:
        return "x", "w", *(() if self.scale is None else ("scale",)), "argmax"

    def backward(self, *gradients: torch.Tensor) -> Grads:
        size = conv_problem(self.shapes["x"], self.shapes["w"], None, *self.window).output_size
        dy = operators.max_pool_backward(gradients[0], self.argmax, size, *self.pool, self.channels_last)
        return self.gradients(dy)

    def is_linked(self) -> bool:
        return True

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        (t,) = Conv(**vars(self) | {"activation": None, "residual": None}).tangents(**given, residual=None)
        return (operators.max_pool_gather(t, self.argmax, *self.pool, self.channels_last),)
