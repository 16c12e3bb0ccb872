"""Tables and a picture from the bench's JSON.

    python -m bench.report FILE.json [FILE.json ...] [--only PATTERN] [--out FOLDER] [--readme PAGE.md] [--merge FILE]

A page, such as docs/results.md, carries a table between the lines `<!-- bench FILE.json PATTERN -->` and `<!-- /bench
-->`, or, of a file of bench.interpreter or bench.host, `<!-- interpreter FILE.json -->` and `<!-- /interpreter -->`, or
with `host` or `networks` (examples.results); --readme writes every such table anew, from the file named there, its path
taken from the page's folder.
"""

import argparse
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench import host, interpreter
from bench import rows as results
from bench.rows import OK, Row
from bench.tables import COLOURS, SLOWER, outcome, ratios, summary, table, without_ours
from examples import results as networks

MARKED = re.compile(
    r"<!-- (?P<kind>bench|interpreter|host|networks) (?P<file>\S+)(?: (?P<pattern>.*?))? -->\n(?P<table>.*?)"
    r"<!-- /(?P=kind) -->",
    re.DOTALL,
)


def picture(rows: Sequence[Row]) -> Figure:
    """A bar a problem, worst first: the best baseline's time over ours, red where ours is slower or wrong."""
    bars = [(title, 1.0, "none right", COLOURS[SLOWER]) for title in without_ours(rows)]
    for title, ratio in sorted(ratios(rows), key=lambda pair: pair[1]):
        bars.append((title, ratio, f"{ratio:.3g}", COLOURS[outcome(ratio)]))
    figure = Figure(figsize=(10, 1.5 + 0.22 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for place, (_, value, label, colour) in enumerate(bars):
        axes.barh(place, value - 1, left=1, color=colour)
        side, shift = ("right", -3) if value < 1 else ("left", 3)
        axes.annotate(
            label,
            (value, place),
            (shift, 0),
            textcoords="offset points",
            fontsize=7,
            ha=side,
            va="center",
            color=colour,
        )
    axes.set_yticks(range(len(bars)), [title for title, *_ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set(xlabel="best baseline's time / ours (right of 1: ours is faster; red: slower)")
    return figure


def growth(rows: Sequence[Row]) -> Figure | None:
    """Time and memory of each provider over batch, channels and picture; None without rows of --scaling."""
    found = [(m, row) for row in rows if row.status == OK and (m := re.match(r"scaling-(\w+)-(\d+)$", row.workload))]
    axes_names = list(dict.fromkeys(m.group(1) for m, _ in found))
    if not found:
        return None
    memory = any(row.peak_bytes for _, row in found)
    figure = Figure(figsize=(5 * len(axes_names), 8 if memory else 4.5), layout="constrained")
    panels = figure.subplots(1 + memory, len(axes_names), squeeze=False)
    for column, name in enumerate(axes_names):
        lines: dict[str, list[tuple[int, Row]]] = {}
        for m, row in found:
            if m.group(1) == name:
                label = f"{row.provider} {row.layout}, {row.title.split(' ', 2)[2]}"
                lines.setdefault(label, []).append((int(m.group(2)), row))
        for label, points in lines.items():
            points = sorted(points, key=lambda point: point[0])
            style = "-" if points[0][1].ours else "--"
            sizes = [size for size, _ in points]
            panels[0][column].loglog(sizes, [row.median_ms for _, row in points], style, marker=".", label=label)
            if memory:
                peaks = [(row.peak_bytes or 0) / 2**20 for _, row in points]
                panels[1][column].loglog(sizes, peaks, style, marker=".", label=label)
        panels[0][column].set(xlabel=name, ylabel="ms")
        if memory:
            panels[1][column].set(xlabel=name, ylabel="peak MiB")
    panels[0][0].legend(fontsize=5)
    return figure


def conditions_line(conditions: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in conditions.items() if not isinstance(value, dict | list))


def readme(text: str, folder: Path) -> str:
    """`text` with every marked table written anew from its file.

    Raises:
        ValueError: a pattern finds no row, or a file is not the bench's.
        OSError: a file cannot be read.
    """

    def fill(match: re.Match[str]) -> str:
        head = match[0][: match[0].index("\n") + 1]
        if (module := {"interpreter": interpreter, "host": host, "networks": networks}.get(match["kind"])) is not None:
            _, measured = module.read(folder / match["file"])
            return f"{head}\n{module.table(measured)}\n\n<!-- /{match['kind']} -->"
        _, rows = results.read(folder / match["file"])
        chosen = results.matching(rows, match["pattern"] or "")
        if not chosen:
            raise ValueError(f"no row of {match['file']} matches {match['pattern']!r}")
        return f"{head}\n{table(chosen)}\n\n<!-- /bench -->"

    return MARKED.sub(fill, text)


def save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    results.replace(path, buffer.getvalue())


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(
        "bench.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("files", nargs="*", type=Path, metavar="FILE.json")
    p.add_argument("--only", default="", metavar="PATTERN", help="regular expression on a row's title")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="write NAME.md and .png here, named like the file")
    p.add_argument("--readme", type=Path, metavar="PAGE.md", help="write its marked tables anew")
    p.add_argument("--merge", type=Path, metavar="FILE.json", help="write the files' rows here, as one run")
    args = p.parse_args(argv)
    if args.merge and not args.files:
        p.error("--merge: name the FILE.json to merge")
    if not args.files and not args.readme:
        p.error("name a FILE.json, or a --readme whose tables to write")
    if args.out and not args.out.is_dir():
        p.error(f"--out: there is no folder {args.out}")
    try:
        if args.merge:
            results.write(args.merge, *results.merge([results.read(file) for file in args.files]))
        for file in [args.merge] if args.merge else args.files:
            publish(file, args.only, args.out)
        if args.readme:
            results.replace(args.readme, readme(args.readme.read_text(), args.readme.parent).encode())
    except (OSError, ValueError, re.error) as error:
        p.error(str(error))
    return 0


def publish(file: Path, pattern: str, folder: Path | None) -> None:
    """Print a file's summary, or write it with its pictures into `folder`."""
    conditions, rows = results.read(file)
    rows = results.matching(rows, pattern)
    text = f"{conditions_line(conditions)}\n\n{summary(rows)}\n"
    if folder is None:
        print(text)
        return
    name, grown = file.stem, growth(rows)
    if rows:
        save(picture(rows), folder / f"{name}.png")
        text += f"\n![Best baseline's time over ours, red where ours is slower]({name}.png)\n"
    if grown is not None:
        save(grown, folder / f"{name}-scaling.png")
        text += f"\n![Time and memory over batch, channels and picture]({name}-scaling.png)\n"
    results.replace(folder / f"{name}.md", f"# Bench: {file.stem}\n\n{text}".encode())


if __name__ == "__main__":
    sys.exit(main())
