"""One page, index.html, of all demonstrations in a folder.

Images lie within the page and nothing is loaded from elsewhere, so that the one file can be sent, read and printed.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from examples.explain.lesson import RECORD, ArgumentError

TITLE = "What convolutions do"
SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """A PNG file as the page holds it; width and height in pixels keep its place while it loads."""

    data: str
    alt: str
    width: int
    height: int


class Section(NamedTuple):
    name: str
    title: str
    about: list[str]  # a paragraph each
    text: str
    figures: list[Picture]


def page(folder: Path, order: Sequence[str] = ()) -> str:
    """The HTML of what `folder` holds, the demonstrations in `order` first."""
    rank = {name: place for place, name in enumerate(order)}
    records = sorted(
        folder.glob(f"*{RECORD}"),
        key=lambda path: (rank.get(path.name.split("-")[0].split(".")[0], len(rank)), path.name),
    )
    sections = [_demonstration(path) for path in records]
    if not sections:
        raise ArgumentError("out", f"no demonstration is in {str(folder)!r}; run some first")
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return templates.get_template("gallery.html").render(title=TITLE, sections=sections)


def _demonstration(path: Path) -> Section:
    try:
        record = json.loads(path.read_text())
        figures = [_picture(path.parent / figure["file"], figure["alt"]) for figure in record["figures"]]
    except (OSError, ValueError, KeyError) as error:
        raise ArgumentError(
            "out", f"{path} or its figures cannot be read ({error}); run that demonstration again"
        ) from None
    return Section(
        path.name.removesuffix(RECORD), record["title"], record["about"].split("\n\n"), record["text"], figures
    )


def _picture(path: Path, alt: str) -> Picture:
    content = path.read_bytes()
    if not content.startswith(SIGNATURE):
        raise ValueError(f"{path} is no PNG file")
    width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))  # PNG's first chunk
    return Picture(base64.b64encode(content).decode(), alt, width, height)
