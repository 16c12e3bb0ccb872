"""Rows of results: what each holds, how they are compared, and their file, which is there whole or not at all."""

import argparse
import dataclasses
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.timing import Roofs, Times
from bench.workloads import Problem

SAME = ("gpu", "driver", "cpu", "torch", "triton", "tritonconv", "commit")  # what rows of one table must share
OK, WRONG, ERROR = "ok", "wrong", "error"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Row:
    """One provider on one problem. Times in milliseconds; None where there is nothing to say, never 0 for it."""

    workload: str
    variant: str
    mode: str
    dtype: str
    tf32: str  # "on", "off" or ""
    captured: bool  # in a CUDA graph
    device: str
    provider: str
    layout: str
    ours: bool
    status: str  # OK; WRONG: refused by the gate; ERROR: raised
    detail: str = ""  # why not OK
    error: float | None = None  # relative Frobenius, the largest over the results; None if infinite
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    floor_ms: float | None = None
    floor_by: str = ""  # "arithmetic" or "memory"
    floor_share: float | None = None  # floor / median: 1 is the hardware's limit
    tflops: float | None = None  # TFLOP/s
    gbps: float | None = None  # GB/s of the least bytes
    ratio: float | None = None  # best baseline's time / this one's: above 1 it is the faster
    peak_bytes: int | None = None  # beyond the inputs; of backward: with its forward

    @property
    def group(self) -> tuple[Any, ...]:
        """What rows must share to be compared with one another."""
        return (self.workload, self.variant, self.mode, self.dtype, self.tf32, self.captured, self.device)

    @property
    def key(self) -> tuple[Any, ...]:
        return (*self.group, self.provider, self.layout)

    @property
    def title(self) -> str:
        """The group in words, without its device."""
        words = [self.workload, self.variant, self.mode, self.dtype]
        if self.variant == self.mode:
            del words[1]
        if self.tf32:
            words.append(f"tf32-{self.tf32}")
        return " ".join([*words, "captured"] if self.captured else words)


def timed(row: Row, times: Times, problem: Problem, roofs: Roofs | None) -> Row:
    """`row` with its times, and with rates and floor where roofs were measured."""
    row = dataclasses.replace(row, median_ms=times.median, p20_ms=times.p20, p80_ms=times.p80)
    if roofs is None:
        return row
    floor, by = roofs.floor_ms(problem.flops, problem.bytes)
    seconds = times.median * 1e-3
    return dataclasses.replace(
        row,
        floor_ms=floor,
        floor_by=by,
        floor_share=floor / times.median,
        tflops=problem.flops / seconds * 1e-12 if problem.flops else None,
        gbps=problem.bytes / seconds * 1e-9,
    )


def by_group(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    return groups


def best(rows: Iterable[Row], ours: bool) -> Row | None:
    """The fastest of ours, or of the baselines; None where no right one has a time."""
    candidates = [row for row in rows if row.ours == ours and row.status == OK and row.median_ms is not None]
    return min(candidates, key=lambda row: row.median_ms or 0.0, default=None)


def with_ratios(rows: Iterable[Row]) -> list[Row]:
    """The rows, each with the best baseline's time over its own."""
    judged = []
    for members in by_group(rows).values():
        baseline = best(members, ours=False)
        for row in members:
            theirs = baseline.median_ms if baseline is not None else None
            ratio = theirs / row.median_ms if theirs is not None and row.median_ms else None
            judged.append(dataclasses.replace(row, ratio=ratio))
    return judged


def write(path: Path, conditions: dict[str, Any], rows: Sequence[Row]) -> None:
    """Put strict JSON at `path` in one step: a reader finds the old file or the new one, never a part.

    Raises:
        ValueError: a value that JSON does not have, such as NaN.
    """
    content = {"conditions": conditions, "rows": [dataclasses.asdict(row) for row in rows]}
    text = json.dumps(content, indent=1, allow_nan=False)
    replace(path, f"{text}\n".encode())


def new_file(text: str) -> Path:
    """The type of an option that names a file to write: what would fail at the end of a run is refused before it."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def replace(path: Path, content: bytes) -> None:
    """Put `content` at `path`, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save(path: Path | None, parser: argparse.ArgumentParser, conditions: dict[str, Any], rows: Sequence[Any]) -> None:
    """Write a bench's figures to its --json, if there is one; ends with an error of the parser where that fails."""
    if path is None:
        return
    try:
        replace(path, json.dumps({"conditions": conditions, "rows": list(rows)}, indent=1).encode())
    except OSError as error:
        parser.error(f"--json {path}: {error}")


def read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """(conditions, rows) of a file that `write` made. Raises what `read_as` raises."""
    return read_as(Row, path, "python -m bench --json")


def read_as(kind: type[T], path: Path, command: str) -> tuple[dict[str, Any], list[T]]:
    """(conditions, rows made `kind`) of a file that `command` wrote.

    Raises:
        ValueError: it is not such a file.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text())
        return content["conditions"], [kind(**row) for row in content["rows"]]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} was not written by `{command}`: {error}") from error


def merge(files: Sequence[tuple[dict[str, Any], list[Row]]]) -> tuple[dict[str, Any], list[Row]]:
    """One run of several, ratios worked out anew; of a row that several have, the last counts.

    Raises:
        ValueError: they differ in machine, versions or commit.
    """
    first = files[0][0]
    for conditions, _ in files[1:]:
        for name in SAME:
            if conditions.get(name) != first.get(name):
                raise ValueError(f"runs of different {name}: {first.get(name)} and {conditions.get(name)}")
    merged = {**first, "runs": [conditions for conditions, _ in files]}
    merged["complete"] = all(conditions.get("complete", False) for conditions, _ in files)
    kept = {row.key: row for _, rows in files for row in rows}
    return merged, with_ratios(kept.values())


def compare(old: Sequence[Row], new: Sequence[Row]) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """(old time over new time for each row of both, rows of the old alone, rows of the new alone)."""
    before, after = ({row.key: row for row in rows} for rows in (old, new))
    table = []
    for key in before:
        if key in after:
            was, now = before[key], after[key]
            ratio = was.median_ms / now.median_ms if was.median_ms and now.median_ms else None
            table.append(
                {
                    "row": full_title(now),
                    "old ms": was.median_ms if was.status == OK else was.status,
                    "new ms": now.median_ms if now.status == OK else now.status,
                    "old / new": ratio,
                }
            )
    gone = [full_title(row) for key, row in before.items() if key not in after]
    added = [full_title(row) for key, row in after.items() if key not in before]
    return table, gone, added


def full_title(row: Row) -> str:
    return f"{row.title} {row.device}: {row.provider} {row.layout}"


def matching(rows: Iterable[Row], pattern: str) -> list[Row]:
    """Rows whose title the regular expression finds."""
    return [row for row in rows if re.search(pattern, row.title)]
