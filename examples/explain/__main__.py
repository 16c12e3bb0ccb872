"""Demonstrations of what convolutions do: figures as PNG files, and what they show in numbers.

    python -m examples.explain edges
    python -m examples.explain all

Each also leaves what the page of `gallery` needs.
"""

import argparse
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from examples.explain import algorithms, edges, gallery, matrix, receptive, resampling, shifts, summary, trained
from examples.explain.lesson import ArgumentError, Lesson, put, save
from examples.networks import NETWORKS

DEMOS: dict[str, ModuleType] = {  # in the order in which they teach
    "edges": edges,
    "matrix": matrix,
    "shifts": shifts,
    "resampling": resampling,
    "receptive": receptive,
    "summary": summary,
    "algorithms": algorithms,
}
COMMANDS = DEMOS | {"trained": trained}
RAW = argparse.RawDescriptionHelpFormatter  # keeps the lines of a docstring
ALL: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in DEMOS),
    ("summary", {"network": "vgg16"}),
]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser() -> Parser:
    common = Parser(add_help=False)
    common.add_argument("--out", type=Path, default=Path("runs/explain"), help="folder for figures (%(default)s)")
    top = Parser(prog="python -m examples.explain", description=__doc__, formatter_class=RAW)
    commands = top.add_subparsers(dest="demo", metavar="DEMONSTRATION", required=True)
    for name, module in COMMANDS.items():
        text = module.__doc__ or ""
        commands.add_parser(name, parents=[common], help=text.splitlines()[0], description=text, formatter_class=RAW)
    commands.add_parser("gallery", parents=[common], help="One page, index.html, of all that was demonstrated.")
    commands.add_parser("all", parents=[common], help="Every demonstration, and the page.")
    for name, default in (("trained", trained.RUN), ("all", None)):
        text = f"folder that examples.train left, such as {trained.RUN}"
        commands.choices[name].add_argument("--run", type=Path, metavar="DIR", default=default, help=text)
    networks: dict[str, Any] = {
        "choices": tuple(NETWORKS),
        "default": "mnist-cnn3",
        "help": "one of %(choices)s (%(default)s)",
    }
    commands.choices["summary"].add_argument("network", nargs="?", metavar="NETWORK", **networks)
    add = commands.choices["receptive"].add_argument
    add("--network", metavar="NETWORK", **networks)
    add("--layer", type=int, help="its number, from 0 (the last with a window)")
    add("--unit", type=_unit, help="row and column, such as 3,3, or one number along one axis (the middle one)")
    return top


def _unit(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a row and a column such as 3,3") from None


def _trained(run: Path | None) -> list[tuple[str, dict[str, Any]]]:
    return [] if run is None else [("trained", {"run": run})]


def show(lesson: Lesson, about: str, out: Path) -> None:
    save(lesson, about, out)
    print(f"{lesson.title}\n\n{lesson.text}\n")
    for drawing in lesson.drawings:
        print(f"written: {out / drawing.name}.png")


def main(argv: list[str] | None = None) -> int:
    top = parser()
    args = vars(top.parse_args(argv))
    demo, out = args.pop("demo"), args.pop("out")
    run = args.pop("run") if demo == "all" else None
    try:
        for name, options in [*ALL, *_trained(run)] if demo == "all" else [(demo, args)]:
            if name in COMMANDS:
                show(COMMANDS[name].lesson(**options), (COMMANDS[name].__doc__ or "").strip(), out)
        if demo in ("all", "gallery"):
            put(out / "index.html", gallery.page(out, tuple(COMMANDS)).encode())
            print(f"written: {out / 'index.html'}")
    except ArgumentError as error:
        top.error(f"argument --{error.name}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
