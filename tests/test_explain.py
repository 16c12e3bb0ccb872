"""explain: numbers worked out by hand, reasons, and that nothing runs and nothing changes."""

import threading

import pytest
import torch
import torch.nn.functional as F
from test_ops import SAMPLES, on, samples
from torch.utils.checkpoint import checkpoint

import tritonconv
from bench import workloads
from tests.networks import ResNet18
from tritonconv import functional as TF
from tritonconv import nn, tuning
from tritonconv.problems import conv_problem
from tritonconv.replica import replica


def tensor(*shape: int, grad: bool = False, **options) -> torch.Tensor:
    return torch.rand(shape, **options).requires_grad_(grad)


def only(report):
    (step,) = report.steps
    (call,) = step.calls
    return step, call


# --- the floor ---


def test_plain_convolution():
    report = tritonconv.explain(TF.conv2d, tensor(2, 3, 5, 5), tensor(4, 3, 3, 3), tensor(4))
    step, call = only(report)
    assert call.flops == 2 * (2 * 4 * 3 * 3) * (3 * 3 * 3)  # each of 72 outputs sums 27 products
    assert call.least_bytes == call.moved_bytes == call.torch_bytes == 4 * (150 + 108 + 4 + 72)
    assert call.intensity == pytest.approx(3888 / 1336)
    assert (step.saved_bytes, step.kept_bytes, step.torch_kept_bytes, step.between) == (0, 0, 0, ())
    assert (call.floor_s, call.bound) == (None, "")
    assert "floor      3.89 kFLOP, 1.34 kB, 2.91 FLOP/B\n" in report.details()
    assert "saved  nothing of the 1.34 kB that torch's layers move" in report.details()


def test_taps_in_the_padding_are_no_work():
    _, call = only(tritonconv.explain(TF.conv2d, tensor(1, 1, 3, 3), tensor(1, 1, 3, 3), padding=1))
    assert call.flops == 2 * (2 + 3 + 2) ** 2  # an axis: 2 taps inside at the first place, 3, 2; not 3 · 3


@pytest.mark.parametrize(
    "conv",
    [
        ((1, 1), (0, 0, 0, 0), (1, 1), 1),
        ((2, 1), (0, 1, 2, 0), (1, 1), 1),
        ((2, 3), (3, 3, 3, 3), (2, 1), 2),
        ((1, 1), (4, 0, 0, 4), (1, 3), 4),
    ],
)
def test_multiply_adds_are_what_a_convolution_of_ones_sums(conv):
    stride, padding, dilation, groups = conv
    x, w = torch.ones(2, 4, 9, 8), torch.ones(8, 4 // groups, 3, 2)
    problem = conv_problem(x.shape, w.shape, None, *conv)
    y = F.conv2d(F.pad(x, (*padding[2:], *padding[:2])), w, None, stride, 0, dilation, groups)
    assert problem.multiply_adds == y.sum()


@pytest.mark.parametrize("first", [True, False])
def test_floors_are_those_of_the_benchmark(first):
    """But for its FLOP: there a tap in the padding counts as work."""
    workload = workloads.Workload("sample", "here", 2, 3, 6, 4, 3, first=first)
    x, w, b = tensor(2, 3, 6, 6, grad=not first), tensor(4, 3, 3, 3, grad=True), tensor(4, grad=True)
    steps = tritonconv.explain(TF.conv2d, x, w, b).steps
    problems = [workloads.Problem(workload, "conv-bias", mode, "float32") for mode in ("forward", "backward")]
    assert [(s.flops, s.least_bytes) for s in steps] == [(p.flops, p.bytes) for p in problems]


def test_depthwise_convolution():
    _, call = only(tritonconv.explain(TF.conv2d, tensor(2, 8, 6, 6), tensor(8, 1, 3, 3), groups=8))
    assert call.flops == 2 * (2 * 8 * 4 * 4) * 9
    assert (call.algorithm, call.launches[0].kernel) == ("direct", "direct_forward_kernel")
    assert call.reasons[0] == 'by "auto": fewer than 8 channels a group (1) are too few for a matrix product'


def test_floor_in_seconds_and_what_bounds_it():
    x, w = tensor(2, 3, 5, 5), tensor(4, 3, 3, 3)  # 3888 FLOP, 1320 B
    for rates, seconds, bound in (((132.0, 1e9), 10.0, "memory"), ((1e9, 38.88), 100.0, "arithmetic")):
        given = dict(zip(("copy_bytes_per_s", "matrix_flops_per_s"), rates, strict=True))
        report = tritonconv.explain(TF.conv2d, x, w, **given)
        _, call = only(report)
        assert (call.floor_s, call.bound) == (pytest.approx(seconds), bound)
        assert f"bound by {bound}" in report.details()


def test_an_expanded_axis_is_read_once():
    x = tensor(1, 2, 4, 4).expand(8, 2, 4, 4)
    _, call = only(tritonconv.explain(TF.conv2d, x, tensor(3, 2, 3, 3)))
    assert call.moved_bytes == call.least_bytes == 4 * (32 + 54 + 8 * 3 * 2 * 2)


def test_an_empty_batch_moves_nothing():
    report = tritonconv.explain(TF.conv2d, tensor(0, 2, 4, 4), tensor(3, 2, 3, 3))
    step, call = only(report)
    assert (call.launches, call.flops, call.least_bytes, step.least_bytes, step.saved_bytes) == ((), 0, 0, 0, 0)
    assert "nothing to launch" in report.details()


# --- bytes moved and saved ---


def test_fused_layer_against_torchs_layers():
    """A 6×6 picture, two channels of 288 B together, pooled 2×2 to 18 outputs: torch keeps 24 B each, we 1 B."""
    x, w, b = tensor(1, 1, 6, 6), tensor(2, 1, 3, 3, grad=True), tensor(2, grad=True)
    forward, backward = tritonconv.explain(TF.conv2d_bias_relu_max_pool2d, x, w, b, padding=1, pool_kernel_size=2).steps
    outside = 144 + 72 + 8 + 72 + 18  # x, w, b, y, argmax
    assert forward.moved_bytes == forward.least_bytes == outside
    assert forward.torch_bytes == (144 + 72 + 8 + 288) + (288 + 288) + (288 + 72 + 18 * 8)
    assert forward.saved_bytes == 1592 - 314
    assert (forward.kept_bytes, forward.torch_kept_bytes) == (18, 18 * 24)

    pool, wgrad = backward.calls  # x wants no gradient
    assert (pool.operator, wgrad.operator, backward.phase) == ("max_pool_backward", "convolution_wgrad", "backward")
    assert (pool.moved_bytes, wgrad.moved_bytes) == (72 + 18 + 288, 288 + 144 + 72 + 8)
    assert backward.least_bytes == outside  # dy, argmax, x, dw, db: the unpooled gradient does not leave
    assert backward.between == (("float32 1x2x6x6", 2 * 288),)
    assert backward.torch_bytes == (72 + 18 * 8 + 288) + 3 * 288 + (288 + 144 + 72 + 8)
    assert (wgrad.flops, pool.flops) == (forward.flops, 0)


def test_fused_relu():
    x, w = tensor(1, 2, 4, 4, grad=True), tensor(3, 2, 3, 3, grad=True)
    forward, backward = tritonconv.explain(TF.conv2d_bias_relu, x, w).steps
    assert forward.saved_bytes == 2 * 48  # y is 48 B, written by the convolution and read again by ReLU
    assert forward.kept_bytes == forward.torch_kept_bytes == 48
    assert [call.operator for call in backward.calls] == ["activate_backward", "convolution_dgrad", "convolution_wgrad"]
    assert backward.least_bytes == 2 * 48 + 2 * (128 + 216)  # dy, y; x, w and their gradients
    assert backward.saved_bytes == 0


def test_max_pooling():
    forward, backward = tritonconv.explain(TF.max_pool2d, tensor(1, 1, 4, 4, grad=True), 2).steps
    assert (forward.moved_bytes, forward.torch_bytes) == (64 + 16 + 4, 64 + 16 + 4 * 8)
    assert (forward.kept_bytes, forward.torch_kept_bytes) == (4, 32)
    assert (backward.moved_bytes, backward.torch_bytes) == (16 + 4 + 64, 16 + 4 * 8 + 64)
    step, _ = only(tritonconv.explain(TF.max_pool2d, tensor(1, 1, 4, 4), 2, return_indices=True))
    assert (step.moved_bytes, step.torch_bytes) == (64 + 16 + 4 + 32, 64 + 16 + 32)


def test_im2col_writes_its_columns_and_reads_them_again():
    report = tritonconv.explain(TF.conv2d, tensor(1, 2, 4, 4), tensor(3, 2, 3, 3), algorithm="im2col")
    step, call = only(report)
    x, w, y, columns = 128, 216, 48, 18 * 4 * 4
    assert [launch.moved_bytes for launch in call.launches] == [x + columns, columns + w + y]
    assert (step.least_bytes, step.saved_bytes) == (x + w + y, -2 * columns)
    assert step.between == (("float32 1x18x2x2", 2 * columns),)
    assert call.reasons[0] == "asked for by name"
    assert "nothing: 576 B more than the 392 B that torch's layers move" in report.details()


def test_a_copy_made_by_torch_counts():
    """im2col wants the filter as a matrix, which a channels_last one has to be copied for."""
    w = tensor(3, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    _, call = only(tritonconv.explain(TF.conv2d, tensor(1, 2, 4, 4), w, algorithm="im2col"))
    assert call.launches[-1].kernel == "a copy by torch's reshape"
    assert call.launches[-1].moved_bytes == 2 * 216


def test_split_k_and_tiles_of_a_gpu():
    x, w, b = (tensor(*shape, device="meta", grad=True) for shape in ((64, 1, 28, 28), (32, 1, 3, 3), (32,)))
    with tuning.target("sm_90"):
        report = tritonconv.explain(TF.conv2d, x.detach(), w, b, padding=1)
    forward, backward = report.steps
    assert forward.calls[0].launches[0].tile == {
        **{"BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 16, "FLATTEN_TAPS": True},
        **{"num_warps": 4, "num_stages": 3},
    }
    assert forward.calls[0].launches[0].grid == (64 * 28 * 28 // 64,)
    assert "taps flattened: fewer than 16 channels (1) would leave most of a K block empty" in report.details()
    assert "the GPUs' table, here sm_90" in report.details()
    assert "split-K by 64" in report.details()
    partial = 64 * (288 + 32) * 4
    assert backward.moved_bytes == backward.least_bytes + 2 * partial
    assert sum(moved for _, moved in backward.between) == 2 * partial


# --- what is explained is what runs ---


@pytest.mark.parametrize(("name", "i"), SAMPLES, ids=[f"{name}-{i}" for name, i in SAMPLES])
def test_every_operator_is_explained_by_the_launches_it_makes(name, i, device, launches):
    operator, arguments = getattr(torch.ops.tritonconv, name), on(device, samples()[name][i])
    launches.clear()
    report = tritonconv.explain(operator, *arguments, backward=False)
    launches.clear()
    real = operator(*arguments)
    ran = [(kernel, {k: v for k, v in given.items() if k.startswith("BLOCK_")}) for kernel, given in launches]
    _, call = only(report)
    explained = [
        (launch.kernel, {k: v for k, v in launch.tile.items() if k.startswith("BLOCK_")})
        for launch in call.launches
        if launch.grid
    ]
    assert (call.operator, explained) == (name, ran)
    shapes = [tuple(t.shape) for t in ((real,) if isinstance(real, torch.Tensor) else real) if t.numel()]
    assert list(call.outputs.values()) == shapes
    assert str(report) and report.details()


@pytest.mark.parametrize("name", sorted({name for name, _ in SAMPLES}))
def test_an_operators_results_have_names(name):
    """The report shows them; backward finds what it saved by them, beside the arguments."""
    schema = getattr(torch.ops.tritonconv, name).default._schema
    names = [value.name for value in (*schema.returns, *schema.arguments)]
    assert all(result.name for result in schema.returns) and len(names) == len(set(names))


@pytest.fixture
def model(device) -> torch.nn.Module:
    model = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        torch.nn.Dropout(),
        torch.nn.BatchNorm2d(4),
        torch.nn.Conv2d(4, 8, 3),
        torch.nn.ReLU(inplace=True),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 9, 3),
    ).to(device)
    tritonconv.convert(model)
    return model


def test_layers_are_named_forward_and_backward(model, device):
    report = tritonconv.explain(model, tensor(2, 1, 12, 12, device=device))
    named = [(step.layer, step.phase, step.of, len(step.calls)) for step in report.steps]
    assert named == [
        ("0.0", "forward", "convolution_max_pool", 1),
        ("3", "forward", "convolution", 1),
        ("3", "backward", "convolution", 3),
        ("0.0", "backward", "convolution_max_pool", 2),
    ]
    assert report.details().startswith("0.0: forward of convolution_max_pool\n")


def test_unfused_relu_has_a_layer_of_its_own(device):
    model = torch.nn.Sequential(nn.Conv2d(1, 2, 3), torch.nn.Identity(), nn.ReLU()).to(device)
    report = tritonconv.explain(model, tensor(1, 1, 5, 5, device=device), backward=False)
    assert [(step.layer, step.of) for step in report.steps] == [("0", "convolution"), ("2", "activate")]


def test_nothing_changes(model, device):
    x = tensor(2, 1, 12, 12, device=device, grad=True)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    tensors = [x, *model.parameters(), *model.buffers()]
    before = [(t, t.clone(), t._version, t.grad) for t in tensors]
    hooks = [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.modules()]
    random = torch.get_rng_state()
    tritonconv.explain(model, x)
    assert torch.equal(random, torch.get_rng_state())
    after = [*model.parameters(), *model.buffers()]
    assert all(t is u for t, u in zip(tensors[1:], after, strict=True))
    for t, value, version, grad in before:
        assert torch.equal(t, value) and t._version == version and t.grad is grad
    assert hooks == [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.modules()]


def test_a_closure_keeps_its_tensors_and_its_graph():
    w = tensor(2, 1, 3, 3, grad=True)
    scaled = w * w  # this product's backward must still be possible
    forward, backward = tritonconv.explain(lambda x: TF.conv2d(x, scaled), tensor(1, 1, 5, 5)).steps
    assert backward.calls[0].operator == "convolution_wgrad" and forward.phase == "forward"
    assert w.grad is None
    scaled.sum().backward()
    torch.testing.assert_close(w.grad, 2 * w.detach())


def test_a_compiled_module_is_explained_and_stays_compiled(device):
    model = nn.Conv2d(1, 2, 3).to(device)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = tensor(1, 1, 5, 5, device=device)
    report = tritonconv.explain(compiled, x)
    assert [step.of for step in report.steps] == ["convolution", "convolution"]
    torch.testing.assert_close(compiled(x), model(x))


def test_a_compiled_function_is_explained(device):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    function = torch.compile(lambda x: TF.relu(x) + 1, fullgraph=True, backend=backend)
    assert [step.of for step in tritonconv.explain(function, tensor(2, 3, device=device)).steps] == ["activate"]
    assert compiled == []


def test_an_input_with_a_history_is_an_input():
    x, w = tensor(1, 1, 5, 5, grad=True) * 2, tensor(2, 1, 3, 3)
    _, backward = tritonconv.explain(TF.conv2d, x, w).steps
    assert [call.operator for call in backward.calls] == ["convolution_dgrad"]


def test_nothing_runs():
    """Terabytes that no machine here could hold, let alone compute."""
    x = torch.zeros(1, 1, 1, 1).expand(10**4, 64, 1000, 1000)
    report = tritonconv.explain(TF.conv2d, x, tensor(64, 64, 3, 3, grad=True), padding=1)
    assert report.steps[0].calls[0].outputs["y"] == (10**4, 64, 1000, 1000)
    assert "TB" in report.details() and "TFLOP" in report.details()


def test_no_gradient_no_backward(model, device):
    x = tensor(2, 1, 12, 12, device=device)
    with torch.no_grad():
        report = tritonconv.explain(model, x)
    assert {step.phase for step in report.steps} == {"forward"}
    assert report.details() == tritonconv.explain(model, x, backward=False).details()


def test_autocast_is_seen(model, device):
    with torch.autocast(device.type, torch.bfloat16):
        report = tritonconv.explain(model, tensor(2, 1, 12, 12, device=device), backward=False)
    assert {call.dtype for step in report.steps for call in step.calls} == {torch.bfloat16}


def test_a_call_without_our_operators_says_so():
    report = tritonconv.explain(torch.nn.Linear(3, 2), tensor(4, 3))
    assert report.steps == ()
    assert (
        str(report)
        == report.details()
        == "No operator of tritonconv was called; tritonconv.convert puts a model's layers on them."
    )


# --- errors ---


@pytest.mark.parametrize(
    ("call", "options", "error", "message"),
    [
        (3, {}, TypeError, "call must be a torch.nn.Module or a function, but got call=3"),
        (TF.relu, {"backward": 1}, TypeError, "backward must be True or False, but got backward=1"),
        (TF.relu, {"copy_bytes_per_s": "4e12"}, TypeError, "copy_bytes_per_s must be a number, but got .*'4e12'"),
        (TF.relu, {"matrix_flops_per_s": True}, TypeError, "matrix_flops_per_s must be a number, but got .*True"),
        (TF.relu, {"copy_bytes_per_s": 0, "matrix_flops_per_s": 1}, ValueError, "copy_bytes_per_s must be above zero"),
        (TF.relu, {"copy_bytes_per_s": 1e12}, TypeError, "expected both rates or neither, but got .*_per_s=None"),
        (torch.nn.LazyConv2d(2, 3), {}, TypeError, "call must know its sizes, but weight is a UninitializedParameter"),
        (lambda x: TF.relu(x) if x.sum() > 0 else x, {}, RuntimeError, "call must not look at its tensors' values"),
    ],
)
def test_errors(call, options, error, message):
    with pytest.raises(error, match=message):
        tritonconv.explain(call, tensor(1, 1, 4, 4), **options)


def test_an_error_of_the_call_leaves_no_recording_behind(model, device):
    with pytest.raises(RuntimeError, match="channels"):
        tritonconv.explain(model, tensor(2, 3, 12, 12, device=device))
    y = model(tensor(2, 1, 12, 12, device=device))
    assert torch.isfinite(y).all()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def test_what_a_container_fuses_is_shown_fused():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.ReLU())
    tritonconv.convert(model)
    report = tritonconv.explain(model, torch.zeros(1, 1, 8, 8), backward=False)
    assert [(step.layer, step.of) for step in report.steps] == [("0", "convolution_max_pool"), ("3", "activate")]


class Cached(torch.nn.Module):
    """Keeps what it meets first: a table, a list, a number; and counts in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.table, self.seen = None, []
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(x.shape[0])
        self.calls += 1
        self.seen.append(x)
        self.latest = self.conv(x)
        return self.latest


@pytest.mark.parametrize("look", [tritonconv.explain, tritonconv.autotune])
def test_what_a_call_keeps_is_put_back(look, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONCONV_CACHE_DIR", str(tmp_path))
    model = Cached()
    with tuning.using({}):
        look(model, tensor(2, 1, 5, 5))
    assert (model.table, model.seen, model.calls.item(), hasattr(model, "latest")) == (None, [], 0, False)
    assert model.conv.weight.grad is None
    model(x := torch.zeros(3, 1, 5, 5))
    assert type(model.table) is torch.Tensor and model.table.numel() == 3 and model.seen == [x]


def test_a_replica_shares_what_is_shared_and_copies_what_can_be(tmp_path):
    model = Cached()
    model.tied, model.lock, model.nested = model.conv, threading.Lock(), {"w": [model.conv.weight, torch.ones(2)]}
    model.hook = model.conv.extra_repr
    twin = replica(model, lambda t: t.detach() + 1)
    assert type(twin) is Cached and twin is not model and twin.tied is twin.conv is not model.conv
    assert twin.lock is model.lock and twin.seen is not model.seen
    assert twin.nested["w"][0] is twin.conv.weight and torch.equal(twin.conv.weight, model.conv.weight + 1)
    assert torch.equal(twin.nested["w"][1], torch.full((2,), 2.0)) and twin.hook.__self__ is twin.conv
    compiled = torch.compile(torch.nn.Sequential(model), backend="eager")
    assert type(replica(compiled, lambda t: t)) is torch.nn.Sequential


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_layers_are_explained(use_reentrant):
    conv = nn.Conv2d(1, 2, 3)
    x = tensor(1, 1, 5, 5, grad=True)
    report = tritonconv.explain(lambda x: checkpoint(conv, x, use_reentrant=use_reentrant), x)
    assert {"convolution", "convolution_dgrad", "convolution_wgrad"} <= {
        c.operator for s in report.steps for c in s.calls
    }
    assert x.grad is None and conv.weight.grad is None


def test_tiles_may_be_another_machines():
    call, arguments = nn.Conv2d(16, 16, 3), tensor(2, 16, 8, 8)
    asked = tritonconv.explain(call, arguments, target="sm_90")
    with tuning.target("sm_90"):
        assert asked == tritonconv.explain(call, arguments)
    assert "sm_90" in asked.details() and "sm_90" not in tritonconv.explain(call, arguments).details()
    with pytest.raises(
        ValueError, match="target must be 'interpreter' or a GPU such as 'sm_90' or 'gfx942', but got 'H100'"
    ):
        tritonconv.explain(call, arguments, target="H100")


def test_a_summary_has_a_line_a_layer_totals_and_the_largest():
    model = ResNet18(width=8)
    tritonconv.convert(model)
    lines = str(tritonconv.explain(model, tensor(2, 3, 64, 64))).splitlines()
    names = [line.split()[0] for line in lines]
    assert len(lines) < 50 and names[0] == "layer" and names.count("layer1.0.relu") == 1
    assert lines[names.index("all")].split()[:3] == ["all", "forward", "39"]
    largest = lines[lines.index("most bytes are moved by") + 1 : -2]
    assert len(largest) == 5 and all(" backward of " in line or " forward of " in line for line in largest)


def test_reports_print_on_a_terminal_that_knows_ascii_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONCONV_CACHE_DIR", str(tmp_path))
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
    reports = [tritonconv.convert(model), tritonconv.explain(model, x := tensor(1, 1, 8, 8))]
    rates = dict(copy_bytes_per_s=1e12, matrix_flops_per_s=1e14)
    texts = [*map(str, reports), tritonconv.explain(model, x, **rates).details(), reports[1].details()]
    with tuning.using({}):
        texts.append(str(tritonconv.autotune(model, x)))
    assert all(text.isascii() for text in texts)
