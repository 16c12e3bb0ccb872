"""One convolution by three algorithms: bytes, memory and time.

"direct" adds up tap by tap; "im2col" writes every patch out and multiplies matrices; "implicit_gemm" multiplies the
same matrices and forms the patches on the fly, so that they never reach memory. Bytes are from `tritonconv.explain`,
which counts a tensor once for each kernel that takes it.
"""

import math
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from tabulate import tabulate
from torch.utils.benchmark import Timer

import tritonconv
from examples.explain.lesson import Drawing, Lesson
from tritonconv import functional as F
from tritonconv.checks import Algorithm

ALGORITHMS: tuple[Algorithm, ...] = ("direct", "im2col", "implicit_gemm")
BATCH, C_IN, C_OUT, SIDE = 8, 32, 64, 14
TARGET = "sm_90"  # a GPU of NVIDIA's Hopper generation, which need not be here
ON = f"on {TARGET}"
TOLERANCE = 1e-2  # of the largest output: products may be in TF32 on a GPU, which keeps 10 bits


class Result(NamedTuple):
    """Bytes moved here and on TARGET, bytes in memory, programs by kernel, seconds, error over the largest output."""

    moved: int
    moved_on_target: int
    ends: int
    patches: int
    programs: str
    programs_on_target: str
    seconds: float
    error: float


def measure(algorithm: Algorithm, device: torch.device, min_run_time: float) -> Result:
    """Explain, run and time it; raises ArithmeticError where the result is wrong."""
    random = torch.Generator().manual_seed(0)
    shapes = (BATCH, C_IN, SIDE, SIDE), (C_OUT, C_IN, 3, 3), (C_OUT,)
    x, weight, bias = (torch.randn(shape, generator=random).to(device) for shape in shapes)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    y = F.conv2d(x, weight, bias, padding=1, algorithm=algorithm)
    error = ((y - exact).abs().max() / exact.abs().max()).item()
    if not error < TOLERANCE:
        raise ArithmeticError(f"{algorithm}: the error is {error:.2g} of the largest output, above {TOLERANCE}")
    call: dict[str, Any] = {"input": x, "weight": weight, "bias": bias, "padding": 1, "algorithm": algorithm}
    (here,), (there,) = (tritonconv.explain(F.conv2d, target=target, **call).steps for target in (None, TARGET))
    timer = Timer("conv2d(**call)", globals={"conv2d": F.conv2d, "call": call}, num_threads=torch.get_num_threads())
    return Result(
        here.moved_bytes,
        there.moved_bytes,
        here.least_bytes,
        sum(moved for _, moved in here.between) // 2,  # written by one kernel, read by the next
        _programs(here),
        _programs(there),
        timer.blocked_autorange(min_run_time=min_run_time).median,
        error,
    )


def lesson(min_run_time: float = 0.5) -> Lesson:
    """`min_run_time` is for how many seconds each algorithm is timed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else "a CPU, where Triton's interpreter runs the kernels"
    )
    results = {name: measure(name, device, min_run_time) for name in ALGORITHMS}
    table = [
        [name, *r[:2], r.ends + r.patches, r.patches, r.programs, r.programs_on_target, 1000 * r.seconds, r.error]
        for name, r in results.items()
    ]
    head = ["algorithm", "bytes moved", ON, "memory", "of it patches", "programs here", ON, "ms", "error"]
    lines = [
        f"conv2d 3x3, {C_IN} -> {C_OUT} channels, {SIDE}x{SIDE}, batch {BATCH}, float32, on {where}",
        tabulate(table, head, intfmt=",", floatfmt=(*[""] * 7, ".2f", ".1e")),
        "errors are against float64, over the largest output",
    ]
    if device.type == "cpu":
        lines.append("the times are the interpreter's: they rank no algorithm for a GPU")
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    figure.suptitle(f"conv2d 3x3, {C_IN} to {C_OUT} channels, {SIDE}x{SIDE}, batch {BATCH}")
    moved, memory, time = figure.subplots(1, 3)
    for offset, label in ((-0.2, "here"), (0.2, ON)):
        heights = [(r.moved if label == "here" else r.moved_on_target) / 1e6 for r in results.values()]
        moved.bar([place + offset for place in range(len(results))], heights, 0.4, label=label)
    moved.set(title="bytes moved", ylabel="MB", xticks=range(len(results)), xticklabels=ALGORITHMS)
    moved.legend(fontsize=8)
    ends, patches = ([getattr(r, part) / 1e6 for r in results.values()] for part in ("ends", "patches"))
    memory.bar(ALGORITHMS, ends, label="input, filter, bias, output")
    memory.bar(ALGORITHMS, patches, bottom=ends, label="patches")
    memory.set(title="memory", ylabel="MB", ylim=(0, 1.4 * max(map(sum, zip(ends, patches, strict=True)))))
    memory.legend(loc="upper left", fontsize=8)
    time.bar(ALGORITHMS, [1000 * r.seconds for r in results.values()], color="tab:green")
    time.set(title="time" if device.type == "cuda" else "time in the interpreter, on a CPU", ylabel="ms")
    alt = "; ".join(
        f"{n}: {r.moved / 1e6:.3g} MB moved, {(r.ends + r.patches) / 1e6:.3g} MB needed" for n, r in results.items()
    )
    return Lesson("algorithms", "Three algorithms", "\n".join(lines), (Drawing("algorithms", alt, figure),))


def _programs(step: tritonconv.explanation.Step) -> str:
    return " + ".join(str(math.prod(launch.grid)) for call in step.calls for launch in call.launches)
