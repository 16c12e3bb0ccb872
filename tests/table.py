"""README's table of operators, filled by running each layer of the tests' table against torch's.

    python -m tests.table            # print it
    python -m tests.table --write    # put it into README.md

A cell says what held for every case of its row, on the CPU: ✓, or the cases that failed. `pytest -m slow` runs it too.
"""

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree

sys.path.insert(0, str(Path(__file__).parent))
from test_layers import LAYERS, build, inputs

from tritonconv import nn

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- operators -->\n", "<!-- end of operators -->\n"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float32: 1e-4, torch.float64: 1e-7}
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
Case = tuple[str, dict, tuple[int, ...]]


def first(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return _pytree.tree_leaves(layer(*inputs(layer, x)))[0]


def pair(case: Case) -> tuple[torch.nn.Module, torch.nn.Module, torch.Tensor]:
    """Ours, torch's, and an input of distinct values, none of them 0."""
    name, arguments, shape = case
    numel = torch.Size(shape).numel()
    x = ((torch.randperm(numel) - numel // 2 + 0.5) / 10).reshape(shape).double()
    x = x.abs() if name.startswith("LPPool") else x
    arguments = {key: value for key, value in arguments.items() if key != "inplace"}
    return build(nn, name, arguments), build(torch.nn, name, arguments), x


def gradients(layer: torch.nn.Module, x: torch.Tensor, twice: bool = False) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    leaves = [x, *layer.parameters()]
    found = torch.autograd.grad(first(layer, x).sin().sum(), leaves, create_graph=True)
    if twice:
        found = torch.autograd.grad(sum(t.square().sum() for t in found), leaves, materialize_grads=True)
    return [t.detach() for t in found]


def forward(case: Case) -> None:
    ours, theirs, x = pair(case)
    found, expected = (_pytree.tree_leaves(layer(*inputs(layer, x))) for layer in (ours, theirs))
    torch.testing.assert_close(found, expected)


def backward(case: Case) -> None:
    ours, theirs, x = pair(case)
    torch.testing.assert_close(gradients(ours, x), gradients(theirs, x))


def double_backward(case: Case) -> None:
    ours, theirs, x = pair(case)
    torch.testing.assert_close(gradients(ours, x, twice=True), gradients(theirs, x, twice=True))


def dtypes(case: Case) -> None:
    for dtype in DTYPES:
        ours, theirs, x = pair(case)
        x = x.to(dtype)
        expected = [first(theirs, x.double()), *gradients(theirs, x.double())]
        ours = ours.to(dtype)
        found = [first(ours, x), *gradients(ours, x)]
        assert {t.dtype for t in found} == {dtype}
        bound = TOLERANCE[dtype]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=bound, atol=bound * max(1.0, float(other.abs().max())))


def layouts(case: Case) -> None:
    """Any strides, and in float32 the memory format of torch's answer."""
    ours, theirs, x = pair(case)
    expected = first(theirs, x)
    whole = torch.full([2 * size + 1 for size in x.shape], float("nan"), dtype=x.dtype)
    sliced = whole[tuple(slice(1, None, 2) for _ in x.shape)].copy_(x)
    torch.testing.assert_close(first(ours, sliced), expected)
    rank = case[0][-2]
    if x.dim() in FORMATS and not (rank.isdigit() and x.dim() < int(rank) + 2):  # torch refuses some unbatched images
        x = x.float().contiguous(memory_format=FORMATS[x.dim()])
        found, expected = (first(layer.float(), x) for layer in (ours, theirs))
        torch.testing.assert_close(found, expected)
        steps = [[s for n, s in zip(t.shape, t.stride(), strict=True) if n > 1] for t in (found, expected)]
        assert case[0] == "PixelUnshuffle" or steps[0] == steps[1]


def compiled(case: Case) -> None:
    """fullgraph, any sizes."""
    ours, _, x = pair(case)
    torch._dynamo.reset()
    function = torch.compile(lambda x: first(ours, x), fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(function(x), first(ours, x))


def vmap(case: Case) -> None:
    ours, theirs, x = pair(case)
    stacked = torch.stack([x, x + 1])
    found, expected = (torch.vmap(lambda x: first(layer, x))(stacked) for layer in (ours, theirs))  # noqa: B023
    torch.testing.assert_close(found, expected)


def forward_mode(case: Case) -> None:
    ours, theirs, x = pair(case)
    direction = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)
    found, expected = (torch.func.jvp(lambda x: first(layer, x), (x,), (direction,)) for layer in (ours, theirs))  # noqa: B023
    torch.testing.assert_close(found, expected)


COLUMNS: dict[str, Callable[[Case], None]] = {
    "forward": forward,
    "backward": backward,
    "double backward": double_backward,
    "16, 32 and 64 bit": dtypes,
    "any layout": layouts,
    "compile": compiled,
    "vmap": vmap,
    "forward mode": forward_mode,
}


def rows() -> dict[str, list[Case]]:
    """The cases of each family of layers: those that differ in the number of axes."""
    found: dict[str, list[Case]] = {}
    for case in LAYERS:
        found.setdefault("Upsample" if case[0].startswith("Upsampl") else case[0].rstrip("123d"), []).append(case)
    return found


def functions(family: str, layers: list[str]) -> str:
    """The names in tritonconv.functional of what the layers call."""
    own = {"Upsample": ["interpolate", "upsample", "upsample_nearest", "upsample_bilinear"], "ReLU": ["relu"]}
    words = [layer.replace("LPPool", "LpPool") for layer in layers]
    names = own.get(family) or [re.sub("(?<=[a-z])(?=[A-Z])", "_", word).lower() for word in words]
    return ", ".join(f"`{name}`" for name in names)


def cell(check: Callable[[Case], None], cases: list[Case]) -> str:
    failed = []
    for case in cases:
        torch.manual_seed(0)
        try:
            check(case)
        except Exception as error:
            failed.append(f"{case[0]}: {type(error).__name__}")
    return "; ".join(failed) or "✓"


def table(columns: dict[str, Callable[[Case], None]] = COLUMNS) -> Iterator[str]:
    yield "| function in `tritonconv.functional` | layer in `tritonconv.nn` | " + " | ".join(columns) + " |"
    yield "| --- | --- |" + " --- |" * len(columns)
    for family, cases in rows().items():
        layers = list(dict.fromkeys(case[0] for case in cases))
        filled = [cell(check, cases) for check in columns.values()]
        yield f"| {functions(family, layers)} | {', '.join(f'`{name}`' for name in layers)} | {' | '.join(filled)} |"


def in_readme() -> str:
    text = README.read_text()
    return text[text.index(START) + len(START) : text.index(END)]


def main(argv: list[str] | None = None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    args = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lines = "".join(f"{line}\n" for line in table())
    print(lines, end="")
    if args.write:
        text = README.read_text()
        README.write_text(text.replace(START + in_readme() + END, START + lines + END))


if __name__ == "__main__":
    main()
