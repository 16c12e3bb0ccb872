"""What autotune would measure: legal and few on every architecture, and a function of the choice's key alone."""

import itertools
import math
from unittest import mock

import pytest
import torch
from conftest import exact_side
from hypothesis import given
from hypothesis import strategies as st
from test_tuning import ARCHITECTURES, GEMMS, TRITON_MAX_TENSOR_NUMEL
from triton import next_power_of_2

from tritonconv import tuning
from tritonconv.checks import DTYPES
from tritonconv.problems import conv_problem
from tritonconv.tuning import candidates
from tritonconv.tuning import tiles as tables


def sizes_of(operator: str, pixels: int, C_in: int, C_out: int, taps: int) -> dict[str, int]:
    if operator in tables.PIXEL_OPERATORS:
        return {"pixels": pixels, "channels": C_out}
    if operator in ("elementwise", "sum_splits"):
        return {"elements": pixels}
    pooled = {"pooled": False} if operator == "implicit_gemm_forward" else {}
    return {"pixels": pixels, "C_in": C_in, "C_out": C_out, "taps": taps, **pooled}


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "sm_86"])
@given(
    operator=st.sampled_from([*GEMMS, *tables.PIXEL_OPERATORS, "elementwise", "sum_splits"]),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
    pixels=st.integers(1, 10**7),
    C_in=st.integers(1, 3000),
    C_out=st.integers(1, 3000),
    taps=st.integers(1, 121),
)
def test_candidates_are_few_different_and_legal(
    architecture, operator, dtype, channels_last, pixels, C_in, C_out, taps
):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(1, 2, 2, 2, dtype=dtype).to(memory_format=layout)
    sizes = sizes_of(operator, pixels, C_in, C_out, taps)
    # the interpreter's sides are those that users get
    with tuning.target(architecture), mock.patch.object(tables, "side", exact_side):
        tiles = candidates.tiles(operator, x, **sizes)
        assert tiles[0] == tuning.pick(operator, x, **sizes)
    assert len(tiles) <= 20
    assert all(tile not in tiles[:i] for i, tile in enumerate(tiles))
    assert all(tile.keys() == tiles[0].keys() for tile in tiles)
    for tile in tiles:
        assert candidates.is_legal(tile)
        blocks = [size for name, size in tile.items() if name.startswith("BLOCK_")]
        assert architecture == "interpreter" or all(block == next_power_of_2(block) for block in blocks)
        assert max(math.prod(sides) for sides in itertools.combinations([1, *blocks], 2)) <= TRITON_MAX_TENSOR_NUMEL
        assert architecture == "interpreter" or operator not in GEMMS or min(blocks) >= 16
    if architecture == "interpreter":  # none that the pixels do not fill
        rows = "BLOCK_K" if operator == "implicit_gemm_wgrad" else "BLOCK_M"
        assert all(tile[rows] <= next_power_of_2(pixels) for tile in tiles)


@pytest.mark.parametrize("operator", GEMMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_90", "gfx942"])
def test_products_fit_shared_memory(architecture, dtype, operator):
    """What a pipeline keeps in flight: a stage holds a block of each operand."""
    sizes = sizes_of(operator, 10**6, 512, 512, 9)
    with tuning.target(architecture):
        tiles = candidates.tiles(operator, torch.empty(1, 1, 1, 1, dtype=dtype), **sizes)
    assert len(tiles) > 3
    for tile in tiles[1:]:
        stage = (tile["BLOCK_M"] + tile["BLOCK_N"]) * tile["BLOCK_K"] * dtype.itemsize
        assert tile["num_stages"] * stage <= candidates.SHARED_BYTES.get(architecture, 99 * 1024)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("pooled", [False, True])
def test_accumulators_leave_registers(pooled, dtype):
    """Half of a thread's 255 at most: float64 takes two each, a running maximum and its place as many again."""
    sizes = {"pixels": 10**6, "C_in": 512, "C_out": 512, "taps": 9, "pooled": pooled}
    with tuning.target("sm_90"):
        tiles = candidates.tiles("implicit_gemm_forward", torch.empty(1, 1, 1, 1, dtype=dtype), **sizes)
    for tile in tiles[1:]:
        values = tile["BLOCK_M"] * tile["BLOCK_N"] * (3 if pooled else 1) * (2 if dtype == torch.float64 else 1)
        assert values // (32 * tile["num_warps"]) <= 128


@pytest.mark.parametrize(
    ("C_in", "C_out", "groups", "filter_size", "expected"),
    [
        (64, 64, 1, 3, ["implicit_gemm", "im2col"]),
        (64, 64, 1, 1, ["implicit_gemm"]),  # columns would be a copy of the input
        (3, 64, 1, 3, ["implicit_gemm", "direct", "im2col"]),
        (64, 64, 64, 3, ["direct", "implicit_gemm", "im2col"]),
        (2048, 2048, 1, 3, ["implicit_gemm"]),  # columns of 300 million elements
    ],
)
def test_algorithms_worth_measuring(C_in, C_out, groups, filter_size, expected):
    shape = (C_out, C_in // groups, filter_size, filter_size)
    problem = conv_problem((1, C_in, 128, 128), shape, None, (1, 1), (1, 1, 1, 1), (1, 1), groups)
    assert candidates.algorithms(problem, 2**14) == expected


@pytest.mark.parametrize(
    "choice",
    [
        *(None, 64, [], {}, {"algorithm": "auto"}, {"algorithm": "winograd"}, {"algorithm": "direct", "BLOCK_M": 16}),
        *(
            {"BLOCK_M": 48, "num_warps": 4},
            {"BLOCK_M": 0},
            {"BLOCK_M": -16},
            {"BLOCK_M": "64"},
            {"BLOCK_M": 64.0},
            {"BLOCK_M": None},
        ),
        *({"BLOCK_M": 2**11, "BLOCK_N": 2**10}, {"BLOCK_M": 64, "num_warps": 3}, {"BLOCK_M": 64, "num_stages": 0}),
        *({"BLOCK_M": 64, "FLATTEN_TAPS": 2}, {"BLOCK_M": 64, "BLOCK_Q": 64}, {"BLOCK_M": [64]}),
    ],
)
def test_what_is_no_choice_is_illegal(choice):
    assert not candidates.is_legal(choice)
