"""Sequential, which fuses its members when it is called."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._C import _is_any_autocast_enabled

from tritonconv.kernels.arguments import wide
from tritonconv.kernels.epilogue import activation
from tritonconv.nn.activation import ReLU
from tritonconv.nn.conv import Conv1d, Conv2d, Conv3d
from tritonconv.nn.ours import Ours
from tritonconv.nn.pool import MaxPool1d, MaxPool2d, MaxPool3d

# What may follow a convolution in its kernel, in this order: a batch norm in evaluation; an activation, any of
# ACTIVATIONS; and max pooling, if the activation's gradient is 0 or 1.
FOLLOWS: dict[type, tuple[type, type]] = {
    Conv1d: (torch.nn.BatchNorm1d, MaxPool1d),
    Conv2d: (torch.nn.BatchNorm2d, MaxPool2d),
    Conv3d: (torch.nn.BatchNorm3d, MaxPool3d),
}
ACTIVATIONS: dict[type, Callable[[Any], str]] = {  # what the table of activations calls the layer
    ReLU: lambda layer: "relu",
    torch.nn.ReLU6: lambda layer: "relu6",
    torch.nn.LeakyReLU: lambda layer: f"leaky_relu({layer.negative_slope})",
    torch.nn.Hardswish: lambda layer: "hardswish",
    torch.nn.SiLU: lambda layer: "silu",
    torch.nn.GELU: lambda layer: "gelu" if layer.approximate == "none" else "gelu_tanh",
    torch.nn.Sigmoid: lambda layer: "sigmoid",
    torch.nn.Tanh: lambda layer: "tanh",
}


class Sequential(Ours, torch.nn.Sequential):
    """torch.nn.Sequential, which runs a convolution and what follows it among its members as one operator.

    That is a batch norm in evaluation, an activation (ReLU, ReLU6, LeakyReLU, Hardswish, SiLU, GELU, Sigmoid, Tanh)
    and, after ReLU or ReLU6, max pooling. Where a gradient is wanted the batch norm stays apart, and so do Hardswish,
    SiLU and GELU, whose gradients read their input.

    The members stay separate layers, and a slice, a loop over them or a hook meets each as it is. They are fused only
    where nothing can tell: each is exactly that class, without hooks, without a forward of its own on the object or put
    into the class, and a pooling returns no indices; no hook is registered for all modules, and nothing traces their
    calls. All of it is looked at in every call. One thing does tell: backward of a fused ReLU6 or LeakyReLU reads its
    output, as ReLU's does; what writes that in place makes backward raise.

    Source: torch.nn.Sequential.

    Example:
        >>> conv, relu, pool = tritonconv.nn.Conv2d(3, 4, 3), tritonconv.nn.ReLU(), tritonconv.nn.MaxPool2d(2)
        >>> tritonconv.nn.Sequential(conv, relu, pool)(torch.ones(1, 3, 8, 8)).shape  # by one kernel
        torch.Size([1, 4, 3, 3])
    """

    def forward(self, input: Any) -> Any:
        layers = [*self._modules.values()]
        if _is_anything_watched():
            return super().forward(input)
        while layers:
            length = fusible(layers, input)
            layer, others, layers = layers[0], layers[1:length], layers[length:]
            input = _run(layer, others, input) if others else layer(input)  # type: ignore[union-attr, operator]
        return input


def _run(conv: Any, others: list[Any], input: torch.Tensor) -> torch.Tensor:
    norms, pools = FOLLOWS[type(conv)]
    norm = next((layer for layer in others if type(layer) is norms), None)
    pool = next((layer for layer in others if type(layer) is pools), None)
    name = next((ACTIVATIONS[type(layer)](layer) for layer in others if type(layer) in ACTIVATIONS), None)
    return conv.fused(input, norm, name, pool)


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


def fusible(layers: Sequence[Any], input: Any = None) -> int:
    """How many of the layers, from the first on, are one operator of that input; of one without gradients if None."""
    conv = layers[0]
    if type(conv) not in FOLLOWS or why_watched(conv):
        return 1
    norms, pools = FOLLOWS[type(conv)]
    has_gradient = (
        isinstance(input, torch.Tensor)
        # torch.jit.trace checks without gradients what it traced with them
        and (torch.is_grad_enabled() or torch.jit.is_tracing())
        and any(
            t is not None and t.requires_grad
            for t in (input, *(p for layer in layers[:2] for p in layer._parameters.values()))
        )
    )
    is_cast = _is_any_autocast_enabled()
    following = [*itertools.takewhile(lambda layer: not why_watched(layer), layers[1:4])]
    length = 1
    if (
        following
        and type(following[0]) is norms
        and not (has_gradient or is_cast)
        and _is_fixed(following[0], conv, input)
    ):
        length, following = 2, following[1:]
    if following and type(following[0]) in ACTIVATIONS:
        row = activation(ACTIVATIONS[type(following[0])](following[0]))
        if row.saves == "output" or not has_gradient:
            length += 1
            is_pooled = following[1:] and type(following[1]) is pools and row.passes is not None
            if is_pooled and not (is_cast and conv.rank == 3):  # torch pools three axes in float32 there, on a CPU
                length += 1
    return length


def _is_fixed(norm: Any, conv: Any, input: Any) -> bool:
    """Whether a batch norm is a scale and a shift that go with the convolution's weights."""
    if norm.training or norm.running_mean is None or norm.running_var is None:
        return False
    if isinstance(input, torch.Tensor) and input.dim() != conv.rank + 2:
        return False  # of one without a batch a batch norm counts other channels, or raises
    dtypes = {t.dtype for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias) if t is not None}
    is_one = dtypes in ({conv.weight.dtype}, {wide(conv.weight)})
    return is_one and norm.num_features == conv.out_channels


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
    forwards = [kind.forward for kind in _KINDS]
    return torch.nn.Module.__call__, Conv1d._conv_forward, Conv2d._conv_forward, Conv3d._conv_forward, *forwards


_KINDS: tuple[Any, ...] = (*FOLLOWS, *(kind for follows in FOLLOWS.values() for kind in follows), *ACTIVATIONS)
_METHODS = _methods()
