"""What an operator does on tensors like these, worked out once: its results, its scratch, its launches.

The operator runs once with its launches recorded instead of run. A plan has them without the tensors: used again it
allocates, fills in, and launches; on a GPU without a look at anything but addresses. It holds for tensors of the same
shapes, strides, dtypes, devices and alignment, for the same other arguments, tuned choices and precision: its key.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.compiler import CompiledKernel

from tritonconv import jit, tuning
from tritonconv.layouts import storage

Tensors = tuple[torch.Tensor, ...]
# Of an operator: as many sizes are in use at once, or all are worked out anew.
MOST = 1024
# torch.backends.cudnn.conv.fp32_precision, which takes four times as long.
_precision = functools.partial(torch._C._get_fp32_precision_getter, "cuda", "conv")


def key(tensors: Sequence[torch.Tensor | None], others: Sequence[Any]) -> Hashable | None:
    """What a plan for these arguments holds for; None where there can be none."""
    if (number := tuning.number()) is None or jit.recorded() is not None:
        return None
    parts = [number, *others]
    dtype = None
    for t in tensors:
        if t is None:
            parts.append(None)
            continue
        try:
            address = t.data_ptr()
        except RuntimeError:  # a batch of torch.vmap's, say, or zeros that are nowhere
            return None
        if address == 0 or t.is_neg():  # nothing to launch on, or not what lies in memory
            return None
        dtype = t.dtype
        parts += t.shape, t.stride(), dtype, t.get_device(), address % 16, t.requires_grad
    if dtype is torch.float32:
        parts.append(_precision())
    return tuple(parts)


class _Place(NamedTuple):
    """Where a launch's tensor is found: the number of one of the plan's, and what view of it."""

    tensor: int
    offset: int = 0  # bytes
    view: tuple[tuple[int, ...], tuple[int, ...]] | None = None  # its shape and strides

    def of(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        t = tensors[self.tensor]
        if self.view is None:
            return t
        return t.as_strided(*self.view, t.storage_offset() + self.offset // t.element_size())


class _Step:
    """A launch, on other tensors each time."""

    def __init__(self, launch: jit.Launch, places: dict[str, _Place]) -> None:
        self.launch = launch._replace(arguments=launch.arguments | dict.fromkeys(places))
        self.places = places
        self.run: Callable[[Sequence[torch.Tensor]], None] = self.first

    def first(self, tensors: Sequence[torch.Tensor]) -> None:
        on_tensors = {name: place.of(tensors) for name, place in self.places.items()}
        compiled = self.launch._replace(arguments=self.launch.arguments | on_tensors).run()
        if compiled is not None:
            self._keep(compiled, jit.common_device(on_tensors.values()))

    def _keep(self, compiled: CompiledKernel, device: torch.device) -> None:
        names = [p.name for p in self.launch.kernel.params]
        addressed = [(names.index(name), place.tensor, place.offset) for name, place in self.places.items()]
        self.run = jit.Again(compiled, device, self.launch, addressed).run


class _Watch(TorchDispatchMode):
    """Notes new tensors, and whether anything but a launch wrote one."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.new: list[torch.Tensor] = []
        self.known = {storage(t) for t in tensors}
        self.is_complete = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and "empty" in func.__name__:
            self.new.append(out)
            self.known.add(storage(out))
        elif func._schema.is_mutable or not isinstance(out, torch.Tensor) or storage(out) not in self.known:
            self.is_complete = False
        return out


class Plan:
    """An operator's results, uninitialised, its scratch, and its launches."""

    def __init__(self, new: Sequence[torch.Tensor], results: int, steps: Sequence[_Step]) -> None:
        self.allocators = list(map(_allocator, new))
        # a result of no elements is one that was not asked for
        self.wanted = [allocate if t.numel() else _nothing for t, allocate in zip(new, self.allocators, strict=True)]
        self.is_floating = [t.is_floating_point() for t in new]
        self.link = _allocator(new[0].new_empty(0))
        self.results = results
        self.steps = steps

    def run(self, tensors: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor | None, ...]:
        """The results; None for one of no elements."""
        everything: Any = [*tensors]
        for allocate in self.wanted:
            everything.append(allocate())
        for step in self.steps:
            step.run(everything)
        count = len(tensors)
        return tuple(everything[count : count + self.results])

    def whole(self, results: Sequence[torch.Tensor | None]) -> Tensors:
        """With a tensor for each."""
        return tuple(self.allocators[i]() if t is None else t for i, t in enumerate(results))

    def gradient(self, number: int) -> torch.Tensor | None:
        """The gradient of a result that nothing depends on: zeros, or None of integers."""
        return self.allocators[number]().zero_() if self.is_floating[number] else None


def _allocator(t: torch.Tensor) -> Callable[[], torch.Tensor | Any]:
    """For tensors like it, of which this one is left without its memory: by a few arguments torch takes longer."""
    t.untyped_storage().resize_(0)
    return functools.partial(torch.empty_like, t)


def _nothing() -> None:
    """In the place of a result that was not asked for."""


def make(tensors: Sequence[torch.Tensor | None], run: Callable[..., Tensors]) -> Plan | None:
    """A plan of `run(*tensors)`, which returns results of its own; None if it does more than launch."""
    given = [None if t is None else t.detach() for t in tensors]  # no two are one
    present = [t for t in given if t is not None]
    with _Watch(present) as watch, jit.record_launches() as launches:
        results = run(*given)
    owned = {storage(t) for t in results}
    if not watch.is_complete or len(owned - set(map(storage, present))) < len(results):
        return None
    if results[0].numel() == 0:  # nothing to launch, and a plan answers None in the place of no elements
        return None
    new = [*results, *(t for t in watch.new if storage(t) not in owned)]
    steps = []
    for launch in launches:
        places = {}
        for name, value in launch.arguments.items():
            if isinstance(value, torch.Tensor) and storage(value) in watch.known:
                place = _find(value, [*given, *new])
                if place is None:
                    return None
                places[name] = place
        steps.append(_Step(launch, places))
    return Plan(new, len(results), steps)


def _find(t: torch.Tensor, tensors: Sequence[torch.Tensor | None]) -> _Place | None:
    """None for a view of memory that two of them share, another time it may not be shared; and of no elements."""
    for i, each in enumerate(tensors):
        if each is t and t.numel() > 0:
            return _Place(i)
    owners = [(i, each) for i, each in enumerate(tensors) if each is not None and storage(each) == storage(t)]
    if len(owners) != 1 or owners[0][1].dtype != t.dtype or t.numel() == 0:
        return None
    i, owner = owners[0]
    if t.data_ptr() == owner.data_ptr() and (t.shape, t.stride()) == (owner.shape, owner.stride()):
        return _Place(i)
    return _Place(i, t.data_ptr() - owner.data_ptr(), (tuple(t.shape), t.stride()))
