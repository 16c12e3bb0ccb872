"""The interpreter on the CPU, side by side in one run: with its own tiles, with tiles meant for a GPU, and torch's own
layers.

    python -m bench.interpreter [step] [epoch] [example] [--data-dir DIR] [--json FILE]

step: one training step of mnist-cnn3. epoch: one pass over MNIST's 60,000 digits by examples/train_mnist.py, tests
included. example: README's first command after installation. What would take hours with a GPU's tiles is estimated
from its training steps, and the table says so.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import tritonconv
from bench import environment, tables
from bench import rows as results
from examples.networks import mnist_cnn3
from tritonconv import tuning

GPU = "sm_90"
EXAMPLE = Path(__file__).parent.parent / "examples" / "train_mnist.py"
OWN, GPUS, TORCH = "the interpreter's own tiles", f"tiles for a GPU ({GPU})", "torch's layers"


@dataclasses.dataclass(frozen=True)
class Measured:
    """Seconds of each repeat; `accuracy` on test digits where it trained; `note` on how it was measured."""

    work: str
    by: str
    seconds: list[float]
    accuracy: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def training_step(convert: bool, batch_size: int) -> Callable[[], None]:
    """One step of Adam on random digits, from the same initial weights with and without our layers."""
    torch.manual_seed(0)
    model = mnist_cnn3()
    if convert:
        tritonconv.convert(model)
    optimizer = torch.optim.Adam(model.parameters())
    images, labels = torch.randn(batch_size, 1, 28, 28), torch.randint(0, 10, (batch_size,))

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


@contextlib.contextmanager
def stopwatch(seconds: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)


def measure_step(batch_size: int, steps: int) -> list[Measured]:
    """Each in turn: torch on as many threads as it likes, ours on one, as the example runs it (torch's threads spin
    while numpy works). The first step of ours is told apart: it is interpreted and recorded, the others replay it."""
    work = f"one training step, batch {batch_size}"
    ours, torchs = training_step(True, batch_size), training_step(False, batch_size)
    measured, threads = [], torch.get_num_threads()
    for by, step in ((OWN, ours), (TORCH, torchs), (GPUS, ours)):
        seconds: list[float] = []
        torch.set_num_threads(threads if by == TORCH else 1)
        with tuning.target(GPU) if by == GPUS else contextlib.nullcontext():
            for _ in range(steps + 1):
                with stopwatch(seconds):
                    step()
        measured.append(Measured(work, by, seconds[1:]))
        if step is ours:
            measured.append(Measured(f"the first of them, batch {batch_size}", by, seconds[:1]))
    torch.set_num_threads(threads)
    return sorted(measured, key=lambda m: m.work != work)


def measure_training(work: str, options: list[str], gpu_step: float) -> list[Measured]:
    """examples/train_mnist.py with our layers and with torch's, each in a process of its own, start to end."""
    measured = []
    for by, backend in ((OWN, "triton"), (TORCH, "torch")):
        with tempfile.TemporaryDirectory() as out:
            seconds: list[float] = []
            with stopwatch(seconds):
                subprocess.run(
                    [sys.executable, str(EXAMPLE), "--device", "cpu", "--backend", backend, "--out", out, *options],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
            metrics = json.loads((Path(out) / "metrics.json").read_text())
        measured.append(Measured(work, by, seconds, metrics["test_accuracy"]))
        steps = len(metrics["step_losses"])
    estimate = Measured(work, GPUS, [steps * gpu_step], note=f"estimated: {steps:,} steps of {gpu_step:.3g} s")
    return [*measured, estimate]


def table(measured: Sequence[Measured]) -> str:
    """Markdown; the ratio is to the GPU's tiles at the same work."""
    gpu = {m.work: m.median for m in measured if m.by == GPUS}
    return tables.grid(
        [
            {
                "on the CPU": m.work,
                "by": m.by,
                "seconds": f"{m.median:.3g}"
                + (f" ({min(m.seconds):.3g} to {max(m.seconds):.3g})" if len(m.seconds) > 1 else ""),
                "times as fast as GPU tiles": gpu[m.work] / m.median,
                "test accuracy": f"{m.accuracy:.2%}" if m.accuracy is not None else m.note or None,
            }
            for m in measured
        ]
    )


def read(path: Path) -> tuple[dict[str, Any], list[Measured]]:
    """(conditions, what was measured) of a file that `main` wrote. Raises what rows.read_as raises."""
    return results.read_as(Measured, path, "python -m bench.interpreter --json")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", metavar="step|epoch|example", help="what to measure (step); step always is")
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's four IDX files, for `epoch`")
    parser.add_argument("--batch-size", type=int, default=64, help="of `step` (%(default)s)")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each (%(default)s)")
    parser.add_argument("--json", type=results.new_file, metavar="FILE", help="write the figures here")
    args = parser.parse_args(argv)
    if unknown := set(args.work) - {"step", "epoch", "example"}:
        parser.error(f"argument work: {sorted(unknown)[0]!r} is not step, epoch or example")
    if min(args.batch_size, args.steps) < 1:
        parser.error("--batch-size and --steps must be at least 1")
    if "epoch" in args.work and args.data_dir is None:
        parser.error("epoch needs --data-dir, a folder with MNIST's 60,000 digits")

    conditions = environment.describe() | {"torch's threads": torch.get_num_threads()}
    measured = measure_step(args.batch_size, args.steps)
    gpu_step = next(m.median for m in measured if m.by == GPUS)
    if "epoch" in args.work:
        options = ["--data-dir", str(args.data_dir), "--limit", "60000", "--epochs", "1"]
        measured += measure_training("one epoch of 60,000 digits", options, gpu_step)
    if "example" in args.work:
        measured += measure_training("README's first command, installed", [], gpu_step)
    print(", ".join(f"{name} {value}" for name, value in conditions.items()))
    print(table(measured))
    if args.json:
        content = {"conditions": conditions, "rows": [dataclasses.asdict(m) for m in measured]}
        try:
            results.replace(args.json, json.dumps(content, indent=1).encode())
        except OSError as error:
            parser.error(f"--json {args.json}: {error}")


if __name__ == "__main__":
    main()
