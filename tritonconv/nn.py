"""Modules: torch.nn's own classes, with the forward pass on tritonconv's kernels.

Each class is a subclass of its namesake in torch.nn and adds no parameter, so that the constructor, the initial weights
drawn from a seed, state_dict and pickling are torch's, and a state_dict loads in either direction; repr says whose the
layer is. The two fused layers are convolutions that go on to ReLU and pooling: their parameters are the convolution's,
`weight` and `bias`. `Sequential` fuses its members when it is called, and leaves them what they are.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn.common_types import _size_2_t

from tritonconv import functional
from tritonconv.problems import require_algorithm

__all__ = ["Conv2d", "ConvReLU2d", "ConvReLUMaxPool2d", "MaxPool2d", "ReLU", "Sequential"]

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class _Ours(torch.nn.Module):
    """What all classes here share: their repr names this module."""

    def _get_name(self) -> str:
        kind = type(self)
        return f"{__name__}.{kind.__name__}" if kind.__module__ == __name__ else kind.__name__


class Conv2d(_Ours, torch.nn.Conv2d):
    """y[n, k, p, q] = bias[k] + Σ over c, r, s of weight[k, c, r, s] · x[n, c, p·stride + r·dilation − padding, ...]

    input: (N, in_channels, H, W) or (in_channels, H, W); fp16, bf16, fp32 or fp64; any strides.
    Returns (N, out_channels, P, Q) or (out_channels, P, Q), channels_last where torch would answer so.
    `algorithm` is "auto", "direct", "im2col" or "implicit_gemm"; it may be set on a built layer too.

    Raises:
        ValueError: torch.nn.Conv2d's own, or an unknown algorithm.
        NotImplementedError: a padding_mode other than "zeros".

    Source: torch.nn.Conv2d.
    """

    algorithm: str = "auto"  # on the class too: an instance that torch made, then swapped or unpickled, has none

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _size_2_t,
        stride: _size_2_t = 1,
        padding: str | _size_2_t = 0,
        dilation: _size_2_t = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        algorithm: str = "auto",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        require_algorithm(algorithm)
        self._require_zeros()
        self.algorithm = algorithm

    def _require_zeros(self) -> None:
        if self.padding_mode != "zeros":
            raise NotImplementedError(
                f"padding_mode={self.padding_mode!r} is not implemented yet: until it comes use padding_mode='zeros', "
                "or torch.nn.functional.pad before a convolution with padding=0"
            )

    def _convolve(self, function: Callable[..., torch.Tensor], *tensors: Any, **pool: Any) -> torch.Tensor:
        self._require_zeros()
        window = (self.stride, self.padding, self.dilation, self.groups)
        return function(*tensors, *window, **pool, algorithm=self.algorithm)

    # The method that torch's own forward hands its weight and bias to, and that subclasses of a convolution call.
    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._convolve(functional.conv2d, input, weight, bias)

    def _fused(self, input: torch.Tensor, pool: "MaxPool2d | None" = None) -> torch.Tensor:
        """This layer, ReLU and `pool` as one operator."""
        if pool is None:
            return self._convolve(functional.conv2d_bias_relu, input, self.weight, self.bias)
        return self._convolve(
            functional.conv2d_bias_relu_max_pool2d,
            *(input, self.weight, self.bias),
            pool_kernel_size=pool.kernel_size,
            pool_stride=pool.stride,
            pool_padding=pool.padding,
            pool_dilation=pool.dilation,
            ceil_mode=pool.ceil_mode,
        )

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        return shown if self.algorithm == "auto" else f"{shown}, algorithm={self.algorithm}"


class ConvReLU2d(Conv2d):
    """y = max(0, conv2d(x)), one kernel: nothing is stored between the two.

    Takes Conv2d's arguments and raises its errors; shapes as Conv2d.

    Source: torch.nn.Sequential(Conv2d, ReLU).
    """

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._convolve(functional.conv2d_bias_relu, input, weight, bias)


class ConvReLUMaxPool2d(Conv2d):
    """y = max_pool2d(max(0, conv2d(x))), one trainable operator: the unpooled image is never stored.

    Takes Conv2d's arguments, then MaxPool2d's under names that begin with `pool_` (all by keyword), and raises Conv2d's
    errors; a pooling window that does not fit raises RuntimeError in forward, as in torch.
    Returns (N, out_channels, P', Q') or (out_channels, P', Q'), the size after pooling.

    Source: torch.nn.Sequential(Conv2d, ReLU, MaxPool2d).
    """

    pool_kernel_size: _size_2_t
    pool_stride: _size_2_t
    pool_padding: _size_2_t
    pool_dilation: _size_2_t
    ceil_mode: bool

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _size_2_t,
        stride: _size_2_t = 1,
        padding: str | _size_2_t = 0,
        dilation: _size_2_t = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        pool_kernel_size: _size_2_t,
        pool_stride: _size_2_t | None = None,
        pool_padding: _size_2_t = 0,
        pool_dilation: _size_2_t = 1,
        ceil_mode: bool = False,
        algorithm: str = "auto",
    ) -> None:
        sizes = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        super().__init__(*sizes, bias, padding_mode, device, dtype, algorithm=algorithm)
        self.pool_kernel_size = pool_kernel_size
        self.pool_stride = pool_kernel_size if pool_stride is None else pool_stride
        self.pool_padding = pool_padding
        self.pool_dilation = pool_dilation
        self.ceil_mode = ceil_mode

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._convolve(functional.conv2d_bias_relu_max_pool2d, input, weight, bias, **self._pool)

    @property
    def _pool(self) -> dict[str, Any]:
        names = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode")
        return {name: getattr(self, name) for name in names}

    def extra_repr(self) -> str:
        return ", ".join([super().extra_repr(), *(f"{name}={value}" for name, value in self._pool.items())])


class MaxPool2d(_Ours, torch.nn.MaxPool2d):
    """y[n, c, p, q] = the largest x[n, c, p·stride + r·dilation − padding, ...] over the window; NaN wins.

    input: (N, C, H, W) or (C, H, W); fp16, bf16, fp32 or fp64; any strides.
    Returns (N, C, P, Q) or (C, P, Q), and with `return_indices` the int64 indices in the plane (H, W).

    Raises:
        RuntimeError: in forward, as in torch: the window does not fit.

    Source: torch.nn.MaxPool2d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return functional.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class ReLU(_Ours, torch.nn.ReLU):
    """y = max(0, x), of any shape; NaN stays NaN.

    Source: torch.nn.ReLU.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.relu(input, inplace=self.inplace)


class Sequential(_Ours, torch.nn.Sequential):
    """torch.nn.Sequential, which runs a Conv2d → ReLU (→ MaxPool2d) among its members as one operator.

    The members stay separate layers, and a slice, a loop over them or a hook meets each as it is. They are fused only
    where nothing can tell: each is exactly tritonconv.nn's class, without hooks, without a forward of its own on the
    object or put into the class, and a pooling returns no indices; no hook is registered for all modules, and nothing
    traces their calls. All of it is looked at in every call.

    Source: torch.nn.Sequential.
    """

    def forward(self, input: Any) -> Any:
        layers = [*self._modules.values()]
        if not isinstance(input, torch.Tensor) or _is_anything_watched():
            return super().forward(input)
        while layers:
            length = fusible(layers)
            layer, others, layers = layers[0], layers[1:length], layers[length:]
            input = layer._fused(input, *others[1:]) if others else layer(input)  # type: ignore[union-attr, operator]
        return input


@functools.cache
def fusing(kind: Any) -> type[torch.nn.Sequential] | None:
    """The class that gives a `kind` our forward: Sequential for torch's own, a subclass of both for a subclass of it.

    None where the subclass runs its members in a way of its own, or where another subclass of it might be noticed.
    """
    if kind is torch.nn.Sequential:
        return Sequential
    base = Sequential if issubclass(kind, Sequential) else torch.nn.Sequential
    if any(_found(kind, name) is not _found(base, name) for name in ("forward", "__iter__", "__call__")):
        return None
    if base is Sequential:
        return kind
    special = ("__reduce__", "__reduce_ex__", "__init_subclass__")
    if type(kind) is not type or any(_found(kind, name) is not _found(object, name) for name in special):
        return None
    members = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__reduce_ex__": _reduce_fusing}
    return type(kind.__name__, (kind, Sequential), members | {"_plain": kind})


def plain(kind: type[torch.nn.Sequential]) -> type[torch.nn.Sequential]:
    """What `fusing` made `kind` from; a class that it did not make is its own."""
    return torch.nn.Sequential if kind is Sequential else vars(kind).get("_plain", kind)


def _found(kind: type, name: str) -> Any:
    return next(vars(base)[name] for base in kind.__mro__ if name in vars(base))


def _reduce_fusing(self: torch.nn.Sequential, protocol: Any) -> tuple:
    """Pickled by the class it was made from: a class made at run time has no name to be found by."""
    _, _, *state = tuple(object.__reduce_ex__(self, 2))
    return _new_fusing, (plain(type(self)),), *state


def _new_fusing(kind: Any) -> torch.nn.Module:
    made = fusing(kind) or kind
    return made.__new__(made)


def fusible(layers: list[torch.nn.Module]) -> int:
    """How many of the layers, from the first on, are one operator: 1, 2 or 3."""
    length = 0
    for layer, kind in zip(layers, (Conv2d, ReLU, MaxPool2d), strict=False):
        if type(layer) is not kind or why_watched(layer):
            break
        length += 1
    return length or 1


def why_watched(layer: torch.nn.Module) -> str:
    """What a call of the layer runs beside its class's forward, or why its result is not a tensor alone; "" if none."""
    state = layer.__dict__
    if (
        state["_forward_pre_hooks"]
        or state["_forward_hooks"]
        or state["_backward_pre_hooks"]
        or state["_backward_hooks"]
    ):
        return "has hooks"
    if "forward" in state or "_conv_forward" in state:
        return "has a forward of its own"
    if state.get("_compiled_call_impl"):
        return "is compiled by itself"
    if state.get("return_indices"):
        return "returns indices"
    return ""


def _is_anything_watched() -> bool:
    """Whether hooks are registered for all modules, or a method was replaced: by torch.fx, to trace, or by a user.

    torch.export replaces Module.__call__ too, to note where a node comes from; its graph has the fused operator.
    """
    if torch.nn.modules.module._has_any_global_hook():
        return True
    return _methods() != _METHODS and not torch.compiler.is_exporting()


def _methods() -> tuple[Any, ...]:
    return torch.nn.Module.__call__, Conv2d.forward, Conv2d._conv_forward, ReLU.forward, MaxPool2d.forward


_METHODS = _methods()
