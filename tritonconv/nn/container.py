"""Sequential, which fuses its members when it is called."""

import functools
from typing import Any

import torch

from tritonconv.nn.activation import ReLU
from tritonconv.nn.conv import Conv1d, Conv2d, Conv3d
from tritonconv.nn.ours import Ours
from tritonconv.nn.pool import MaxPool1d, MaxPool2d, MaxPool3d

# What follows a convolution in its kernel, in this order.
FOLLOWS: dict[type, tuple[type, ...]] = {
    Conv1d: (ReLU, MaxPool1d),
    Conv2d: (ReLU, MaxPool2d),
    Conv3d: (ReLU, MaxPool3d),
}


class Sequential(Ours, torch.nn.Sequential):
    """torch.nn.Sequential, which runs a convolution → ReLU (→ max pooling) among its members as one operator.

    The members stay separate layers, and a slice, a loop over them or a hook meets each as it is. They are fused only
    where nothing can tell: each is exactly tritonconv.nn's class, without hooks, without a forward of its own on the
    object or put into the class, and a pooling returns no indices; no hook is registered for all modules, and nothing
    traces their calls. All of it is looked at in every call.

    Source: torch.nn.Sequential.
    """

    def forward(self, input: Any) -> Any:
        layers = [*self._modules.values()]
        if _is_anything_watched():
            return super().forward(input)
        while layers:
            length = fusible(layers)
            layer, others, layers = layers[0], layers[1:length], layers[length:]
            input = layer.fused(input, *others[1:]) if others else layer(input)  # type: ignore[union-attr, operator]
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
    kind = type(layers[0])
    if kind not in FOLLOWS or why_watched(layers[0]):
        return 1
    length = 1
    for layer, wanted in zip(layers[1:], FOLLOWS[kind], strict=False):
        if type(layer) is not wanted or why_watched(layer):
            break
        length += 1
    return length


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


_KINDS: tuple[Any, ...] = (*FOLLOWS, *{kind: None for follows in FOLLOWS.values() for kind in follows})
_METHODS = _methods()
