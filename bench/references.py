"""What others' kernels compile to, at our sizes and in our tiles: what the code report is compared with.

The convolutions that torch.compile's inductor makes from the templates in the installed torch, forward and both
gradients, and a plain matrix product of the size that the implicit GEMM has, with nothing to work out on the way.
"""

import importlib.util
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton.language as tl
from torch._inductor.kernel import conv as inductor

from tritonconv import jit

HEAD = "import triton\nimport triton.language as tl\nfrom tritonconv.jit import jit\n\n@jit\n"
# What a template may name: inductor's constants beside the tile. Square filters: the same along both axes.
SQUARE = {"KERNEL": 3, "STRIDE": 1, "PADDING": 1, "DILATION": 1}


@jit.jit
def matmul_kernel(
    a_ptr,  # (M, K), rows dense
    b_ptr,  # (K, N), rows or columns dense
    c_ptr,  # (M, N), rows dense
    rows,
    COLUMNS: tl.constexpr,
    REDUCED: tl.constexpr,
    b_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: a tile of c = a · b."""
    offs_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + (offs_m[:, None] * REDUCED + offs_k[None, :])
    b_ptrs = b_ptr + (offs_k[:, None] * b_stride[0] + offs_n[None, :] * b_stride[1])
    valid_m, valid_n = (offs_m < rows)[:, None], (offs_n < COLUMNS)[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, REDUCED, BLOCK_K):
        a = tl.load(a_ptrs, mask=valid_m & (offs_k < REDUCED - k)[None, :], other=0.0)
        b = tl.load(b_ptrs, mask=(offs_k < REDUCED - k)[:, None] & valid_n, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        a_ptrs += BLOCK_K
        b_ptrs += BLOCK_K * b_stride[0]
    tl.store(c_ptr + (offs_m[:, None] * COLUMNS + offs_n[None, :]), acc, mask=valid_m & valid_n)


def launches(
    dtype: torch.dtype, layout: torch.memory_format, tiles: dict[str, dict[str, int]], allow_tf32: bool
) -> Iterator[tuple[str, jit.Launch]]:
    """(name, launch) for the 3×3 convolution of 64 channels on 32 images of 56×56, in the tile of each pass of ours."""

    def make(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype).to(memory_format=layout)

    x, w, y = make(32, 64, 56, 56), make(64, 64, 3, 3), make(32, 64, 56, 56)
    precision = "tf32" if allow_tf32 else "tf32x3"
    tile = tiles["forward"]
    a, b, c = (torch.empty(shape, dtype=dtype) for shape in ((32 * 56 * 56, 576), (64, 576), (32 * 56 * 56, 64)))
    with jit.record_launches() as recorded:
        matmul_kernel[(1, 1)](a, b, c, len(a), 64, 576, b_stride=(1, 576), PRECISION=precision, **tile)
    yield "matrix product", recorded[0]
    passes = {
        "forward": ("conv2d_template", {"X": x, "W": w}, y),
        "dgrad": ("conv2d_bwd_input_template", {"dY": y, "W": w}, x),
        "wgrad": ("conv2d_bwd_weight_template", {"X": x, "dY": y}, w),
    }
    sizes = {f"{name}_{axis}": value for name, value in SQUARE.items() for axis in "HW"}
    for name, (which, inputs, output) in passes.items():
        if (template := getattr(inductor, which, None)) is None:  # in torch before 2.13
            continue
        constants = sizes | {"ALLOW_TF32": allow_tf32, "INDEX_DTYPE": tl.int32, "GROUPS": 1, **tiles[name]}
        kernel = _rendered(f"inductor_{name}", template.template, inputs, output, constants)
        options = {k: v for k, v in constants.items() if k in kernel.arg_names or k.startswith("num_")}
        with jit.record_launches() as recorded:
            kernel[(1, 1)](*inputs.values(), output, **options)
        yield f"inductor {name}", recorded[0]


def _rendered(
    name: str, template: Any, inputs: dict[str, torch.Tensor], output: torch.Tensor, constants: dict[str, Any]
) -> jit.Kernel:
    """A template's kernel for these tensors. As inductor does, sizes and strides are written into it."""

    def store_output(places: tuple[str, ...], value: str, mask: str, **_: Any) -> str:
        offsets = " + ".join(f"({place}) * {step}" for place, step in zip(places, output.stride(), strict=True))
        return f"tl.store(out + ({offsets}), {value}, {mask})"

    body = template.render(
        def_kernel=lambda *_: "",
        size=lambda tensor, axis: str((inputs[tensor] if tensor else output).shape[axis]),
        stride=lambda tensor, axis: str(inputs[tensor].stride(axis)),
        store_output=store_output,
        **constants,
        UNROLL=False,
    )
    free = [c for c in constants if re.search(rf"\b{c}\b", body) and not re.search(rf"^ *{c} *= ", body, re.MULTILINE)]
    parameters = [*inputs, "out", *(f"{each}: tl.constexpr" for each in free)]
    path = Path(tempfile.mkdtemp(prefix="references-")) / f"{name}.py"
    path.write_text(f"{HEAD}def {name}({', '.join(parameters)}):\n{body}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where triton looks for the source
    spec.loader.exec_module(module)
    return getattr(module, name)
