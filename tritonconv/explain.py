"""What a call would do on our kernels and why: algorithm, tile, floor, and the bytes moved and saved.

Nothing is computed. The call runs once on fake tensors, which have sizes and a device but no data, and every operator
of ours hands its launches and its decisions over instead of running (`jit.record_launches`, `tuning.record_choices`).
The reasons are `tuning`'s own words.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tritonconv import jit, tuning
from tritonconv.geometry import ConvGeometry, conv_geometry

__all__ = ["Call", "Launch", "Report", "Step", "explain"]

FUSED = "conv2d_bias_relu_max_pool2d"
# What each operator returns, by the names of docs/architecture.md; `code` is pooling's place code.
OUTPUTS = {
    "conv2d": ("y",),
    "conv2d_dgrad": ("dx",),
    "conv2d_wgrad": ("dw", "db"),
    FUSED: ("y", "code"),
    "max_pool2d": ("y", "code", "indices"),
    "max_pool2d_backward": ("dx",),
    "max_pool2d_gather": ("y",),
    "relu": ("y",),
    "relu_backward": ("dx",),
    "unfold": ("columns",),
    "fold": ("y",),
}
INDEX_BYTES = torch.int64.itemsize  # what torch's pooling writes and keeps for each output
# One function implements an operator on the CPU and on a GPU (ops.py): it is called by its name for the CPU.
IMPLEMENTATION = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
LEGEND = """\
Counted: 2 FLOP a multiply-add inside the picture, none for bias, ReLU and comparisons; a tensor once for each kernel
that takes it, however often its tiles read it; torch's layers likewise, each for itself, at the least they can move."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """One kernel: its programs, its tile (BLOCK_*, FLATTEN_TAPS, PRECISION, warps, stages), and bytes of its tensors."""

    kernel: str
    grid: tuple[int, ...]
    tile: dict[str, Any]
    moved_bytes: int

    def __str__(self) -> str:
        tile = "".join(f", {name} {value}" for name, value in self.tile.items())
        return f"{self.kernel}: {math.prod(self.grid)} programs{tile}" if self.grid else f"{self.kernel}, a copy"


@dataclasses.dataclass(frozen=True)
class Call:
    """One operator. `algorithm` is "" where there is one alone; `floor_s` is in seconds, None without both rates.

    `least_bytes` reads each input once and writes each output once; `torch_bytes` is what torch's layers move for it.
    """

    operator: str
    dtype: torch.dtype
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    algorithm: str
    reasons: tuple[str, ...]
    launches: tuple[Launch, ...]
    flops: int
    least_bytes: int
    torch_bytes: int
    floor_s: float | None = None
    bound: Literal["", "memory", "arithmetic"] = ""

    @property
    def moved_bytes(self) -> int:
        return sum(launch.moved_bytes for launch in self.launches)

    @property
    def intensity(self) -> float:
        """FLOP a byte at the floor."""
        return self.flops / self.least_bytes if self.least_bytes else 0.0

    def lines(self) -> Iterator[str]:
        inputs, outputs = (", ".join(f"{k} {v}" for k, v in t.items()) for t in (self.inputs, self.outputs))
        yield f"  {self.operator}, {str(self.dtype).removeprefix('torch.')}: {inputs} -> {outputs}"
        first, *others = self.reasons or ("",)
        if self.algorithm:
            yield f"    algorithm  {self.algorithm}, {first}"
        else:
            others = [first, *others]
        if not self.launches:
            yield "    tile       nothing to launch: the output is empty"
        for launch in self.launches:
            yield f"    tile       {launch}"
        for reason in filter(None, others):
            yield f"    why        {reason}"
        work = f"{_si(self.flops, 'FLOP')}, " if self.flops else ""
        ratio = f", {self.intensity:.3g} FLOP/B" if self.flops else ""
        time = "" if self.floor_s is None else f"; {self.floor_s * 1e6:.3g} µs, bound by {self.bound}"
        yield f"    floor      {work}{_si(self.least_bytes, 'B')}{ratio}{time}"


@dataclasses.dataclass(frozen=True)
class Step:
    """Forward of a layer, one operator, or its backward, one to three. `layer` is the module's name, "" if unknown.

    `least_bytes` counts what enters and leaves the step once, `between` what its kernels hand one another: (dtype and
    shape, bytes moved). `kept_bytes` is what forward keeps for backward beside the layer's inputs; torch's beside it.
    """

    layer: str
    phase: Literal["forward", "backward"]
    of: str
    calls: tuple[Call, ...]
    least_bytes: int
    between: tuple[tuple[str, int], ...]
    kept_bytes: int
    torch_kept_bytes: int

    @property
    def flops(self) -> int:
        return sum(call.flops for call in self.calls)

    @property
    def moved_bytes(self) -> int:
        return sum(call.moved_bytes for call in self.calls)

    @property
    def torch_bytes(self) -> int:
        return sum(call.torch_bytes for call in self.calls)

    @property
    def saved_bytes(self) -> int:
        """Against torch's layers; negative where ours move more."""
        return self.torch_bytes - self.moved_bytes

    def lines(self) -> Iterator[str]:
        yield f"{self.layer or '(call)'}: {self.phase} of {self.of}"
        for call in self.calls:
            yield from call.lines()
        between = ", ".join(f"{tensor} {_si(moved, 'B')}" for tensor, moved in self.between)
        between = f"; between kernels: {between}" if between else ""
        yield f"  moved  {_si(self.moved_bytes, 'B')}, the least is {_si(self.least_bytes, 'B')}{between}"
        kept = f"; kept for backward {_si(self.kept_bytes, 'B')}, by torch {_si(self.torch_kept_bytes, 'B')}"
        yield f"  saved  {_saved(self.saved_bytes, self.torch_bytes)}{kept if self.torch_kept_bytes else ''}"


@dataclasses.dataclass(frozen=True)
class Report:
    """What `explain` found: a step a layer and pass, in the order of the call. `print(report)` shows it."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        if not self.steps:
            return "No operator of tritonconv was called; tritonconv.convert puts a model's layers on them."
        lines = [line for step in self.steps for line in step.lines()]
        for phase in ("forward", "backward"):
            steps = [step for step in self.steps if step.phase == phase]
            if len(steps) > 1:
                flops, moved, torchs = (
                    sum(getattr(s, f) for s in steps) for f in ("flops", "moved_bytes", "torch_bytes")
                )
                saved = _saved(torchs - moved, torchs)
                lines.append(f"all {phase}: {_si(flops, 'FLOP')}, {_si(moved, 'B')} moved; saved {saved}")
        return "\n".join([*lines, LEGEND])


def explain(
    call: Callable[..., Any],
    *args: Any,
    backward: bool = True,
    copy_bytes_per_s: float | None = None,
    matrix_flops_per_s: float | None = None,
    **kwargs: Any,
) -> Report:
    """Which kernels `call(*args, **kwargs)` and its backward would launch, in which tiles, why, and what they move.

    The Python code of `call` runs once, on tensors without data: nothing is computed or allocated, and parameters,
    buffers, gradients and the random state stay as they are. Backward is taken where anything requires a gradient, for
    gradients of the outputs in the outputs' own layout.

    Args:
        call: a module, or a function such as tritonconv.functional.conv2d. Modules show their layers' names.
        args, kwargs: what it is called with, tensors of any size on any device.
        backward: explain the backward pass too.
        copy_bytes_per_s, matrix_flops_per_s: what the device reaches, as `python -m bench` measures it: bytes read
            plus bytes written a second by a copy, FLOP a second by a matrix product in this dtype. With both, a floor
            has a time, and names which of the two bounds it.

    Returns a Report; print it. Tiles are for the device that holds the tensors.

    Raises:
        TypeError: an argument of the wrong type, one rate without the other, or a lazy module without its sizes.
        ValueError: a rate that is not above zero.
        What the call itself raises; one that looks at its tensors' values cannot be explained (RuntimeError).
    """
    if not callable(call):
        raise TypeError(f"call must be a torch.nn.Module or a function, but got call={call!r}")
    if not isinstance(backward, bool):
        raise TypeError(f"backward must be True or False, but got backward={backward!r}")
    rates = {"copy_bytes_per_s": copy_bytes_per_s, "matrix_flops_per_s": matrix_flops_per_s}
    _require_rates(rates)
    module = call if isinstance(call, torch.nn.Module) else torch.nn.Module()
    for name, layer in module.named_modules():
        if isinstance(layer, LazyModuleMixin) and layer.has_uninitialized_params():
            raise TypeError(
                f"call must know its sizes, but layer {name!r} is a lazy {type(layer).__name__}: run it once"
            )
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    recorder = _Recorder(fake)
    with fake, recorder, recorder.naming(module):
        args, kwargs = _pytree.tree_map_only(torch.Tensor, fake.from_tensor, (args, kwargs))
        if call is module:
            state = {name: fake.from_tensor(t) for name, t in [*module.named_parameters(), *module.named_buffers()]}
            outputs = torch.func.functional_call(module, state, args, kwargs)
        else:
            outputs = call(*args, **kwargs)
        if backward:
            _run_backward(outputs)
        return Report(tuple(_steps(recorder.seen, copy_bytes_per_s, matrix_flops_per_s)))


def _require_rates(rates: dict[str, float | None]) -> None:
    for name, rate in rates.items():
        if rate is not None and (not isinstance(rate, int | float) or isinstance(rate, bool)):
            raise TypeError(f"{name} must be a number, but got {name}={rate!r}")
        if rate is not None and not rate > 0:
            raise ValueError(f"{name} must be above zero, but got {name}={rate!r}")
    if len([rate for rate in rates.values() if rate is None]) == 1:
        given = ", ".join(f"{name}={rate!r}" for name, rate in rates.items())
        raise TypeError(f"expected both rates or neither, but got {given}")


def _run_backward(outputs: Any) -> None:
    """Backward from every output to every leaf below it; no leaf's .grad is touched."""
    ends = [t for t in _pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor) and t.grad_fn is not None]
    leaves, seen, nodes = [], set(), [t.grad_fn for t in ends]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        nodes += [following for following, _ in node.next_functions]
    if leaves:  # a graph that was there before the call is needed again: it is kept
        torch.autograd.grad(ends, leaves, [torch.empty_like(t) for t in ends], retain_graph=True, allow_unused=True)


@dataclasses.dataclass(eq=False)
class _Seen:
    """An operator's call as recorded. `source` is the forward call whose backward this is part of."""

    operator: str
    layer: str
    arguments: dict[str, Any]
    source: "_Seen | None"
    outputs: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    launches: list[jit.Launch] = dataclasses.field(default_factory=list)
    choices: list[tuning.Choice] = dataclasses.field(default_factory=list)
    copies: list[tuple[str, list[torch.Tensor]]] = dataclasses.field(default_factory=list)

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.arguments.items() if isinstance(value, torch.Tensor)}

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {**self.inputs, **self.outputs}

    @property
    def geometry(self) -> ConvGeometry | None:
        """Of a convolution or one of its gradients."""
        if not self.operator.startswith("conv2d"):
            return None
        tensors = self.tensors
        x, w = (tensors[name if name in tensors else f"d{name}"] for name in ("x", "w"))
        sizes = (self.arguments[name] for name in ("stride", "padding", "dilation", "groups"))
        return conv_geometry(x.shape, w.shape, None, *sizes)

    def touched(self) -> Iterator[tuple[str, list[torch.Tensor]]]:
        """The tensors of each launch and of each copy."""
        for launch in self.launches:
            yield launch.kernel.fn.__name__, [v for v in launch.arguments.values() if isinstance(v, torch.Tensor)]
        yield from self.copies


class _Recorder(TorchDispatchMode):
    """Lets our operators allocate and choose on fake tensors, and keeps what they chose and launched."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.seen: list[_Seen] = []
        self._fake = fake
        self._layers = [""]
        self._sources: dict[int, _Seen] = {}  # by the sequence number of the autograd node that a call got
        self._inside: _Seen | None = None

    @contextlib.contextmanager
    def naming(self, module: torch.nn.Module) -> Iterator[None]:
        """Know the name of the innermost layer that is running."""

        def leave(*_: Any) -> None:
            self._layers.pop()

        handles = []
        for name, layer in module.named_modules():
            handles.append(layer.register_forward_pre_hook(lambda *_, name=name: self._layers.append(name)))
            handles.append(layer.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._inside is not None:
            return self._watch_copy(self._inside, func, args, kwargs or {})
        if func.namespace != "tritonconv":
            return func(*args, **(kwargs or {}))
        args = [self._fake.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
        node = torch._C._current_autograd_node()
        source = None if node is None else self._sources.get(node._sequence_nr())
        arguments = {a.name: value for a, value in zip(func._schema.arguments, args, strict=True)}
        operator = func._schema.name.split("::")[1]
        self._inside = seen = _Seen(operator, source.layer if source else self._layers[-1], arguments, source)
        try:
            with jit.record_launches() as seen.launches, tuning.record_choices() as seen.choices, self:
                outputs = func.redispatch(IMPLEMENTATION, *args)
        finally:
            self._inside = None
        returned = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        seen.outputs = dict(zip(OUTPUTS[operator], returned, strict=True))
        self.seen.append(seen)
        # the node that autograd has just made for this call; without one, the number is an older node's
        self._sources.setdefault(torch.autograd._get_sequence_nr() - 1, seen)
        return outputs

    @staticmethod
    def _watch_copy(seen: _Seen, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run torch's own operator inside one of ours; note it if it wrote a new tensor, as a reshape may."""
        out = func(*args, **kwargs)
        read = [a for a in args if isinstance(a, torch.Tensor)]
        new = isinstance(out, torch.Tensor) and _storage(out) not in map(_storage, read)
        if new and read and "empty" not in func.__name__:
            seen.copies.append((f"torch's {func.__name__.split('.')[0]}", [*read, out]))
        return out


def _steps(seen: list[_Seen], copy_bytes_per_s: float | None, matrix_flops_per_s: float | None) -> Iterator[Step]:
    steps: dict[tuple[_Seen, bool], list[_Seen]] = {}
    for call in seen:
        steps.setdefault((call.source or call, call.source is not None), []).append(call)
    for (source, is_backward), calls in steps.items():
        least, between = _traffic(calls)
        kept, torch_kept = (0, 0) if is_backward else _kept(source)
        yield Step(
            layer=source.layer,
            phase="backward" if is_backward else "forward",
            of=source.operator,
            calls=tuple(_call(call, copy_bytes_per_s, matrix_flops_per_s) for call in calls),
            least_bytes=least,
            between=between,
            kept_bytes=kept,
            torch_kept_bytes=torch_kept,
        )


def _call(seen: _Seen, copy_bytes_per_s: float | None, matrix_flops_per_s: float | None) -> Call:
    launches = [
        Launch(launch.kernel.fn.__name__, launch.grid, _tile(launch), _footprints(tensors))
        for launch, (_, tensors) in zip(seen.launches, seen.touched(), strict=False)
    ]
    launches += [Launch(name, (), {}, _footprints(tensors)) for name, tensors in seen.copies]
    algorithms = [choice for choice in seen.choices if choice.about == "algorithm"]
    chosen = [*algorithms, *(choice for choice in seen.choices if choice.about != "algorithm")]
    least = _footprints(seen.tensors.values()) if launches else 0
    flops = 2 * seen.geometry.multiply_adds if seen.geometry else 0
    arithmetic = memory = 0.0
    if matrix_flops_per_s and copy_bytes_per_s:
        arithmetic, memory = flops / matrix_flops_per_s, least / copy_bytes_per_s
    known = copy_bytes_per_s is not None
    return Call(
        operator=seen.operator,
        dtype=next(iter(seen.inputs.values())).dtype,
        inputs={name: tuple(t.shape) for name, t in seen.inputs.items()},
        outputs={name: tuple(t.shape) for name, t in seen.outputs.items() if t.numel()},
        algorithm=algorithms[0].chosen if algorithms else "",
        reasons=tuple(dict.fromkeys(choice.reason for choice in chosen)),
        launches=tuple(launches),
        flops=flops,
        least_bytes=least,
        torch_bytes=least + _torch_extra(seen) if launches else 0,
        floor_s=max(arithmetic, memory) if known else None,
        bound=("arithmetic" if arithmetic >= memory else "memory") if known else "",
    )


def _tile(launch: jit.Launch) -> dict[str, Any]:
    shown = {k: v for k, v in launch.arguments.items() if k.startswith("BLOCK_") or k in ("FLATTEN_TAPS", "PRECISION")}
    return shown | {k: v for k, v in launch.options.items() if k in ("num_warps", "num_stages")}


def _traffic(calls: list[_Seen]) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Bytes that enter and leave a step, each tensor once; and what its kernels write and read in between."""
    written = {_storage(t) for call in calls for t in call.outputs.values()}
    handed_on = written & {_storage(t) for call in calls for t in call.inputs.values()}
    ends = {
        (_storage(t), t.storage_offset(), t.shape, t.stride()): t
        for call in calls
        if call.launches
        for t in call.tensors.values()
        if _storage(t) not in handed_on
    }
    outside = {_storage(t) for t in ends.values()}
    between: dict[str, int] = {}
    for _, tensors in (touched for call in calls for touched in call.touched()):
        for t in tensors:
            if _storage(t) not in outside:
                label = f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}"
                between[label] = between.get(label, 0) + _footprints([t])
    return _footprints(ends.values()), tuple(between.items())


def _torch_extra(seen: _Seen) -> int:
    """Bytes that torch's layers move beyond the operator's least: int64 indices, and the pictures between layers.

    The chain is conv + bias → y, ReLU: y → y, max pooling: y → pooled y and an index for each, and back the same way.
    """
    extra = 0
    if "code" in seen.tensors:
        code = seen.tensors["code"]
        extra += code.numel() * (INDEX_BYTES - code.itemsize)
    if "indices" in seen.outputs:  # torch's one index serves the caller too
        extra -= seen.outputs["indices"].nbytes
    if seen.operator == FUSED:  # y written, read, written, read
        extra += 4 * _picture_bytes(seen)
    elif seen.operator == "conv2d" and seen.arguments["relu"]:
        extra += 2 * _picture_bytes(seen)
    elif seen.operator == "max_pool2d_backward" and seen.source and seen.source.operator == FUSED:
        extra += 3 * _picture_bytes(seen.source)  # ReLU's backward reads dy and y, writes dy
    return extra


def _kept(seen: _Seen) -> tuple[int, int]:
    """What a backward needs kept beside the operator's inputs: (ours, torch's)."""
    if seen.operator == "relu" or (seen.operator == "conv2d" and seen.arguments["relu"]):
        return (seen.outputs["y"].nbytes,) * 2
    if seen.operator not in (FUSED, "max_pool2d"):
        return 0, 0
    code = seen.outputs["code"]
    picture = _picture_bytes(seen) if seen.operator == FUSED else 0
    return code.nbytes, picture + INDEX_BYTES * code.numel()


def _picture_bytes(seen: _Seen) -> int:
    """Of what the convolution gives, before any pooling."""
    assert seen.geometry is not None
    return math.prod(seen.geometry.output_shape) * seen.outputs["y"].itemsize


def _footprints(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of memory that the tensors' elements lie in; an expanded axis counts once."""
    total = 0
    for t in tensors:
        reach = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
        distinct = math.prod(size for size, stride in zip(t.shape, t.stride(), strict=True) if stride)
        total += min(distinct, reach) * t.itemsize if t.numel() else 0
    return total


def _storage(t: torch.Tensor) -> int:
    return t.untyped_storage()._cdata


def _si(value: float, unit: str) -> str:
    """Three digits and a decimal prefix: 1,234,567 B is 1.23 MB."""
    for prefix in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} T{unit}"


def _saved(saved: int, by_torch: int) -> str:
    theirs = f"{_si(by_torch, 'B')} that torch's layers move"
    if saved < 0:
        return f"nothing: {_si(-saved, 'B')} more than the {theirs}"
    return f"{_si(saved, 'B')} of the {theirs}" if saved else f"nothing of the {theirs}"
