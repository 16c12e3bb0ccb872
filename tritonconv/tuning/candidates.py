"""What autotune measures for a choice: a short list, the built-in one first. Pure host code.

A list depends on nothing but the choice's key and the built-in tile, so a stored choice can be looked for in it.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from triton import next_power_of_2

from tritonconv.checks import ALGORITHMS
from tritonconv.problems import ConvProblem
from tritonconv.tuning.choices import built_in_algorithm
from tritonconv.tuning.device import architecture
from tritonconv.tuning.reasons import Asked, Tile
from tritonconv.tuning.tiles import PIXEL_OPERATORS, built_in

# Rows, columns, bytes of depth, warps and stages of GEMM tiles, before they are cut to the problem. From the configs of
# Triton's python/tutorials/03-matrix-multiplication.py, and between them; twenty, with the built-in one, is what a user
# can wait for at a second or two of compiling each.
_GEMM_TILES = (
    *((128, 256, 128, 8, 3), (256, 128, 128, 8, 3), (256, 64, 128, 8, 3), (128, 128, 256, 8, 2)),
    *((128, 128, 128, 8, 3), (128, 128, 128, 4, 3), (128, 128, 64, 4, 4), (64, 256, 64, 4, 4)),
    *((128, 64, 128, 8, 3), (128, 64, 128, 4, 3), (128, 64, 64, 4, 4), (64, 128, 128, 4, 3)),
    *((64, 128, 64, 4, 4), (64, 64, 256, 4, 2), (64, 64, 128, 4, 4), (64, 64, 64, 4, 5)),
    *((128, 32, 128, 4, 4), (64, 32, 64, 4, 5), (32, 64, 64, 4, 5)),
)
# Bytes of shared memory that a block may ask for. Source: CUDA C++ programming guide, technical specifications per
# compute capability; AMD CDNA3 ISA. Another architecture is taken for the smallest NVIDIA one that is still sold.
SHARED_BYTES = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}
LEAST_SHARED_BYTES = 101_376
# Elements of one tile at which Triton stops.
TRITON_MAX_TENSOR_NUMEL = 2**20
# What each entry of a stored tile may be; on a GPU, where a tile says its warps, its sides are powers of two.
POWERS = tuple(2**power for power in range(21))
LEGAL: dict[str, Sequence] = {
    **dict.fromkeys(("BLOCK_M", "BLOCK_N", "BLOCK_K"), range(1, TRITON_MAX_TENSOR_NUMEL + 1)),
    "FLATTEN_TAPS": (False, True),
    "num_warps": POWERS[:6],
    "num_stages": tuple(range(1, 9)),
}
# Registers of a thread, of the 255 there are, that accumulators may take. Compiled for sm_90 in bf16, no candidate for
# a 3×3 convolution of 128 to 256 channels spills, in any pass (Triton 3.9, 2026-11-21).
ACCUMULATOR_REGISTERS = 128
# Channels of a group under which the direct kernel is worth measuring, and elements over which im2col's columns are
# not: memory that a model's other layers may need is not seen while one layer is measured.
MEASURE_DIRECT_BELOW = 32
MEASURE_COLUMNS_BELOW = 2**26


def of(asked: Asked) -> list[Tile]:
    """The candidates of a choice that a launcher or an operator asked for."""
    if isinstance(asked.problem, ConvProblem) and asked.key.operator.startswith("convolution"):
        return [{"algorithm": name} for name in algorithms(asked.problem, asked.sizes["pixels"])]
    return tiles(asked.key.operator, asked.x, **asked.sizes)


def algorithms(problem: ConvProblem, pixels: int) -> list[str]:
    """What "auto" may stand for, with `pixels` output pixels in the place of the problem's own batch."""
    names = [built_in_algorithm(problem)[0], "implicit_gemm"]
    if min(problem.C_in, problem.C_out) // problem.groups < MEASURE_DIRECT_BELOW:
        names.append("direct")
    if problem.taps > 1 and pixels * problem.C_in * problem.taps <= MEASURE_COLUMNS_BELOW:
        names.append("im2col")
    return list(dict.fromkeys(names))


def tiles(operator: str, x: torch.Tensor, **sizes: int) -> list[Tile]:
    """The built-in tile, then at most twenty others worth measuring, each legal on the architecture."""
    first, _ = built_in(operator, x, **sizes)
    if architecture(x.device) == "interpreter":
        others = _interpreter(first, operator, max(sizes.get("pixels", 0), sizes.get("elements", 0)))
    elif operator == "relayout":
        others = [{**first, "BLOCK_M": rows, "num_warps": warps} for rows in (32, 64, 128) for warps in (4, 8)]
    elif operator in PIXEL_OPERATORS:
        others = _gpu_pixels(x, **sizes)
    elif operator == "sum_splits":
        others = [{**first, "BLOCK_M": rows, "BLOCK_K": depth} for rows in (64, 256, 1024) for depth in (4, 16)]
    elif operator == "elementwise":
        others = [{"BLOCK_M": rows, "num_warps": 8 if rows > 2048 else 4} for rows in (512, 2048, 4096, 8192)]
    else:
        others = _gpu_gemm(first, operator, x, **sizes)
    return [tile for i, tile in enumerate([first, *others]) if tile not in [first, *others][:i]]


def is_legal(choice: object) -> bool:
    """Whether `choice`, read from a file, is an algorithm, or a tile that Triton would compile."""
    if not isinstance(choice, dict) or not choice:
        return False
    if "algorithm" in choice:
        return len(choice) == 1 and choice["algorithm"] in ALGORITHMS[1:]
    if not all(name in LEGAL and type(value) in (int, bool) and value in LEGAL[name] for name, value in choice.items()):
        return False
    blocks = [value for name, value in choice.items() if name.startswith("BLOCK_")]
    if "num_warps" in choice and not all(value in POWERS for value in blocks):
        return False
    return all(math.prod(sides) <= TRITON_MAX_TENSOR_NUMEL for sides in itertools.combinations(blocks, 2))


def _cut(side: int, extent: int, least: int = 1) -> int:
    """A side of a tile, no longer than the power of two that covers the problem's extent."""
    return max(least, min(side, next_power_of_2(max(extent, 1))))


def _interpreter(built_in: Tile, operator: str, pixels: int) -> list[Tile]:
    """A quarter, half and twice the pixels of a tile: what decides is which of the CPU's caches they fit."""
    name = "BLOCK_K" if operator == "implicit_gemm_wgrad" else "BLOCK_M"
    columns = max((size for block, size in built_in.items() if block.startswith("BLOCK_") and block != name), default=1)
    blocks = (built_in[name] // 4, built_in[name] // 2, built_in[name] * 2)
    most = min(next_power_of_2(max(pixels, 1)), TRITON_MAX_TENSOR_NUMEL // columns)
    return [{**built_in, name: block} for block in blocks if 1 <= block <= most]


def _gpu_gemm(
    built_in: Tile,
    operator: str,
    x: torch.Tensor,
    pixels: int,
    C_in: int,
    C_out: int,
    taps: int,
    pooled: int = False,
    **_: int,
) -> list[Tile]:
    arch = architecture(x.device)
    reduced = C_in * taps if built_in.get("FLATTEN_TAPS") else C_in
    extents = {
        "implicit_gemm_forward": (pixels, C_out, reduced),
        "implicit_gemm_dgrad": (pixels, C_in, C_out),
        "implicit_gemm_wgrad": (C_out, reduced, pixels),
    }[operator]
    # a pooled product keeps the running maximum and its argmax beside the accumulator
    registers_each = (2 if x.dtype == torch.float64 else 1) * (3 if pooled else 1)
    found = []
    for *sides, depth_bytes, warps, stages in _GEMM_TILES:
        most = (*sides, depth_bytes // x.element_size())
        rows, columns, depth = (_cut(side, extent, 16) for extent, side in zip(extents, most, strict=True))
        registers = rows * columns * registers_each // (32 * warps)
        shared = stages * (rows + columns) * depth * x.element_size()
        if registers <= ACCUMULATOR_REGISTERS and shared <= SHARED_BYTES.get(arch, LEAST_SHARED_BYTES):
            blocks = {"BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_K": depth}
            found.append({**built_in, **blocks, "num_warps": warps, "num_stages": stages})
    return found


def _gpu_pixels(x: torch.Tensor, pixels: int, channels: int, **_: int) -> list[Tile]:
    found = []
    for size, columns in itertools.product((512, 1024, 2048, 4096), (32, 64, 128) if x.stride(1) == 1 else (1, 2, 4)):
        BLOCK_N = _cut(columns, channels)
        found.append({"BLOCK_M": size // BLOCK_N, "BLOCK_N": BLOCK_N, "num_warps": 8 if size > 2048 else 4})
    return found
