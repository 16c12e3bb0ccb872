"""Microseconds on the host from a call to its launches, beside torch's own dispatch.

    python -m bench.host [--only TEXT] [--repeats N] [--json FILE]

On a GPU nothing waits for a kernel, as long as the queue is not full. Without one, launches are Triton's own up to the
driver's, which tests/launch_only.py stands in for; a real one adds about 2 us. torch's rows are its operators on small
tensors on the CPU: what they compute is next to nothing. Both take turns; a figure is the best of many rounds.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

if __name__ == "__main__" and not torch.cuda.is_available():
    import tests.launch_only  # noqa: F401  before anything launches

from bench import environment, tables
from bench import rows as results
from tritonconv import functional as TF

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CALLS = 10  # of a round: some rounds of so few are undisturbed


def _chain(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(F.relu(F.conv2d(x, w, b, padding=1)), 2)


def _fused(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return TF.conv2d_bias_relu_max_pool2d(x, w, b, padding=1, pool_kernel_size=2)


IMAGE, FILTER = (1, 1, 4, 4), ((1, 1, 3, 3), (1,))
# what is called, by name: torch's, ours, and the shapes of the tensors
WORKS: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor], tuple[tuple[int, ...], ...]]] = {
    "conv2d": (functools.partial(F.conv2d, padding=1), functools.partial(TF.conv2d, padding=1), (IMAGE, *FILTER)),
    "conv2d, ReLU and max_pool2d, fused": (_chain, _fused, (IMAGE, *FILTER)),
    "conv_transpose2d": (F.conv_transpose2d, TF.conv_transpose2d, (IMAGE, *FILTER)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), lambda x: TF.max_pool2d(x, 2), (IMAGE,)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), lambda x: TF.avg_pool2d(x, 2), (IMAGE,)),
    "interpolate": (
        functools.partial(F.interpolate, scale_factor=2, mode="bilinear"),
        functools.partial(TF.interpolate, scale_factor=2, mode="bilinear"),
        (IMAGE,),
    ),
    "relu": (F.relu, TF.relu, (IMAGE,)),
}
PASSES = ("forward", "forward and backward")


@dataclasses.dataclass(frozen=True)
class Measured:
    """Microseconds of a call, ours and torch's."""

    work: str
    passes: str
    ours: float
    torchs: float

    @property
    def ratio(self) -> float:
        return self.ours / self.torchs


def call(function: Callable[..., torch.Tensor], shapes: Sequence[Sequence[int]], passes: str, device: Any) -> Any:
    """A call without arguments."""
    backward = passes == PASSES[1]
    tensors = [torch.ones(*shape, device=device, requires_grad=backward) for shape in shapes]
    if not backward:
        return lambda: function(*tensors)
    dy = torch.ones_like(function(*tensors))
    return lambda: torch.autograd.grad(function(*tensors), tensors, dy)


def measure(work: str, passes: str, repeats: int) -> Measured:
    theirs, ours, shapes = WORKS[work]
    calls = [call(ours, shapes, passes, DEVICE), call(theirs, shapes, passes, "cpu")]
    best = [float("inf")] * 2
    for _ in range(repeats):
        for i, each in enumerate(calls):
            start = time.perf_counter()
            for _ in range(CALLS):
                each()
            best[i] = min(best[i], (time.perf_counter() - start) / CALLS * 1e6)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
    return Measured(work, passes, *best)


def table(measured: Sequence[Measured]) -> str:
    """Markdown, a line for each call."""
    return tables.grid(
        [
            {
                "call": m.work,
                "": m.passes,
                "ours, us": f"{m.ours:.1f}",
                "torch, us": f"{m.torchs:.1f}",
                "ours is": tables.versus(1 / m.ratio),
            }
            for m in measured
        ]
    )


def read(path: Path) -> tuple[dict[str, Any], list[Measured]]:
    """(conditions, what was measured) of a file that `main` wrote. Raises what rows.read_as raises."""
    return results.read_as(Measured, path, "python -m bench.host --json")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="calls whose name contains it")
    parser.add_argument("--repeats", type=int, default=1000, help="rounds of each (%(default)s)")
    parser.add_argument("--json", type=results.new_file, metavar="FILE", help="write the figures here")
    args = parser.parse_args(argv)
    works = [work for work in WORKS if args.only in work]
    if not works:
        parser.error(f"--only {args.only!r} is in no name: {'; '.join(WORKS)}")
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, but got {args.repeats}")
    torch.set_num_threads(1)
    conditions = environment.describe()
    measured = [measure(work, passes, args.repeats) for work in works for passes in PASSES]
    print(", ".join(f"{name} {value}" for name, value in conditions.items()))
    print(table(measured))
    results.save(args.json, parser, conditions, list(map(dataclasses.asdict, measured)))


if __name__ == "__main__":
    main()
