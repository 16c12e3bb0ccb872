"""Rows as text: a line as it scrolls by, and markdown tables in which it is in plain sight where ours is slower."""

from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

from bench import rows as results
from bench.rows import OK, Row

SLOWER, FASTER, EVEN = "slower", "faster", "even"
SPREAD = 0.02  # a ratio this near to 1 is noise
COLOURS = {FASTER: "tab:green", EVEN: "tab:gray", SLOWER: "tab:red"}


def grid(table: Sequence[dict[str, Any]]) -> str:
    """Markdown of dicts that share their keys; None is an empty cell."""
    return tabulate(table, headers="keys", tablefmt="github", floatfmt=".3g")


def outcome(ratio: float) -> str:
    return FASTER if ratio > 1 + SPREAD else SLOWER if ratio < 1 - SPREAD else EVEN


def versus(ratio: float, digits: int = 2) -> str:
    """How ours compares, by the other's time over ours: "2.4x slower"."""
    return f"{ratio:.{digits}g}x faster" if ratio > 1 else f"{1 / ratio:.{digits}g}x slower"


def line(row: Row) -> str:
    """A row as it scrolls by."""
    head = results.full_title(row)
    if row.status != OK:
        return f"{head}: {row.status.upper()}: {row.detail}"
    parts = [f"{row.median_ms:.4g} ms ({row.p20_ms:.4g} to {row.p80_ms:.4g})"]
    if row.ratio is not None:
        parts.append(f"ratio {row.ratio:.3g}")
    if row.tflops is not None:
        parts.append(f"{row.tflops:.3g} TFLOP/s")
    if row.gbps is not None:
        parts.append(f"{row.gbps:.4g} GB/s")
    if row.floor_share is not None:
        parts.append(f"{row.floor_share:.0%} of the {row.floor_by} roofline")
    if row.peak_bytes is not None:
        parts.append(f"{row.peak_bytes / 2**20:.1f} MiB")
    return f"{head}: {', '.join(parts)}"


def _line_of(members: Sequence[Row]) -> dict[str, str]:
    """One comparison: the fastest of ours against the fastest baseline."""
    ours, baseline = results.best(members, ours=True), results.best(members, ours=False)

    def cell(row: Row | None, mine: bool) -> str:
        if row is not None:
            return f"{row.median_ms:.3g} ({row.provider.removeprefix('ours ')}, {row.layout})"
        return ", ".join(sorted({r.status for r in members if r.ours == mine})) or "not run"

    if ours is not None and ours.ratio is not None:
        text = EVEN if outcome(ours.ratio) == EVEN else versus(ours.ratio, 3)
        is_bold = outcome(ours.ratio) == SLOWER
    else:
        is_bold = ours is None and any(r.ours for r in members)
        text = "none right" if is_bold else "nothing to compare"
    shown = [
        members[0].title,
        cell(ours, True),
        cell(baseline, False),
        f"**{text}**" if is_bold else text,
    ]
    names = ["workload", "ours, ms", "best baseline, ms", "ours is"]
    extra = {
        "TFLOP/s": f"{ours.tflops:.3g}" if ours and ours.tflops is not None else "",
        "GB/s": f"{ours.gbps:.4g}" if ours and ours.gbps is not None else "",
        "of the roofline": f"{ours.floor_share:.0%}" if ours and ours.floor_share is not None else "",
        "peak MiB, ours and baseline": _memory(ours, baseline),
    }
    return {**dict(zip(names, shown, strict=True)), **extra}


def _memory(*pair: Row | None) -> str:
    cells = [f"{r.peak_bytes / 2**20:.3g}" if r and r.peak_bytes is not None else "" for r in pair]
    return " / ".join(cells) if any(cells) else ""


def table(rows: Iterable[Row]) -> str:
    """Markdown, a line a problem: our fastest, the fastest baseline, and their ratio, in bold where ours is slower."""
    lines = [_line_of(members) for members in results.by_group(rows).values()]
    kept = [name for name in (lines[0] if lines else {}) if any(entry[name] for entry in lines)]
    return tabulate(
        [[entry[name] for name in kept] for entry in lines], headers=kept, tablefmt="github", disable_numparse=True
    )


def summary(rows: Sequence[Row]) -> str:
    """The table, and a count."""
    found = ratios(rows)
    counts = {word: sum(outcome(ratio) == word for _, ratio in found) for word in COLOURS}
    refused = sum(row.ours and row.status != OK for row in rows)
    words = ", ".join(f"{word} in {count}" for word, count in counts.items())
    return f"{table(rows)}\n\nof {len(found)} comparisons ours is {words}; rows of ours wrong or raising: {refused}"


def ratios(rows: Iterable[Row]) -> list[tuple[str, float]]:
    """(title, ratio of our fastest), a problem each; those without a ratio are left out."""
    found = [(members[0].title, results.best(members, ours=True)) for members in results.by_group(rows).values()]
    return [(title, row.ratio) for title, row in found if row is not None and row.ratio is not None]


def without_ours(rows: Iterable[Row]) -> list[str]:
    """Titles of the problems where ours ran and none was right."""
    groups = results.by_group(rows).values()
    return [m[0].title for m in groups if any(row.ours for row in m) and results.best(m, ours=True) is None]
