"""The examples of docstrings run, README is short, its figures are those of docs/results.md, and no link is broken."""

import doctest
import re
from pathlib import Path

import pytest
import torch

import tritonconv
from tritonconv import functional, nn, tuning

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CALLS = ("autotune", "convert", "explain", "patched", "restore")
PUBLIC = {
    **{f"tritonconv.{name}": getattr(tritonconv, name) for name in CALLS},
    **{f"tritonconv.functional.{name}": getattr(functional, name) for name in functional.__all__},
    **{f"tritonconv.nn.{name}": getattr(nn, name) for name in nn.__all__},
}


@pytest.fixture(autouse=True)
def an_untuned_process(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONCONV_CACHE_DIR", str(tmp_path))
    with tuning.using({}):
        yield


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.filterwarnings("ignore:`upsample:UserWarning")
@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_docstring(name):
    """Each public function and layer has one, that calls it by its name."""
    doc = PUBLIC[name].__doc__ or ""
    assert f"{name}(" in doc.partition("Example:")[2]
    test = doctest.DocTestParser().get_doctest(doc, {"torch": torch, "tritonconv": tritonconv}, name, None, 0)
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)


def anchors(page: Path) -> set[str]:
    """What a heading's link is called on GitHub."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_files_that_pages_name_exist():
    """Written as code, with a folder: `tests/oracle.py`, or `kernels/grid.py` of the package."""
    for page in PAGES:
        for name in re.findall(r"`((?:\w+/)+\w+\.(?:py|md|json))`", page.read_text()):
            if "decisions" not in page.parts and not name.startswith("examples/"):
                assert (ROOT / name).is_file() or (ROOT / "tritonconv" / name).is_file(), f"{page.name}: {name}"
        for name in re.findall(r"(?<![\w/])\w+\.py\b", page.read_text()):  # of some folder
            assert any(ROOT.glob(f"*/**/{name}")), f"{page.name}: {name}"


def test_readme_is_short():
    """Outside tables, code and comments."""
    text = re.sub(r"^```.*?^```|<!--.*?-->|^\|.*?$", "", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(text.split()) <= 1000


def test_readmes_figures_are_those_of_the_results():
    table = README.read_text().partition("<!-- figures -->\n")[2].partition("<!-- end of figures -->")[0]
    figures = re.findall(r"[\d.,]+ (?:ms|s|%)", table)
    assert len(figures) >= 10
    results = (ROOT / "docs" / "results.md").read_text()
    assert [figure for figure in figures if not re.search(rf"\b{re.escape(figure.split()[0])}\b", results)] == []


def test_excerpts_stand_in_the_code():
    """What a page of docs/ shows as Python, or as rows of a table in it, it quotes."""
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "tritonconv").rglob("*.py")]
    code = [path.read_text() for path in files if path != Path(__file__)]
    for page in sorted((ROOT / "docs").glob("*.md")):
        for excerpt in re.findall(r"^```(?:python|text)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            assert any(excerpt in text for text in code), f"{page.name} quotes what is not there:\n{excerpt}"


def test_what_readme_shows_runs(capsys):
    (shown,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    exec(shown, {})
    assert "1 fused where they are called" in capsys.readouterr().out


def test_tests_that_pages_name_exist():
    """As commands: pytest FILE -k NAME."""
    named = [pair for page in PAGES for pair in re.findall(r"`pytest (tests/\S+\.py) -k (\w+)`", page.read_text())]
    assert len(named) > 10
    for file, name in named:
        assert re.search(rf"^def \w*{name}", (ROOT / file).read_text(), re.MULTILINE), name
