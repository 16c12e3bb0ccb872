"""Swap the layers of an existing model for ours in place, with a report of what was done and why; and swap them back.

A layer is swapped by giving the very object our class (docs/decisions/0003-convert-in-place.md), so its parameters,
hooks and aliases, and any optimizer over them, stay valid. First everything is decided, then everything is applied:
an error leaves the model untouched.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from tritonconv import nn
from tritonconv.checks import DTYPES
from tritonconv.nn.container import ACTIVATIONS, FOLLOWS, fusible, fusing, plain, why_watched
from tritonconv.patching import calls_of

__all__ = ["ConvertReport", "Row", "convert", "restore"]

Filter = Callable[[torch.nn.Module, str], bool]

FUSED = (nn.ConvReLU2d, nn.ConvReLUMaxPool2d)
SWAPS: dict[type, type] = {
    getattr(torch.nn, name): getattr(nn, name)
    for name in nn.__all__
    if hasattr(torch.nn, name) and name != "Sequential"
}
OURS = (*SWAPS.values(), *FUSED)
NOT_YET = ("torch.nn.modules.conv", "torch.nn.modules.pooling")  # their layers are reported
RESTORE = "tritonconv.restore(model) swaps back, as ONNX export, quantization and torch.jit.script need it"


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer: its name in the model ("" is the model itself), what was done, its class before and after, and why."""

    name: str
    action: Literal["swapped", "left"]
    before: str
    after: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class ConvertReport:
    """What `convert` or `restore` did. `print(report)` shows it as a table, equal rows as one.

    `rows` has a layer each, in the model's order. `fused` has the names of the layers that an nn.Sequential runs as one
    operator, in its order: what `convert` saw; hooks added later undo it. `calls` has what a module's forward calls of
    torch.nn.functional that `tritonconv.patched` would run on our kernels: its name, and the functions.
    """

    rows: tuple[Row, ...]
    fused: tuple[tuple[str, ...], ...] = ()
    calls: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def swapped(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.action == "swapped")

    @property
    def left(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.action == "left")

    def __str__(self) -> str:
        lines = [("layer", "was", "became", "why")]
        for row, names in _grouped((dataclasses.replace(row, name=""), row.name) for row in self.rows):
            lines.append((names, row.before, "left" if row.action == "left" else row.after, row.reason))
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        table = ["  ".join([*map(str.ljust, line, widths), line[3]]).rstrip() for line in lines]
        return "\n".join([*table, *self._summary()])

    def _summary(self) -> Iterator[str]:
        yield f"{len(self.swapped)} swapped, {len(self.left)} left, {len(self.fused)} fused where they are called"
        runs = collections.defaultdict(list)
        for names in self.fused:
            runs[names[0].rpartition(".")[0]].append(" + ".join(name.rpartition(".")[2] for name in names))
        for members, containers in _grouped((", ".join(each), container) for container, each in runs.items()):
            yield f"  in {containers}: {members}"
        for functions, kinds in _grouped((", ".join(functions), name) for name, functions in self.calls):
            yield f"torch's own: the forward of {kinds} calls {functions}; tritonconv.patched() sends these to ours"
        if any(row.after.startswith("tritonconv.") for row in self.swapped):
            yield RESTORE


def convert(model: torch.nn.Module, fuse: bool = True, filter_fn: Filter | None = None) -> ConvertReport:
    """Put the layers of `model` that tritonconv.nn has on tritonconv's kernels, in place: convolutions, pooling, ...

    Swapped are objects whose class is exactly torch.nn's; subclasses, parametrized, lazy, quantized and scripted ones
    are left. Each stays the layer it was, with its name, hooks and parameters: optimizers go on. A layer for which
    `filter_fn(layer, name)` is false is left.

    With `fuse`, an nn.Sequential, or a subclass with its forward, in which a batch norm or an activation follows a
    convolution becomes `tritonconv.nn.Sequential`: when it is called, it runs a convolution (→ batch norm in
    evaluation) → activation (→ max pooling) as one operator where nothing can tell. What a custom forward does between
    its layers cannot be known: they are swapped, not fused.

    Convert before the first call of torch.compile: a graph compiled earlier may go on with torch's layers.

    Returns a ConvertReport: every layer swapped or left, why, and what is fused where. Layers of other kinds (Linear,
    ...) are not listed.

    Raises:
        TypeError: model is not an nn.Module, or filter_fn is not callable.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
        >>> tritonconv.convert(model).fused
        (('0', '1'),)
    """
    _require_module(model)
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(f"filter_fn must be callable or None, but got {type(filter_fn).__name__}")
    left = _left(model, filter_fn)
    swaps = {module: SWAPS[type(module)] for module in model.modules() if type(module) in SWAPS and module not in left}
    classes = {module: type(module) for module in model.modules()}
    if fuse:
        becoming = classes | swaps
        for container in model.modules():
            kinds = [becoming[layer] for layer in container._modules.values() if layer is not None]
            pairs = itertools.pairwise(kinds)
            is_fused = any(
                one in FOLLOWS and (other is FOLLOWS[one][0] or other in ACTIVATIONS) for one, other in pairs
            )
            if is_fused and (kind := _fusing(container)):
                swaps[container] = kind
    for module, ours in swaps.items():
        module.__class__ = ours
    fused, reasons = _fused(model, left)
    rows = []
    for name, module in model.named_modules():
        before, after = classes[module], type(module)
        if module in left:
            rows.append(Row(name, "left", _name(before), _name(before), left[module]))
        elif before in SWAPS:
            rows.append(Row(name, "swapped", _name(before), _name(after), reasons.get(module, "") if fuse else ""))
        elif before in OURS:
            reason = "; ".join(filter(None, ["tritonconv's already", reasons.get(module) if fuse else ""]))
            rows.append(Row(name, "left", _name(before), _name(before), reason))
    return ConvertReport(tuple(rows), tuple(fused), tuple(_calls(model)))


def restore(model: torch.nn.Module) -> ConvertReport:
    """Give the layers that `convert` swapped torch.nn's classes again, in place: its inverse.

    For what wants torch's own layers: export to ONNX, torch.ao.quantization, torch.jit.script. Parameters, hooks and
    names stay; an `algorithm` set on a layer is dropped. Layers with no counterpart in torch.nn (ConvReLU2d,
    ConvReLUMaxPool2d) and subclasses of ours, parametrized and sharded ones among them, are left.

    Returns a ConvertReport: every layer swapped back or left, and why.

    Raises:
        TypeError: model is not an nn.Module.

    Example:
        >>> model = torch.nn.Sequential(tritonconv.nn.Conv2d(1, 4, 3))
        >>> tritonconv.restore(model).swapped[0].after
        'torch.nn.Conv2d'
    """
    _require_module(model)
    theirs: dict[type, type] = {ours: kind for kind, ours in SWAPS.items()}
    rows = []
    for name, module in model.named_modules():
        kind = type(module)
        if kind in theirs:
            module.__class__ = theirs[kind]
            vars(module).pop("algorithm", None)
            rows.append(Row(name, "swapped", _name(kind), _name(theirs[kind])))
        elif kind in FUSED:
            rows.append(Row(name, "left", _name(kind), _name(kind), "torch.nn has no such layer"))
        elif isinstance(module, nn.Sequential):
            module.__class__ = plain(kind)  # type: ignore[assignment]
        elif isinstance(module, OURS):
            is_changed = hasattr(module, "parametrizations")
            reason = "parametrized: remove its parametrizations first" if is_changed else "a subclass of ours"
            rows.append(Row(name, "left", _name(kind), _name(kind), reason))
    return ConvertReport(tuple(rows))


def _require_module(model: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but got {type(model).__name__}")


def _left(model: torch.nn.Module, filter_fn: Filter | None) -> dict[torch.nn.Module, str]:
    """The layers that must not be touched, each with the reason. The filter is asked for each of a layer's names."""
    left: dict[torch.nn.Module, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if module in left:
            continue
        if reason := _why_left(module):
            left[module] = reason
        elif filter_fn is not None and type(module) in (*SWAPS, *OURS) and not filter_fn(module, name):
            left[module] = "left by filter_fn"
    return left


def _why_left(module: torch.nn.Module) -> str:
    """Why a layer cannot be swapped or fused; empty where it can, and for a module that is no business of ours."""
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        supported = {layer.__name__ for layer in SWAPS}
        return "scripted: convert before torch.jit" if module.original_name in supported else ""
    if kind.__module__.startswith("torch.ao.nn.") and ".quantized." in kind.__module__ and "Conv" in kind.__name__:
        return "quantized: no kernel for it yet"
    if not isinstance(module, tuple(SWAPS)):
        return "not supported yet" if any(base.__module__ in NOT_YET for base in kind.__mro__) else ""
    if isinstance(module, LazyModuleMixin):
        return "lazy: convert after its first forward, when its sizes are known"
    if is_parametrized(module):
        return "parametrized: convert first, then parametrize"
    if kind not in (*SWAPS, *OURS):
        return "a subclass of torch.nn's layer: it may compute something else"
    if "forward" in vars(module) or "_conv_forward" in vars(module):
        return "its forward was replaced on the object"
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        return _why_conv_left(module)
    return ""


def _why_conv_left(conv: torch.nn.modules.conv._ConvNd) -> str:
    for name, parameter in conv.named_parameters(recurse=False):
        if parameter.dtype not in DTYPES:
            return f"{name} is {parameter.dtype}: expected float16, bfloat16, float32 or float64"
        if type(parameter) is not torch.nn.Parameter:
            return f"{name} is a {type(parameter).__name__}, not a plain tensor"
    return ""


def _fusing(container: torch.nn.Module) -> type | None:
    """The class by which a container fuses what it runs; None where its members may follow one another or not."""
    if not isinstance(container, torch.nn.Sequential) or "forward" in vars(container):
        return None
    kind: Any = type(container)
    return None if isinstance(container, torch.jit.ScriptModule) else fusing(kind)


def _fused(
    model: torch.nn.Module, left: dict[torch.nn.Module, str]
) -> tuple[list[tuple[str, ...]], dict[torch.nn.Module, str]]:
    """The names of what is fused; and for a convolution that is not, or not with the pooling after it, why."""
    fused: list[tuple[str, ...]] = []
    alone: dict[torch.nn.Module, str] = {}
    partly: dict[torch.nn.Module, str] = {}
    for holder, container in model.named_modules():
        members: Any = container._modules if _fusing(container) else {}
        names, layers = [f"{holder}.{name}".lstrip(".") for name in members], [*members.values()]
        while layers:
            length = fusible(layers) if isinstance(container, nn.Sequential) else 1
            obstacle = _obstacle(layers, names, length, left)
            if length > 1:
                fused.append(tuple(names[:length]))
                partly[layers[0]] = obstacle and f"{_stage(layers[length])} not fused: {obstacle}"
            else:
                alone[layers[0]] = f"not fused: {obstacle}"
            names, layers = names[length:], layers[length:]
    elsewhere = "not fused: only an nn.Sequential tells what follows"
    convolutions = [module for module in model.modules() if type(module) in FOLLOWS]
    return fused, {conv: partly.get(conv, alone.get(conv, elsewhere)) for conv in convolutions}


def _obstacle(layers: list[torch.nn.Module], names: list[str], length: int, left: dict[torch.nn.Module, str]) -> str:
    """Why the first of the layers is run with `length` of them and not with more; "" where no more could be."""
    for name, layer in zip(names[:length], layers, strict=False):
        if why := why_watched(layer):
            return f"{name} {why}"
    if length == len(layers):
        return "" if length > 1 else "nothing follows"
    name, layer = names[length], layers[length]
    if stage := _stage(layer):
        if layer in left:
            return f"{name}: {left[layer]}"
        if why := why_watched(layer):
            return f"{name} {why}"
        if stage == "batch norm" and layer.training:
            return f"{name} normalizes by its batch while it trains"
    return "" if length > 1 else f"{type(layer).__name__} follows"


def _stage(layer: torch.nn.Module) -> str:
    """What the layer would be in a convolution's kernel; "" if nothing."""
    kinds = [getattr(torch.nn, kind.__name__) for kind in ACTIVATIONS]
    if isinstance(layer, torch.nn.modules.pooling._MaxPoolNd):
        return "pooling"
    if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
        return "batch norm"
    return "activation" if isinstance(layer, tuple(kinds)) else ""


def _calls(model: torch.nn.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What forwards that are neither torch's nor ours call of torch.nn.functional, as far as their code shows it."""
    for kind in dict.fromkeys(type(module) for module in model.modules()):
        if kind.__module__.split(".")[0] not in ("torch", "tritonconv") and (names := calls_of(kind.forward)):
            yield _name(kind), tuple(names)


def _grouped(pairs: Iterable[tuple[Any, str]]) -> list[tuple[Any, str]]:
    """Each key once, in order, with its names as text: all of up to three, else the first two and how many more."""
    groups = collections.defaultdict(list)
    for key, name in pairs:
        groups[key].append(name or "(the model)")
    return [
        (key, ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]} and {len(names) - 2} more")
        for key, names in groups.items()
    ]


def _name(kind: type) -> str:
    """Where a user finds the class."""
    for rooms, public in (("torch.nn.modules.", "torch.nn"), ("tritonconv.nn.", "tritonconv.nn")):
        if kind.__module__.startswith(rooms):
            return f"{public}.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"
