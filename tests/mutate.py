"""A mutation run: seed one fault after the other into a copy of the tree, and see that the tests fail.

    python -m tests.mutate                    # every fault of tests/faults
    python -m tests.mutate --only convert     # those whose line in the list matches a regular expression
    python -m tests.mutate --quick            # by their likely tests alone

A fault's likely tests run first. Where these pass, all tests run. A fault that they all pass survives: some behaviour
is not tested. This is not part of the normal tests; tests/test_mutate.py checks that every fault can still be seeded.
"""

import argparse
import ast
import contextlib
import multiprocessing
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults import FAULTS
from tests.faults.fault import Fault

ROOT = Path(__file__).parent.parent
# A fault may make a loop endless. Likely tests take 3 to 50 seconds, all tests about 6 minutes.
LIKELY_SECONDS, ALL_SECONDS = 120, 1800
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["numpy", "pytest", "torch", "triton"])


def copy_tree(root: Path, folder: Path) -> Path:
    """A copy of the files that git knows or would add, in `folder`."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():  # not one that was removed and is still in the index
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / "tree" / name)
    return folder


def unfit(faults: Iterable[Fault], root: Path) -> list[str]:
    """A line for each fault that cannot be seeded, or leaves no Python."""
    problems = []
    for fault in faults:
        try:
            ast.parse(fault.seeded((root / fault.file).read_text()))
        except (OSError, LookupError, SyntaxError) as error:
            problems.append(f"{type(error).__name__}: {error}: {fault}")
    return problems


@contextlib.contextmanager
def seeded(fault: Fault, tree: Path) -> Iterator[None]:
    """The fault is in the tree."""
    file = tree / fault.file
    text = file.read_text()
    file.write_text(fault.seeded(text))
    try:
        yield
    finally:
        file.write_text(text)


def run_pytest(tree: Path, output: Path, targets: list[str]) -> None:
    """In a process forked from one that has imported torch and triton: half of a fault's time would go into that."""
    os.setsid()
    with open(output, "w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.chdir(tree)
    # CI: hypothesis draws the same examples each time. Bytecode: two versions of a file may be of one size and second.
    os.environ |= {"PYTHONPATH": str(tree), "CI": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # a faulty choice of tiles must not reach the user's own
    os.environ["XDG_CACHE_HOME"] = str(output.parent / "cache")
    sys.dont_write_bytecode = True
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]  # this file's own
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *targets]))


def first_failure(folder: Path, targets: Iterable[str], seconds: float) -> str:
    """What fails first when pytest runs `targets` in the copy; nothing if all pass."""
    output = folder / "output"
    process = FORKS.Process(target=run_pytest, args=(folder / "tree", output, list(targets)))
    process.start()
    process.join(seconds)
    code = process.exitcode
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what the tests started, too
    process.join()
    if code is None:
        return f"the time limit of {seconds} s"
    if code == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output.read_text(errors="replace"), re.MULTILINE)
    return found[1] if found else f"exit code {code}"


def all_tests(fault: Fault, tree: Path) -> list[str]:
    """Every file of tests, the fault's likely ones first; but not test_mutate.py, which fails wherever a fault is."""
    likely = {target.split("::")[0] for target in fault.tests}
    files = [f"tests/{path.name}" for path in sorted((tree / "tests").glob("test_*.py"))]
    return sorted((file for file in files if file != "tests/test_mutate.py"), key=lambda file: file not in likely)


def survivors(
    faults: list[Fault], folders: list[Path], targets: Callable[[Fault, Path], Iterable[str]], seconds: float
) -> list[Fault]:
    """The faults that pass their `targets`, a process for each copy of the tree; a line for each fault."""
    free: queue.Queue[Path] = queue.Queue()
    for folder in folders:
        free.put(folder)

    def attempt(fault: Fault) -> tuple[str, float]:
        folder, started = free.get(), time.monotonic()
        try:
            with seeded(fault, folder / "tree"):
                failure = first_failure(folder, targets(fault, folder / "tree"), seconds)
            return failure, time.monotonic() - started
        finally:
            free.put(folder)

    survived = []
    with ThreadPoolExecutor(len(folders)) as pool:
        for number, (fault, (failure, took)) in enumerate(zip(faults, pool.map(attempt, faults), strict=True), start=1):
            outcome = f"killed by {failure}" if failure else "NOT KILLED"
            print(f"[{number}/{len(faults)}] {took:3.0f} s  {fault}\n    {outcome}", flush=True)
            if not failure:
                survived.append(fault)
    return survived


def require_pass(folders: list[Path], targets: Sequence[str]) -> None:
    """A test that fails without a fault kills every fault."""
    with ThreadPoolExecutor(len(folders)) as pool:
        shares = [targets[number :: len(folders)] for number in range(len(folders))]
        failures = list(pool.map(lambda f, s: first_failure(f, s, ALL_SECONDS) if s else "", folders, shares))
    for folder, failure in zip(folders, failures, strict=True):
        if failure:
            sys.exit(f"Without a fault: {failure} fails\n{(folder / 'output').read_text()}")


def run(faults: list[Fault], root: Path, jobs: int, quick: bool) -> int:
    """Print what becomes of each fault; returns the exit code."""
    if problems := unfit(faults, root):
        sys.exit("\n".join(problems))
    with tempfile.TemporaryDirectory(prefix="mutate-") as temporary:
        folders = [copy_tree(root, Path(temporary) / str(number)) for number in range(jobs)]
        require_pass(folders, sorted({target for fault in faults for target in fault.tests}))
        unlikely = survived = survivors(faults, folders, lambda fault, _: fault.tests, LIKELY_SECONDS)
        if unlikely and not quick:
            print(f"All tests for {len(unlikely)} faults that their likely tests do not kill:", flush=True)
            require_pass(folders, all_tests(unlikely[0], folders[0] / "tree"))
            survived = survivors(unlikely, folders, all_tests, ALL_SECONDS)
    by_likely, by_others = len(faults) - len(unlikely), len(unlikely) - len(survived)
    print(f"{len(faults)} faults: {by_likely} killed by their likely tests, {by_others} by others", end=", ")
    print(f"{len(survived)} {'not killed by their likely tests' if quick else 'survived'}")
    print(*(f"  {fault}" for fault in survived), sep="\n")
    return 1 if survived else 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="faults whose line in the list matches")
    parser.add_argument("--jobs", type=int, default=2, help="processes of pytest at a time (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="run the likely tests alone")
    args = parser.parse_args(argv)
    faults = [fault for fault in FAULTS if re.search(args.only, str(fault))]
    if not faults:
        parser.error(f"no fault matches {args.only!r}")
    return run(faults, ROOT, args.jobs, args.quick)


if __name__ == "__main__":
    sys.exit(main())
