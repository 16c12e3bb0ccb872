"""The machine code of every kernel in its default tile, compiled for four targets on a machine that needs no GPU.

    python -m bench.codegen [--target sm_90 ...] [--dtype bfloat16 ...] [--only PATTERN] [--json FILE]

A row a launch: registers a thread, spilled loads and stores, shared memory in bytes, matrix-unit instructions, the
widest global load in bytes, the instructions of the loop that does the work, and those for each matrix instruction. Of
Hopper's asynchronous products:
the shared-memory buffers of each operand, the products in flight while a buffer is refilled, the operands for which
that is a race (see bench/pipeline.py), and the products that ptxas made wait. Tests hold the rows to `problems`. The
rows "reference" are others' kernels in the tiles of our "conv 3x3 64" (see bench/references.py).
"""

import argparse
import collections
import contextlib
import dataclasses
import itertools
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from tabulate import tabulate
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel

from bench import environment, pipeline, references
from bench import rows as results
from tritonconv import functional, jit, tuning
from tritonconv.tuning import candidates

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# "float32" is without TF32, "tf32" the same tensors with it.
DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "tf32": torch.float32,
    "float64": torch.float64,
}
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}
# Shared memory that one block may ask for, in bytes.
SHARED_LIMIT = candidates.SHARED_BYTES
GEMM_KERNELS = ("implicit_gemm_forward_kernel", "implicit_gemm_dgrad_kernel", "implicit_gemm_wgrad_kernel")
# Matrix-unit instructions by target. tcgen05 on sm_100 is UTC*MMA in SASS.
MATRIX = {"sm_80": r"\b(HMMA|DMMA)\b", "sm_90": r"\b(HGMMA|HMMA|DMMA)\b", "sm_100": r"\b(UTC\w*MMA|HMMA|DMMA)\b"}
AMD_MATRIX = r"\b(v_mfma)"
REFERENCE = "reference"  # the workload of others' kernels
SPILL = r"\b(?:LDL|STL|scratch_load\w*|scratch_store\w*)\b"

Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """What the compiler made of one launch."""

    target: str
    dtype: str
    workload: str
    layout: str
    kernel: str
    tile: str
    registers: int
    spills: int
    spills_in_loop: int
    shared: int
    matrix: str
    widest_load: int
    loop: int
    per_product: float | None
    buffers: str
    in_flight: int
    races: str
    serialised: int


def workloads(dtype: torch.dtype, layout: torch.memory_format = torch.channels_last) -> dict[str, Call]:
    """Calls that between them launch every kernel: aligned channels, and a one-channel first layer."""

    def make(*shape: int) -> torch.Tensor:
        t = torch.empty(shape, dtype=dtype)
        return (t.to(memory_format=layout) if t.dim() == 4 else t).requires_grad_()

    x, w, b, depthwise = make(32, 64, 56, 56), make(64, 64, 3, 3), make(64), make(64, 1, 3, 3)
    x2, w2, b2 = make(32, 128, 28, 28), make(128, 128, 3, 3), make(128)  # the largest tiles
    digits, first, first_bias = make(64, 1, 28, 28), make(32, 1, 3, 3), make(32)
    double = make(2, 64, 28, 28)
    f = functional
    return {
        "conv 3x3 64": lambda: f.conv2d(x, w, b, 1, 1),
        "conv 3x3 64 stride 2": lambda: f.conv2d(x, w, b, 2, 1),
        "conv 3x3 64 im2col": lambda: f.conv2d(x, w, b, 1, 1, algorithm="im2col"),
        "conv 3x3 64 reflect": lambda: f.conv2d(x, w, b, 1, 1, padding_mode="reflect"),
        "conv-bias-relu 3x3 64": lambda: f.conv2d_bias_relu(x, w, b, 1, 1),
        "conv-scale-residual-relu 3x3 64": lambda: f.conv2d(x, w, b, 1, 1, scale=b, residual=x, activation="relu"),
        "conv-bias-gelu 3x3 64": lambda: f.conv2d(x, w, b, 1, 1, activation="gelu"),
        "conv 3x3 128": lambda: f.conv2d(x2, w2, b2, 1, 1),
        "conv 3x3 128 reflect": lambda: f.conv2d(x2, w2, b2, 1, 1, padding_mode="reflect"),
        "conv-scale-residual-relu 3x3 128": lambda: f.conv2d(
            x2, w2, b2, 1, 1, scale=b2, residual=x2, activation="relu"
        ),
        "conv-bias-gelu 3x3 128": lambda: f.conv2d(x2, w2, b2, 1, 1, activation="gelu"),
        "conv transpose 3x3 128 stride 2": lambda: f.conv_transpose2d(x2, w2, b2, 2, 1, 1),
        "conv-bias-relu-pool 3x3 64": lambda: f.conv2d_bias_relu_max_pool2d(x, w, b, 1, 1, pool_kernel_size=2),
        "conv-bias-relu-pool 3x3 1": lambda: f.conv2d_bias_relu_max_pool2d(
            digits, first, first_bias, 1, 1, pool_kernel_size=2
        ),
        "depthwise 3x3 64": lambda: f.conv2d(x, depthwise, b, 1, 1, groups=64),
        "depthwise 3x3 64 circular": lambda: f.conv2d(x, depthwise, b, 1, 1, groups=64, padding_mode="circular"),
        "max pool 3x3 stride 2": lambda: f.max_pool2d(x, 3, 2, 1, return_indices=True)[0],
        "avg pool 3x3 stride 2": lambda: f.avg_pool2d(x, 3, 2, 1),
        "conv transpose 3x3 64 stride 2": lambda: f.conv_transpose2d(x, w, b, 2, 1, 1),
        "adaptive max pool 7x7": lambda: f.adaptive_max_pool2d(x, 7),
        "adaptive avg pool 7x7": lambda: f.adaptive_avg_pool2d(x, 7),
        "bilinear 2x": lambda: f.interpolate(double, scale_factor=2, mode="bilinear"),
        "max pool 2x2": lambda: f.max_pool2d(double, 2),
        "max unpool 2x2": lambda: f.max_unpool2d(double, torch.zeros_like(double, dtype=torch.int64), 2),
        "pixel shuffle 2": lambda: f.pixel_shuffle(double, 2),
        "relu": lambda: f.relu(x),
    }


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """torch's switch for convolutions."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def launches(
    workload: str, architecture: str, dtype: str, layout: torch.memory_format = torch.channels_last
) -> Iterator[jit.Launch]:
    """The launches of a workload's forward and backward, the first of each kernel."""
    with tuning.target(architecture), tf32(dtype == "tf32"), jit.record_launches() as recorded:
        y = workloads(DTYPES[dtype], layout)[workload]()
        y.backward(torch.empty_like(y))
    seen = set()
    for launch in recorded:
        if launch.kernel.fn.__name__ not in seen:
            seen.add(launch.kernel.fn.__name__)
            yield launch


def disassemble(kernel: CompiledKernel) -> str:
    """SASS of an NVIDIA kernel by the nvdisasm in Triton's package, or the assembly of an AMD one."""
    if "cubin" not in kernel.asm:
        return kernel.asm["amdgcn"]
    return _tool("nvdisasm", kernel.asm["cubin"])


def _tool(name: str, cubin: bytes, *options: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, *options, file.name], capture_output=True, text=True, check=True).stdout


def examine(launch: jit.Launch, architecture: str, dtype: str, workload: str, layout: str = "channels_last") -> Row:
    """Compile one launch for a target and count."""
    kernel = jit.compile_launch(launch, TARGETS[architecture])
    code = disassemble(kernel)
    if "cubin" in kernel.asm:
        registers = int(_find(r"REG:(\d+)", _tool("cuobjdump", kernel.asm["cubin"], "-res-usage")))
        spills = len(re.findall(SPILL, code))
        matrix = re.findall(MATRIX[architecture], code)
        loads = re.findall(r"\b(?:LDG|LDGSTS)\S*", code)
        widths = [int(bits) // 8 for load in loads for bits in re.findall(r"\.U?(8|16|64|128)\b", load) or ["32"]]
    else:
        registers = int(_find(r"\.vgpr_count:\s+(\d+)", code))
        spills = int(_find(r"\.vgpr_spill_count:\s+(\d+)", code))
        matrix = re.findall(AMD_MATRIX, code)
        loads = re.findall(r"\b(?:global|buffer)_load_(\w+)", code)
        sizes = {"ubyte": 1, "sbyte": 1, "ushort": 2, "sshort": 2, "short": 2, "dword": 4}
        widths = [sizes.get(load.split("_")[0], 4 * int(load[-1]) if load[-1].isdigit() else 2) for load in loads]
    counts, loop, products = collections.Counter(matrix), loop_body(code), pipeline.examine(kernel.asm["ttgir"])
    in_loop = len(re.findall(MATRIX.get(architecture, AMD_MATRIX), "\n".join(loop)))
    return Row(
        target=architecture,
        dtype=dtype,
        workload=workload,
        layout=layout,
        kernel=launch.kernel.fn.__name__,
        tile="x".join(str(v) for k, v in launch.arguments.items() if k.startswith("BLOCK_")),
        registers=registers,
        spills=spills,
        spills_in_loop=len(re.findall(SPILL, "\n".join(loop))),
        shared=kernel.metadata.shared,
        matrix=" ".join(f"{name} {count}" for name, count in sorted(counts.items())),
        widest_load=max(widths, default=0),
        loop=len(loop),
        per_product=round(len(loop) / in_loop, 1) if in_loop else None,
        buffers=" ".join(f"{operand} {count}" for operand, count in products.buffers.items()),
        in_flight=products.in_flight,
        races=" ".join(products.races),
        serialised=serialised(loop),
    )


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"no {pattern!r} in the disassembly: has its format changed?")
    return match.group(1)


def loop_body(code: str) -> list[str]:
    """Instructions of the innermost loop with the most matrix instructions, or of the longest; none without a loop."""
    labels: dict[str, int] = {}
    loops: list[tuple[int, int, int]] = []
    instructions: list[str] = []
    for line in code.splitlines():
        text = line.strip()
        if label := re.match(r"(\.L\w+):", text):
            labels[label.group(1)] = len(instructions)
        elif re.match(r"/\*[0-9a-f]+\*/", text) or re.match(r"[vs]_|buffer_|global_|ds_", text):
            instructions.append(text)
            branch = re.search(r"\b(?:BRA\S*|s_cbranch\w*|s_branch)\b.*?(\.L\w+)", text)
            if branch and branch.group(1) in labels:
                start = labels[branch.group(1)]
                body = instructions[start:]
                loops.append((sum("MMA" in i or "mfma" in i for i in body), start, len(instructions)))
    loops = [loop for loop in loops if loop[2] - loop[1] > 1]  # every SASS listing ends in a branch to itself
    inner = [loop for loop in loops if not any(o != loop and loop[1] <= o[1] and o[2] <= loop[2] for o in loops)]
    _, start, end = max(inner, key=lambda loop: (loop[0], loop[2] - loop[1]), default=(0, 0, 0))
    return instructions[start:end]


def serialised(loop: list[str]) -> int:
    """HGMMA instructions of a loop that are followed by a wait for all products, before the next."""
    order = re.findall(r"HGMMA|WARPGROUP\.DEPBAR\.LE gsb0, 0x\d+", "\n".join(loop))
    return sum(a == "HGMMA" and b.endswith(" 0x0") for a, b in itertools.pairwise(order))


def problems(row: Row) -> list[str]:
    """Where a row breaks its budget."""
    found: list[str] = []
    if row.workload == REFERENCE:
        return found
    gemm = row.kernel in GEMM_KERNELS
    # the pixels of a phase lie apart: in NCHW each is stored by a pointer of its own, once after the loop
    apart = row.layout == "nchw" and row.kernel == "implicit_gemm_dgrad_kernel" and "stride 2" in row.workload
    spilled = row.spills_in_loop if apart else row.spills
    if spilled:
        found.append(f"{spilled} spilled loads and stores")
    if row.shared > SHARED_LIMIT[row.target]:
        found.append(f"{row.shared} bytes of shared memory, above {SHARED_LIMIT[row.target]}")
    if gemm and row.dtype != "float64" and not row.matrix:
        found.append("no matrix-unit instruction")
    wide = "64" in row.workload and "im2col" not in row.workload
    # The matrix unit takes TF32 operands along the reduced axis alone, and wgrad reduces over pixels, which lie apart.
    transposed = row.dtype in ("float32", "tf32") and row.kernel == "implicit_gemm_wgrad_kernel"
    if wide and row.target == "sm_90" and gemm and row.dtype != "float64" and "HGMMA" not in row.matrix:
        found.append(f"matrix unit not used as Hopper means it: {row.matrix}")
    relaid = row.kernel == "relayout_kernel" and row.target != "gfx942"
    if wide and (relaid or (gemm and not transposed)) and row.widest_load < 16:
        found.append(f"widest load {row.widest_load} bytes")
    return found + product_problems(row)


def product_problems(row: Row) -> list[str]:
    """What is wrong with the asynchronous products of a row's loop, whatever the layout of its tensors."""
    found = []
    if row.races:
        reading = f"with {row.in_flight} in flight (buffers: {row.buffers})"
        found.append(f"race: {row.races} is refilled while a product may read it, {reading}")
    if row.in_flight and row.serialised:
        found.append(f"{row.serialised} products serialised: ptxas waits for each")
    return found


def rows_for(architectures: list[str], dtypes: list[str], pattern: str = "") -> Iterator[Row]:
    for architecture in architectures:
        for dtype in dtypes:
            for layout, workload in itertools.product(layouts(dtype), workloads(DTYPES[dtype])):
                for launch in launches(workload, architecture, dtype, LAYOUTS[layout]):
                    if re.search(pattern, f"{workload} {layout} {launch.kernel.fn.__name__}"):
                        yield examine(launch, architecture, dtype, workload, layout)
            for layout in layouts(dtype) if dtype in ("bfloat16", "float16", "tf32") else []:
                if architecture.startswith("sm_") and re.search(pattern, f"{REFERENCE} {layout}"):
                    yield from reference_rows(architecture, dtype, layout)


def reference_rows(architecture: str, dtype: str, layout: str) -> Iterator[Row]:
    """What others' kernels compile to in the tiles of our "conv 3x3 64"."""
    ours = launches("conv 3x3 64", architecture, dtype, LAYOUTS[layout])
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K")
    tiles = {
        launch.kernel.fn.__name__.split("_")[2]: {name: launch.arguments[name] for name in names} | launch.options
        for launch in ours
        if launch.kernel.fn.__name__ in GEMM_KERNELS
    }
    for name, launch in references.launches(DTYPES[dtype], LAYOUTS[layout], tiles, dtype == "tf32"):
        yield dataclasses.replace(examine(launch, architecture, dtype, REFERENCE, layout), kernel=name)


def layouts(dtype: str) -> list[str]:
    """What a dtype is compiled for: torch's default too, where loads of few bytes are dear."""
    return list(LAYOUTS) if DTYPES[dtype].itemsize == 2 else ["channels_last"]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bfloat16", "float32", "tf32"])
    parser.add_argument("--only", default="", metavar="PATTERN", help="regular expression on 'workload layout kernel'")
    parser.add_argument("--json", type=results.new_file, metavar="FILE", help="write the rows here")
    args = parser.parse_args(argv)
    rows = list(rows_for(args.target, args.dtype, args.only))
    conditions = environment.describe()
    print(", ".join(f"{name} {value}" for name, value in conditions.items()))
    table = [dataclasses.asdict(row) | {"over budget": "; ".join(problems(row))} for row in rows]
    print(tabulate(table, headers="keys", tablefmt="github"))
    results.save(args.json, parser, conditions, table)


if __name__ == "__main__":
    main()
