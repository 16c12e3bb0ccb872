"""What a call would do on our kernels and why: algorithm, tile, floor, and the bytes moved and saved.

Nothing is computed: `recording` runs the call on tensors without data. Nothing is modelled a second time: tiles, grids
and the tensors of a launch are the launchers' own, and the reasons are `tuning`'s own words.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch

from tritonconv import jit, tuning
from tritonconv.kernels.epilogue import activation
from tritonconv.layouts import storage
from tritonconv.recording import FUSED, Operation, record

__all__ = ["Call", "ExplainReport", "Launch", "Step", "explain"]

NOTHING = "No operator of tritonconv was called; tritonconv.convert puts a model's layers on them."
LARGEST = 5  # steps that a summary names
INDEX_BYTES = torch.int64.itemsize  # what torch's pooling writes and keeps for each output
LEGEND = """\
Counted: 2 FLOP a multiply-add inside the image, none for bias, ReLU and comparisons; a tensor once for each kernel
that takes it, however often its tiles read it; torch's layers likewise, each for itself, at the least they can move."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """One kernel: its programs, its tile (BLOCK_*, FLATTEN_TAPS, num_warps, num_stages), the bytes of its tensors."""

    kernel: str
    grid: tuple[int, ...]
    tile: dict[str, Any]
    moved_bytes: int

    def __str__(self) -> str:
        if not self.grid:
            return self.kernel
        programs = math.prod(self.grid)
        blocks = " x ".join(f"{k.removeprefix('BLOCK_')} {v}" for k, v in self.tile.items() if k.startswith("BLOCK_"))
        options = "".join(
            f", {self.tile[f'num_{what}']} {what}" for what in ("warps", "stages") if f"num_{what}" in self.tile
        )
        return f"{self.kernel}: {programs} program{'s' * (programs != 1)} of {blocks}{options}"


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
        inputs, outputs = (", ".join(f"{k} {_by(v)}" for k, v in t.items()) for t in (self.inputs, self.outputs))
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
        time = "" if self.floor_s is None else f"; {self.floor_s * 1e6:.3g} us, bound by {self.bound}"
        yield f"    floor      {work}{_si(self.least_bytes, 'B')}{ratio}{time}"


@dataclasses.dataclass(frozen=True)
class Step:
    """Forward of a layer, one operator, or its backward, one to three. `layer` is the module's name, "" if unknown.

    `least_bytes` counts what enters and leaves the step once, `between` what its kernels hand one another: ("float32
    2x3", bytes moved). `kept_bytes` is what forward keeps for backward beside the layer's inputs; torch's beside it.
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
        yield f"{self.layer}: {self.phase} of {self.of}".removeprefix(": ")
        for call in self.calls:
            yield from call.lines()
        between = ", ".join(f"{tensor} {_si(moved, 'B')}" for tensor, moved in self.between)
        between = f"; between kernels: {between}" if between else ""
        yield f"  moved  {_si(self.moved_bytes, 'B')}, the least is {_si(self.least_bytes, 'B')}{between}"
        kept = f"; kept for backward {_si(self.kept_bytes, 'B')}, by torch {_si(self.torch_kept_bytes, 'B')}"
        yield f"  saved  {_saved(self.saved_bytes, self.torch_bytes)}{kept if self.torch_kept_bytes else ''}"


@dataclasses.dataclass(frozen=True)
class ExplainReport:
    """What `explain` found: a step a layer and pass, in the order of the call.

    `print(report)` shows a line a layer, totals and the largest steps; `print(report.details())` every kernel, its tile
    and why.
    """

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        if not self.steps:
            return NOTHING
        layers: dict[str, list[Step]] = {}
        for step in self.steps:
            layers.setdefault(step.layer, []).append(step)
        lines: list[tuple[str, ...]] = [("layer", "operator", "kernels", "FLOP", "moved", "least", "torch moves")]
        for name, steps in layers.items():
            forward = [step for step in steps if step.phase == "forward"]
            operators = dict.fromkeys(f"{s.of} {s.calls[0].algorithm}".rstrip() for s in forward or steps)
            lines.append((name or "(no layer)", ", ".join(operators), *_counted(steps)))
        lines += [("all", phase, *_counted(steps)) for phase, steps in self._phases()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join([*map(str.ljust, line[:2], widths), *map(str.rjust, line[2:], widths[2:])]) for line in lines
        ]
        largest = sorted(self.steps, key=lambda step: step.moved_bytes, reverse=True)[:LARGEST]
        named = [f"  {step.layer} {step.phase} of {step.of}, {_si(step.moved_bytes, 'B')}" for step in largest]
        return "\n".join([*table, "most bytes are moved by", *named, LEGEND])

    def details(self) -> str:
        """Every kernel of every step: its tile, why, the floor, and what is moved and saved."""
        if not self.steps:
            return NOTHING
        lines = [line for step in self.steps for line in step.lines()]
        for phase, steps in self._phases():
            if len(steps) > 1:
                flops, moved, torchs = (
                    sum(getattr(s, f) for s in steps) for f in ("flops", "moved_bytes", "torch_bytes")
                )
                saved = _saved(torchs - moved, torchs)
                lines.append(f"all {phase}: {_si(flops, 'FLOP')}, {_si(moved, 'B')} moved; saved {saved}")
        return "\n".join([*lines, LEGEND])

    def _phases(self) -> Iterator[tuple[str, list[Step]]]:
        for phase in ("forward", "backward"):
            if steps := [step for step in self.steps if step.phase == phase]:
                yield phase, steps


def _counted(steps: Sequence[Step]) -> tuple[str, ...]:
    """Kernels, FLOP, and bytes: moved, the least, and moved by torch."""
    kernels = sum(len(call.launches) for step in steps for call in step.calls)
    moved = (sum(getattr(step, name) for step in steps) for name in ("moved_bytes", "least_bytes", "torch_bytes"))
    return str(kernels), _si(sum(step.flops for step in steps), "FLOP"), *(_si(each, "B") for each in moved)


def explain(
    call: Callable[..., Any],
    *args: Any,
    backward: bool = True,
    target: str | None = None,
    copy_bytes_per_s: float | None = None,
    matrix_flops_per_s: float | None = None,
    **kwargs: Any,
) -> ExplainReport:
    """Which kernels `call(*args, **kwargs)` and its backward would launch, in which tiles, why, and what they move.

    The Python code of `call` runs once, on tensors without data: nothing is computed or allocated, and parameters,
    buffers, gradients and the random state stay as they are. Backward is taken where anything requires a gradient, for
    gradients of the outputs in the outputs' own layout.

    Args:
        call: a module, or a function such as tritonconv.functional.conv2d. Modules show their layers' names.
        args, kwargs: what it is called with, tensors of any size on any device.
        backward: explain the backward pass too.
        target: the architecture that tiles are chosen for, such as "sm_90", "gfx942" or "interpreter"; the one of the
            device that holds the tensors unless given.
        copy_bytes_per_s, matrix_flops_per_s: what the device reaches, as `python -m bench` measures it: bytes read
            plus bytes written a second by a copy, FLOP a second by a matrix product in this dtype. With both, a floor
            has a time, and names which of the two bounds it.

    Returns an ExplainReport; print it, or its `details()`. It counts:
        FLOP: 2 for each multiply-add with a tap inside the image, the same in forward, dgrad and wgrad. Bias, ReLU and
            comparisons count nothing, nor does what overlapping pooling windows make the fused operator compute again.
            (`bench` counts taps in the padding too, as papers do.)
        Least bytes: of an operator, each input read and each output written once, argmax too. Of a layer's whole
            backward, what enters and leaves it, once: not what one of its operators hands to the next.
        Moved: each tensor argument of each launch once, by the memory that its elements lie in, however often tiles
            read it again; and what torch copies inside an operator. So im2col's columns, split-K's partial sums and the
            unpooled gradient of the fused backward count for who writes and for who reads them.
        Torch's: convolution with bias, ReLU and max pooling one after another, and back; dgrad, and wgrad with db, are
            a kernel each. Each moves its least, so a saving is what fusing alone saves. An index is 8 B.
        Kept for backward: beside the layer's inputs, which both keep.

    Raises:
        TypeError: an argument of the wrong type, one rate without the other, or a lazy module without its sizes.
        ValueError: a rate that is not above zero, or a target that is no architecture.
        What the call itself raises; one that looks at its tensors' values cannot be explained (RuntimeError).

    Example:
        >>> report = tritonconv.explain(tritonconv.nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8), backward=False)
        >>> [launch.kernel for step in report.steps for call in step.calls for launch in call.launches]
        ['implicit_gemm_forward_kernel']
    """
    if not callable(call):
        raise TypeError(f"call must be a torch.nn.Module or a function, but got call={call!r}")
    if not isinstance(backward, bool):
        raise TypeError(f"backward must be True or False, but got backward={backward!r}")
    rates = {"copy_bytes_per_s": copy_bytes_per_s, "matrix_flops_per_s": matrix_flops_per_s}
    _require_rates(rates)
    with contextlib.nullcontext() if target is None else tuning.target(target):
        recorded = record(call, args, kwargs, backward)
    return ExplainReport(tuple(_steps(recorded, copy_bytes_per_s, matrix_flops_per_s)))


def _require_rates(rates: dict[str, float | None]) -> None:
    for name, rate in rates.items():
        if rate is not None and (not isinstance(rate, int | float) or isinstance(rate, bool)):
            raise TypeError(f"{name} must be a number, but got {name}={rate!r}")
        if rate is not None and not rate > 0:
            raise ValueError(f"{name} must be above zero, but got {name}={rate!r}")
    if len([rate for rate in rates.values() if rate is None]) == 1:
        given = ", ".join(f"{name}={rate!r}" for name, rate in rates.items())
        raise TypeError(f"expected both rates or neither, but got {given}")


def _steps(seen: list[Operation], copy_bytes_per_s: float | None, matrix_flops_per_s: float | None) -> Iterator[Step]:
    steps: dict[tuple[Operation, bool], list[Operation]] = {}
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


def _call(seen: Operation, copy_bytes_per_s: float | None, matrix_flops_per_s: float | None) -> Call:
    launches = [
        Launch(launch.kernel.fn.__name__, launch.grid, _tile(launch), _footprints(tensors))
        for launch, (_, tensors) in zip(seen.launches, seen.touched(), strict=False)
    ]
    launches += [Launch(name, (), {}, _footprints(tensors)) for name, tensors in seen.copies]
    algorithms = [choice for choice in seen.choices if choice.about == "algorithm"]
    least = _footprints(seen.tensors.values()) if launches else 0
    flops = 2 * seen.problem.multiply_adds if seen.problem else 0
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
        reasons=tuple(dict.fromkeys(choice.reason for choice in [*algorithms, *seen.choices])),
        launches=tuple(launches),
        flops=flops,
        least_bytes=least,
        torch_bytes=least + _torch_extra(seen) if launches else 0,
        floor_s=max(arithmetic, memory) if known else None,
        bound=("arithmetic" if arithmetic >= memory else "memory") if known else "",
    )


def _tile(launch: jit.Launch) -> dict[str, Any]:
    blocks = {k: v for k, v in launch.arguments.items() if k.startswith("BLOCK_")}
    taps = {k: v for k, v in launch.arguments.items() if k == "FLATTEN_TAPS"}
    return blocks | taps | {k: v for k, v in launch.options.items() if k in ("num_warps", "num_stages")}


def _traffic(calls: list[Operation]) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Bytes that enter and leave a step, each tensor once; and what its kernels write and read in between."""
    written = {storage(t) for call in calls for t in call.outputs.values()}
    handed_on = written & {storage(t) for call in calls for t in call.inputs.values()}
    ends = {
        (storage(t), t.storage_offset(), t.shape, t.stride()): t
        for call in calls
        if call.launches
        for t in call.tensors.values()
        if storage(t) not in handed_on
    }
    outside = {storage(t) for t in ends.values()}
    between: dict[str, int] = {}
    for _, tensors in (touched for call in calls for touched in call.touched()):
        for t in tensors:
            if storage(t) not in outside:
                label = f"{str(t.dtype).removeprefix('torch.')} {_by(t.shape)}"
                between[label] = between.get(label, 0) + _footprints([t])
    return _footprints(ends.values()), tuple(between.items())


def _torch_extra(seen: Operation) -> int:
    """Bytes that torch's layers move beyond the operator's least: int64 indices, and the images between layers.

    The chain is conv + bias → y, then y → y for each of batch norm, sum with a residual and activation, then max
    pooling: y → pooled y and an index for each; and back the same way.
    """
    extra = 0
    if "argmax" in seen.tensors:
        argmax = seen.tensors["argmax"]
        extra += argmax.numel() * (INDEX_BYTES - argmax.itemsize)
    if "indices" in seen.outputs:  # torch's one index serves the caller too
        extra -= seen.outputs["indices"].nbytes
    if seen.operator in (FUSED, "convolution"):  # y is written and read between two layers
        between = [
            seen.operator == FUSED,
            seen.arguments["activation"],
            "scale" in seen.inputs,
            "residual" in seen.inputs,
        ]
        extra += 2 * sum(map(bool, between)) * _image_bytes(seen)
    elif seen.operator == "max_pool_backward" and seen.source and seen.source.operator == FUSED:
        extra += 3 * _image_bytes(seen.source)  # ReLU's backward reads dy and y, writes dy
    return extra


def _kept(seen: Operation) -> tuple[int, int]:
    """What a backward needs kept beside the operator's inputs: (ours, torch's)."""
    name = seen.arguments.get("activation")
    if seen.operator in ("activate", "convolution") and name:
        nbytes, reads_output = seen.outputs["y"].nbytes, activation(name).saves == "output"
        if seen.operator == "convolution":  # what reads its input has it computed again; torch keeps it
            return nbytes if reads_output else 0, nbytes
        return (nbytes,) * 2 if reads_output else (0, 0)
    if seen.operator not in (FUSED, "max_pool"):
        return 0, 0
    argmax = seen.outputs["argmax"]
    picture = _image_bytes(seen) if seen.operator == FUSED else 0
    return argmax.nbytes, picture + INDEX_BYTES * argmax.numel()


def _image_bytes(seen: Operation) -> int:
    """Of what the convolution gives, before any pooling."""
    assert seen.problem is not None
    return math.prod(seen.problem.output_shape) * seen.outputs["y"].itemsize


def _footprints(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of memory that the tensors' elements lie in; an expanded axis counts once."""
    total = 0
    for t in tensors:
        reach = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
        distinct = math.prod(size for size, stride in zip(t.shape, t.stride(), strict=True) if stride)
        total += min(distinct, reach) * t.itemsize if t.numel() else 0
    return total


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "()"


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
