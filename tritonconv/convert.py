"""Swap and fuse the layers of an existing model in place, with a report of what was done and why.

A layer is swapped by giving the very object our class (docs/decisions/0003-convert-in-place.md), so its parameters,
hooks and aliases, and any optimizer over them, stay valid. First everything is decided, then everything is applied:
an error leaves the model untouched.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from tritonconv import nn
from tritonconv.problems import DTYPES

__all__ = ["Report", "Row", "convert"]

Filter = Callable[[torch.nn.Module, str], bool]

SWAPS: dict[type, type] = {torch.nn.Conv2d: nn.Conv2d, torch.nn.MaxPool2d: nn.MaxPool2d, torch.nn.ReLU: nn.ReLU}
OURS = (*SWAPS.values(), nn.ConvReLU2d, nn.ConvReLUMaxPool2d)
IDENTITY = "torch.nn.Identity"
NOT_YET = ("torch.nn.modules.conv", "torch.nn.modules.pooling", "torch.nn.modules.fold")  # their layers are reported


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer: its name in the model ("" is the model itself), what was done, its class before and after, and why."""

    name: str
    action: Literal["swapped", "fused", "left"]
    before: str
    after: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `convert` did: a row a layer, in the model's order. `print(report)` shows it as a table.

    A fused layer has one row for each of its members: the convolution becomes the fused layer, the others Identity.
    """

    rows: tuple[Row, ...]

    @property
    def swapped(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.action == "swapped")

    @property
    def fused(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.action == "fused")

    @property
    def left(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.action == "left")

    def __str__(self) -> str:
        lines = [("layer", "was", "became", "why")]
        for row in self.rows:
            after = "left" if row.action == "left" else row.after
            lines.append((row.name or "(the model)", row.before, after, row.reason))
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        table = ["  ".join([*map(str.ljust, line, widths), line[3]]).rstrip() for line in lines]
        into = sum(row.after != IDENTITY for row in self.fused)
        summary = f"{len(self.swapped)} swapped, {len(self.fused)} fused into {into}, {len(self.left)} left"
        return "\n".join([*table, summary])


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a module is registered: `parent` holds it as its attribute `slot`. The model itself has no parent."""

    name: str
    parent: torch.nn.Module | None
    slot: str
    module: torch.nn.Module


@dataclasses.dataclass(frozen=True)
class _Chain:
    """A convolution, and the ReLU and pooling after it that it takes over (`absorbed`)."""

    conv: _Place
    absorbed: tuple[_Place, ...]
    reason: str = ""

    @property
    def after(self) -> type:
        return nn.ConvReLU2d if len(self.absorbed) == 1 else nn.ConvReLUMaxPool2d


def convert(model: torch.nn.Module, fuse: bool = True, filter_fn: Filter | None = None) -> Report:
    """Put the Conv2d, MaxPool2d and ReLU layers of `model` on tritonconv's kernels, in place.

    Swapped are objects whose class is exactly torch.nn's; subclasses, parametrized, lazy, quantized and scripted ones
    are left. With `fuse`, a Conv2d → ReLU (→ MaxPool2d) that follow one another in an nn.Sequential, torch's or ours,
    become one ConvReLU2d or ConvReLUMaxPool2d at the convolution's place. The other places get an Identity, so that
    indices and state_dict keys stay. Layers with hooks and convolutions registered in two places are not fused.
    Parameters stay the same objects: optimizers go on. A layer for which `filter_fn(layer, name)` is false is left.

    What a custom forward does between its layers cannot be known: they are swapped, not fused. A forward that takes
    single layers out of an nn.Sequential (to tap what a convolution answers, say) wants fuse=False. Convert before the
    first call of torch.compile: a graph compiled earlier may go on with torch's layers.

    Returns a Report: every layer swapped, fused or left, and why. Layers of other kinds (Linear, ...) are not listed.

    Raises:
        TypeError: model is not an nn.Module, or filter_fn is not callable.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but got {type(model).__name__}")
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(f"filter_fn must be callable or None, but got {type(filter_fn).__name__}")
    places = list(_places(model))
    left = _left(model, filter_fn)
    chains, unfused = _chains(places, left) if fuse else ([], {})
    rows: dict[_Place, Row] = {}
    for chain in chains:
        conv, before = chain.conv, _name(type(chain.conv.module))
        members = f"takes over {', '.join(place.name for place in chain.absorbed)}"
        rows[conv] = Row(conv.name, "fused", before, _name(chain.after), _join(members, chain.reason))
        for place in chain.absorbed:
            rows[place] = Row(place.name, "fused", _name(type(place.module)), IDENTITY, f"fused into {conv.name}")
    swaps: dict[torch.nn.Module, type] = {}
    listed = set()
    for place in places:
        module, kind = place.module, type(place.module)
        if place in rows or module in listed:
            continue
        listed.add(module)
        if module in left:
            rows[place] = Row(place.name, "left", _name(kind), _name(kind), left[module])
        elif kind in SWAPS:
            swaps[module] = SWAPS[kind]
            rows[place] = Row(place.name, "swapped", _name(kind), _name(SWAPS[kind]), unfused.get(module, ""))
        elif kind in OURS:
            reason = _join("tritonconv's already", unfused.get(module, ""))
            rows[place] = Row(place.name, "left", _name(kind), _name(kind), reason)
    _apply(swaps, chains)
    return Report(tuple(rows[place] for place in places if place in rows))


def _places(model: torch.nn.Module) -> Iterator[_Place]:
    """Every registration, in the model's order; what lies in a container registered twice is entered once."""
    modules = dict(model.named_modules(remove_duplicate=False))
    entered = set()
    for name, module in modules.items():
        holder, _, slot = name.rpartition(".")
        parent = modules[holder] if name else None
        if (parent, slot) not in entered:
            entered.add((parent, slot))
            yield _Place(name, parent, slot, module)


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
    if "forward" in vars(module):
        return "its forward was replaced on the object"
    if isinstance(module, torch.nn.Conv2d):
        return _why_conv_left(module)
    return ""


def _why_conv_left(conv: torch.nn.Conv2d) -> str:
    if conv.padding_mode != "zeros":
        return f"padding_mode={conv.padding_mode!r} not supported yet"
    for name, parameter in conv.named_parameters(recurse=False):
        if parameter.dtype not in DTYPES:
            return f"{name} is {parameter.dtype}: expected float16, bfloat16, float32 or float64"
        if type(parameter) is not torch.nn.Parameter:
            return f"{name} is a {type(parameter).__name__}, not a plain tensor"
    return ""


def _chains(places: list[_Place], left: dict[torch.nn.Module, str]) -> tuple[list[_Chain], dict[torch.nn.Module, str]]:
    """The chains to fuse, and for every other convolution that is not left why it is not fused."""
    registered = collections.Counter(place.module for place in places)
    followers = _followers(places)
    chains, unfused = [], {}
    for conv in places:
        if type(conv.module) not in (torch.nn.Conv2d, nn.Conv2d) or conv.module in left:
            continue
        following = followers.get(conv, [])
        if registered[conv.module] > 1:
            reason = f"registered in {registered[conv.module]} places"
        elif conv not in followers:
            reason = "only an nn.Sequential tells what follows"
        elif not following or not isinstance(following[0].module, torch.nn.ReLU):
            reason = "no ReLU follows"
        else:
            reason = _obstacle(conv, left) or _obstacle(following[0], left)
        if reason:
            unfused[conv.module] = f"not fused: {reason}"
        elif len(following) == 1 or not isinstance(following[1].module, torch.nn.MaxPool2d):
            chains.append(_Chain(conv, (following[0],)))
        elif reason := _obstacle(following[1], left):
            chains.append(_Chain(conv, (following[0],), f"pooling not fused: {reason}"))
        else:
            chains.append(_Chain(conv, (following[0], following[1])))
    return chains, unfused


def _followers(places: Iterable[_Place]) -> dict[_Place, list[_Place]]:
    """For every place in an nn.Sequential the up to two after it. A subclass may run its layers in another way."""
    sequences = collections.defaultdict(list)
    for place in places:
        if type(place.parent) is torch.nn.Sequential and "forward" not in vars(place.parent):
            sequences[place.parent].append(place)
    return {place: row[i + 1 : i + 3] for row in sequences.values() for i, place in enumerate(row)}


def _obstacle(place: _Place, left: dict[torch.nn.Module, str]) -> str:
    """Why a layer cannot be a member of a fused one."""
    module = place.module
    if module in left:
        return f"{place.name}: {left[module]}"
    if any(hooks for key, hooks in vars(module).items() if key.endswith("_hooks")):
        return f"{place.name} has hooks"
    if isinstance(module, torch.nn.Conv2d):
        return ""
    if isinstance(module, torch.nn.MaxPool2d) and module.return_indices:
        return f"{place.name} returns indices"
    if [*module.parameters(), *module.buffers(), *module.children()]:
        return f"{place.name} holds a state of its own"
    return ""


def _apply(swaps: dict[torch.nn.Module, type], chains: Iterable[_Chain]) -> None:
    for module, ours in swaps.items():
        module.__class__ = ours
    for chain in chains:
        conv: Any = chain.conv.module
        conv.__class__ = chain.after
        for place in chain.absorbed:
            absorbed: Any = place.module
            if isinstance(absorbed, torch.nn.MaxPool2d):
                conv.pool_kernel_size, conv.pool_stride = absorbed.kernel_size, absorbed.stride
                conv.pool_padding, conv.pool_dilation = absorbed.padding, absorbed.dilation
                conv.ceil_mode = absorbed.ceil_mode
            setattr(place.parent, place.slot, torch.nn.Identity().train(absorbed.training))


def _name(kind: type) -> str:
    module = "torch.nn" if kind.__module__.startswith("torch.nn.modules.") else kind.__module__
    return f"{module}.{kind.__qualname__}"


def _join(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))
