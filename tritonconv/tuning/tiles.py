"""The built-in tiles, by operator: pure host code, from (operator, dtype, architecture, size).

Two kinds of machine want opposite tiles. A GPU wants tiles that fit registers and shared memory, and a program for each
multiprocessor (docs/tiles.md). The interpreter pays for each operation of each program and wants few programs with
tiles as large as a cache holds.
"""

import itertools
from collections.abc import Callable

import torch
import triton
from triton import next_power_of_2

from tritonconv.tuning.device import architecture, dot_precision, multiprocessors
from tritonconv.tuning.reasons import Tile, because

# Elements of the largest tile in the interpreter; of the smallest that is worth another thread; and a tile's columns
# where they need not be few for a product.
INTERPRETER_TILE = 2**18
INTERPRETER_SHARE = 2**16
INTERPRETER_COLUMNS = 1024
# Channels under which one tap's channels leave most of a K block empty, so that blocks run on across taps.
FLATTEN_BELOW = 16
# Operators on tiles of pixels × channels.
PIXEL_OPERATORS = (
    *("direct_forward", "direct_dgrad", "direct_wgrad", "unfold", "fold"),
    *("pool_forward", "pool_backward", "max_pool_gather"),
    *("relayout", "resample", "adaptive_max", "adaptive_max_backward", "gather", "claim"),
)


def built_in(operator: str, x: torch.Tensor, **sizes: int) -> tuple[Tile, str]:
    """The tile of the tables below, whatever was tuned, and why."""
    arch = architecture(x.device)
    interpreters, gpus = _TILES[operator]
    if arch == "interpreter":
        return interpreters(
            x, **sizes
        ), "the interpreter's table: few programs with large tiles, since each program costs"
    return gpus(x, **sizes), f"the GPUs' table, here {arch}: tiles that fit registers and shared memory"


def _flatten_taps(C_in: int) -> bool:
    """Whether K blocks run on across taps, for `C_in` channels of a group."""
    if C_in < FLATTEN_BELOW:
        reason = f"taps flattened: fewer than {FLATTEN_BELOW} channels ({C_in}) would leave most of a K block empty"
        return because("taps", True, reason)
    return because("taps", False, f"a tap at a time: {C_in} channels fill a K block")


def _block(size: int, least: int, most: int) -> int:
    return max(least, min(most, next_power_of_2(max(size, 1))))


# --- the interpreter ---


def side(size: int, most: int) -> int:
    """The side of equal blocks of at most so many: any side will do here, so that a block has no empty rest."""
    return triton.cdiv(size, triton.cdiv(size, most)) if size > 0 else 1


def _interpreter_rows(x: torch.Tensor, rows: int, *columns: int) -> int:
    """Of two programs or more if they are not small; whole images where one fits: the same box of each is one box."""
    most, least = (max(1, elements // max(columns)) for elements in (INTERPRETER_TILE, INTERPRETER_SHARE))
    most = min(most, max(triton.cdiv(rows, 2), least))
    image = rows // max(1, x.shape[0])
    if 0 < image <= most:
        return side(image * side(x.shape[0], most // image), most)
    return side(rows, most)


def _interpreter_gemm(x: torch.Tensor, pixels: int, columns: int, channels: int, taps: int, flatten: bool) -> Tile:
    BLOCK_N, BLOCK_K = side(columns, 512), side(channels * taps if flatten else channels, 256)
    return {"BLOCK_M": _interpreter_rows(x, pixels, BLOCK_N, BLOCK_K), "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K}


def _interpreter_forward(
    x: torch.Tensor, pixels: int, C_in: int, C_out: int, taps: int, pooled: bool, **_: int
) -> Tile:
    flatten = _flatten_taps(C_in)
    return {"FLATTEN_TAPS": flatten, **_interpreter_gemm(x, pixels, C_out, C_in, taps, flatten)}


def _interpreter_dgrad(x: torch.Tensor, pixels: int, C_in: int, C_out: int, taps: int, **_: int) -> Tile:
    return _interpreter_gemm(x, pixels, C_in, C_out, taps, False)


def _interpreter_wgrad(x: torch.Tensor, pixels: int, C_in: int, C_out: int, taps: int) -> Tile:
    # with all taps in one block dy is loaded once, and one product is quicker than one for each tap
    flatten = taps * C_in <= INTERPRETER_COLUMNS
    because("taps", flatten, f"{'taps flattened' if flatten else 'a tap at a time'}: {taps} taps of {C_in} channels")
    columns, most = C_in * taps if flatten else C_in, INTERPRETER_COLUMNS
    if flatten and pixels * columns > 16 * INTERPRETER_SHARE:  # of two programs
        most = min(most, triton.cdiv(columns, 2))
    BLOCK_M, BLOCK_N = side(C_out, 512), side(columns, most)
    BLOCK_K = _interpreter_rows(x, pixels, BLOCK_M, BLOCK_N)
    return {"FLATTEN_TAPS": flatten, "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K}


def _interpreter_pixels(x: torch.Tensor, pixels: int, channels: int, **_: int) -> Tile:
    BLOCK_N = side(channels, INTERPRETER_COLUMNS)
    return {"BLOCK_M": _interpreter_rows(x, pixels, BLOCK_N), "BLOCK_N": BLOCK_N}


def _interpreter_elements(x: torch.Tensor, elements: int) -> Tile:
    return {"BLOCK_M": side(elements, INTERPRETER_TILE)}


def _interpreter_sum(x: torch.Tensor, elements: int) -> Tile:
    return {"BLOCK_M": side(elements, INTERPRETER_TILE // 16), "BLOCK_K": 16}


# --- GPUs: 4 warps throughout, since 8 were reported to miscompile flattened loops; autotune tries 8, and compares ---

# Of one multiprocessor in a clock: the multiply-adds of 16-bit operands, and the bytes that it gets from L2. From the
# peaks of A100, H100, B200 and MI300X; from L2's in the white papers of A100 and CDNA3; for sm_90, and for sm_100 until
# it is known, from what a forward of 512 channels reached on an H100 (405 TFLOP/s in tiles of 128×64, docs/tiles.md).
RATES = {"sm_80": (1024, 47), "sm_90": (2048, 39), "sm_100": (4096, 39), "gfx942": (1024, 54)}
# What the matrix unit takes 64 rows of at once on Hopper, and the side that a tile is not halved under.
LEAST_SIDE = 64


def _gpu_limits(x: torch.Tensor, crowded: int = False) -> Tile:
    """The largest GEMM tile of a dtype that `bench.codegen` shows without a spill; `crowded`: by its epilogue."""
    arch = architecture(x.device)
    if x.dtype == torch.float64:
        rows, columns, depth, stages = 32, 32, 16, 2
    elif x.dtype == torch.float32:
        # three TF32 products for one keep three times the operands in registers
        is_triple = dot_precision(x) != "tf32"
        depth = 16 if is_triple and arch != "sm_90" else 32
        rows, columns, stages = 64 if is_triple and arch != "sm_100" else 128, 64, 3
    else:
        rows, columns, depth, stages = 128, 64 if crowded else 128, 64 if arch == "sm_90" else 32, 3
    return {"BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_K": depth, "num_stages": stages}


def _clocks(x: torch.Tensor, rows: int, columns: int) -> float:
    """Of one program, for each element of the reduced axis: what takes longer, the products or the loads from L2."""
    products, loaded = RATES.get(architecture(x.device), RATES["sm_90"])
    slower = {"tf32": 2, "tf32x3": 6}.get(dot_precision(x), 1 if x.element_size() == 2 else 16)
    return max(rows * columns * slower / products, (rows + columns) * x.element_size() / loaded)


def _gpu_product(
    x: torch.Tensor, most: Tile, rows: int, columns: int, depth: int, programs_at_once: int | None = None
) -> Tile:
    """A tile of at most `most` that takes the least time over a product of so many rows and columns.

    A wave of programs is as many as there are multiprocessors; wgrad fills those by its splits. Sides are 16 or more,
    and no longer than the columns and the depth.
    """
    at_once = programs_at_once or multiprocessors(x.device)

    def halves(side: int) -> list[int]:
        return [side] if side <= LEAST_SIDE else [side, *halves(side // 2)]

    def time(sides: tuple[int, int]) -> float:
        programs = triton.cdiv(rows, sides[0]) * triton.cdiv(columns, sides[1])
        return triton.cdiv(programs, at_once) * _clocks(x, *sides)

    candidates = list(itertools.product(halves(most["BLOCK_M"]), halves(_block(columns, 16, most["BLOCK_N"]))))
    BLOCK_M, BLOCK_N = chosen = min(candidates, key=time)  # of equals the largest
    if len(candidates) > 1:
        clocks = ", ".join(f"{time(sides):.0f} by {sides[0]}x{sides[1]}" for sides in candidates)
        because("sides", chosen, f"clocks for each element of depth: {clocks}; {at_once} programs at once")
    sides = {"BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": _block(depth, 16, most["BLOCK_K"])}
    return most | sides | {"num_warps": 4}


def _gpu_forward(
    x: torch.Tensor,
    pixels: int,
    C_in: int,
    C_out: int,
    taps: int,
    pooled: bool,
    residual: int = False,
    crowded: int = False,
) -> Tile:
    most = _gpu_limits(x, crowded)
    if pooled:  # the running maximum and its argmax take registers beside the accumulator
        columns = 32 if x.dtype == torch.float32 else 64
        most |= {"BLOCK_M": min(most["BLOCK_M"], 64), "BLOCK_N": min(most["BLOCK_N"], columns)}
        if x.dtype == torch.float32 and architecture(x.device) == "sm_80":  # 32 spills
            most |= {"BLOCK_K": 16}
    elif residual and x.dtype == torch.float32:  # so does what is added
        most |= {"BLOCK_M": min(most["BLOCK_M"], 64)}
    flatten = _flatten_taps(C_in)
    reduced = C_in * taps if flatten else C_in
    # pixels as a tuned choice's key counts them
    return {"FLATTEN_TAPS": flatten, **_gpu_product(x, most, next_power_of_2(pixels), C_out, reduced)}


def _gpu_dgrad(x: torch.Tensor, pixels: int, C_in: int, C_out: int, taps: int, crowded: int = False) -> Tile:
    return _gpu_product(x, _gpu_limits(x, crowded), next_power_of_2(pixels), C_in, C_out)


def _gpu_wgrad(x: torch.Tensor, pixels: int, C_in: int, C_out: int, taps: int) -> Tile:
    flatten = _flatten_taps(C_in)
    most = _gpu_limits(x)
    most |= {"BLOCK_M": _block(C_out, 16, most["BLOCK_M"])}
    if architecture(x.device) == "sm_100":  # 2 spills
        most |= {"BLOCK_N": min(most["BLOCK_N"], 64)}
    columns = C_in * taps if flatten else C_in
    tile = _gpu_product(x, most, C_out, columns, most["BLOCK_K"], 1)
    if x.element_size() == 2 and tile["BLOCK_M"] * tile["BLOCK_N"] <= LEAST_SIDE**2:
        tile |= {"BLOCK_K": 64}  # a small tile has registers for it: a seventh fewer instructions a product on sm_80
    return {"FLATTEN_TAPS": flatten, **tile}


def _gpu_pixels(x: torch.Tensor, pixels: int, channels: int, **_: int) -> Tile:
    # threads run along whichever of pixels and channels is contiguous
    BLOCK_N = _block(channels, 1, 64) if x.stride(1) == 1 else 1
    return {"BLOCK_M": 1024 // BLOCK_N, "BLOCK_N": BLOCK_N, "num_warps": 4}


def _gpu_relayout(x: torch.Tensor, pixels: int, channels: int) -> Tile:
    # wide along pixels where it is read, along channels where it is written
    return {"BLOCK_M": 64, "BLOCK_N": _block(channels, 16, 64), "num_warps": 4}


def _gpu_elements(x: torch.Tensor, elements: int) -> Tile:
    return {"BLOCK_M": 1024, "num_warps": 4}


def _gpu_sum(x: torch.Tensor, elements: int) -> Tile:
    # a gradient has few elements: blocks of few, so that more than one multiprocessor adds
    return {"BLOCK_M": 128, "BLOCK_K": 16, "num_warps": 4}


_TILES: dict[str, tuple[Callable[..., Tile], Callable[..., Tile]]] = {
    "implicit_gemm_forward": (_interpreter_forward, _gpu_forward),
    "implicit_gemm_dgrad": (_interpreter_dgrad, _gpu_dgrad),
    "implicit_gemm_wgrad": (_interpreter_wgrad, _gpu_wgrad),
    **dict.fromkeys(PIXEL_OPERATORS, (_interpreter_pixels, _gpu_pixels)),
    "relayout": (_interpreter_pixels, _gpu_relayout),
    "elementwise": (_interpreter_elements, _gpu_elements),
    "sum_splits": (_interpreter_sum, _gpu_sum),
}
