"""Everything that only a GPU can tell, the most important first, within the minutes that there is one.

    python -m bench.gpu --minutes 25 --out FOLDER [--data-dir DIR] [--dry-run]

Each step is a command of its own; its output and its JSON lie in FOLDER before the next begins, and FOLDER/steps.json
says how each ended. The same command again goes on: what was done is not done again. A step that runs out of time is
stopped; what it had written by then is kept. `python -m bench.report FOLDER/rows.json` makes tables of it.
"""

import argparse
import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

from bench import environment, tables
from bench import rows as results

ROOT = Path(__file__).parent.parent
ROWS = "mnist-cnn3|vgg16|resnet50|mobilenet|depthwise|maxpool|step"  # of the question how fast we are
H100 = "H100, 2026-11-27"
FAILURE = re.compile(r"FAILED|ERROR|Error\b|wrong")
KERNELS = ("layers", "conv2d", "pool", "fused", "epilogue", "padding", "resample", "ops", "blocks", "plan", "replay")
SECONDS_A_TEST = 1.6  # of one process, compilation included: 1,895 tests on 12 processes took 249 s (H100, 2026-11-27)
BARELY = 20  # seconds that are not worth the start of a step


@dataclasses.dataclass(frozen=True)
class Step:
    """A command, the minutes that it takes, or may take, and how that is known. Of tests, their number says it."""

    name: str
    command: tuple[str, ...]
    minutes: float | None
    source: str
    limit: float | None = None  # minutes after which it is stopped, whatever is left


def steps(folder: Path, data: Path | None, processes: int) -> list[Step]:
    """What a GPU is asked, in order."""
    python, bench = sys.executable, (sys.executable, "-m", "bench", "--quick", "--only", ROWS)
    tests = (python, "-m", "pytest", "-v", "-n", str(processes), "-p", "no:cacheprovider")
    kernels = tuple(f"tests/test_{name}.py" for name in KERNELS)
    train = (
        *("-m", "examples.train", "mnist-cnn3"),
        "--epochs",
        "2",
        "--limit",
        "60000",
        *(("--data-dir", str(data)) if data else ()),
    )
    sanitizer = (
        "compute-sanitizer",
        "--error-exitcode",
        "1",
        python,
        "-m",
        "pytest",
        "tests/test_conv2d.py",
        "-k",
        "plain",
    )
    each = f"{SECONDS_A_TEST} s a test and process, {H100}"

    def to(name: str) -> str:
        return str(folder / name)

    return [
        Step("roofs", (python, "-m", "bench.environment"), 0.5, "three products and a copy of 1 GiB"),
        Step("kernels", (*tests, *kernels), None, each, limit=5),
        Step("example", (python, *train, "--out", to("example")), 0.7, f"21.5 s and its start, {H100}"),
        Step("nccl", (python, "-m", "torch.distributed.run", *train, "--out", to("nccl")), 0.8, "the example's"),
        Step("rows", (*bench, "--json", to("rows.json")), 5, f"76 comparisons in 5 minutes, {H100}"),
        Step("tuned", (*bench, "--tune", "--providers", "ours", "--json", to("tuned.json")), 6, "a guess: not yet run"),
        Step("sanitizer", sanitizer, 1, "a guess: not yet run", limit=2),
        Step("host", (python, "-m", "bench.host", "--json", to("host.json")), 0.5, "as long as without a GPU"),
        Step(
            "compiled",
            (python, "-m", "bench", "--only", ROWS, "--json", to("compiled.json")),
            10,
            "a guess: not yet run",
        ),
        Step("tests", tests, None, each),
        Step("slow", (*tests, "-m", "slow"), None, each),
    ]


def run(step: Step, folder: Path, seconds: float) -> tuple[str, float]:
    """(how it ended, the seconds it took). After so many it is stopped, with all that it started."""
    start = time.monotonic()
    path = folder / f"{step.name}.log"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    try:
        with path.open("w") as log:
            process = subprocess.Popen(
                step.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )
    except FileNotFoundError as error:
        return f"not there: {error.filename}", 0.0
    with path.open(errors="replace") as log:
        while process.poll() is None and time.monotonic() - start < seconds:
            time.sleep(0.2)
            show_failures(log)
        is_stopped = process.poll() is None
        if is_stopped:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        show_failures(log)
    ended = "stopped" if is_stopped else "done" if process.returncode == 0 else f"exit status {process.returncode}"
    return ended, time.monotonic() - start


def show_failures(log: TextIO) -> None:
    """The lines that tell of one, of those written since the last time."""
    for line in log:
        if FAILURE.search(line):
            print(f"  {line.rstrip()[:200]}", flush=True)


def count(step: Step) -> int:
    """The tests of a step, collected and not run."""
    words = [word for word in step.command if word not in ("-v", "-n")]
    del words[words.index("pytest") + 1]  # the number of processes
    found = subprocess.run(
        [*words, "--collect-only", "-q"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    return int(re.findall(r"^(\d+)(?:/\d+)? tests? collected", found, re.MULTILINE)[-1])


def plan(todo: Sequence[Step], minutes: float, processes: int) -> str:
    """Markdown: what there is to do, and what the time is expected to suffice for."""
    lines, end = [], 0.0
    for step in todo:
        takes, source = step.minutes, step.source
        if takes is None:
            tests = count(step)
            takes, source = tests * SECONDS_A_TEST / processes / 60, f"{tests} tests, {source}"
        takes = min(takes, step.limit or takes)
        end += takes
        lines.append(
            {
                "step": step.name,
                "minutes": f"{takes:.1f}",
                "at most": step.limit,
                "done after": f"{end:.1f}" if end <= minutes else f"{end:.1f}, too late",
                "known from": source,
                "command": shlex.join("python" if word == sys.executable else word for word in step.command),
            }
        )
    return tables.grid(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25, help="that there are (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for all that is measured (%(default)s)")
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST's four IDX files")
    parser.add_argument("--processes", type=int, default=16, help="of the tests (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    args = parser.parse_args(argv)
    if args.minutes <= 0:
        parser.error(f"--minutes must be positive, but got {args.minutes}")
    folder = args.out.resolve()
    record = folder / "steps.json"
    ended: dict[str, dict[str, Any]] = json.loads(record.read_text())["steps"] if record.exists() else {}
    todo = [step for step in steps(folder, args.data_dir, args.processes) if step.name not in ended]
    if args.dry_run:
        print(plan(todo, args.minutes, args.processes))
        return 0
    if not torch.cuda.is_available():
        parser.error("there is no GPU here; --dry-run says what would run")
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.minutes * 60
    for step in todo:
        left = end - time.monotonic()
        if left < BARELY:
            print(f"left: {', '.join(other.name for other in todo if other.name not in ended)}")
            break
        print(f"{step.name}: up to {min(left, (step.limit or left) * 60) / 60:.1f} minutes", flush=True)
        how, seconds = run(step, folder, min(left, (step.limit or left / 60) * 60))
        if how == "stopped" and step.limit is None:
            print(f"{step.name}: stopped, the time is up; it begins anew the next time")
            continue
        ended[step.name] = {"ended": how, "seconds": seconds}
        content = {"conditions": environment.describe(), "steps": ended}
        results.replace(record, json.dumps(content, indent=1).encode())
        print(f"{step.name}: {how} after {seconds:.0f} s", flush=True)
    return int(any(each["ended"] != "done" for each in ended.values()))


if __name__ == "__main__":
    sys.exit(main())
