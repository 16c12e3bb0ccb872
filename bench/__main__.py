"""Every kernel against the best a user could pick instead, and against the hardware's limit.

    python -m bench [--list] [--only PATTERN] [--dtype ...] [--layout ...] [--mode ...] [--quick] [--scaling]
                    [--providers PATTERN] [--json FILE] [--compare OLD.json]

On a GPU: all workloads. Without one: small ones in Triton's interpreter, where only ratios mean anything. A result is
compared with float64 first; a wrong one gets no speed. Exit status: 0; 1 where one of ours was wrong or raised; 2 for
a bad argument.
"""

import argparse
import contextlib
import gc
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

import tritonconv
from bench import environment, gate, providers, rows, steps, tables, timing
from bench.providers import Provider, Tensors
from bench.rows import Row
from bench.timing import Effort, Roofs
from bench.workloads import (
    CPU_QUICK,
    CPU_QUICK_SCALING,
    CPU_SCALING,
    CPU_WORKLOADS,
    DTYPES,
    GPU_SCALING,
    GPU_WORKLOADS,
    MODES,
    Problem,
    Workload,
    problems,
    scaling_workloads,
)

REFERENCE = "reference"
LEFT_OUT = (
    "no GPU here: small workloads in Triton's interpreter; left out: the GPU's workloads (--list names them), both "
    "roofs and with them TFLOP/s, GB/s, floor and peak memory, TF32, CUDA graphs, and torch.compile; only ratios count"
)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--list", action="store_true", help="name the workloads and where they come from, and stop")
    p.add_argument("--only", default="", metavar="PATTERN", help="regular expression on 'workload variant'")
    p.add_argument("--providers", default="", metavar="PATTERN", help="regular expression on 'provider layout'")
    p.add_argument("--dtype", nargs="+", choices=DTYPES, help="default: bfloat16 float32 on a GPU, else float32")
    p.add_argument("--layout", nargs="+", choices=providers.LAYOUTS, help="of ours; baselines run in both")
    p.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    p.add_argument("--quick", action="store_true", help="fewer repeats; on a GPU no torch.compile, else small batches")
    p.add_argument("--tune", action="store_true", help="tritonconv.autotune each call of ours before it is timed")
    p.add_argument("--scaling", action="store_true", help="one convolution over batch, channels and picture instead")
    p.add_argument("--seed", type=int, help="of the inputs; default: a new one, kept in the JSON")
    p.add_argument("--json", type=rows.new_file, metavar="FILE", help="write the rows here, anew after each problem")
    p.add_argument("--compare", type=Path, metavar="OLD.json", help="print each row's old time over its new one")
    return p


def candidates(scaling: bool, quick: bool, gpu: bool) -> Sequence[Workload]:
    if scaling:
        return scaling_workloads(*(GPU_SCALING if gpu else CPU_QUICK_SCALING if quick else CPU_SCALING))
    return GPU_WORKLOADS if gpu else CPU_QUICK if quick else CPU_WORKLOADS


def listing() -> str:
    """Every workload, of either kind of machine."""
    kinds = (
        ("GPU", GPU_WORKLOADS),
        ("interpreter", CPU_WORKLOADS),
        ("GPU --scaling", scaling_workloads(*GPU_SCALING)),
        ("interpreter --scaling", scaling_workloads(*CPU_SCALING)),
    )
    table = [
        {"runs on": kind, "workload": w.name, "variants": " ".join(w.variants), "origin": w.origin}
        for kind, workloads in kinds
        for w in workloads
    ]
    return tables.grid(table)


def attempt(
    provider: Provider,
    problem: Problem,
    inputs: Tensors,
    reference: Tensors,
    device: torch.device,
    effort: Effort,
    roofs: Roofs | None,
    tune: bool = False,
) -> list[Row]:
    """Gate, then time. On a GPU each gives a second row, captured in a CUDA graph: without the host's time."""

    def row(captured: bool, **rest: Any) -> Row:
        w, p = problem.workload.name, problem
        head = (w, p.variant, p.mode, p.dtype, p.tf32, captured, device.type)
        return Row(*head, provider.name, provider.layout, provider.ours, **rest)

    done: list[Row] = []
    if tune and provider.ours:
        tritonconv.autotune(provider.set_up(problem, inputs).whole)
    for captured in (False, True) if device.type == "cuda" else (False,):
        try:
            with timing.beside() if captured else contextlib.nullcontext():
                with gate.poisoned() if provider.ours and problem.mode != "step" else contextlib.nullcontext():
                    trial = provider.set_up(problem, inputs)
                error, refused = gate.verdict(problem, trial.results, reference)
                finite = error if error < float("inf") else None
                if refused:
                    done.append(row(captured, status=rows.WRONG, detail=refused, error=finite))
                    continue
                peak = timing.peak_bytes(trial.whole, device)
                call = timing.capture(trial.call) if captured else trial.call
            times = timing.measure(call, device, effort)
            right = row(captured, status=rows.OK, error=finite, peak_bytes=peak)
            done.append(rows.timed(right, times, problem, roofs))
        except Exception as error:  # whatever a provider raises belongs in its row
            first = (str(error).strip() or "no message").splitlines()[0]
            done.append(row(captured, status=rows.ERROR, detail=f"{type(error).__name__}: {first}"))
    return done


def run(
    problem: Problem,
    layouts: list[str],
    wanted: str,
    compile: bool,
    device: torch.device,
    effort: Effort,
    tune: bool = False,
) -> list[Row]:
    """All providers on one problem, with ratios."""
    step = problem.mode == "step"
    everyone = steps.providers(layouts, compile) if step else providers.providers(problem, layouts, compile)
    inputs = steps.draw(problem, device) if step else providers.draw(problem, device)
    reference = steps.reference(problem, inputs) if step else providers.reference(problem, inputs)
    measured: list[Row] = []
    with providers.precision(problem.tf32):
        roofs = timing.roofs(problem.torch_dtype, problem.tf32) if device.type == "cuda" else None
        for provider in everyone:
            if re.search(wanted, f"{provider.name} {provider.layout}"):
                measured += attempt(provider, problem, inputs, reference, device, effort, roofs, tune)
                if device.type == "cuda":
                    gc.collect()
                    torch.cuda.empty_cache()
    return rows.with_ratios(measured)


def guarded(problem: Problem, call: Callable[[], list[Row]], device: torch.device) -> list[Row]:
    """Rows of a problem, or one row that says why even its inputs, reference or roofs could not be had."""
    try:
        return call()
    except Exception as error:
        head = (problem.workload.name, problem.variant, problem.mode, problem.dtype, problem.tf32, False, device.type)
        first = (str(error).strip() or "no message").splitlines()[0]
        return [Row(*head, REFERENCE, "nchw", False, rows.ERROR, f"{type(error).__name__}: {first}")]


def print_comparison(old: Sequence[Row], new: Sequence[Row], were: dict[str, Any], are: dict[str, Any]) -> None:
    for name in ("gpu", "cpu", "torch", "triton"):
        if were.get(name) != are.get(name):
            print(f"not like with like: {name} was {were.get(name)}, is {are.get(name)}")
    table, gone, added = rows.compare(old, new)
    print(tables.grid(table))
    for words, titles in (("in the old file alone", gone), ("in this run alone", added)):
        for title in titles:
            print(f"{words}: {title}")


def check(args: argparse.Namespace, p: argparse.ArgumentParser) -> None:
    """Refuse, before anything runs, what would fail after it."""
    for option in ("only", "providers"):
        try:
            re.compile(getattr(args, option))
        except re.error as error:
            p.error(f"--{option}: {getattr(args, option)!r} is no regular expression: {error}")


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    check(args, p)
    if args.list:
        print(listing())
        return 0
    try:
        were, old = rows.read(args.compare) if args.compare else ({}, [])
    except (OSError, ValueError) as error:
        p.error(f"--compare: {error}")
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    workloads = candidates(args.scaling, args.quick, gpu)
    dtypes = args.dtype or (["bfloat16", "float32"] if gpu else ["float32"])
    todo = problems(workloads, args.only, dtypes, args.mode, gpu)
    if not todo:
        names = "\n".join(f"  {w.name}: {' '.join(w.variants)} ({' '.join(w.modes)})" for w in workloads)
        p.error(f"no workload here matches --only {args.only!r} with --mode {' '.join(args.mode)}; there are:\n{names}")

    seed = secrets.randbits(32) if args.seed is None else args.seed
    torch.manual_seed(seed)
    conditions = {**environment.describe(), "seed": seed, "quick": args.quick, "tuned": args.tune, "complete": False}
    print(", ".join(f"{name} {value}" for name, value in conditions.items() if name != "complete"))
    if not gpu:
        print(LEFT_OUT)
    effort = timing.QUICK if args.quick else Effort()
    layouts = args.layout or list(providers.LAYOUTS)
    compile = gpu and not args.quick and not args.scaling
    try:
        measured = run_all(todo, layouts, args.providers, compile, device, effort, args.json, conditions, args.tune)
    except OSError as error:
        p.error(f"--json {args.json}: {error}")
    if "copy_bytes_per_s" in conditions:
        print(f"measured roofs: copy {conditions['copy_bytes_per_s'] * 1e-12:.3g} TB/s", end="")
        print("".join(f", {k} {v * 1e-12:.4g} TFLOP/s" for k, v in conditions["matrix_flops_per_s"].items()))
    print(tables.summary(measured))
    if args.compare:
        print_comparison(old, measured, were, conditions)
    return int(any(row.status != rows.OK and (row.ours or row.provider == REFERENCE) for row in measured))


def run_all(
    todo: Iterable[Problem],
    layouts: list[str],
    wanted: str,
    compile: bool,
    device: torch.device,
    effort: Effort,
    path: Path | None,
    conditions: dict[str, Any],
    tune: bool = False,
) -> list[Row]:
    """Problem by problem, printed and written as they come; `complete` in the file says whether the run ended."""
    measured: list[Row] = []
    matrix_rates: dict[str, float] = {}
    conditions["matrix_flops_per_s"] = matrix_rates
    for problem in todo:

        def call(problem: Problem = problem) -> list[Row]:
            return run(problem, layouts, wanted, compile, device, effort, tune)

        fresh = guarded(problem, call, device)
        measured += fresh
        for row in fresh:
            print(tables.line(row), flush=True)
        if any(row.floor_ms is not None for row in fresh):
            roofs = timing.roofs(problem.torch_dtype, problem.tf32)  # measured before, and kept
            conditions["copy_bytes_per_s"] = roofs.copy_bytes_per_s
            matrix_rates[f"{problem.dtype} tf32-{problem.tf32}".removesuffix(" tf32-")] = roofs.matrix_flops_per_s
        if path:
            rows.write(path, conditions, measured)
    conditions["complete"] = True
    if path:
        rows.write(path, conditions, measured)
    return measured


if __name__ == "__main__":
    sys.exit(main())
