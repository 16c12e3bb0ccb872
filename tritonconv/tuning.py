"""The tile for an operator: pure host code, chosen by (operator, dtype, architecture, size), never by the exact batch.

Two kinds of machine want opposite tiles. A GPU wants many programs with tiles that fit registers and shared memory; the
interpreter pays for each operation of each program and wants few programs with tiles as large as a cache holds.

A choice is built in, or tuned: measured by tritonconv.autotune among candidates.py's, and looked up by its `Key`.
"""

import contextlib
import dataclasses
import functools
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from triton import cdiv, next_power_of_2

from tritonconv.problems import ConvProblem, PoolProblem

Tile = dict[str, Any]  # block sizes, warps and stages; or {"algorithm": name}, the choice that "auto" leaves open
T = TypeVar("T")

# Elements of the largest tile in the interpreter; Triton allows 2**20.
INTERPRETER_TILE = 2**17
# Programs that fill a GPU: two for each of an H200's 132 multiprocessors.
GPU_PROGRAMS = 264
# Channels under which one tap's channels leave most of a K block empty, so that blocks run on across taps.
FLATTEN_BELOW = 16
# Channels of a group under which the direct kernel takes a grouped convolution.
DIRECT_BELOW = 8
# Operators on tiles of pixels × channels, and on plain runs of elements.
PIXEL_OPERATORS = (
    *("direct_forward", "direct_dgrad", "direct_wgrad", "unfold", "fold"),
    *("max_pool_forward", "max_pool_backward", "max_pool_gather"),
)
ELEMENT_OPERATORS = ("sum_splits", "elementwise")

_architecture: str | None = None
_choices: "list[Choice] | None" = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """A decision of this file: about "algorithm", "tile", "taps" or "splits", what was chosen, and why, in words."""

    about: str
    chosen: Any
    reason: str


@contextlib.contextmanager
def record_choices() -> Iterator[list[Choice]]:
    """Collect every decision with its reason, in order; `tritonconv.explain` shows them."""
    global _choices
    previous, _choices = _choices, []
    try:
        yield _choices
    finally:
        _choices = previous


def _because(about: str, chosen: T, reason: str) -> T:
    """`chosen`; the reason is stated where the choice is made, so that the two cannot drift apart."""
    if _choices is not None:
        _choices.append(Choice(about, chosen, reason))
    return chosen


class Key(NamedTuple):
    """What one choice holds for. Pixels and elements count to the next power of two: no exact batch is in a key."""

    machine: str
    operator: str
    dtype: torch.dtype
    channels_last: bool
    precision: str  # of fp32 products
    window: tuple  # of the filter or the pooling: size, stride, padding, dilation, and a filter's groups
    sizes: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        """The key as a report and a cache file have it: without the machine."""
        names = ("window", "stride", "padding", "dilation", "groups")
        layout = "channels_last" if self.channels_last else "contiguous"
        pairs = (*self.sizes, *zip(names, self.window, strict=False))
        words = [f"{name}={value}".replace(" ", "") for name, value in pairs]
        return " ".join([self.operator, str(self.dtype).removeprefix("torch."), layout, self.precision, *words])


class Asked(NamedTuple):
    """What a launcher asked a choice for: a tensor, the problem, and the sizes as the key has them."""

    x: torch.Tensor
    problem: ConvProblem | PoolProblem | None
    sizes: dict[str, int]


tuned: dict[Key, Tile] = {}  # what autotune chose in this process
_asked: dict[Key, Asked] | None = None


@contextlib.contextmanager
def target(architecture: str) -> Iterator[None]:
    """Choose tiles for `architecture` ("interpreter", "sm_90", "gfx942", …) wherever the tensors lie."""
    global _architecture
    previous, _architecture = _architecture, architecture
    try:
        yield
    finally:
        _architecture = previous


def architecture(device: torch.device) -> str:
    """ "interpreter" for a CPU, "sm_90" and the like for a GPU."""
    if _architecture is not None:
        return _architecture
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def dot_precision(x: torch.Tensor) -> str:
    """How fp32 operands are multiplied: torch's own switch for convolutions (torch.backends.cudnn.conv.fp32_precision).

    "tf32" where it allows TF32; else "tf32x3" (three TF32 products, relative error near 2⁻²²) on NVIDIA and "ieee"
    elsewhere.
    """
    if x.dtype != torch.float32 or architecture(x.device).startswith("gfx"):
        return "ieee"
    allowed = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if allowed == "tf32" else "tf32x3"


def pick_algorithm(
    problem: ConvProblem, algorithm: str, operator: str | None = None, x: torch.Tensor | None = None
) -> str:
    """What "auto" stands for: what was tuned for `operator` on tensors like `x`, else what is built in."""
    if algorithm != "auto":
        return _because("algorithm", algorithm, "asked for by name")
    if operator is not None and x is not None:
        C_in, C_out = problem.C_in // problem.groups, problem.C_out // problem.groups
        sizes = {"pixels": problem.N * math.prod(problem.output_size), "C_in": C_in, "C_out": C_out}
        if choice := _look_up(operator, x, problem, sizes):
            return _because("algorithm", choice["algorithm"], 'by "auto": the fastest that autotune measured')
    return built_in_algorithm(problem)


def pick(operator: str, x: torch.Tensor, problem: ConvProblem | PoolProblem | None = None, **sizes: int) -> Tile:
    """Block sizes, and on a GPU warps and stages, for `operator` on tensors like `x`.

    `problem` tells tuned choices apart; the built-in ones do not depend on it.
    """
    if choice := _look_up(operator, x, problem, sizes):
        return _because("tile", choice, "the fastest that autotune measured")
    return built_in(operator, x, **sizes)


def built_in(operator: str, x: torch.Tensor, **sizes: int) -> Tile:
    """The tile of the tables below, whatever was tuned."""
    arch = architecture(x.device)
    if arch == "interpreter":
        reason = "the interpreter's table: few programs with large tiles, since each program costs"
        return _because("tile", _INTERPRETER[operator](x, **sizes), reason)
    reason = f"the GPUs' table, here {arch}: tiles that fit registers and shared memory"
    return _because("tile", _GPU[operator](x, **sizes), reason)


def built_in_algorithm(problem: ConvProblem) -> str:
    """Direct where groups leave a matrix product too few channels, else implicit GEMM."""
    if problem.groups == 1:
        return _because("algorithm", "implicit_gemm", 'by "auto": one group gives a matrix product all the channels')
    least = min(problem.C_in, problem.C_out) // problem.groups
    if least < DIRECT_BELOW:
        reason = f'by "auto": fewer than {DIRECT_BELOW} channels a group ({least}) are too few for a matrix product'
        return _because("algorithm", "direct", reason)
    reason = f'by "auto": {DIRECT_BELOW} channels a group or more ({least}) are enough for a matrix product'
    return _because("algorithm", "implicit_gemm", reason)


def split_k(x: torch.Tensor, programs: int, steps: int) -> tuple[int, int]:
    """(splits, steps of each): a gradient with few tiles is split over its pixels until it fills the GPU."""
    if architecture(x.device) == "interpreter":
        return _because("splits", (1, steps), "no split-K: the interpreter runs one program after another")
    if steps <= 1 or programs == 0:
        return _because("splits", (1, steps), "no split-K: one block holds all pixels, or no tile needs them")
    splits = max(1, min(cdiv(GPU_PROGRAMS, programs), cdiv(steps, 4), 64))
    reason = (
        f"split-K by {splits}: {GPU_PROGRAMS} programs fill a GPU, the tiles make {programs}; {steps} blocks of "
        "pixels, 4 or more a split, 64 splits at most"
    )
    return _because("splits", (splits, cdiv(steps, splits)), reason)


def _flatten_taps(C_in: int) -> bool:
    """Whether K blocks run on across taps, for `C_in` channels of a group."""
    if C_in < FLATTEN_BELOW:
        reason = f"taps flattened: fewer than {FLATTEN_BELOW} channels ({C_in}) would leave most of a K block empty"
        return _because("taps", True, reason)
    return _because("taps", False, f"a tap at a time: {C_in} channels fill a K block")


def _block(size: int, least: int, most: int) -> int:
    return max(least, min(most, next_power_of_2(max(size, 1))))


# --- tuned choices: looked up, listened to, tried ---


@functools.cache
def machine(device: torch.device) -> str:
    """The device's name and architecture. A CPU has no name torch knows: its vector instructions stand for it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {architecture(device)}"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {architecture(device)}"


@contextlib.contextmanager
def using(choices: Mapping[Key, Tile]) -> Iterator[None]:
    """Exactly `choices` are the tuned ones; with none, everything is built in."""
    global tuned
    previous, tuned = tuned, dict(choices)
    try:
        yield
    finally:
        tuned = previous


@contextlib.contextmanager
def listening() -> Iterator[dict[Key, Asked]]:
    """Collect every choice that is asked for, in the order of asking."""
    global _asked
    previous, _asked = _asked, {}
    try:
        yield _asked
    finally:
        _asked = previous


def _look_up(
    operator: str, x: torch.Tensor, problem: ConvProblem | PoolProblem | None, sizes: Mapping[str, int]
) -> Tile | None:
    """The tuned choice, or None; `target` asks for tiles of a machine that is not there, on which nothing is tuned."""
    if _architecture is not None or (_asked is None and not tuned):
        return None
    bucket = {
        name: next_power_of_2(max(size, 1)) if name in ("pixels", "elements") else int(size)
        for name, size in sizes.items()
    }
    window = () if problem is None else dataclasses.astuple(problem.window)
    if isinstance(problem, ConvProblem):
        window += (problem.groups,)
    channels_last = x.dim() > 2 and x.stride(1) == 1
    precision = dot_precision(x)
    key = Key(machine(x.device), operator, x.dtype, channels_last, precision, window, tuple(bucket.items()))
    if _asked is not None:
        _asked[key] = Asked(x, problem, bucket)
    return tuned.get(key)


# --- the interpreter ---


def _interpreter_rows(rows: int, *columns: int) -> int:
    return _block(rows, 1, max(1, INTERPRETER_TILE // max(columns)))


def _interpreter_gemm(x: torch.Tensor, pixels: int, columns: int, channels: int, taps: int, flatten: bool) -> Tile:
    BLOCK_N = _block(columns, 1, 512)
    BLOCK_K = _block(channels * taps if flatten else channels, 1, 256)
    return {"BLOCK_M": _interpreter_rows(pixels, BLOCK_N, BLOCK_K), "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K}


def _interpreter_forward(x: torch.Tensor, pixels: int, C_in: int, C_out: int, taps: int, pooled: bool) -> Tile:
    flatten = _flatten_taps(C_in)
    return {"FLATTEN_TAPS": flatten, **_interpreter_gemm(x, pixels, C_out, C_in, taps, flatten)}


def _interpreter_dgrad(x: torch.Tensor, pixels: int, C_in: int, C_out: int, taps: int) -> Tile:
    return _interpreter_gemm(x, pixels, C_in, C_out, taps, False)


def _interpreter_wgrad(x: torch.Tensor, pixels: int, C_in: int, C_out: int, taps: int) -> Tile:
    # a tap at a time loads dy once a tap; all taps at once computes 2-D masks: whichever touches fewer elements
    flatten = 1.5 * next_power_of_2(taps * C_in) + C_out < taps * (next_power_of_2(C_in) + C_out)
    _because("taps", flatten, f"{'taps flattened' if flatten else 'a tap at a time'}: that touches fewer elements")
    BLOCK_M = _block(C_out, 1, 512)
    BLOCK_N = _block(C_in * taps if flatten else C_in, 1, 1024)
    BLOCK_K = _interpreter_rows(pixels, BLOCK_M, BLOCK_N)
    return {"FLATTEN_TAPS": flatten, "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K}


def _interpreter_pixels(x: torch.Tensor, pixels: int, channels: int) -> Tile:
    BLOCK_N = _block(channels, 1, 256)
    return {"BLOCK_M": _interpreter_rows(pixels, BLOCK_N), "BLOCK_N": BLOCK_N}


def _interpreter_elements(x: torch.Tensor, elements: int) -> Tile:
    return {"BLOCK_M": _interpreter_rows(elements, 1)}


# --- GPUs: not yet measured on one; 4 warps throughout, since 8 were reported to miscompile flattened loops ---


def _gpu_limits(x: torch.Tensor) -> tuple[int, int, int, int]:
    """(rows, columns, depth, stages) of the largest GEMM tile of a dtype that `bench.codegen` shows without a spill."""
    if x.dtype == torch.float64:
        return 32, 32, 16, 2
    arch = architecture(x.device)
    if x.dtype == torch.float32:
        # three TF32 products for one keep three times the operands in registers
        depth = 16 if dot_precision(x) == "tf32x3" and arch != "sm_90" else 32
        return 128 if arch == "sm_100" else 64, 64, depth, 3
    return 128, 64, 64 if arch == "sm_90" else 32, 3


def _gpu_forward(x: torch.Tensor, pixels: int, C_in: int, C_out: int, taps: int, pooled: bool) -> Tile:
    rows, columns, depth, stages = _gpu_limits(x)
    if pooled:  # the running maximum and its place take registers beside the accumulator
        rows, columns = min(rows, 64), columns // 2 if x.dtype == torch.float32 else columns
    flatten = _flatten_taps(C_in)
    return {
        "FLATTEN_TAPS": flatten,
        "BLOCK_M": rows,
        "BLOCK_N": _block(C_out, 16, columns),
        "BLOCK_K": _block(C_in * taps if flatten else C_in, 16, depth),
        "num_warps": 4,
        "num_stages": stages,
    }


def _gpu_dgrad(x: torch.Tensor, pixels: int, C_in: int, C_out: int, taps: int) -> Tile:
    rows, columns, depth, stages = _gpu_limits(x)
    return {
        "BLOCK_M": rows,
        "BLOCK_N": _block(C_in, 16, columns),
        "BLOCK_K": _block(C_out, 16, depth),
        "num_warps": 4,
        "num_stages": stages,
    }


def _gpu_wgrad(x: torch.Tensor, pixels: int, C_in: int, C_out: int, taps: int) -> Tile:
    rows, columns, depth, stages = _gpu_limits(x)
    flatten = _flatten_taps(C_in)
    return {
        "FLATTEN_TAPS": flatten,
        "BLOCK_M": _block(C_out, 16, rows),
        "BLOCK_N": _block(C_in * taps if flatten else C_in, 16, columns),
        "BLOCK_K": depth,
        "num_warps": 4,
        "num_stages": stages,
    }


def _gpu_pixels(x: torch.Tensor, pixels: int, channels: int) -> Tile:
    # threads run along whichever of pixels and channels is contiguous
    BLOCK_N = _block(channels, 1, 64) if x.dim() > 2 and x.stride(1) == 1 else 1
    return {"BLOCK_M": 1024 // BLOCK_N, "BLOCK_N": BLOCK_N, "num_warps": 4}


def _gpu_elements(x: torch.Tensor, elements: int) -> Tile:
    return {"BLOCK_M": 1024, "num_warps": 4}


_INTERPRETER: dict[str, Callable[..., Tile]] = {
    "implicit_gemm_forward": _interpreter_forward,
    "implicit_gemm_dgrad": _interpreter_dgrad,
    "implicit_gemm_wgrad": _interpreter_wgrad,
    **dict.fromkeys(PIXEL_OPERATORS, _interpreter_pixels),
    **dict.fromkeys(ELEMENT_OPERATORS, _interpreter_elements),
}
_GPU: dict[str, Callable[..., Tile]] = {
    "implicit_gemm_forward": _gpu_forward,
    "implicit_gemm_dgrad": _gpu_dgrad,
    "implicit_gemm_wgrad": _gpu_wgrad,
    **dict.fromkeys(PIXEL_OPERATORS, _gpu_pixels),
    **dict.fromkeys(ELEMENT_OPERATORS, _gpu_elements),
}
