"""The choice of tiles: legal for every size, the same for every batch, and torch's switch for TF32."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from triton import next_power_of_2

from tritonconv import tuning
from tritonconv.checks import DTYPES
from tritonconv.problems import conv_problem
from tritonconv.tuning import choices

GEMMS = ("implicit_gemm_forward", "implicit_gemm_dgrad", "implicit_gemm_wgrad")
ARCHITECTURES = ("interpreter", "sm_80", "sm_90", "sm_100", "gfx942")
TRITON_MAX_TENSOR_NUMEL = 2**20


def pick(operator: str, architecture: str, dtype: torch.dtype = torch.float32, **sizes) -> dict:
    if operator == "implicit_gemm_forward":
        sizes = {"pooled": False, **sizes}
    with tuning.target(architecture):
        return tuning.pick(operator, torch.empty(1, 1, 1, 1, dtype=dtype), **sizes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(
    operator=st.sampled_from(GEMMS),
    dtype=st.sampled_from(DTYPES),
    pixels=st.integers(1, 10**7),
    C_in=st.integers(1, 3000),
    C_out=st.integers(1, 3000),
    taps=st.integers(1, 121),
)
def test_tiles_are_legal(architecture, operator, dtype, pixels, C_in, C_out, taps):
    """No tile over Triton's limit, and on a GPU powers of two, none under the 16 that tl.dot wants."""
    tile = pick(operator, architecture, dtype, pixels=pixels, C_in=C_in, C_out=C_out, taps=taps)
    blocks = [tile[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K")]
    assert max(math.prod(sides) for sides in itertools.combinations(blocks, 2)) <= TRITON_MAX_TENSOR_NUMEL
    if architecture != "interpreter":
        assert min(blocks) >= 16 and all(block == next_power_of_2(block) for block in blocks)
        assert {"num_warps", "num_stages"} <= set(tile)


@pytest.mark.parametrize("operator", GEMMS)
def test_tiles_of_a_gpu_do_not_depend_on_the_batch(operator):
    """Or a last, smaller batch would compile every kernel anew."""
    tiles = [pick(operator, "sm_90", pixels=n * 4 * 4, C_in=32, C_out=64, taps=9) for n in (64, 63, 17, 1)]
    assert all(tile == tiles[0] for tile in tiles)


def test_a_product_has_large_tiles_unless_multiprocessors_stay_idle():
    """By loads from L2 the largest tile is a third faster than its halves; a small batch wants more programs."""
    sizes = {"C_in": 512, "C_out": 512, "taps": 9}

    def sides(pixels: int, **others) -> tuple[int, int]:
        tile = pick("implicit_gemm_forward", "sm_90", torch.bfloat16, **{**sizes, "pixels": pixels, **others})
        return tile["BLOCK_M"], tile["BLOCK_N"]

    assert sides(32 * 28 * 28) == (128, 128)
    assert sides(32 * 28 * 28, C_out=64) == (128, 64)
    assert sides(32 * 7 * 7) == (128, 64)  # 64 programs of the largest, for 132 multiprocessors
    assert sides(7 * 7) == (64, 64)
    assert sides(32 * 28 * 28, pooled=True) == (64, 64)
    assert sides(32 * 28 * 28, crowded=True) == (128, 64)


def test_a_batch_has_the_tile_of_another(monkeypatch):
    """Of the least that is larger, or an eighth of it or more; one larger than that has its own."""
    monkeypatch.setattr(choices, "_batches", {})

    def tile(pixels: int, rows: int) -> int:
        sizes = {"pixels": pixels, "C_in": 3}
        return choices._as_another_batch("implicit_gemm_forward", torch.empty(1, 1, 1), sizes, {"rows": rows})["rows"]

    asked = [(100, 32), (800, 64), (801, 128), (500, 64), (6408, 256), (6409, 512), (100, 16), (1, 16)]
    assert [tile(*each) for each in asked] == [32, 32, 128, 32, 128, 512, 32, 32]


def test_a_filter_gradient_has_tiles_that_its_channels_fill():
    """Three tiles of 64 × 128 for 192 channels on sm_80, where products take as long as loads; two of 128 on sm_90."""
    sizes = {"pixels": 10**5, "C_in": 128, "C_out": 192, "taps": 9}
    tiles = [pick("implicit_gemm_wgrad", arch, torch.bfloat16, **sizes) for arch in ("sm_80", "sm_90")]
    assert [(tile["BLOCK_M"], tile["BLOCK_N"]) for tile in tiles] == [(64, 128), (128, 128)]


def test_the_choice_of_sides_says_what_it_compared():
    x = torch.empty(1, 1, 1, 1, dtype=torch.bfloat16)
    with tuning.target("sm_90"), tuning.record_choices() as made:
        tuning.pick("implicit_gemm_dgrad", x, pixels=25088, C_in=512, C_out=512, taps=9)
    (sides,) = (choice for choice in made if choice.about == "sides")
    assert sides.chosen == (128, 128)
    assert sides.reason == (
        "clocks for each element of depth: 105 by 128x128, 158 by 128x64, 158 by 64x128, 210 by 64x64; "
        "132 programs at once"
    )


@pytest.mark.parametrize("architecture", ["interpreter", "sm_90"])
@given(programs=st.integers(1, 1000), steps=st.integers(0, 10000))
def test_splits_cover_every_step(architecture, programs, steps):
    with tuning.target(architecture):
        splits, each = tuning.split_k(torch.empty(1), programs, steps)
    assert splits >= 1 and splits * each >= steps


def test_target_is_restored_after_an_error():
    x = torch.empty(1)
    with pytest.raises(KeyError), tuning.target("sm_90"):
        assert tuning.architecture(x.device) == "sm_90"
        raise KeyError
    assert tuning.architecture(x.device) == "interpreter"


def test_targets_nest():
    x = torch.empty(1)
    with tuning.target("sm_90"):
        with tuning.target("gfx942"):
            pass
        assert tuning.architecture(x.device) == "sm_90"


@pytest.mark.parametrize(
    ("operator", "architecture"),
    [("implicit_gemm_forward", "interpreter"), ("implicit_gemm_forward", "sm_90"), ("implicit_gemm_wgrad", "sm_90")],
)
def test_taps_are_flattened_for_few_channels(operator, architecture):
    """Sixteen channels fill the smallest block that a product takes."""
    for C_in, flat in ((15, True), (16, False)):
        assert pick(operator, architecture, pixels=1000, C_in=C_in, C_out=32, taps=9)["FLATTEN_TAPS"] is flat


@pytest.mark.parametrize(
    ("C_in", "C_out", "groups", "expected"),
    [(1, 1, 1, "implicit_gemm"), (16, 16, 2, "implicit_gemm"), (14, 16, 2, "direct"), (16, 14, 2, "direct")],
)
def test_auto_is_direct_where_a_group_has_few_channels(C_in, C_out, groups, expected):
    shape = (C_out, C_in // groups, 3, 3)
    problem = conv_problem((1, C_in, 8, 8), shape, None, (1, 1), (1, 1, 1, 1), (1, 1), groups)
    assert tuning.pick_algorithm(problem, "auto") == expected


def test_a_split_has_its_share_of_the_steps_and_no_more():
    """At most 64 splits, each of 4 steps or more."""
    with tuning.target("sm_90"):
        assert tuning.split_k(torch.empty(1), 1, 10**4) == (64, 157)
        assert tuning.split_k(torch.empty(1), 100, 100) == (3, 34)
        assert tuning.split_k(torch.empty(1), 1, 16) == (4, 4)
    with tuning.target("sm_80"):  # 108 multiprocessors, not 132
        assert tuning.split_k(torch.empty(1), 100, 10**4) == (3, 3334)
        assert tuning.split_k(torch.empty(1), 30, 10**4) == (8, 1250)
    with tuning.target("sm_90"):
        assert tuning.split_k(torch.empty(1), 30, 10**4) == (9, 1112)


def test_products_follow_torchs_switch(monkeypatch):
    """TF32 where torch allows it for convolutions; else three TF32 products, or none of them on AMD."""
    x = torch.empty(1)
    with tuning.target("sm_90"):
        assert tuning.dot_precision(x) == "tf32x3"  # the tests switch TF32 off
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        assert tuning.dot_precision(x) == "tf32"
        assert tuning.dot_precision(x.double()) == "ieee"
    with tuning.target("gfx942"):
        assert tuning.dot_precision(x) == "ieee"
