"""The interpreter on the CPU beside torch's own layers, in turn, in one process, on as many threads.

    python -m bench.interpreter [steps] [epoch] [example] [--only TEXT] [--tiles N ...] [--data-dir DIR] [--json FILE]

steps: training steps of networks and poolings. epoch: one pass over MNIST's 60,000 digits by examples.train, tests
included. example: its run of mnist-cnn3 as it is by default on a CPU. The first call on new sizes is told apart: it is
interpreted and recorded; the others replay the records. --tiles measures steps with tiles of at most so many elements,
each in the place of tuning's INTERPRETER_TILE, which is chosen by it. OMP_WAIT_POLICY is passive unless the environment
says otherwise: torch's threads else keep the cores busy while they wait, and ours are late.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is there

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import tritonconv
from bench import environment, tables
from bench import rows as results
from examples.networks import mnist_cnn3
from tests.networks import NETWORKS
from tritonconv import interpreter
from tritonconv.tuning import tiles

ROOT = Path(__file__).parent.parent
EXAMPLE = (sys.executable, "-m", "examples.train", "mnist-cnn3", "--device", "cpu")
WORKS = ("steps", "epoch", "example")
Shape = tuple[int, ...]
# what is trained for a step, by name: a network and the shape of its input
STEPS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "mnist-cnn3, batch 64": (mnist_cnn3, (64, 1, 28, 28)),
    "ResNet-18, 224x224": (NETWORKS["ResNet-18"], (1, 3, 224, 224)),
    "U-Net, 128x128": (NETWORKS["U-Net"], (1, 3, 128, 128)),
    "MobileNetV2, 224x224": (NETWORKS["MobileNetV2"], (1, 3, 224, 224)),
    "max pooling 2x2, 32 channels, 28x28, batch 64": (lambda: nn.MaxPool2d(2), (64, 32, 28, 28)),
    "max pooling 3x3 stride 2, 64 channels, 112x112": (lambda: nn.MaxPool2d(3, 2, 1), (1, 64, 112, 112)),
    "average pooling 3x3 stride 2, 64 channels, 112x112": (lambda: nn.AvgPool2d(3, 2, 1), (1, 64, 112, 112)),
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """Seconds of each repeat, ours and torch's; `accuracy`, ours and torch's, on test digits where they trained."""

    work: str
    threads: int
    ours: list[float]
    torchs: list[float]
    first: float | None = None  # seconds of our first call
    accuracy: list[float] | None = None
    tile: int | None = None  # elements, where several were asked for

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.torchs)


def training_step(convert: bool, network: Callable[[], nn.Module], shape: Shape) -> Callable[[], None]:
    """One step of Adam on random input, or forward and backward of a layer without parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(network())
    x = torch.randn(shape)
    dy = None if [*model.parameters()] else torch.randn_like(model(x))
    if convert:
        tritonconv.convert(model)
    if dy is not None:
        x.requires_grad_()
        return lambda: model(x).backward(dy)
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        y = model(x).movedim(1, -1).flatten(0, -2)
        cross_entropy(y, torch.zeros(len(y), dtype=torch.long)).backward()
        optimizer.step()

    return step


@contextlib.contextmanager
def stopwatch(seconds: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)


def measure_step(work: str, repeats: int) -> Measured:
    """Torch's and ours take turns; ours has no record before."""
    interpreter._records.clear()
    ours, torchs = training_step(True, *STEPS[work]), training_step(False, *STEPS[work])
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for step, into in zip((ours, torchs), seconds, strict=True):
            with stopwatch(into):
                step()
    return Measured(work, torch.get_num_threads(), seconds[0][1:], seconds[1][1:], seconds[0][0])


def measure_training(work: str, options: list[str]) -> Measured:
    """examples.train with our layers and with torch's, each in a process of its own, start to end."""
    accuracy, seconds = [], []
    for layers in ("ours", "torch"):
        with tempfile.TemporaryDirectory() as out:
            took: list[float] = []
            with stopwatch(took):
                subprocess.run(
                    [*EXAMPLE, "--layers", layers, "--out", out, *options],
                    cwd=ROOT,
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
            accuracy.append(json.loads((Path(out) / "seed-0" / "metrics.json").read_text())["test_accuracy"])
        seconds.append(took)
    return Measured(work, torch.get_num_threads(), seconds[0], seconds[1], accuracy=accuracy)


def table(measured: Sequence[Measured]) -> str:
    """Markdown, a line for each work and each number of threads."""
    return tables.grid(
        [
            {
                "on the CPU": m.work,
                "threads": m.threads,
                **({"tile": m.tile} if any(m.tile for m in measured) else {}),
                "ours, s": _seconds(m.ours),
                "torch, s": _seconds(m.torchs),
                "ours is": tables.versus(1 / m.ratio),
                "first call, s": m.first,
                "test accuracy, ours and torch": None if m.accuracy is None else "{:.2%}, {:.2%}".format(*m.accuracy),
            }
            for m in measured
        ]
    )


def _seconds(repeats: list[float]) -> str:
    spread = f" ({min(repeats):.3g} to {max(repeats):.3g})" if len(repeats) > 1 else ""
    return f"{statistics.median(repeats):.3g}{spread}"


def read(path: Path) -> tuple[dict[str, Any], list[Measured]]:
    """(conditions, what was measured) of a file that `main` wrote. Raises what rows.read_as raises."""
    return results.read_as(Measured, path, "python -m bench.interpreter --json")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", nargs="*", metavar="steps|epoch|example", help="what to measure (steps)")
    parser.add_argument("--only", default="", metavar="TEXT", help="steps whose name contains it")
    parser.add_argument("--tiles", type=int, nargs="+", metavar="N", help="elements of a tile at most, to compare")
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's four IDX files, for `epoch`")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each (%(default)s)")
    parser.add_argument("--json", type=results.new_file, metavar="FILE", help="write the figures here")
    args = parser.parse_args(argv)
    works = args.work or ["steps"]
    if unknown := set(works) - {*WORKS}:
        parser.error(f"argument work: {sorted(unknown)[0]!r} is not steps, epoch or example")
    steps = [work for work in STEPS if args.only in work] if "steps" in works else []
    if "steps" in works and not steps:
        parser.error(f"--only {args.only!r} is in no name: {'; '.join(STEPS)}")
    if min(args.tiles or [1]) < 1:
        parser.error(f"--tiles must be at least 1, but got {min(args.tiles)}")
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, but got {args.repeats}")
    if "epoch" in works and args.data_dir is None:
        parser.error("epoch needs --data-dir, a folder with MNIST's 60,000 digits")

    conditions = {**environment.describe(), "omp_wait_policy": os.environ["OMP_WAIT_POLICY"]}
    measured, threads, default = [], torch.get_num_threads(), tiles.INTERPRETER_TILE
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        for work, tile in itertools.product(steps, args.tiles or [None]):
            tiles.INTERPRETER_TILE = tile or default
            measured.append(dataclasses.replace(measure_step(work, args.repeats), tile=tile))
    tiles.INTERPRETER_TILE = default
    if "epoch" in works:
        options = ["--data-dir", str(args.data_dir.resolve()), "--limit", "60000", "--epochs", "1", "--validation", "0"]
        measured.append(measure_training("one epoch of 60,000 digits", options))
    if "example" in works:
        measured.append(measure_training("mnist-cnn3 by examples.train, its default on a CPU", []))
    print(", ".join(f"{name} {value}" for name, value in conditions.items()))
    print(table(measured))
    results.save(args.json, parser, conditions, list(map(dataclasses.asdict, measured)))


if __name__ == "__main__":
    main()
