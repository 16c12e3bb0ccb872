"""Every kernel in its default tile compiles for every target, inside its budget; no GPU needed."""

import dataclasses
import itertools
import re

import pytest
import torch
import triton.language as tl

from bench import codegen
from tritonconv import functional as TF
from tritonconv import jit, tuning
from tritonconv.kernels import arguments, pooling
from tritonconv.problems import pool_problem

SLOW = pytest.mark.slow
LAST = "channels_last"
# by others' kernels, with more beside
COVERED = ("conv-bias-relu 3x3 64", "conv-scale-residual-relu 3x3 64", "adaptive avg pool 7x7")
QUICK = [
    ("sm_90", "bfloat16", workload, LAST)
    for workload in codegen.workloads(torch.bfloat16)
    if "128" not in workload and workload not in COVERED
]
QUICK += [("sm_90", "bfloat16", "conv-scale-residual-relu 3x3 128", LAST)]  # the largest tile with the most beside it
QUICK += [("sm_90", "float32", workload, LAST) for workload in ("conv 3x3 64", "conv 3x3 64 stride 2")]
QUICK += [("sm_90", "bfloat16", workload, "nchw") for workload in ("conv 3x3 64", "conv-bias-relu-pool 3x3 64")]
CASES = [
    pytest.param(*case, marks=() if case in QUICK else SLOW)
    for dtype in codegen.DTYPES
    for case in itertools.product(
        codegen.TARGETS, [dtype], codegen.workloads(codegen.DTYPES["float32"]), codegen.layouts(dtype)
    )
]


@pytest.mark.parametrize(("target", "dtype", "workload", "layout"), CASES)
def test_within_budget(target: str, dtype: str, workload: str, layout: str) -> None:
    launches = codegen.launches(workload, target, dtype, codegen.LAYOUTS[layout])
    rows = [codegen.examine(launch, target, dtype, workload, layout) for launch in launches]
    assert rows
    over = {row.kernel: found for row in rows if (found := codegen.problems(row))}
    assert not over


def test_neighbours_are_stored_together_in_nchw() -> None:
    """16 bytes at a time, as far as they go: results, and a filter gradient's partial sums."""
    for launch in codegen.launches("conv 3x3 64", "sm_90", "bfloat16", torch.contiguous_format):
        if (kernel := launch.kernel.fn.__name__) in codegen.GEMM_KERNELS:
            code = codegen.disassemble(jit.compile_launch(launch, codegen.TARGETS["sm_90"]))
            widths = re.findall(r"\bSTG\.E(?:\.(\w+))?", code)
            assert widths.count("128") > 0.8 * len(widths), kernel


def test_loop_body_is_the_loop_with_the_matrix_instructions() -> None:
    code = """
    .L_x_1:
        /*0010*/ HGMMA.64x64x16.F32 R0, R1 ;
        /*0020*/ IADD R1, R1, 1 ;
        /*0030*/ @P0 BRA `(.L_x_1) ;
    .L_x_2:
        /*0040*/ IADD R1, R1, 1 ;
        /*0050*/ IADD R1, R1, 1 ;
        /*0060*/ IADD R1, R1, 1 ;
        /*0070*/ @P0 BRA `(.L_x_2) ;
    .L_x_3:
        /*0080*/ BRA `(.L_x_3) ;
    """
    assert len(codegen.loop_body(code)) == 3


# Branches that no workload above takes, and that the interpreter does not compile


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "implicit_gemm"])
def test_64_bit_offsets_compile(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that holds a 64-bit index and then a 32-bit one does not compile."""
    monkeypatch.setattr(arguments, "needs_int64", lambda *tensors: True)
    x, w, b = (torch.zeros(shape, requires_grad=True) for shape in ((2, 4, 9, 9), (6, 4, 3, 3), (6,)))
    with tuning.target("sm_90"), jit.record_launches() as recorded:
        for y in (
            TF.conv2d(x, w, b, stride=2, algorithm=algorithm),
            TF.conv2d_bias_relu_max_pool2d(x, w, b, pool_kernel_size=2, algorithm=algorithm),
            TF.max_pool2d(x, 2),
        ):
            y.backward(torch.empty_like(y))
    assert {launch.arguments["OFFSET"] for launch in recorded if "OFFSET" in launch.arguments} == {tl.int64}
    assert all("cubin" in jit.compile_launch(launch, codegen.TARGETS["sm_90"]).asm for launch in recorded)


@pytest.mark.parametrize(
    "reduction",
    [
        *[dict(reduction="average", divisor=divisor) for divisor in ("padded", "image", 5)],
        *[dict(reduction="lp", norm=norm) for norm in (1.0, 2.0, 2.5, 3.0)],
    ],
    ids=str,
)
def test_reductions_compile(reduction: dict) -> None:
    pool = dataclasses.replace(pool_problem((2, 3, 8, 8), (2, 2), (2, 2), (0, 0), (1, 1), False), **reduction)
    x, y = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)
    with tuning.target("sm_90"), jit.record_launches() as recorded:
        pooling.pool_forward(x, y, None, None, pool)
        if pool.reduction == "average":
            pooling.pool_backward(y, None, x, pool)
    assert [launch.arguments["DIVISOR"] for launch in recorded] == [pool.divisor] * (1 + (pool.reduction == "average"))
    assert all("cubin" in jit.compile_launch(launch, codegen.TARGETS["sm_90"]).asm for launch in recorded)


# Asynchronous matrix products


@pytest.mark.parametrize("dtype", ["bfloat16", "tf32", pytest.param("float16", marks=SLOW)])
def test_products_overlap_without_a_race_in_nchw(dtype: str) -> None:
    launches = codegen.launches("conv 3x3 64", "sm_90", dtype, torch.contiguous_format)
    rows = [codegen.examine(launch, "sm_90", dtype, "conv 3x3 64") for launch in launches]
    assert {row.kernel for row in rows} >= set(codegen.GEMM_KERNELS)
    wrong = {row.kernel: found for row in rows if (found := codegen.product_problems(row))}
    assert not wrong


@jit.jit
def product_kernel(a, b, product, sums, STEPS, SUM: tl.constexpr, B: tl.constexpr):
    """product = aᵀ · b and, with SUM, sums = a summed over its rows, for a and b (STEPS · B, B), as in wgrad."""
    offs = tl.arange(0, B)
    tile = offs[:, None] * B + offs[None, :]
    acc, total = tl.zeros((B, B), tl.float32), tl.zeros((B,), tl.float32)
    for step in range(STEPS):
        a_tile = tl.load(a + step * B * B + tile)
        b_tile = tl.load(b + step * B * B + tile)
        acc = tl.dot(tl.trans(a_tile), b_tile, acc)
        if SUM:
            total += tl.sum(a_tile.to(tl.float32), 0)
    tl.store(product + tile, acc)
    tl.store(sums + offs, total)


@pytest.mark.parametrize(
    ("second_use", "buffers", "races"), [(False, "a_tile 3 b_tile 3", ""), (True, "a_tile 2 b_tile 3", "a_tile")]
)
def test_second_use_of_an_operand_is_a_race(second_use: bool, buffers: str, races: str) -> None:
    a, b = torch.empty(2, 512, 64, dtype=torch.float16)
    with jit.record_launches() as recorded:
        product_kernel[(1,)](a, b, torch.empty(64, 64), torch.empty(64), 8, second_use, 64, num_warps=4, num_stages=3)
    row = codegen.examine(recorded[0], "sm_90", "float16", "product")
    assert (row.in_flight, row.buffers, row.races) == (1, buffers, races)
    assert bool(codegen.product_problems(row)) == second_use


def test_serialised_counts_products_that_wait_for_themselves() -> None:
    product, wait = "HGMMA.64x64x16.F32 R24, gdesc[UR8], R24, gsb0 ;", "WARPGROUP.DEPBAR.LE gsb0, {} ;"
    assert codegen.serialised([product, product, wait.format("0x1")]) == 0
    assert codegen.serialised([product, wait.format("0x0"), "IADD R1, R1, 1 ;", product, wait.format("0x0")]) == 2


# --- others' kernels ---


@pytest.mark.parametrize(
    ("target", "dtype", "layout"),
    [
        ("sm_90", "bfloat16", "channels_last"),
        pytest.param("sm_90", "bfloat16", "nchw", marks=SLOW),
        *(pytest.param(target, "tf32", "channels_last", marks=SLOW) for target in ("sm_80", "sm_90")),
        *(pytest.param("sm_80", "bfloat16", layout, marks=SLOW) for layout in codegen.LAYOUTS),
    ],
)
def test_loops_are_no_longer_than_others(target: str, dtype: str, layout: str) -> None:
    """A convolution's against what inductor's template compiles to, a plain product's against a plain product's."""

    def loops(workload: str) -> dict[str, int]:
        launches = codegen.launches(workload, target, dtype, codegen.LAYOUTS[layout])
        rows = [codegen.examine(launch, target, dtype, workload, layout) for launch in launches]
        return {row.kernel: row.loop for row in rows if row.kernel in codegen.GEMM_KERNELS}

    others = {row.kernel: row.loop for row in codegen.reference_rows(target, dtype, layout)}
    assert all(others.values())
    for kernel, loop in loops("conv 3x3 64").items():
        if (other := others.get(f"inductor {kernel.split('_')[2]}")) is not None:
            assert loop <= 1.3 * other, kernel
    assert loops("conv 3x3 64 im2col")["implicit_gemm_forward_kernel"] <= 1.3 * others["matrix product"]
