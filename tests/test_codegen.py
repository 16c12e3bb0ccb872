"""Every kernel in its default tile compiles for every target, inside its budget; no GPU needed."""

import pytest

from bench import codegen

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


def test_loop_length_finds_the_loop_with_the_matrix_instructions() -> None:
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
    assert codegen.loop_length(code) == 3
