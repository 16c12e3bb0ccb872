"""The bench: its workloads, its arithmetic, its gate, its files and its reports; all of it without a GPU."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench import __main__ as bench
from bench import codegen, environment, gate, gpu, host, providers, report, rows, steps, tables, timing, workloads
from bench import interpreter as interpreter_bench
from bench.rows import Row
from bench.workloads import Problem, Workload
from tritonconv import interpreter
from tritonconv.tuning import tiles

ROOT = Path(__file__).parent.parent
COMMITTED = sorted((ROOT / "bench" / "results").glob("*.json"))
cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the command runs the GPU's workloads")

ROW = Row("w", "conv", "forward", "float32", "", False, "cpu", "torch", "nchw", False, rows.OK)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "sanitize_overflow", False)  # every kernel here is checked elsewhere


def row(provider: str, median_ms: float | None, layout: str = "nchw", status: str = rows.OK, **rest) -> Row:
    ours = provider.startswith("ours")
    return dataclasses.replace(
        *(ROW,),
        provider=provider,
        layout=layout,
        ours=ours,
        status=status,
        median_ms=median_ms,
        p20_ms=median_ms,
        p80_ms=median_ms,
        **rest,
    )


def find(name: str, among=workloads.GPU_WORKLOADS) -> Workload:
    return next(w for w in among if w.name == name)


# --- workloads ---


@pytest.mark.parametrize(
    ("name", "sizes", "variants"),
    [  # (N, C_in, size, C_out, filter, stride, padding, dilation, groups)
        *[
            (f"mnist-cnn3-{i}-b{n}", (n, *sizes, 3, 1, 1, 1, 1), variants)
            for n in (64, 512, 4096)
            for i, sizes, variants in (
                (1, (1, 28, 32), (*workloads.CONV, workloads.POOLED)),
                (2, (32, 14, 64), (*workloads.CONV, workloads.POOLED)),
                (3, (64, 7, 64), workloads.CONV),
            )
        ],
        ("lenet-c1", (512, 1, 32, 6, 5, 1, 0, 1, 1), workloads.CONV),
        ("lenet-c2", (512, 6, 14, 16, 5, 1, 0, 1, 1), workloads.CONV),
        ("vgg16-1-1", (32, 3, 224, 64, 3, 1, 1, 1, 1), workloads.CONV),
        ("vgg16-2-2", (32, 128, 112, 128, 3, 1, 1, 1, 1), workloads.CONV),
        ("vgg16-4-2", (32, 512, 28, 512, 3, 1, 1, 1, 1), workloads.CONV),
        ("resnet50-1x1-64-256", (32, 64, 56, 256, 1, 1, 0, 1, 1), workloads.CONV),
        ("resnet50-1x1-1024-256", (32, 1024, 14, 256, 1, 1, 0, 1, 1), workloads.CONV),
        ("resnet50-3x3-64", (32, 64, 56, 64, 3, 1, 1, 1, 1), workloads.CONV),
        ("resnet50-3x3-128-stride2", (32, 128, 56, 128, 3, 2, 1, 1, 1), workloads.CONV),
        ("resnet50-stem-7x7", (32, 3, 224, 64, 7, 2, 3, 1, 1), workloads.CONV),
        ("depthwise-3x3-128", (32, 128, 56, 128, 3, 1, 1, 1, 128), workloads.CONV),
        ("resnext50-3x3-grouped", (32, 128, 56, 128, 3, 1, 1, 1, 32), workloads.CONV),
        ("dilated-3x3-256", (32, 256, 28, 256, 3, 1, 2, 2, 1), workloads.CONV),
    ],
)
def test_every_layer_the_plan_names_is_there(name, sizes, variants):
    w = find(name)
    assert (w.N, w.C_in, w.size, w.C_out, w.filter, w.stride, w.padding, w.dilation, w.groups) == sizes
    assert w.variants == variants
    assert w.origin


def test_poolings_steps_and_small_workloads_are_there_and_names_are_unique(capsys):
    assert find("maxpool-2x2").pool == (2, 2, 0)
    assert find("maxpool-3x3-stride2").pool == (3, 2, 1)
    assert [find(f"mnist-cnn3-step-b{n}").N for n in (64, 512)] == [64, 512]
    for group in (workloads.GPU_WORKLOADS, workloads.CPU_WORKLOADS):
        assert len({w.name for w in group}) == len(group)
    assert bench.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f" {w.name} " in listed for w in (*workloads.GPU_WORKLOADS, *workloads.CPU_WORKLOADS))


def test_scaling_varies_one_axis_at_a_time_over_the_whole_range():
    found = workloads.scaling_workloads(*workloads.GPU_SCALING)
    base, *_ = workloads.GPU_SCALING
    for w in found:
        assert sum(a != b for a, b in zip((w.N, w.C_in, w.size), base, strict=True)) <= 1
    assert {min(w.N for w in found), max(w.N for w in found)} == {1, 4096}
    assert {min(w.C_in for w in found), max(w.C_in for w in found)} == {1, 1024}
    assert {min(w.size for w in found), max(w.size for w in found)} == {7, 224}


@pytest.mark.parametrize(
    ("name", "variant", "mode", "dtype", "flops", "elements"),
    [
        # 2 · N·C_out·P·Q · C_in/groups·R·S;  x + w (+ b) + y elements
        ("mnist-cnn3-2-b64", "conv", "forward", "float32", 2 * 64 * 64 * 196 * 288, 401_408 + 18_432 + 802_816),
        ("mnist-cnn3-2-b64", "conv-bias", "forward", "float16", 462_422_016, 401_408 + 18_432 + 64 + 802_816),
        # pooling in the same kernel: y is a quarter
        ("mnist-cnn3-2-b64", workloads.POOLED, "forward", "float32", 462_422_016, 401_408 + 18_432 + 64 + 200_704),
        # backward: dw and dx are a convolution's work each; dy, x, w read, dx, dw written
        ("mnist-cnn3-2-b64", "conv", "backward", "float32", 924_844_032, 2 * 401_408 + 2 * 18_432 + 802_816),
        # a first layer has no dx: dy, x read, dw written
        ("lenet-c1", "conv", "backward", "float32", 2 * 512 * 6 * 784 * 25, 512 * 1024 + 150 + 512 * 6 * 784),
        # a stride of 2: 56 to 28; 7×7: 224 to 112; dilation 2 with padding 2 keeps the size
        ("resnet50-3x3-128-stride2", "conv", "forward", "bfloat16", 2 * 32 * 128 * 784 * 1152, 16_056_320 + 147_456),
        ("resnet50-stem-7x7", "conv", "forward", "float32", 2 * 32 * 64 * 12_544 * 147, 4_816_896 + 9_408 + 25_690_112),
        ("dilated-3x3-256", "conv", "forward", "float32", 2 * 32 * 256 * 784 * 2304, 2 * 6_422_528 + 589_824),
        # one channel a group
        ("depthwise-3x3-128", "conv", "forward", "float32", 2 * 32 * 128 * 3136 * 9, 2 * 12_845_056 + 1152),
        ("maxpool-2x2", "pool", "forward", "float32", 0, 32 * 64 * (224**2 + 112**2)),
        ("maxpool-3x3-stride2", "pool", "backward", "float32", 0, 32 * 64 * (112**2 + 56**2)),
    ],
)
def test_flops_and_least_bytes_by_hand(name, variant, mode, dtype, flops, elements):
    problem = Problem(find(name), variant, mode, dtype)
    assert problem.flops == flops
    assert problem.bytes == elements * {"float32": 4, "float16": 2, "bfloat16": 2}[dtype]


def test_work_of_a_step_is_that_of_its_layers_by_hand():
    problem = Problem(find("mnist-cnn3-step-b64"), "step", "step", "float32")
    # a picture's products: forward, dw and (but for the first layer) dx
    products = 2 * 32 * 784 * 9 + 3 * (64 * 196 * 288 + 64 * 49 * 576 + 100 * 3136 + 10 * 100)
    assert problem.flops == 2 * 64 * products
    pooled, last = 32 * 196, 64 * 49
    forward = (784 + 320 / 64 + pooled) + (pooled + 18_496 / 64 + last) + (last + 36_928 / 64 + last)
    forward += (3136 + 313_700 / 64 + 100) + (100 + 1010 / 64 + 10)
    backward = (pooled + 784 + 320 / 64) + (last + 2 * pooled + (2 * 18_496 - 64) / 64)
    backward += last + 2 * last + (2 * 36_928 - 64) / 64
    backward += (100 + 2 * 3136 + (2 * 313_700 - 100) / 64) + (10 + 2 * 100 + (2 * 1010 - 10) / 64)
    assert problem.bytes == 4 * (64 * (forward + backward) + 7 * 370_454)
    assert sum(p.numel() for p in steps.mnist_cnn3().parameters()) == workloads.PARAMETERS


def test_problems_carry_tf32_for_float32_on_a_gpu_alone():
    def settings(dtype: str, gpu: bool) -> list[str]:
        chosen = workloads.problems([find("lenet-c1")], "conv$", [dtype], ["forward"], gpu)
        return [p.tf32 for p in chosen]

    assert settings("float32", True) == ["on", "off"]
    assert settings("float32", False) == settings("bfloat16", True) == [""]


def test_precision_sets_both_sides_and_puts_everything_back():
    def state() -> tuple:
        backends = torch.backends
        return backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.benchmark

    before = state()
    with providers.precision("on"):
        assert state() == (True, True, True)
        with providers.precision("off"):
            assert state() == (False, False, True)
    assert state() == before


# --- arithmetic ---


def test_percentiles():
    assert timing.percentile([5.0, 1.0, 3.0, 2.0, 4.0], 0.5) == 3
    assert timing.percentile([1.0, 2.0], 0.2) == pytest.approx(1.2)
    assert timing.percentile([7.0], 0.8) == 7
    quarters = [timing.percentile([0.0, 10.0, 20.0], share) for share in (0, 0.25, 1)]
    assert quarters == [0, 5, 20]


def test_floor_is_the_slower_of_the_two_roofs():
    roofs = timing.Roofs(copy_bytes_per_s=4e12, matrix_flops_per_s=8e14)
    assert roofs.floor_ms(8 * 10**11, 4 * 10**6) == (pytest.approx(1.0), "arithmetic")
    assert roofs.floor_ms(8 * 10**8, 4 * 10**9) == (pytest.approx(1.0), "memory")


def test_rates_and_share_of_the_floor():
    problem = Problem(find("mnist-cnn3-2-b64"), "conv", "forward", "float32")
    roofs = timing.Roofs(copy_bytes_per_s=problem.bytes * 1e4, matrix_flops_per_s=math.inf)  # a floor of 0.1 ms
    got = rows.timed(ROW, timing.Times(0.4, 0.3, 0.5), problem, roofs)
    assert (got.median_ms, got.p20_ms, got.p80_ms) == (0.4, 0.3, 0.5)
    assert got.floor_ms == pytest.approx(0.1)
    assert (got.floor_by, got.floor_share) == ("memory", pytest.approx(0.25))
    assert got.tflops == pytest.approx(problem.flops / 0.4e-3 / 1e12)
    assert got.gbps == pytest.approx(problem.bytes / 0.4e-3 / 1e9)
    bare = rows.timed(ROW, timing.Times(0.4, 0.3, 0.5), problem, None)
    assert bare.tflops is bare.gbps is bare.floor_ms is bare.floor_share is None


def test_ratio_is_to_the_best_right_baseline_of_the_same_group():
    judged = rows.with_ratios(
        [
            row("torch", 2.0),
            row("torch", 4.0, "channels_last"),
            row("torch.compile", None, status=rows.WRONG),
            row("ours direct", 1.0),
            row("ours im2col", 8.0),
            row("ours implicit_gemm", None, status=rows.ERROR),
            row("torch", 0.001, captured=True),
        ]
    )
    assert [r.ratio for r in judged] == [1.0, 0.5, None, 2.0, 0.25, None, 1.0]
    assert rows.with_ratios([row("ours direct", 1.0)])[0].ratio is None


# --- the gate ---

SMALL = Workload(
    "small", "here", 2, 3, 6, 4, 3, padding=1, pool=(2, 2, 0), variants=(*workloads.CONV, workloads.POOLED)
)
POOL = Workload("small-pool", "here", 2, 3, 7, pool=(3, 2, 1), variants=("pool",))
FAST = timing.Effort(repeats=1)


def run(problem: Problem, wanted: str = "") -> list[Row]:
    return bench.run(problem, ["nchw"], wanted, False, torch.device("cpu"), FAST)


@cpu_only
@pytest.mark.parametrize("mode", ["forward", "backward"])
@pytest.mark.parametrize(
    ("variant", "dtype"),
    [(v, "float32") for v in (*SMALL.variants, "pool")] + [(v, "bfloat16") for v in ("conv", workloads.POOLED)],
)
def test_right_providers_pass_the_gate_and_get_a_time(variant, dtype, mode):
    problem = Problem(POOL if variant == "pool" else SMALL, variant, mode, dtype)
    got = run(problem)
    assert [(r.status, r.detail) for r in got] == [(rows.OK, "")] * len(got)
    ours = ["ours"] if variant == "pool" else ["ours direct", "ours im2col", "ours implicit_gemm"]
    assert [r.provider for r in got] == ["torch", "torch", *ours]
    assert all(r.median_ms is not None and r.ratio is not None and r.peak_bytes is None for r in got)


@cpu_only
@pytest.mark.parametrize("mode", ["forward", "backward"])
def test_a_wrong_provider_gets_no_speed(monkeypatch, mode):
    def wrong(problem, algorithm):
        right = providers.torch_function(problem)
        if algorithm == "im2col":
            return lambda x, w, b: right(x, w, b) * 1.01
        if algorithm == "direct":  # one pixel of the border
            return lambda x, w, b: torch.nn.functional.pad(right(x, w, b)[..., 1:], (1, 0))
        return right

    monkeypatch.setattr(providers, "our_function", wrong)
    got = {r.provider: r for r in run(Problem(SMALL, "conv-bias", mode, "float32"), "ours|torch nchw")}
    for name in ("ours direct", "ours im2col"):
        assert got[name].status == rows.WRONG
        assert "error" in got[name].detail
        assert got[name].median_ms is got[name].ratio is got[name].tflops is None
    assert got["ours implicit_gemm"].status == rows.OK
    assert got["ours implicit_gemm"].ratio is not None
    assert "WRONG" in tables.line(got["ours direct"])


@cpu_only
def test_a_provider_that_raises_has_its_error_in_its_row_and_the_others_go_on(monkeypatch):
    def raises(problem, algorithm):
        if algorithm == "im2col":
            raise MemoryError("out of it\nand more")
        return providers.torch_function(problem)

    monkeypatch.setattr(providers, "our_function", raises)
    got = {r.provider: r for r in run(Problem(SMALL, "conv", "forward", "float32"))}
    assert (got["ours im2col"].status, got["ours im2col"].detail) == (rows.ERROR, "MemoryError: out of it")
    assert got["ours im2col"].median_ms is None
    assert got["ours direct"].status == rows.OK


def test_nan_infinity_and_a_wrong_shape_never_pass():
    reference = torch.randn(3, 4, dtype=torch.float64)
    for bad in (reference * math.nan, reference * math.inf, reference[:2], torch.zeros(3, 4)):
        error, refused = gate.verdict(Problem(SMALL, "conv", "forward", "bfloat16"), {"y": bad}, {"y": reference})
        assert refused
        assert error >= 1
    assert gate.verdict(Problem(SMALL, "conv", "forward", "float32"), {}, {"y": reference})[1]


def test_unwritten_elements_are_seen_while_poisoned():
    with gate.poisoned():
        assert torch.empty(1000).isnan().all()


def test_tolerance_is_wider_for_gradients_past_a_decision_alone():
    def allowed(variant: str, name: str, tf32: str = "") -> float:
        return gate.tolerance(Problem(SMALL, variant, "backward", "float32", tf32), name)

    assert allowed("conv", "dx") == allowed("conv-bias", "dw") == allowed("conv-bias-relu", "y") == 1e-4
    assert allowed("conv-bias-relu", "dx") == pytest.approx(2e-2)
    assert allowed("conv", "y", "off") < 3e-4 < allowed("conv", "y", "on")  # a TF32 product does not pass for float32


@cpu_only
@pytest.mark.parametrize(("dtype", "ours"), [("float32", "ours unfused"), ("bfloat16", "ours fused")])
def test_a_training_step_is_gated_and_timed(dtype, ours):
    got = run(Problem(workloads._step(2), "step", "step", dtype), f"^torch nchw|{ours} nchw")
    assert [(r.provider, r.status, r.detail) for r in got] == [(name, rows.OK, "") for name in ("torch", ours)]
    assert got[0].title == f"mnist-cnn3-step-b2 step {dtype}"


# --- files and comparison ---


def test_json_is_strict_and_comes_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    kept = [row("torch", 2.0), row("ours direct", None, status=rows.WRONG, detail="y: error 1")]
    rows.write(path, {"gpu": "none"}, kept)
    assert rows.read(path) == ({"gpu": "none"}, kept)
    text = path.read_text()
    with pytest.raises(ValueError, match="JSON"):
        rows.write(path, {}, [row("torch", math.nan)])

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        rows.write(path, {}, [row("torch", 1.0)])
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"conditions": {}, "rows": [{"speed": 1}]}'])
def test_a_file_that_is_not_the_benchs_is_refused_before_anything_runs(tmp_path, capsys, content):
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(SystemExit) as exit:
        bench.main(["--compare", str(path)])
    assert exit.value.code == 2
    assert "was not written by" in capsys.readouterr().err


def test_compare_gives_old_over_new_and_names_rows_of_one_side():
    old = [row("torch", 2.0), row("ours direct", 3.0), row("ours im2col", 1.0)]
    new = [row("torch", 1.0), row("ours direct", None, status=rows.WRONG), row("torch", 5.0, "channels_last")]
    table, gone, added = rows.compare(old, new)
    assert [(entry["old ms"], entry["new ms"], entry["old / new"]) for entry in table] == [
        (2.0, 1.0, 2.0),
        (3.0, rows.WRONG, None),
    ]
    assert gone == ["w conv forward float32 cpu: ours im2col nchw"]
    assert added == ["w conv forward float32 cpu: torch channels_last"]


def test_conditions_name_machine_versions_commit_and_date(monkeypatch):
    monkeypatch.setenv("PATH", "")  # neither git nor nvidia-smi
    monkeypatch.setenv("TRITONCONV_COMMIT", "abc1234")
    got = environment.describe()
    assert {"gpu", "driver", "torch", "triton", "commit", "date"} <= got.keys()
    assert got["commit"] == "abc1234"
    monkeypatch.delenv("TRITONCONV_COMMIT")
    assert environment.describe()["commit"] == "unknown"


# --- the report ---

MIXED = rows.with_ratios(
    [
        row("torch", 2.0, workload="slow"),
        row("ours direct", 4.0, workload="slow"),
        row("torch", 2.0, workload="fast"),
        row("ours direct", 8.0, workload="fast"),
        row("ours im2col", 1.0, workload="fast", tflops=12.34, peak_bytes=2**21),
        row("torch", 2.0, workload="broken"),
        row("ours direct", None, workload="broken", status=rows.WRONG, detail="y: error 1, allowed 0.1"),
    ]
)


def test_table_shows_where_we_lose_and_takes_the_fastest_of_ours():
    lines = {line.split()[1]: line for line in tables.table(MIXED).splitlines()[2:]}
    assert "**2x slower**" in lines["slow"]
    assert "2x faster" in lines["fast"]
    assert "1 (im2col, nchw)" in lines["fast"]
    assert "12.3" in lines["fast"]
    assert "wrong" in lines["broken"]
    assert "**none right**" in lines["broken"]
    assert "ours is faster in 1, even in 0, slower in 1; rows of ours wrong or raising: 1" in tables.summary(MIXED)
    assert report.table is tables.table
    assert "GB/s" not in tables.table(MIXED)  # a column without an entry is left out


def test_report_writes_table_and_picture_and_a_readmes_tables(tmp_path, capsys):
    path = tmp_path / "h200.json"
    scaling = [row("ours direct", float(n), workload=f"scaling-batch-{n}", peak_bytes=n) for n in (1, 4)]
    rows.write(path, {"gpu": "H200"}, [*MIXED, *scaling])
    assert report.main([str(path), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "h200.md").read_text()
    assert "gpu H200" in page
    assert "**2x slower**" in page
    for name in ("h200.png", "h200-scaling.png"):
        assert name in page
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

    readme = tmp_path / "README.md"
    readme.write_text("# x\n\n<!-- bench h200.json ^slow -->\nstale\n<!-- /bench -->\n\nend\n")
    assert report.main(["--readme", str(readme)]) == 0
    text = readme.read_text()
    assert tables.table(rows.matching(MIXED, "^slow")) in text
    assert "stale" not in text
    assert text.endswith("<!-- /bench -->\n\nend\n")
    assert report.readme(text, tmp_path) == text
    capsys.readouterr()
    assert report.main([str(path), "--only", "^fast"]) == 0
    assert re.findall(r"^\| (\w+) ", capsys.readouterr().out, re.M) == ["workload", "fast"]


def test_merge_makes_one_run_of_several_with_ratios_anew(tmp_path, capsys):
    here = {"gpu": "H200", "commit": "abc", "complete": True}
    parts = [tmp_path / "baselines.json", tmp_path / "ours.json"]
    rows.write(parts[0], {**here, "date": 1}, [row("torch", 4.0), row("ours direct", 9.0)])
    rows.write(parts[1], {**here, "date": 2}, [row("ours direct", 1.0)])
    whole = tmp_path / "whole.json"
    assert report.main([*map(str, parts), "--merge", str(whole)]) == 0
    conditions, merged = rows.read(whole)
    assert [(r.provider, r.ratio) for r in merged] == [("torch", 1.0), ("ours direct", 4.0)]
    assert [run["date"] for run in conditions["runs"]] == [1, 2]
    assert conditions["complete"]
    rows.write(parts[1], {**here, "commit": "other"}, [row("ours direct", 1.0)])
    with pytest.raises(SystemExit):
        report.main([*map(str, parts), "--merge", str(whole)])
    assert "runs of different commit" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["nowhere.json"], ["--readme", "nowhere.md"], ["x.json", "--out", "nowhere"]], ids=str
)
def test_report_refuses_what_is_not_there(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        report.main(arguments)
    assert exit.value.code == 2
    assert "nowhere" in capsys.readouterr().err or not arguments


def test_picture_puts_ours_that_lose_or_fail_first():
    axes = report.picture(MIXED).axes[0]
    labels = [label.get_text().split()[0] for label in axes.get_yticklabels()]
    assert labels == ["broken", "slow", "fast"]
    assert [text.get_text() for text in axes.texts] == ["none right", "0.5", "2"]


def test_the_results_tables_are_what_the_committed_json_gives():
    page = ROOT / "docs" / "results.md"
    text = page.read_text()
    named = {(page.parent / match["file"]).resolve() for match in report.MARKED.finditer(text)}
    assert named == {*COMMITTED}, "a committed JSON without its table"
    assert report.readme(text, page.parent) == text, "run python -m bench.report --readme docs/results.md"


# --- the command ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "no such thing"], "mnist-cnn3-1-b"),
        (["--only", "maxpool", "--mode", "step"], "no workload here matches"),
        (["--only", "("], "is no regular expression"),
        (["--json", "nowhere/rows.json"], "there is no folder nowhere"),
        (["--json", "."], "is a folder"),
        (["--compare", "nowhere.json"], "nowhere.json"),
        (["--dtype", "int8"], "invalid choice"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_with_what_would_be_right(arguments, said, capsys):
    with pytest.raises(SystemExit) as exit:
        bench.main([*arguments, "--quick"])
    assert exit.value.code == 2
    assert said in capsys.readouterr().err


@cpu_only
def test_the_whole_command_on_a_cpu(tmp_path):
    path = tmp_path / "new.json"
    rows.write(tmp_path / "old.json", {"gpu": "H200"}, [row("ours direct", 1.0)])
    command = [sys.executable, "-m", "bench", "--quick", "--only", "maxpool-2x2", "--json", path]
    done = subprocess.run(
        [*command, "--compare", tmp_path / "old.json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert bench.LEFT_OUT in done.stdout
    assert "not like with like: gpu was H200, is none" in done.stdout
    assert "in the old file alone: w conv forward float32 cpu: ours direct nchw" in done.stdout
    assert "in this run alone: maxpool-2x2-b1 pool forward float32 cpu: ours nchw" in done.stdout
    content = json.loads(path.read_text())
    assert content["conditions"]["complete"]
    assert {"gpu", "driver", "torch", "triton", "commit", "date", "seed"} <= content["conditions"].keys()
    assert len(content["rows"]) == 8  # forward and backward; ours and torch, in two layouts
    assert all(entry["tflops"] is None and entry["median_ms"] > 0 for entry in content["rows"])


@cpu_only
@pytest.mark.parametrize("module", [bench, codegen, interpreter_bench], ids=lambda module: module.__name__)
def test_a_full_disk_is_one_line_that_names_the_option(module, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(codegen, "rows_for", lambda *_: [])
    monkeypatch.setattr(interpreter_bench, "measure_step", lambda *_: MEASURED)
    monkeypatch.setattr(interpreter_bench, "table", str)
    arguments = ["--quick", "--only", "maxpool-2x2", "--mode", "forward"] if module is bench else []
    with pytest.raises(SystemExit) as exit:
        module.main([*arguments, "--json", str(tmp_path / "rows.json")])
    assert exit.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"error: --json {tmp_path}/rows.json: [Errno 28] No space left on device" in last
    assert list(tmp_path.iterdir()) == []


@cpu_only
def test_exit_status_and_rows_when_ours_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(providers, "our_function", lambda problem, algorithm: lambda x: x)
    arguments = ["--quick", "--only", "maxpool-2x2", "--mode", "forward", "--json", str(tmp_path / "rows.json")]
    assert bench.main(arguments) == 1
    assert "WRONG" in capsys.readouterr().out
    _, kept = rows.read(tmp_path / "rows.json")
    assert {r.status for r in kept if r.ours} == {rows.WRONG}


@cpu_only
def test_scaling_on_a_cpu(monkeypatch, capsys):
    assert bench.main(["--scaling", "--quick", "--only", "batch", "--mode", "forward", "--layout", "nchw"]) == 0
    assert "scaling-batch-4 conv forward float32" in capsys.readouterr().out


def test_the_gpus_branch_with_the_device_faked(tmp_path, monkeypatch, capsys):
    """TF32 on and off, captured calls beside uncaptured ones, floors from roofs, peak memory: all but the GPU."""
    cpu, draws = torch.device("cpu"), {kind: kind.draw for kind in (providers, steps)}
    for kind, draw in draws.items():
        monkeypatch.setattr(kind, "draw", lambda problem, device, draw=draw: draw(problem, cpu))
    captured = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # the optimizer asks
    monkeypatch.setattr(environment, "describe", lambda: {"gpu": "made up"})
    monkeypatch.setattr(bench, "GPU_WORKLOADS", (SMALL, workloads._step(1)))
    monkeypatch.setattr(timing, "roofs", lambda dtype, tf32: timing.Roofs(1e12, 1e14 if tf32 == "on" else 1e13))
    monkeypatch.setattr(timing, "peak_bytes", lambda call, device: 2**20)
    monkeypatch.setattr(timing, "beside", contextlib.nullcontext)
    monkeypatch.setattr(timing, "capture", lambda call: captured.append(call) or call)
    monkeypatch.setattr(timing, "measure", lambda call, device, effort: timing.Times(1.0, 0.5, 2.0))
    path = tmp_path / "rows.json"
    command = ["--quick", "--only", "conv$|step", "--mode", "forward", "step", "--layout", "channels_last"]
    assert bench.main([*command, "--dtype", "float32", "--providers", "torch nchw|direct", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "measured roofs: copy 1 TB/s, float32 tf32-on 100 TFLOP/s, float32 tf32-off 10 TFLOP/s" in out
    conditions, kept = rows.read(path)
    assert conditions["matrix_flops_per_s"] == {"float32 tf32-on": 1e14, "float32 tf32-off": 1e13}
    assert {(r.mode, r.tf32, r.captured) for r in kept} == {
        (mode, tf32, captured) for mode in ("forward", "step") for tf32 in ("on", "off") for captured in (False, True)
    }
    assert len(captured) == sum(r.captured for r in kept) > 0
    assert all(r.device == "cuda" and r.status == rows.OK and r.ratio == 1 and r.peak_bytes == 2**20 for r in kept)
    small = Problem(SMALL, "conv", "forward", "float32", "off")
    assert {r.floor_ms for r in kept if r.tf32 == "off" and r.mode == "forward"} == {
        max(small.flops / 1e13, small.bytes / 1e12) * 1e3
    }


# --- the interpreter's bench ---


MEASURED = interpreter_bench.Measured("a step", 2, [0.3, 0.1, 0.2], [0.1, 0.1, 0.1], first=1.0)


@cpu_only
def test_the_interpreters_bench(tmp_path, capsys):
    """Ours and torch's in turn, on one thread and on as many as torch has, in the table and in the JSON."""
    chosen = ["--only", "max pooling 3x3"]
    interpreter_bench.main([*chosen, "--repeats", "2", "--json", str(tmp_path / "run.json")])
    data = json.loads((tmp_path / "run.json").read_text())
    assert {"gpu", "cpu", "torch", "triton", "commit", "date"} <= data["conditions"].keys()
    assert [row["threads"] for row in data["rows"]] == sorted({1, torch.get_num_threads()})
    for row in data["rows"]:
        assert "max pooling 3x3" in row["work"] and len(row["ours"]) == len(row["torchs"]) == 2 and row["first"] > 0
    assert "x slower" in capsys.readouterr().out


@cpu_only
def test_the_interpreters_bench_compares_tiles(tmp_path, monkeypatch, capsys):
    measured = []
    monkeypatch.setattr(interpreter_bench, "STEPS", {"a pooling": (lambda: torch.nn.MaxPool2d(2), (1, 2, 6, 6))})
    monkeypatch.setattr(
        interpreter_bench, "measure_step", lambda *_: measured.append(tiles.INTERPRETER_TILE) or MEASURED
    )
    before = tiles.INTERPRETER_TILE
    interpreter_bench.main(["--tiles", "64", "128", "--json", str(tmp_path / "run.json")])
    rows = json.loads((tmp_path / "run.json").read_text())["rows"]
    assert measured == [row["tile"] for row in rows] == [64, 128] * len({1, torch.get_num_threads()})
    assert before == tiles.INTERPRETER_TILE
    assert " 128 |" in capsys.readouterr().out


def test_the_interpreters_steps_train():
    """Ours and torch's are the same network from the same weights, and one step changes them."""
    for convert in (True, False):
        step = interpreter_bench.training_step(convert, lambda: torch.nn.Conv2d(1, 2, 3), (2, 1, 5, 5))
        cells = dict(zip(step.__code__.co_freevars, (cell.cell_contents for cell in step.__closure__), strict=True))
        before = [p.detach().clone() for p in cells["model"].parameters()]
        step()
        assert all((p != b).any() for p, b in zip(cells["model"].parameters(), before, strict=True))
        ours = "tritonconv" in type(cells["model"][0]).__module__
        assert ours == convert


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stpe"], "'stpe' is not steps, epoch or example"),
        (["--only", "AlexNet"], "--only 'AlexNet' is in no name: mnist-cnn3, batch 64; "),
        (["epoch"], "epoch needs --data-dir"),
        (["--repeats", "0"], "--repeats must be at least 1, but got 0"),
        (["--tiles", "64", "0"], "--tiles must be at least 1, but got 0"),
    ],
)
def test_the_interpreters_bench_says_what_is_wrong(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        interpreter_bench.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_interpreters_table_says_who_is_slower():
    epoch = interpreter_bench.Measured("an epoch", 1, [10.0], [21.0], accuracy=[0.99, 0.985])
    step, epoch = interpreter_bench.table([MEASURED, epoch]).splitlines()[2:]
    cells = ["2", "0.2 (0.1 to 0.3)", "0.1 (0.1 to 0.1)", "2x slower", "1", ""]
    assert [cell.strip() for cell in step.split("|")[2:8]] == cells
    assert [cell.strip() for cell in epoch.split("|")[2:8]] == ["1", "10", "21", "2.1x faster", "", "99.00%, 98.50%"]


def test_readmes_table_of_the_interpreter_is_made_from_its_json(tmp_path):
    rows = [MEASURED]
    content = {"conditions": {}, "rows": [dataclasses.asdict(row) for row in rows]}
    (tmp_path / "cpu.json").write_text(json.dumps(content))
    text = report.readme("<!-- interpreter cpu.json -->\nold\n<!-- /interpreter -->", tmp_path)
    assert interpreter_bench.table(rows) in text and "old" not in text
    assert report.readme(text, tmp_path) == text
    (tmp_path / "cpu.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(ValueError, match=r"not written by `python -m bench\.interpreter"):
        report.readme(text, tmp_path)


# --- the host's bench ---


def test_the_hosts_bench(tmp_path):
    """In a process of its own: without a GPU there is a stand-in for one."""
    path = tmp_path / "host.json"
    command = [sys.executable, "-m", "bench.host", "--only", "max_pool2d", "--repeats", "2", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    _, measured = host.read(path)
    assert [(m.work, m.passes) for m in measured] == [
        (work, passes) for work in host.WORKS if "max_pool2d" in work for passes in host.PASSES
    ]
    assert all(m.ours > 0 and m.torchs > 0 for m in measured)
    assert host.table(measured) in done.stdout
    slower, faster = host.Measured("relu", "forward", 4.0, 2.0), host.Measured("relu", "forward", 1.0, 2.0)
    assert "2x slower" in host.table([slower]) and "2x faster" in host.table([faster])


@pytest.mark.parametrize("work", host.WORKS)
def test_both_of_the_hosts_calls_do_the_same(work):
    theirs, ours, shapes = host.WORKS[work]
    for passes in host.PASSES:
        found, expected = (host.call(function, shapes, passes, "cpu")() for function in (ours, theirs))
        torch.testing.assert_close(found, expected)


# --- a GPU's minutes ---


def python(name: str, code: str, limit: float | None = None) -> gpu.Step:
    return gpu.Step(name, (sys.executable, "-c", code), 0.1, "a test", limit)


@pytest.fixture
def minutes(monkeypatch, tmp_path):
    """Runs bench.gpu with other steps, as on a GPU; returns how each ended."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.environment, "describe", dict)

    def run(*todo: gpu.Step, minutes: float = 1.0) -> tuple[int, dict[str, str]]:
        monkeypatch.setattr(gpu, "steps", lambda *_: list(todo))
        status = gpu.main(["--minutes", str(minutes), "--out", str(tmp_path)])
        record = tmp_path / "steps.json"
        ended = json.loads(record.read_text())["steps"] if record.exists() else {}
        return status, {name: each["ended"] for name, each in ended.items()}

    return run


def test_steps_run_in_order_and_once(minutes, tmp_path, capsys):
    log = tmp_path / "seen"
    note = f"open({str(log)!r}, 'a').write"
    first = [python("one", f"{note}('1')"), python("two", f"print('FAILED here'); {note}('2'); exit(3)")]
    assert minutes(*first) == (1, {"one": "done", "two": "exit status 3"})
    assert "  FAILED here" in capsys.readouterr().out and (tmp_path / "two.log").read_text() == "FAILED here\n"
    absent = gpu.Step("absent", ("no such command",), 0.1, "a test")
    expected = {"one": "done", "two": "exit status 3", "three": "done", "absent": "not there: no such command"}
    assert minutes(*first, python("three", f"{note}('3')"), absent) == (1, expected)
    assert log.read_text() == "123"


def test_a_step_over_its_limit_is_stopped_with_what_it_started(minutes, tmp_path):
    child = f"import time; time.sleep(3); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    assert minutes(python("slow", code, limit=0.02), python("next", "")) == (1, {"slow": "stopped", "next": "done"})
    assert (tmp_path / "slow.log").read_text() == "begun\n"
    time.sleep(3)
    assert not (tmp_path / "late").exists()


def test_what_the_time_stopped_begins_anew(minutes, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "BARELY", 1)
    todo = [python("long", "import time; time.sleep(3)"), python("last", "")]
    assert minutes(*todo, minutes=0.025) == (0, {})
    assert "left: long, last" in capsys.readouterr().out
    assert minutes(*todo) == (0, {"long": "done", "last": "done"})


def test_a_dry_run_says_what_there_is_time_for(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "count", lambda step: 2700)
    assert gpu.main(["--dry-run", "--minutes", "12"]) == 0
    out = capsys.readouterr().out
    names = [step.name for step in gpu.steps(Path("gpu"), None, 16)]
    assert re.findall(r"^\| (\w+) ", out, re.MULTILINE)[1:] == names
    assert f"{2700 * gpu.SECONDS_A_TEST / 16 / 60:.1f}" in out
    late = [line.split()[1] for line in out.splitlines() if "too late" in line]
    assert late == names[names.index("tuned") :]


def test_the_tests_of_a_step_are_counted():
    kernels = next(step for step in gpu.steps(Path("gpu"), None, 16) if step.name == "kernels")
    assert gpu.count(dataclasses.replace(kernels, command=(*kernels.command[:8], "tests/test_table.py"))) > 0


def test_without_a_gpu_there_is_nothing_to_run(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, word in (([], "no GPU here"), (["--minutes", "0"], "--minutes must be positive")):
        with pytest.raises(SystemExit, match="2"):
            gpu.main([*arguments, "--out", str(tmp_path / "gpu")])
        assert word in capsys.readouterr().err
    assert not (tmp_path / "gpu").exists()
