"""One training step of mnist-cnn3 on the CPU, side by side in one run: the interpreter with tiles meant for a GPU, the
interpreter with its own, and torch's own layers.

    python -m bench.interpreter [--batch-size 64] [--steps 7] [--gpu-steps 1] [--json FILE]
"""

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tabulate import tabulate
from torch.nn.functional import cross_entropy

import tritonconv
from bench import environment
from examples.networks import mnist_cnn3
from tritonconv import tuning

GPU = "sm_90"


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


def measure(batch_size: int, steps: int, gpu_steps: int) -> dict[str, list[float]]:
    """Seconds of each step, torch's and ours in turn, then the slow ones; a first step of each is not counted."""
    ours, torchs = training_step(True, batch_size), training_step(False, batch_size)
    times: dict[str, list[float]] = {f"tiles for a GPU ({GPU})": [], "tiles for the interpreter": [], "torch": []}
    gpu, own, peer = times.values()
    ours()
    torchs()
    for _ in range(steps):
        with stopwatch(own):
            ours()
        with stopwatch(peer):
            torchs()
    for _ in range(gpu_steps):
        with tuning.target(GPU), stopwatch(gpu):
            ours()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=7, help="timed steps of the interpreter's own tiles and of torch")
    parser.add_argument("--gpu-steps", type=int, default=1, help="timed steps with tiles meant for a GPU (slow)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    if min(args.batch_size, args.steps, args.gpu_steps) < 1:
        parser.error("--batch-size, --steps and --gpu-steps must be at least 1")

    times = measure(args.batch_size, args.steps, args.gpu_steps)
    slowest = statistics.median(next(iter(times.values())))
    rows = [
        {
            "mnist-cnn3, one step": name,
            "median s": statistics.median(seconds),
            "least s": min(seconds),
            "most s": max(seconds),
            "steps": len(seconds),
            "times as fast as GPU tiles": slowest / statistics.median(seconds),
        }
        for name, seconds in times.items()
    ]
    conditions = environment.describe()
    print(", ".join(f"{name} {value}" for name, value in conditions.items()))
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g"))
    if args.json:
        args.json.write_text(
            json.dumps({"conditions": conditions, "batch_size": args.batch_size, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
