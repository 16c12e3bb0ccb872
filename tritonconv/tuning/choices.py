"""The choices that launchers ask for: a tile, an algorithm, how far split-K splits.

A choice is built in (tiles.py), or tuned: measured by tritonconv.autotune among candidates.py's, and looked up by its
`Key`. An untuned process pays two comparisons.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import ClassVar

import torch
from triton import cdiv, next_power_of_2

from tritonconv.problems import ConvProblem, PoolProblem
from tritonconv.tuning.device import architecture, current_target, dot_precision, machine, multiprocessors
from tritonconv.tuning.reasons import Asked, Key, Tile, because, is_recording
from tritonconv.tuning.tiles import built_in

# Channels of a group under which the direct kernel takes a grouped convolution.
DIRECT_BELOW = 8
# Channels of a group from which a 16-bit product reads channels_last. On an H100 in bfloat16 (2026-11-27,
# bench/results/h100.json) products of 64 channels and more took 1.1 to 4.4 times as long in NCHW forward, 1.4 to 9.7
# times backward; with 3 channels in, as long. By the bytes that it moves the copy takes a fifth of that difference or
# less for 3×3 filters, and more than all of it for a 1×1 one of 64 channels forward (1.1 times).
CHANNELS_LAST_FROM = 16


# A batch of up to so many times the pixels of another of its layer has that one's tile: a larger one would be a third
# faster at most (docs/tiles.md), and takes seconds to compile.
BATCHES_ALIKE = 8


class _Table(dict[Key, Tile]):
    """Tuned choices. The number changes whenever they do."""

    numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, choices: Mapping[Key, Tile] = MappingProxyType({})) -> None:
        super().__init__(choices)
        self.number = next(self.numbers)


_tuned = _Table()  # what autotune chose in this process
_batches: dict[tuple, dict[tuple, int]] = {}
_instead: ContextVar[_Table | None] = ContextVar("tuned choices of a context", default=None)


def tuned() -> _Table:
    """The tuned choices: this context's, where `using` is on, else the process's."""
    choices = _instead.get()
    return _tuned if choices is None else choices


def remember(choices: Mapping[Key, Tile]) -> None:
    """Add to the tuned choices."""
    table = tuned()
    table.update(choices)
    table.number = next(table.numbers)


def number() -> int | None:
    """Of the tuned choices in force: launches that were chosen hold while it is the same. None where choosing is seen.

    That is: where choices are recorded, or made for a machine that is not there.
    """
    return None if is_recording() or current_target() is not None else tuned().number


@contextlib.contextmanager
def using(choices: Mapping[Key, Tile]) -> Iterator[None]:
    """Exactly `choices` are this context's tuned ones; with none, everything is built in."""
    token = _instead.set(_Table(choices))
    try:
        yield
    finally:
        _instead.reset(token)


def pick_algorithm(
    problem: ConvProblem, algorithm: str, operator: str | None = None, x: torch.Tensor | None = None
) -> str:
    """What "auto" stands for: what was tuned for `operator` on tensors like `x`, else what is built in."""
    if algorithm != "auto":
        return because("algorithm", algorithm, "asked for by name")
    asked = None
    if operator is not None and x is not None:
        C_in, C_out = problem.C_in // problem.groups, problem.C_out // problem.groups
        sizes = {"pixels": problem.N * math.prod(problem.output_size), "C_in": C_in, "C_out": C_out}
        asked = _ask(operator, x, problem, sizes)
        if asked and (choice := tuned().get(asked.key)):
            reason = 'by "auto": the fastest that autotune measured'
            return because("algorithm", choice["algorithm"], reason, asked)
    return because("algorithm", *built_in_algorithm(problem), asked)


def pick(operator: str, x: torch.Tensor, problem: ConvProblem | PoolProblem | None = None, **sizes: int) -> Tile:
    """Block sizes, and on a GPU warps and stages, for `operator` on tensors like `x`.

    `problem` tells tuned choices apart; the built-in ones do not depend on it.
    """
    asked = _ask(operator, x, problem, sizes)
    if asked and (choice := tuned().get(asked.key)):
        return because("tile", choice, "the fastest that autotune measured", asked)
    tile, reason = built_in(operator, x, **sizes)
    if "pixels" in sizes and current_target() is None and architecture(x.device) != "interpreter":
        tile = _as_another_batch(operator, x, sizes, tile)
    return because("tile", tile, reason, asked)


def _as_another_batch(operator: str, x: torch.Tensor, sizes: Mapping[str, int], tile: Tile) -> Tile:
    """The tile of another batch of the layer, a larger one or one that is not far smaller: then nothing is compiled.

    An epoch's last batch is smaller, and a test's may be larger. No result depends on it: the tiles of a layer differ
    in how they share out the output, not in how they sum.
    """
    others = (size for name, size in sizes.items() if name != "pixels")
    layer = (operator, x.device, x.dtype, x.stride(1) == 1, dot_precision(x), *others)
    seen = _batches.setdefault(layer, {})  # pixels that each tile was chosen for
    near = [(pixels, each) for each, pixels in seen.items() if BATCHES_ALIKE * pixels >= sizes["pixels"]]
    if near:
        return dict(min(near)[1])
    seen[tuple(tile.items())] = sizes["pixels"]
    return tile


def built_in_algorithm(problem: ConvProblem) -> tuple[str, str]:
    """Direct where groups leave a matrix product too few channels, else implicit GEMM; and why."""
    if problem.groups == 1:
        return "implicit_gemm", 'by "auto": one group gives a matrix product all the channels'
    least = min(problem.C_in, problem.C_out) // problem.groups
    if least < DIRECT_BELOW:
        reason = f'by "auto": fewer than {DIRECT_BELOW} channels a group ({least}) are too few for a matrix product'
        return "direct", reason
    reason = f'by "auto": {DIRECT_BELOW} channels a group or more ({least}) are enough for a matrix product'
    return "implicit_gemm", reason


def reads_channels_last(device: torch.device, dtype: torch.dtype, channels: int) -> bool:
    """Whether a product should read an operand in channels_last; `channels`: a group's, the fewer of in and out."""
    if dtype.itemsize != 2 or channels < CHANNELS_LAST_FROM or architecture(device) == "interpreter":
        return False
    reason = (
        f"16-bit operands in channels_last, copied where they are not: of {CHANNELS_LAST_FROM} channels or more "
        f"({channels}) they are then loaded 16 bytes at a time"
    )
    return because("layout", True, reason)


def _wanted(x: torch.Tensor) -> int:
    return 2 * multiprocessors(x.device)


def is_split(x: torch.Tensor, programs: int) -> bool:
    """Whether a gradient of so many tiles is split where there are pixels enough, which is the same for any batch."""
    return architecture(x.device) != "interpreter" and programs < _wanted(x)


def split_k(x: torch.Tensor, programs: int, steps: int) -> tuple[int, int]:
    """(splits, steps of each): a gradient with few tiles is split over its pixels until it fills the GPU."""
    if architecture(x.device) == "interpreter":
        return because("splits", (1, steps), "no split-K: the interpreter runs one program after another")
    if steps <= 1 or programs == 0:
        return because("splits", (1, steps), "no split-K: one block holds all pixels, or no tile needs them")
    wanted = _wanted(x)
    splits = max(1, min(cdiv(wanted, programs), cdiv(steps, 4), 64))
    reason = (
        f"split-K by {splits}: {wanted} programs fill the GPU, two for each multiprocessor, the tiles make {programs}; "
        f"{steps} blocks of pixels, 4 or more a split, 64 splits at most"
    )
    return because("splits", (splits, cdiv(steps, splits)), reason)


def _ask(
    operator: str, x: torch.Tensor, problem: ConvProblem | PoolProblem | None, sizes: Mapping[str, int]
) -> Asked | None:
    """The question that a tuned choice answers; None where nobody looks and nothing is tuned."""
    if current_target() is not None or not (is_recording() or tuned()):
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
    return Asked(key, x, problem, bucket)
