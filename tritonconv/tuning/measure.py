"""Measure which tile and which algorithm is fastest for the calls of a model, on the device at hand.

The model runs once while its calls of our operators are recorded. Each call is then repeated on inputs of its own with
one choice changed at a time; a candidate is timed only after its result was the reference's, bit for bit. What is
chosen goes into tuning's table for this process and into a file (store.py). Nothing here runs unless it is asked for.
"""

import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import triton.testing
from torch.utils._python_dispatch import TorchDispatchMode

from tritonconv import jit
from tritonconv.ops import operators
from tritonconv.problems import pool_problem
from tritonconv.recording import IMPLEMENTATION, Like, Operation, record
from tritonconv.tuning import candidates, store
from tritonconv.tuning.choices import remember, tuned, using
from tritonconv.tuning.reasons import Key, Tile, record_choices

__all__ = ["AutotuneReport", "Row", "autotune"]

# A candidate must be this much faster than the built-in choice: medians of the same tile differ by a few percent.
LEAST_GAIN = 0.05
# Operators whose terms are no whole numbers even where the tensors are.
ROUNDING = [
    getattr(torch.ops.tritonconv, name).default
    for name in ("average_pool_backward", "lp_pool", "resample", "resample_backward")
]
# Milliseconds of warm-up and of repeats on a GPU.
GPU_WARMUP_MS, GPU_REPEAT_MS = 5, 25
# Repeats on a CPU, and the seconds after which no further one starts.
CPU_REPEATS, CPU_SECONDS = 5, 1.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One choice: the built-in and the chosen one, the milliseconds of each where measured, and what was refused."""

    key: str
    source: Literal["measured", "known"]
    built_in: Tile
    chosen: Tile
    built_in_ms: float | None = None
    chosen_ms: float | None = None
    candidates: int = 0
    refused: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class AutotuneReport:
    """What `autotune` did: a row a choice, in the order of the calls.

    `print(report)` shows the choices that are no longer the built-in ones, and what was refused.
    """

    rows: tuple[Row, ...]
    files: tuple[Path, ...]

    @property
    def changed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.chosen != row.built_in)

    def __str__(self) -> str:
        lines = [("built-in", "chosen", "speed-up", "choice")]
        for row in self.changed:
            ratio = f"{row.built_in_ms / row.chosen_ms:.2f}" if row.built_in_ms and row.chosen_ms else "known"
            lines.append((_describe(row.built_in), _describe(row.chosen), ratio, row.key))
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        table = ["  ".join([*map(str.ljust, line, widths), line[3]]).rstrip() for line in lines if self.changed]
        reasons = [
            f"refused {len(row.refused)} of {row.candidates} for {row.key}: {'; '.join(row.refused)}"
            for row in self.rows
            if row.refused
        ]
        measured = sum(row.source == "measured" for row in self.rows)
        known = len(self.rows) - measured
        files = ", ".join(map(str, self.files))
        summary = f"{measured} measured, {known} known before, {len(self.changed)} not built in; kept in {files}"
        return "\n".join([*table, *reasons, summary])


def autotune(model: Callable[..., Any], *example: Any, **keywords: Any) -> AutotuneReport:
    """Measure tiles and algorithms for each call of our operators in `model(*example, **keywords)`; use the fastest.

    Forward runs once and, where an output requires a gradient, so does backward (with a gradient of ones). A candidate
    may win only if its result was, bit for bit, that of another algorithm in float64 on the same device, and if it was
    at least 5 % faster than the built-in choice. What is chosen holds for the whole process, for every batch whose
    pixels round up to the same power of two, and in later processes that call autotune, by a file in
    TRITONCONV_CACHE_DIR (default ~/.cache/tritonconv). What is known already is not measured again.

    A module is left as it was: a replica runs, on its parameters and on copies of all else that it holds; torch's
    random state is restored. Another callable is run as it is, and so are hooks. What other threads run meanwhile is
    right, but disturbs the measuring. Under DistributedDataParallel tune the module inside, before wrapping it.

    Args:
        model: an nn.Module or another callable, already converted and on its device.
        example, keywords: what it is called with: tensors of the sizes, dtypes and memory formats to come.

    Returns an AutotuneReport: the built-in and the chosen one of every choice, the ratio of times, what was refused.

    Warns: a built-in choice was refused; a damaged cache file was set aside; the cache folder cannot be written.

    Raises:
        TypeError: model is not callable, or is a module that torch.jit scripted or traced.
        ValueError: model called none of our operators.
        RuntimeError: the current CUDA stream is being captured into a graph.

    Example:
        >>> layer = tritonconv.nn.ReLU()
        >>> [row.chosen.keys() for row in tritonconv.autotune(layer, torch.ones(2, 3)).rows]
        [dict_keys(['BLOCK_M'])]
    """
    if not callable(model):
        raise TypeError(f"model must be a torch.nn.Module or another callable, but got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"model must not be scripted or traced, but got {type(model).__name__}: tune it before torch.jit"
        )
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("autotune cannot measure inside a CUDA graph capture: call it before capturing")
    recorded = record(model, example, keywords, run=True)
    calls = {(call.op, *map(Like.of, call.arguments.values())): call for call in recorded}
    if not calls:
        raise ValueError(
            f"expected model to call an operator of tritonconv, but {type(model).__name__} called none: "
            "convert it first (tritonconv.convert) or build it of tritonconv.nn's layers"
        )
    search = _Search()
    try:
        for trial in map(_Trial, calls.values()):
            # the recorded arguments are what autocast made of the model's
            with torch.no_grad(), torch.autocast(trial.device.type, enabled=False):
                search.settle(trial)
    finally:
        files = search.keep()
    return AutotuneReport(tuple(search.rows.values()), files)


# --- one call: repeating it, its reference ---


class _Trial:
    """A recorded call with inputs made for it, to be run with one choice or another, and its references."""

    def __init__(self, call: Operation) -> None:
        tensors = [a for a in call.arguments.values() if isinstance(a, Like | torch.Tensor)]
        self.device = tensors[0].device
        generator = torch.Generator(self.device).manual_seed(0)
        self.op = call.op
        self.arguments = {k: a.make(generator) if isinstance(a, Like) else a for k, a in call.arguments.items()}
        self._references: dict[str, tuple | str] = {}

    def run(self) -> tuple[torch.Tensor, ...]:
        return _as_tuple(self.op(*self.arguments.values()))

    def asked(self) -> dict[Key, list[Tile]]:
        """The choices that the call asks for, with their candidates. Nothing is launched."""
        with record_choices() as made, jit.record_launches():
            self.run()
        return {choice.asked.key: candidates.of(choice.asked) for choice in made if choice.asked}

    def refusal(self) -> str:
        """Why the result with the choices in force is refused; "" if it is the reference's, bit for bit."""
        try:
            with record_choices() as made, _Poisoned():
                results = self.run()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        except Exception as error:  # whatever a compiler or a launch raises: out of shared memory, say
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        by_direct = any(choice.asked.key.operator.startswith("direct") for choice in made if choice.asked)
        references = self._reference("implicit_gemm" if by_direct else "direct")
        if isinstance(references, str):
            return f"no reference: {references}"
        wrong = [
            f"{int((result != reference).sum())} of {result.numel()} elements"
            for result, reference in zip(results, references, strict=True)
            if not ((result == reference) | (result.isnan() & reference.isnan())).all()  # a root may be NaN
        ]
        return f"wrong result: {', '.join(wrong)}" if wrong else ""

    def _reference(self, algorithm: str) -> tuple | str:
        """The results by `algorithm` in float64, in the call's dtypes; or why there are none."""
        if algorithm not in self._references:
            try:
                with using({}):
                    self._references[algorithm] = _reference(self.op, self.arguments, algorithm)
            except Exception as error:  # float64 takes four times the memory of bf16
                self._references[algorithm] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return self._references[algorithm]


def _reference(op: Any, arguments: dict[str, Any], algorithm: str) -> tuple[torch.Tensor, ...]:
    """The call in float64 with built-in tiles, rounded once to its dtype.

    A convolution takes another algorithm. Pooling, ReLU, unfold and fold have one kernel, that rounds at most once: its
    float64 variant is compiled apart, and no tile may give anything else. The fused operator is taken to pieces. What
    rounds in each term (ROUNDING) is its own reference, with the built-in tile: a tile changes no sum's order.
    """
    floating = {k: a for k, a in arguments.items() if isinstance(a, torch.Tensor) and a.is_floating_point()}
    dtype = next(iter(floating.values())).dtype
    wide = arguments if op in ROUNDING else arguments | {k: t.double() for k, t in floating.items()}
    if "algorithm" in wide:
        wide["algorithm"] = algorithm
    if op is torch.ops.tritonconv.convolution_max_pool.default:
        x, w, b, scale, *convolved, kernel, stride, padding, dilation, ceil_mode, _ = wide.values()
        y = operators.convolution(x, w, b, scale, None, *convolved, None, algorithm).to(dtype)
        window = (kernel, stride, padding, dilation, ceil_mode)
        pooled, argmax, _ = operators.max_pool(y, *window, False)
        gradient = operators.activate_backward(
            torch.ones_like(pooled), pooled, wide["activation"]
        )  # 0 where it is dead
        return pooled, argmax.masked_fill(gradient == 0, pool_problem(y.shape, *window).no_argmax)
    results = _as_tuple(op(*wide.values()))
    return tuple(r.to(dtype) if r.is_floating_point() else r for r in results)


def _as_tuple(result: Any) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


class _Poisoned(TorchDispatchMode):
    """New tensors are full of NaN, integers of their largest value: an element that nobody wrote is seen."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "tritonconv":
            with self:
                return func.redispatch(IMPLEMENTATION, *args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if "empty" in func.__name__:
            out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).max)
        return out


def measure(run: Callable[[], Any], device: torch.device) -> float:
    """Median milliseconds of a call that has run before.

    On a GPU of its kernels alone, captured in a graph, by events, with the L2 cache flushed before each run.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                run()  # whatever is allocated once
                with torch.cuda.graph(graph, stream=side):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            return triton.testing.do_bench(graph.replay, GPU_WARMUP_MS, GPU_REPEAT_MS, return_mode="median")
    milliseconds: list[float] = []
    while len(milliseconds) < CPU_REPEATS and sum(milliseconds) < CPU_SECONDS * 1e3:
        start = time.perf_counter()
        run()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return statistics.median(milliseconds)


# --- choosing ---


class _Search:
    """The choices found so far, by key, and what is known from the process and its cache files."""

    def __init__(self) -> None:
        self.found: dict[Key, Tile] = {}
        self.rows: dict[Key, Row] = {}
        self._stored: dict[str, dict[str, Tile]] = {}

    def settle(self, trial: _Trial) -> None:
        """Choose whatever the call asks for that is not chosen yet: tiles by every algorithm, then the algorithm."""
        with using(self.found):
            asked = trial.asked()
        before = {key for key in asked if key in self.rows and self.rows[key].source == "measured"}
        route = next((key for key, options in asked.items() if "algorithm" in options[0]), None)
        if route is not None and not self._is_settled(route, asked[route]):
            for choice in asked[route]:
                self.found[route] = choice
                self._settle_tiles(trial)
            self._choose(trial, route, asked[route])
        self._settle_tiles(trial)
        if before:
            self._withdraw(trial, before)

    def keep(self) -> tuple[Path, ...]:
        """Put what was found right into the process's table, and what was measured into a file a machine.

        Where nothing was right nothing is kept: the next call of autotune looks, and warns, again.
        """
        right = {key: row for key, row in self.rows.items() if row.source == "known" or row.chosen_ms is not None}
        remember({key: row.chosen for key, row in right.items()})
        for machine in self._stored:
            rows = [row for key, row in right.items() if key.machine == machine and row.source == "measured"]
            if rows:
                store.merge(store.path(machine), {row.key: row.chosen for row in rows})
        return tuple(map(store.path, self._stored))

    def _settle_tiles(self, trial: _Trial) -> None:
        with using(self.found):
            asked = trial.asked()
        for key, options in asked.items():
            if "algorithm" not in options[0] and not self._is_settled(key, options):
                self._choose(trial, key, options)

    def _is_settled(self, key: Key, options: list[Tile]) -> bool:
        """Whether a choice was made, now or before. One that is not among today's candidates is made anew."""
        if key.machine not in self._stored:
            self._stored[key.machine] = store.load(store.path(key.machine))
        known = tuned().get(key) or self._stored[key.machine].get(str(key))
        if key not in self.rows and known in options:
            self.found[key] = known
            self.rows[key] = Row(str(key), "known", options[0], known)
        return key in self.rows

    def _choose(self, trial: _Trial, key: Key, options: list[Tile]) -> None:
        """Time the candidates whose result is right, and keep the fastest."""
        times: dict[int, float] = {}
        refused: dict[int, str] = {}
        for i, choice in enumerate(options):
            with using({**self.found, key: choice}):
                reason = trial.refusal()
                if not reason:
                    times[i] = measure(trial.run, trial.device)
                    reason = trial.refusal()  # a race between programs need not show the first time
                if reason:
                    times.pop(i, None)
                    refused[i] = f"{_describe(choice)}: {reason}"
        best = min(times, key=times.__getitem__, default=0)
        if 0 in times and times[best] > (1 - LEAST_GAIN) * times[0]:
            best = 0
        if 0 in refused:
            kept = f"{_describe(options[best])} is used instead" if times else "no other was right: it stays"
            warnings.warn(f"the built-in choice for {key} was refused ({refused[0]}); {kept}", stacklevel=4)
        self.found[key] = options[best]
        found = (options[0], options[best], times.get(0), times.get(best))
        self.rows[key] = Row(str(key), "measured", *found, len(options), tuple(refused.values()))

    def _withdraw(self, trial: _Trial, keys: set[Key]) -> None:
        """Back to the built-in choice for keys measured on another call, where this call's result is wrong with it."""
        with using(self.found):
            reason = trial.refusal()
        if not reason:
            return
        for key in keys:
            row = self.rows[key]
            refused = f"{_describe(row.chosen)}: {reason}"
            warnings.warn(f"the choice for {key} was refused on a second call ({refused})", stacklevel=4)
            self.found[key] = row.built_in
            reasons = (*row.refused, refused)
            self.rows[key] = dataclasses.replace(row, chosen=row.built_in, chosen_ms=None, refused=reasons)


def _describe(choice: Tile) -> str:
    """64x64x32 flat 4w 3s: blocks, whether taps are flattened, warps, stages; or an algorithm's name."""
    if "algorithm" in choice:
        return choice["algorithm"]
    words = ["x".join(str(choice[name]) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K") if name in choice)]
    words += ["flat"] if choice.get("FLATTEN_TAPS") else []
    words += [f"{choice[name]}{name[4]}" for name in ("num_warps", "num_stages") if name in choice]
    return " ".join(words)
