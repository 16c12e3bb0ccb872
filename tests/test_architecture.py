"""The house rules of docs/map.md that a machine can check."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tritonconv"
# top to bottom: a module imports only from rooms below its own, or from its own
LAYERS = (
    *(
        "__init__",
        "conversion",
        "explanation",
        "nn",
        "patching",
        "functional",
        "tuning.measure",
        "recording",
        "replica",
    ),
    *("ops", "kernels", "tuning", "problems", "checks", "layouts", "jit", "interpreter", "version"),
)
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))

DOTS = ("multiply",)  # what `tl.dot` is in the interpreter
# torch's own convolutions, poolings and what they are built from, under any of their names
FORBIDDEN = {
    *(f"{name}{axes}d" for name in ("conv", "conv_transpose", "max_pool", "avg_pool", "lp_pool") for axes in (1, 2, 3)),
    *("convolution", "_convolution", "convolution_backward", "cudnn_convolution", "mkldnn_convolution"),
    *("max_pool2d_with_indices", "max_pool2d_with_indices_backward", "im2col", "col2im", "unfold", "fold"),
    *("relu", "relu_", "threshold", "threshold_backward", "matmul", "mm", "bmm", "addmm", "einsum", "tensordot"),
}


def room_of(module: str) -> str:
    """The room of tritonconv's module a.b: a, or a.b where that has a place of its own."""
    first, second, *_ = [*module.split("."), ""]
    return f"{first}.{second}" if f"{first}.{second}" in LAYERS else first


def room(path: Path) -> str:
    return room_of(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def imported_rooms(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {room_of(name.removeprefix("tritonconv.")) for name in names if name.startswith("tritonconv.")}


def dotted(node: ast.AST) -> str:
    """a.b.c of an attribute chain; '' for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


@by_file
def test_imports_run_downwards(path):
    assert room(path) in LAYERS, "a new room needs a place in the order"
    below = LAYERS[LAYERS.index(room(path)) :]
    assert imported_rooms(TREES[path]) <= set(below)


@by_file
def test_no_import_of_tests_bench_or_examples_and_none_inside_a_function(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert not [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)], node.name
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
        assert not [n for n in names if n.split(".")[0] in ("tests", "bench", "examples")]


@by_file
def test_torchs_own_convolution_and_pooling_are_not_called(path):
    """Neither as torch.x, torch.nn.functional.x or torch.ops.aten.x, nor through an alias or as an operator @.

    The interpreter's `tl.dot` is the one matrix product that torch may compute: a tile's.
    """
    aliases = {"torch"}
    dots = [n for n in ast.walk(TREES[path]) if isinstance(n, ast.FunctionDef) and n.name in DOTS]
    assert not dots or room(path) == "interpreter"
    allowed = {id(n) for dot in dots for n in ast.walk(dot)}
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            aliases |= {a.asname or a.name.split(".")[0] for a in node.names if a.name.split(".")[0] == "torch"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            assert not FORBIDDEN & {a.name for a in node.names}
            aliases |= {a.asname or a.name for a in node.names}
    for node in ast.walk(TREES[path]):
        assert not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.MatMult)
        chain = dotted(node).split(".") if isinstance(node, ast.Attribute) else []
        if chain and chain[0] in aliases and chain[:2] != ["torch", "backends"] and id(node) not in allowed:
            assert not FORBIDDEN & set(chain), ".".join(chain)


@by_file
def test_masked_loads_name_other(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call) and dotted(node.func) == "tl.load":
            given = {keyword.arg for keyword in node.keywords}
            masked = "mask" in given or len(node.args) > 1
            assert not masked or "other" in given, f"{path.name}:{node.lineno}"


@by_file
def test_no_atomics(path):
    """Atomics add in the order in which programs happen to finish; a maximum of whole numbers is the same in any."""
    found = {n.attr for n in ast.walk(TREES[path]) if isinstance(n, ast.Attribute) and n.attr.startswith("atomic_")}
    assert found <= {"atomic_max"}


def test_kernels_end_in_kernel_and_every_one_is_launched():
    nodes = [node for tree in TREES.values() for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    jitted = {f.name for f in functions if "jit" in [dotted(d) for d in f.decorator_list]}
    subscripts = [n.func for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Subscript)]
    launched = {dotted(subscript.value) for subscript in subscripts} & jitted
    assert launched == {name for name in jitted if name.endswith("_kernel")}


@pytest.mark.parametrize("folder", ["tritonconv", "bench", "examples"])
def test_what_may_be_printed_is_ascii(folder):
    """A terminal may know nothing else. Text is what no docstring is, and the module docstrings that argparse shows."""
    for path in sorted((PACKAGE.parent / folder).rglob("*.py")):
        tree = ast.parse(path.read_text())
        holders = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef) and n.body]
        docstrings = {id(n.body[0].value) for n in holders if isinstance(n.body[0], ast.Expr)}
        texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        printed = [n.value for n in texts if id(n) not in docstrings]
        if "__doc__" in path.read_text():
            printed.append(ast.get_docstring(tree) or "")
        assert [text for text in printed if not text.isascii()] == [], path
