"""Write explain.ipynb, the demonstrations as one notebook: `python -m examples.explain.notebook`.

It holds each demonstration's introduction and a call; what they compute and draw stays in their modules.
"""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from examples.atomic import write
from examples.explain.__main__ import ALL, DEMOS
from examples.explain.gallery import TITLE

NOTEBOOK = Path(__file__).parent.parent / "explain.ipynb"
PATH = """\
import sys
from pathlib import Path

root = next(path for path in [Path.cwd(), *Path.cwd().parents] if (path / "examples" / "explain").is_dir())
sys.path.insert(0, str(root))"""
SHOW = f"""\
from examples.explain import {", ".join(sorted(DEMOS))}


def show(lesson):
    print(lesson.text)
    display(*lesson.drawings)"""


def notebook() -> str:
    """Its file's text, without outputs, the same each time."""
    cells = [
        new_markdown_cell(f"# {TITLE}\n\nRun the cells from top to bottom."),
        new_code_cell(PATH),
        new_code_cell(SHOW),
    ]
    for name, options in ALL:
        arguments = ", ".join(f'{option}="{value}"' for option, value in options.items())
        title, _, about = (DEMOS[name].__doc__ or "").partition("\n")
        if not options:
            cells.append(new_markdown_cell(f"## {title.rstrip('.')}\n\n{about.strip()}"))
        cells.append(new_code_cell(f"show({name}.lesson({arguments}))"))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = new_notebook(cells=cells, metadata=kernel)
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


if __name__ == "__main__":
    write(NOTEBOOK, notebook().encode())
