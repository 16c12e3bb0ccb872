"""Every kernel in its default tile compiles for every target, inside its budget; no GPU needed."""

import pytest
import torch
import triton.language as tl

from bench import codegen, pipeline
from tritonconv import functional, jit, tuning

SLOW = pytest.mark.slow
CASES = [
    pytest.param(target, dtype, marks=() if target == "sm_90" and dtype in ("bfloat16", "float32") else SLOW)
    for target in codegen.TARGETS
    for dtype in codegen.DTYPES
]


@pytest.mark.parametrize("workload", codegen.workloads(codegen.DTYPES["float32"]))
@pytest.mark.parametrize(("target", "dtype"), CASES)
def test_within_budget(target: str, dtype: str, workload: str) -> None:
    rows = [codegen.examine(launch, target, dtype, workload) for launch in codegen.launches(workload, target, dtype)]
    assert rows
    over = {row.kernel: found for row in rows if (found := codegen.problems(row))}
    assert not over


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


# --- races in the compiled loop (bench/pipeline.py) ---


@jit.jit
def product_kernel(a_ptr, b_ptr, c_ptr, s_ptr, steps, SUM: tl.constexpr, B: tl.constexpr):
    """c = aᵀ b over blocks of rows; with SUM, a has a second use in the loop: its own sum."""
    row = tl.arange(0, B)
    acc = tl.zeros((B, B), tl.float32)
    total = tl.zeros((B,), tl.float32)
    for step in range(steps):
        offs = (step * B + row)[:, None] * B + row[None, :]
        a = tl.load(a_ptr + offs)
        acc = tl.dot(tl.trans(a), tl.load(b_ptr + offs), acc)
        if SUM:
            total += tl.sum(a.to(tl.float32), 0)
    tl.store(c_ptr + row[:, None] * B + row[None, :], acc)
    tl.store(s_ptr + row, total)


@pytest.mark.parametrize("second_use", [False, True])
def test_a_second_use_of_an_operand_in_the_loop_is_a_race(second_use):
    a, b = torch.empty(512, 64, dtype=torch.bfloat16), torch.empty(512, 64, dtype=torch.bfloat16)
    with jit.record_launches() as launches:
        product_kernel[(1,)](a, b, torch.empty(64, 64), torch.empty(64), 8, SUM=second_use, B=64, num_stages=3)
    compiled = jit.compile_launch(launches[0], codegen.TARGETS["sm_90"])
    assert pipeline.examine(compiled.asm["ttgir"]).races == (["a"] if second_use else [])


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "tf32"])
def test_no_operand_is_refilled_while_a_product_may_read_it(dtype, layout):
    """The weight gradient with a bias did so, in every one of these."""
    make = {"dtype": codegen.DTYPES[dtype], "requires_grad": True}
    x, w = (torch.empty(shape, memory_format=layout, **make) for shape in ((8, 64, 28, 28), (64, 64, 3, 3)))
    with tuning.target("sm_90"), codegen.tf32(dtype == "tf32"), jit.record_launches() as launches:
        y = functional.conv2d(x, w, torch.empty(64, **make), padding=1)
        y.backward(torch.empty_like(y))
    for launch in launches:
        compiled = jit.compile_launch(launch, codegen.TARGETS["sm_90"])
        assert pipeline.examine(compiled.asm["ttgir"]).races == [], launch.kernel.fn.__name__
