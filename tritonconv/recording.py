"""The operators that a call runs, recorded: with their tensors, launches and choices, and with or without running them.

Without running: the call runs once on fake tensors, which have sizes, strides and a device but no data. Every operator
of ours gets as far as its launchers, which choose and launch: `jit.record_launches` and `tuning.record_choices` keep
what they ask for. `explain` shows that. With running, the call is what it always is, and the operators' arguments are
kept without their data: `autotune` makes inputs of its own from them.
"""

import contextlib
import dataclasses
import inspect
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.nn.parameter import is_lazy
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tritonconv import jit, tuning
from tritonconv.layouts import storage
from tritonconv.problems import ConvProblem, conv_problem
from tritonconv.replica import replica

FUSED = "convolution_max_pool"
# One function implements an operator on the CPU and on a GPU (ops/operator.py): it is called by its name for the CPU.
IMPLEMENTATION = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
# Inputs are integers from −2 to 2. Products and sums of them are exact in every dtype's accumulator while a sum stays
# under 2²⁴ (4·K at most for a sum of K products, about 4·√K in fact), in whatever order they are added.
LARGEST_INPUT = 2

_stance = threading.RLock()  # torch.compiler's is the process's


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


@dataclasses.dataclass(eq=False)
class Operation:
    """An operator's call as recorded. `source` is the forward call whose backward this is part of.

    If the operators ran, tensor arguments are `Like`s, and integer ones, an argmax, are kept: they must fit a window.
    """

    op: Any
    layer: str
    arguments: dict[str, Any]
    source: "Operation | None"
    outputs: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    launches: list[jit.Launch] = dataclasses.field(default_factory=list)
    choices: list[tuning.Choice] = dataclasses.field(default_factory=list)
    copies: list[tuple[str, list[torch.Tensor]]] = dataclasses.field(default_factory=list)

    @property
    def operator(self) -> str:
        return self.op._schema.name.split("::")[1]

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.arguments.items() if isinstance(value, torch.Tensor)}

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {**self.inputs, **self.outputs}

    @property
    def problem(self) -> ConvProblem | None:
        """Of a convolution, one of its gradients, or the one whose adjoint a transposed convolution is."""
        if not self.operator.startswith("convolution"):
            return None
        tensors = self.tensors
        x, w = (tensors[name if name in tensors else f"d{name}"] for name in ("x", "w"))
        x = tensors["y"] if self.operator == "convolution_transpose" else x
        names = ("stride", "padding", "dilation", "groups", "padding_mode")
        sizes = {name: self.arguments[name] for name in names if name in self.arguments}
        return conv_problem(x.shape, w.shape, None, **sizes)

    def touched(self) -> Iterator[tuple[str, list[torch.Tensor]]]:
        """The tensors of each launch and of each copy."""
        for launch in self.launches:
            yield launch.kernel.fn.__name__, [v for v in launch.arguments.values() if isinstance(v, torch.Tensor)]
        yield from self.copies


def record(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], backward: bool = True, run: bool = False
) -> list[Operation]:
    """The operations of `call(*args, **kwargs)`, in order, and of its backward where anything requires a gradient.

    A module is called in a replica: parameters, buffers, gradients and whatever else it holds stay as they are, and so
    does the random state.

    Raises:
        TypeError: a lazy module that does not know its sizes.
        RuntimeError: the call looks at the values of its tensors, and they have none.
    """
    with contextlib.ExitStack() as stack:
        if run:
            devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
            stack.enter_context(torch.random.fork_rng(devices=devices))
            recorder = _Recorder(None)
            if isinstance(call, torch.nn.Module):
                call = replica(call, _alias)
        else:
            _require_sizes(call)
            # what torch.compile made of a function runs as it was written: its compiler must not see this call
            stack.enter_context(_stance)
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            fake = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            recorder = _Recorder(fake)
            args, kwargs = _pytree.tree_map_only(torch.Tensor, recorder.without_data, (args, kwargs))
            if isinstance(call, torch.nn.Module):
                call = replica(call, recorder.without_data)
        if isinstance(call, torch.nn.Module):
            recorder.names = {layer: name for name, layer in call.named_modules()}
        stack.enter_context(recorder)
        try:
            outputs = call(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise RuntimeError(
                f"call must not look at its tensors' values to be explained, but ran {error.func}"
            ) from error
        if backward:
            _run_backward(outputs)
    return recorder.seen


def _require_sizes(call: Any) -> None:
    tensors = [*call.named_parameters(), *call.named_buffers()] if isinstance(call, torch.nn.Module) else []
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise TypeError(f"call must know its sizes, but {name} is a {type(tensor).__name__}: run the module once")


def _alias(t: torch.Tensor) -> torch.Tensor:
    """A parameter on the same memory, with a gradient of its own; a copy of what a call may write."""
    if not isinstance(t, torch.nn.Parameter):
        return t.detach().clone()
    return torch.nn.Parameter(t.detach(), t.requires_grad)


def _run_backward(outputs: Any) -> None:
    ends = [t for t in _pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor) and t.grad_fn is not None]
    if ends:  # a graph that was there before the call is needed again: it is kept
        torch.autograd.backward(ends, [torch.ones_like(t) for t in ends], retain_graph=True)


class _Recorder(TorchDispatchMode):
    """Keeps the calls of our operators; on fake tensors also what they allocate, choose and launch."""

    def __init__(self, fake: FakeTensorMode | None) -> None:
        super().__init__()
        self.seen: list[Operation] = []
        self._fake = fake
        self._target = tuning.current_target()  # autograd's threads, which meet this mode, know no context of ours
        self.names: dict[torch.nn.Module, str] = {}
        self._grads: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}
        self._sources: dict[int, Operation] = {}  # by the sequence number of the autograd node that a call got
        self._inside: Operation | None = None

    def _layer(self) -> str:
        """The innermost layer that is running, by its name. A hook would tell, but layers with hooks are not fused."""
        frame = inspect.currentframe()
        while frame is not None:
            layer = frame.f_locals.get("self")
            if isinstance(layer, torch.nn.Module) and layer in self.names:
                return self.names[layer]
            frame = frame.f_back
        return ""

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._inside is None:
            for leaf, grad in self._grads.values():
                leaf.grad = grad

    def _set_aside_gradients(self, args: Any) -> None:
        """Backward will add to a leaf that the call found without being given it: its .grad is put back in the end."""
        for t in _pytree.tree_leaves(args):
            if isinstance(t, torch.Tensor) and t.requires_grad and t.is_leaf and id(t) not in self._grads:
                self._grads[id(t)] = (t, t.grad)
                t.grad = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._inside is not None:
            return self._watch_copy(self._inside, func, args, kwargs or {})
        self._set_aside_gradients(args)
        if func.namespace != "tritonconv":
            return func(*args, **(kwargs or {}))
        names = [argument.name for argument in func._schema.arguments]
        if self._fake is None:
            described = [a.detach() if _is_code(a) else Like.of(a) for a in args]
            self.seen.append(Operation(func, "", dict(zip(names, described, strict=True)), None))
            return func(*args)
        latest = torch.autograd._get_sequence_nr() - 1
        args = [self.without_data(a) for a in args]
        node = torch._C._current_autograd_node()
        source = None if node is None else self._sources.get(node._sequence_nr())
        arguments = dict(zip(names, args, strict=True))
        self._inside = seen = Operation(func, self._layer(), arguments, source)
        try:
            with (
                tuning.target(self._target),
                jit.record_launches() as seen.launches,
                tuning.record_choices() as seen.choices,
                self,
            ):
                outputs = func.redispatch(IMPLEMENTATION, *args)
        finally:
            self._inside = None
        returned = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        seen.outputs = {r.name: t for r, t in zip(func._schema.returns, returned, strict=True)}
        self.seen.append(seen)
        # the latest node is the one that autograd has just made for this call; if it made none, an older call's
        self._sources.setdefault(latest, seen)
        return outputs

    def without_data(self, value: Any) -> Any:
        """A tensor of the caller's own without its data, as a leaf: what led to it is no part of the call."""
        if self._fake is None or not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
            return value
        if not value.is_leaf:
            with unset_fake_temporarily():
                value = value.detach().requires_grad_()
        return self._fake.from_tensor(value)

    @staticmethod
    def _watch_copy(seen: Operation, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run torch's own operator inside one of ours; note it if it wrote a new tensor, as a reshape may."""
        out = func(*args, **kwargs)
        read = [a for a in args if isinstance(a, torch.Tensor)]
        new = isinstance(out, torch.Tensor) and storage(out) not in map(storage, read)
        written = func is torch.ops.aten.copy_.default
        if written or (new and read and "empty" not in func.__name__):
            seen.copies.append((f"a copy by torch's {func.__name__.split('.')[0]}", [*read, out]))
        return out


def _is_code(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_floating_point()
