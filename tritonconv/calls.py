"""The calls of our operators that a model makes: which operators, on what tensors, without the tensors' data."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Inputs are integers from −2 to 2. Products and sums of them are exact in every dtype's accumulator while a sum stays
# under 2²⁴ (4·K at most for a sum of K products, about 4·√K in fact), in whatever order they are added.
LARGEST_INPUT = 2


class Like(NamedTuple):
    """A tensor without its data."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, value: Any) -> Any:
        """A description of a tensor, a tuple of a list, anything else as it is: hashable."""
        if isinstance(value, torch.Tensor):
            return cls(tuple(value.shape), value.stride(), value.dtype, value.device)
        return tuple(value) if isinstance(value, list) else value

    def make(self, generator: torch.Generator) -> torch.Tensor:
        """A tensor of small random integers with these strides, also where they overlap."""
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        numel = reach + 1 if math.prod(self.shape) else 0
        low, high = -LARGEST_INPUT, LARGEST_INPUT + 1
        flat = torch.randint(low, high, (numel,), generator=generator, dtype=torch.int8, device=self.device)
        return flat.to(self.dtype).as_strided(self.shape, self.stride)


class Call(NamedTuple):
    """A call of one of our operators, with floating-point tensors described; codes are kept: they must fit a window."""

    op: Any
    args: tuple

    def replaced(self, **values: Any) -> tuple:
        """The arguments with some, by their names in the schema, replaced."""
        names = [argument.name for argument in self.op._schema.arguments]
        return tuple(values.get(name, value) for name, value in zip(names, self.args, strict=True))


class _Recorder(TorchDispatchMode):
    """Keeps the calls of our operators, one of each kind, on the way to their implementation."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[tuple, Call] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == "tritonconv":
            kept = tuple(Like.of(a) if not _is_code(a) else a.detach() for a in args)
            self.calls.setdefault((func, *map(Like.of, args)), Call(func, kept))
        return func(*args, **(kwargs or {}))


def _is_code(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_floating_point()


def record(model: Callable[..., Any], example: tuple) -> list[Call]:
    """The calls of forward and backward; the model's gradients, buffers and torch's random state stay as they are."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), _Recorder() as recorder:
        if isinstance(model, torch.nn.Module):
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            result = torch.func.functional_call(model, buffers, example)
        else:
            result = model(*example)
        outputs = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.grad_fn is not None]
        if leaves := list(leaves_of(outputs)):
            # not .backward(): nothing may be added to .grad
            torch.autograd.grad(outputs, leaves, [torch.ones_like(t) for t in outputs], allow_unused=True)
    return list(recorder.calls.values())


def leaves_of(outputs: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The leaves of the outputs' graph: what a backward would add gradients to."""
    nodes: list[Any] = [t.grad_fn for t in outputs]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            yield node.variable
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        nodes += following
