"""autotune: only a right candidate wins, it is kept and found again, and the model is left as it was."""

import dataclasses
import itertools
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import triton
from conftest import each_launch
from torch.utils.checkpoint import checkpoint

import tritonconv
from tritonconv import functional, jit, nn, tuning
from tritonconv.recording import Like, record
from tritonconv.tuning import candidates, store

module = sys.modules["tritonconv.tuning.measure"]  # the function hides it


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache folder and an empty table of this process, for each test."""
    monkeypatch.setenv("TRITONCONV_CACHE_DIR", str(tmp_path))
    with tuning.using({}):
        yield tmp_path


@pytest.fixture
def timed(monkeypatch, launches) -> list[tuple]:
    """A clock by which a tile of fewer rows is faster; lists what it timed."""
    seen = []

    def measure(run, device):
        launches.clear()
        run()
        rows = [arguments["BLOCK_M"] for _, arguments in launches]
        seen.append(rows)
        return float(sum(rows))

    monkeypatch.setattr(module, "measure", measure)
    return seen


def spoil(monkeypatch, kernel: str, how, when) -> None:
    """Launches of `kernel` with arguments for which `when` is true: the kernel runs, then `how` has its output."""

    def spoilt(launch, run):
        out = run(launch)
        if launch.kernel.fn.__name__ == kernel and when(launch.arguments):
            how(launch.arguments["y_ptr"])
        return out

    each_launch(monkeypatch, spoilt)


def layer(device: torch.device, **kwargs) -> nn.Conv2d:
    return nn.Conv2d(3, 5, 3, padding=1, algorithm="implicit_gemm", **kwargs).to(device).requires_grad_(False)


def picture(device: torch.device, *shape: int) -> torch.Tensor:
    return torch.rand(shape or (4, 3, 8, 8), device=device) - 0.5


@pytest.fixture
def three_tiles(monkeypatch) -> None:
    """The built-in tile, and two with fewer rows, on any machine."""
    of = candidates.of

    def built_in_and_less(asked):
        first = of(asked)[0]
        return [first, *({**first, "BLOCK_M": first["BLOCK_M"] // part} for part in (2, 4))]

    monkeypatch.setattr(candidates, "of", built_in_and_less)


def raises(_: torch.Tensor) -> None:
    raise RuntimeError("out of resource: shared memory")


# --- only what is right wins ---


def test_the_fastest_candidate_wins_and_is_used(device, timed, launches):
    conv, x = layer(device), picture(device)
    before = conv(x)
    built_in = launches[-1][1]["BLOCK_M"]
    (row,) = tritonconv.autotune(conv, x).rows
    after = conv(x)
    assert launches[-1][1]["BLOCK_M"] == row.chosen["BLOCK_M"] < built_in == row.built_in["BLOCK_M"]
    assert row.built_in_ms > row.chosen_ms
    torch.testing.assert_close(after, before)
    conv(x[:3])  # 192 pixels round up to 256, as the example's do
    assert launches[-1][1]["BLOCK_M"] == row.chosen["BLOCK_M"]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda y: y.view(-1)[-1:].add_(1), "wrong result: 1 of"),
        (lambda y: y.copy_(torch.nextafter(y, torch.tensor(float("inf")).to(y))), "wrong result: 1280 of 1280"),
        (lambda y: y.fill_(float("nan")), "wrong result: 1280 of 1280"),
        (raises, "RuntimeError: out of resource"),
    ],
    ids=["one element", "last bits", "unwritten", "raises"],
)
def test_a_wrong_candidate_never_wins(device, timed, three_tiles, monkeypatch, how, reason):
    conv, x = layer(device), picture(device)
    least = min(row.chosen["BLOCK_M"] for row in tritonconv.autotune(conv, x).rows)
    with tuning.using({}):
        store.path(tuning.machine(x.device)).unlink()
        timed.clear()
        spoil(monkeypatch, "implicit_gemm_forward_kernel", how, lambda kwargs: kwargs["BLOCK_M"] == least)
        report = tritonconv.autotune(conv, x)
        (row,) = report.rows
        assert timed == [[4 * least], [2 * least]]  # no speed of a wrong result
        assert row.chosen["BLOCK_M"] == 2 * least
        assert len(row.refused) == 1 and reason in row.refused[0]
        assert "refused 1 of 3" in str(report) and reason in str(report)
        torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))


def test_an_element_nobody_wrote_is_refused(device, timed, three_tiles, monkeypatch):
    """Also where memory that was used before holds the right values still."""
    conv, x = layer(device), picture(device)
    least = min(row.chosen["BLOCK_M"] for row in tritonconv.autotune(conv, x).rows)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # as for any user
    with tuning.using({}):
        store.path(tuning.machine(x.device)).unlink()

        def lazy(launch, run):
            # where the memory holds something else than NaN, that would do
            if launch.arguments.get("BLOCK_M") != least or not launch.arguments["y_ptr"].isnan().all():
                run(launch)

        each_launch(monkeypatch, lazy)
        (row,) = tritonconv.autotune(conv, x).rows
    assert row.chosen["BLOCK_M"] == 2 * least and len(row.refused) == 1


def test_the_reference_is_another_algorithm(device, monkeypatch, launches):
    """Otherwise a mistake that both make is none."""
    x, w = picture(device), picture(device, 5, 3, 3, 3)
    monkeypatch.setattr(module, "measure", lambda run, device: 1.0)
    for algorithm, other in (("direct", "implicit_gemm"), ("implicit_gemm", "direct")):
        launches.clear()
        tritonconv.autotune(lambda a=algorithm: functional.conv2d(x, w, algorithm=a))
        wide = {name for name, arguments in launches if arguments["x_ptr"].dtype == torch.float64}
        assert wide == {f"{other}_forward_kernel"}


def test_the_report_shows_what_changed(device, timed):
    report = tritonconv.autotune(nn.Sequential(layer(device), torch.nn.ReLU()), picture(device))
    changed, kept = [f"tile {n}" for n in (1, 2)]
    rows = [dataclasses.replace(report.rows[0], key=changed), dataclasses.replace(report.rows[0], key=kept)]
    rows[1] = dataclasses.replace(rows[1], chosen=rows[1].built_in, refused=())
    shown = str(dataclasses.replace(report, rows=tuple(rows)))
    assert changed in shown and kept not in shown and "2 measured, 0 known before, 1 not built in" in shown
    assert str(dataclasses.replace(report, rows=(rows[1],))).startswith("1 measured, 0 known before, 0 not built in")


def test_keyword_arguments_are_the_calls(device, timed):
    x = picture(device)

    def call(x, *, size):
        return functional.max_pool2d(x, size)

    (row,) = tritonconv.autotune(call, x, size=3).rows
    assert "window=(3,3)" in row.key


def test_reentrant_checkpointing_is_measured(device, timed):
    conv, x = layer(device).requires_grad_(), picture(device).requires_grad_()
    report = tritonconv.autotune(lambda x: checkpoint(conv, x, use_reentrant=True), x)
    assert {row.key.split()[0] for row in report.rows} >= {"implicit_gemm_forward", "implicit_gemm_wgrad"}
    assert conv.weight.grad is None and x.grad is None


def test_a_machine_without_a_home_warns_once_and_tunes(device, timed, monkeypatch):
    monkeypatch.delenv("TRITONCONV_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", lambda self: exec("raise RuntimeError('no home directory')"))
    with pytest.warns(UserWarning, match="holds for this process only.*TRITONCONV_CACHE_DIR may name") as warned:
        report = tritonconv.autotune(layer(device), picture(device))
    assert len(warned) == 1 and tuning.tuned() and report.rows[0].chosen == tuning.tuned()[next(iter(tuning.tuned()))]


def test_a_wrong_built_in_tile_is_not_silent(device, timed, launches, monkeypatch):
    conv, x = layer(device), picture(device)
    conv(x)
    tile = launches[-1][1]["BLOCK_M"]
    spoil(monkeypatch, "implicit_gemm_forward_kernel", torch.Tensor.zero_, lambda kwargs: kwargs["BLOCK_M"] == tile)
    with pytest.warns(UserWarning, match=r"the built-in choice for implicit_gemm_forward .* was refused"):
        (row,) = tritonconv.autotune(conv, x).rows
    assert row.chosen != row.built_in and row.built_in_ms is None


def test_where_nothing_is_right_the_built_in_tile_stays_and_a_warning_says_so(device, timed, monkeypatch):
    conv, x = layer(device), picture(device)
    spoil(monkeypatch, "implicit_gemm_forward_kernel", torch.Tensor.zero_, lambda kwargs: True)
    for _ in range(2):  # nothing is kept, so the next call warns again
        with pytest.warns(UserWarning, match="no other was right: it stays"):
            report = tritonconv.autotune(conv, x)
        (row,) = report.rows
        assert row.chosen == row.built_in and len(row.refused) == row.candidates and not timed
        assert not tuning.tuned() and not report.files[0].exists()


def test_a_winner_must_be_right_on_every_recorded_call(device, timed, monkeypatch):
    """Two pictures of as many pixels share a choice, which was measured on the first."""
    conv, x, tall = layer(device), picture(device), picture(device, 2, 3, 16, 8)
    least = min(row.chosen["BLOCK_M"] for row in tritonconv.autotune(conv, x).rows)
    with tuning.using({}):
        store.path(tuning.machine(x.device)).unlink()
        wrong = lambda kwargs: kwargs["BLOCK_M"] == least and kwargs["in_size"][1] == 16  # noqa: E731
        spoil(monkeypatch, "implicit_gemm_forward_kernel", torch.Tensor.zero_, wrong)
        with pytest.warns(UserWarning, match="refused on a second call"):
            (row,) = tritonconv.autotune(lambda: [conv(x), conv(tall)]).rows
        assert row.chosen == row.built_in and not tuning.tuned()


def test_a_candidate_that_is_wrong_only_at_times_never_wins(device, timed, monkeypatch):
    """As with a race between programs: right when it is first looked at, wrong after it was timed."""
    conv, x = layer(device), picture(device)
    wrong = lambda kwargs: len(timed) > 1  # noqa: E731  # the built-in tile is timed, then another
    spoil(monkeypatch, "implicit_gemm_forward_kernel", torch.Tensor.zero_, wrong)
    (row,) = tritonconv.autotune(conv, x).rows
    assert row.chosen == row.built_in and len(row.refused) == row.candidates - 1


@pytest.mark.parametrize("time", [0.94, 0.96])
def test_a_gain_within_the_noise_changes_nothing(device, monkeypatch, time):
    times = iter([1.0, *[time] * 100])
    monkeypatch.setattr(module, "measure", lambda run, device: next(times))
    (row,) = tritonconv.autotune(layer(device), picture(device)).rows
    assert (row.chosen == row.built_in) == (time == 0.96)


@pytest.mark.parametrize("winner", ["direct", "im2col", "implicit_gemm"])
def test_auto_takes_the_fastest_algorithm(device, monkeypatch, launches, winner):
    def measure(run, device):
        launches.clear()
        run()
        names = " ".join(name for name, _ in launches)
        found = "im2col" if "fold" in names else "direct" if "direct" in names else "implicit_gemm"
        return 1.0 if found == winner else 2.0

    monkeypatch.setattr(module, "measure", measure)
    conv, x = nn.Conv2d(3, 5, 2).to(device).requires_grad_(False), picture(device)
    assert measure(lambda: conv(x), device) == (1.0 if winner == "implicit_gemm" else 2.0)
    report = tritonconv.autotune(conv, x)
    assert [row.chosen for row in report.rows if "algorithm" in row.chosen] == [{"algorithm": winner}]
    assert measure(lambda: conv(x), device) == 1.0


# --- the reference is right: every operator's built-in choice agrees with it ---


def calls(device: torch.device, dtype: torch.dtype, layout: torch.memory_format, algorithm: str):
    def make(*shape):
        t = torch.rand(shape, device=device, dtype=torch.float32).to(dtype)
        return t.to(memory_format=layout).requires_grad_()

    x, w, b = make(2, 4, 9, 7), make(6, 2, 3, 2), torch.rand(6, device=device).to(dtype).requires_grad_()
    conv = {"stride": (2, 1), "padding": 1, "groups": 2, "algorithm": algorithm}
    yield functional.conv2d(x, w, b, **conv)
    yield functional.conv2d_bias_relu(x, w, b, **conv)
    yield functional.conv2d_bias_relu_max_pool2d(x, w, b, **conv, pool_kernel_size=2, pool_padding=1)
    y, _ = functional.max_pool2d(x, 3, 2, 1, return_indices=True)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y).requires_grad_(), create_graph=True)
    yield dx  # whose gradient is max_pool_gather
    yield functional.conv_transpose2d(x, w[:4], None, (2, 1), 1, (1, 0), 2, algorithm=algorithm)
    yield functional.avg_pool2d(x, (3, 2), 2, 1, divisor_override=7) + functional.lp_pool2d(x.abs(), 3, 4).sum()
    yield functional.interpolate(x, size=(5, 9), mode="bilinear")
    yield functional.fold(functional.unfold(functional.relu(x), 3), (9, 7), 3)


@pytest.mark.parametrize(
    ("dtype", "layout", "algorithm"),
    [
        *[(torch.bfloat16, torch.contiguous_format, algorithm) for algorithm in ("direct", "im2col", "implicit_gemm")],
        *[(torch.float32, torch.channels_last, algorithm) for algorithm in ("direct", "im2col", "implicit_gemm")],
        (torch.float16, torch.channels_last, "implicit_gemm"),
        (torch.float64, torch.contiguous_format, "direct"),
    ],
    ids=str,
)
def test_every_operator_matches_its_reference_bit_for_bit(device, dtype, layout, algorithm):
    seen = record(lambda: list(calls(device, dtype, layout, algorithm)), (), {}, run=True)
    recorded = {(call.op, *map(Like.of, call.arguments.values())): call for call in seen}.values()
    names = {call.op._schema.name.removeprefix("tritonconv::") for call in recorded}
    assert names == {
        *(
            "convolution",
            "convolution_dgrad",
            "convolution_wgrad",
            "convolution_max_pool",
            "activate",
            "activate_backward",
        ),
        *("convolution_transpose", "max_pool", "max_pool_backward", "max_pool_gather", "unfold", "fold"),
        *("average_pool", "average_pool_backward", "lp_pool", "resample", "resample_backward"),
    }
    with torch.no_grad():
        assert {call.op: module._Trial(call).refusal() for call in recorded} == {call.op: "" for call in recorded}


# --- keys ---


def keys(call) -> set[tuning.Key]:
    with tuning.record_choices() as choices, jit.record_launches(), torch.no_grad():
        call()
    return {choice.asked.key for choice in choices if choice.asked}


def test_no_key_has_the_exact_batch(device):
    def call(n):
        x, w = picture(device, n, 4, 8, 8), picture(device, 4, 4, 3, 3)
        for algorithm in ("auto", "direct", "im2col"):
            functional.conv2d_bias_relu_max_pool2d(x, w, pool_kernel_size=2, padding=1, algorithm=algorithm)
        functional.max_pool2d(functional.relu(x), 2)

    assert keys(lambda: call(64)) == keys(lambda: call(63)) == keys(lambda: call(33))
    assert not keys(lambda: call(64)) & keys(lambda: call(32))


def test_keys_tell_apart_what_wants_another_tile(device):
    x, w = picture(device, 2, 4, 8, 8), picture(device, 4, 4, 3, 3)
    variants = [
        lambda: functional.conv2d(x, w),
        lambda: functional.conv2d(x, w, padding=1),
        lambda: functional.conv2d(x, w, stride=2),
        lambda: functional.conv2d(x, w[:, :2], groups=2),
        lambda: functional.conv2d(x.to(memory_format=torch.channels_last), w),
        lambda: functional.conv2d(x.half(), w.half()),
        lambda: functional.conv2d(x.bfloat16(), w.bfloat16()),
        lambda: functional.conv2d(x, w[:2]),
        lambda: functional.conv2d(x[:, :3], w[:, :3]),
        lambda: functional.conv2d(x[:, :2], w[:2, :2]),  # as many channels as each of two groups above
        lambda: functional.conv2d(x, w, dilation=2),
        lambda: functional.conv2d_bias_relu_max_pool2d(x, w, pool_kernel_size=2),
    ]
    found = [keys(variant) for variant in variants]
    assert all(not a & b for i, a in enumerate(found) for b in found[:i])
    assert len({str(key) for one in found for key in one}) == sum(map(len, found))


def test_keys_know_the_precision(device, monkeypatch):
    x, w = picture(device, 2, 4, 8, 8), picture(device, 4, 4, 3, 3)
    full = keys(lambda: functional.conv2d(x, w))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert not full & keys(lambda: functional.conv2d(x, w))


def test_a_machine_that_is_not_there_has_nothing_tuned(device, timed):
    conv, x = layer(device), picture(device)
    tritonconv.autotune(conv, x)
    assert tuning.tuned()
    with tuning.target("sm_80"):
        assert not keys(lambda: conv(x))


# --- the cache ---


def test_a_second_process_measures_nothing(device, timed, folder):
    conv, x = layer(device), picture(device)
    first = tritonconv.autotune(conv, x)
    (file,) = folder.glob("*.json")
    assert (
        first.files == (file,) and f"-triton-{triton.__version__}-" in file.name and tritonconv.__version__ in file.name
    )
    assert json.loads(file.read_text())["choices"] == {row.key: row.chosen for row in first.rows}
    timed.clear()
    with tuning.using({}):
        assert not keys(lambda: conv(x)) & tuning.tuned().keys()  # a file alone changes nothing
        second = tritonconv.autotune(conv, x)
        assert not timed and [row.source for row in second.rows] == ["known"]
        assert [row.chosen for row in second.rows] == [row.chosen for row in first.rows]
        assert dict(zip(tuning.tuned(), [row.chosen for row in first.rows], strict=True)) == tuning.tuned()
    assert "0 measured, 1 known before" in str(second)


def test_a_stored_choice_that_is_no_candidate_is_measured_anew(device, timed):
    conv, x = layer(device), picture(device)
    report = tritonconv.autotune(conv, x)
    (row,), (file,) = report.rows, report.files
    store.merge(file, {row.key: {"BLOCK_M": 2}})
    with tuning.using({}):
        (again,) = tritonconv.autotune(conv, x).rows
    assert again.source == "measured" and again.chosen == row.chosen == store.load(file)[row.key]


def test_two_processes_lose_nothing(folder):
    file = folder / "choices.json"
    program = (
        "import sys; from pathlib import Path; from tritonconv.tuning import store\n"
        "for i in range(50): store.merge(Path(sys.argv[1]), {f'{sys.argv[2]}{i}': {'BLOCK_M': 64}})"
    )
    command = [sys.executable, "-c", program, str(file)]
    processes = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    assert store.load(file).keys() == {f"{name}{i}" for name in "ab" for i in range(50)}


def test_who_writes_waits_for_who_writes(folder):
    file = folder / "choices.json"
    program = (
        "import sys; from pathlib import Path; from tritonconv.tuning import store\n"
        "print('ready', flush=True); input(); store.merge(Path(sys.argv[1]), {'a': {'BLOCK_M': 64}})"
    )
    command = [sys.executable, "-c", program, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        with store._locked(file):
            process.stdin.write(b"\n")
            process.stdin.flush()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
    assert process.returncode == 0 and store.load(file).keys() == {"a"}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"[" * 10**5, b'{"choices": []}', b'{"choices": {"relu": {"BLOCK_M": 0}}}']
)
def test_a_damaged_file_is_set_aside_with_one_warning(device, timed, folder, content):
    file = store.path(tuning.machine(picture(device).device))
    for attempt in range(2):  # the second does not overwrite what was set aside
        file.write_bytes(content)
        with tuning.using({}), pytest.warns(UserWarning) as warned:
            tritonconv.autotune(layer(device), picture(device))
        assert len(warned) == 1 and f"{file} is damaged" in str(warned[0].message)
        assert ("not JSON" in str(warned[0].message)) == (b'"choices"' not in content and content != b"[]")
        assert len(store.load(file)) == 1
        assert [p.read_bytes() for p in folder.glob("*.damaged")] == [content] * (attempt + 1)


def test_without_a_folder_to_write_results_hold_for_the_process(device, timed, folder, monkeypatch):
    (folder / "file").touch()
    monkeypatch.setenv("TRITONCONV_CACHE_DIR", str(folder / "file"))
    conv, x = layer(device), picture(device)
    with pytest.warns(UserWarning, match="this process only") as warned:
        tritonconv.autotune(conv, x)
    assert len(warned) == 1
    timed.clear()
    tritonconv.autotune(conv, x)
    assert not timed


def test_the_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("TRITONCONV_CACHE_DIR", "/a")
    assert store.path("NVIDIA H200 sm_90").parent == Path("/a")
    monkeypatch.delenv("TRITONCONV_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert store.path("x").parent == Path("/b/tritonconv")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert store.path("x").parent == Path.home() / ".cache" / "tritonconv"


# --- what is left as it was ---


def test_the_model_is_left_as_it_was(device, timed):
    model = torch.nn.Sequential(
        nn.Conv2d(3, 4, 2, algorithm="implicit_gemm"), torch.nn.BatchNorm2d(4), torch.nn.Dropout(), nn.ReLU()
    ).to(device)
    model[3].eval()
    x = picture(device).requires_grad_()
    model[0].bias.grad = grad = torch.ones_like(model[0].bias)
    state = {name: (t, t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    modes = [m.training for m in model.modules()]
    rng = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if device.type == "cuda" else [])]
    report = tritonconv.autotune(model, x)
    assert {row.key.split()[0] for row in report.rows} == {
        *("implicit_gemm_forward", "implicit_gemm_dgrad", "implicit_gemm_wgrad", "elementwise"),
        *(["sum_splits"] if device.type == "cuda" else []),  # where a gradient is split
    }
    for name, t in model.state_dict(keep_vars=True).items():
        before, copy = state.pop(name)
        assert t is before and torch.equal(t, copy)
    assert x.grad is None and model[0].weight.grad is None
    assert model[0].bias.grad is grad and torch.equal(grad, torch.ones_like(grad))
    assert modes == [m.training for m in model.modules()]
    after = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if device.type == "cuda" else [])]
    assert all(map(torch.equal, rng, after))
    assert torch.is_grad_enabled() and not torch.is_autocast_enabled(device.type)


def test_only_forward_is_measured_where_nothing_requires_a_gradient(device, timed):
    conv, x = layer(device).requires_grad_(), picture(device)
    with torch.no_grad():
        report = tritonconv.autotune(conv, x)
    assert not [row for row in report.rows if "grad" in row.key.split()[0]]


def test_autocast_is_measured_in_its_dtype(device, timed):
    with torch.autocast(device.type, torch.bfloat16):
        report = tritonconv.autotune(layer(device), picture(device))
        with torch.autocast(device.type, enabled=False):
            conv = layer(device)
        without = tritonconv.autotune(lambda x: outside_autocast(conv, x), picture(device))
    assert [row.key.split()[1] for row in report.rows] == ["bfloat16"]
    assert [row.key.split()[1] for row in without.rows] == ["float32"]


def outside_autocast(conv, x):
    with torch.autocast(x.device.type, enabled=False):
        return conv(x)


def test_a_time_is_the_median_of_several(monkeypatch):
    ticks = itertools.accumulate([0, 9, 0, 1, 0, 1, 0, 1, 0, 9], initial=0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks) / 1e3)
    next(ticks)
    assert module.measure(lambda: None, torch.device("cpu")) == pytest.approx(1)


def test_the_clock_of_the_machine(device):
    """One run with nothing replaced: whatever wins, the results are what they were."""
    conv, x = layer(device).requires_grad_(), picture(device)
    before = conv(x)
    report = tritonconv.autotune(conv, x)
    assert all(row.built_in_ms > 0 and row.chosen_ms > 0 and not row.refused for row in report.rows)
    torch.testing.assert_close(conv(x), before)


# --- calls that are refused ---


def test_refused_inside_a_graph_capture(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="graph capture"):
        tritonconv.autotune(layer(device), picture(device))


def test_refused_without_a_model(device):
    with pytest.raises(TypeError, match=r"model must be .* but got Tensor"):
        tritonconv.autotune(picture(device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(torch.nn.Identity(), picture(device))
    with pytest.raises(TypeError, match=r"tune it before torch\.jit"):
        tritonconv.autotune(traced, picture(device))


def test_refused_where_nothing_is_ours(device, folder):
    with pytest.raises(ValueError, match="Linear called none: convert it first"):
        tritonconv.autotune(torch.nn.Linear(8, 8).to(device), picture(device))
    assert not list(folder.iterdir())
