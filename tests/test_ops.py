"""The registered operators: opcheck, fake tensors, torch.compile, autocast."""

import copy

import pytest
import torch
import torch.nn.functional as F
import triton.language as tl
from oracle import case
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

import tritonconv
from tritonconv import functional as TF
from tritonconv import nn, tuning
from tritonconv.jit import jit
from tritonconv.kernels import arguments, epilogue
from tritonconv.ops import pool, resample

ops = torch.ops.tritonconv


def tensor(*shape: int, channels_last: bool = False, grad: bool = True, dtype=torch.float32) -> torch.Tensor:
    t = torch.rand(shape, dtype=dtype) - 0.5
    if channels_last:
        t = t.contiguous(memory_format=torch.channels_last)
    return t.requires_grad_(grad)


def conv_samples() -> list[tuple]:
    """x (2, 4, 7, 6), w (6, 2, 3, 2), y (2, 6, 3, 7): stride (2, 1), padding 0 above and 1 elsewhere, two groups."""
    how = [("zeros", "direct"), ("zeros", "im2col"), ("zeros", "implicit_gemm"), ("circular", "implicit_gemm")]
    return [([2, 1], [0, 1, 1, 1], [1, 1], 2, *each) for each in how]


def samples() -> dict[str, list[tuple]]:
    """Several argument lists an operator, one axis varied at a time."""
    convs = conv_samples()
    X, W, Y = (2, 4, 7, 6), (6, 2, 3, 2), (2, 6, 3, 7)
    pool = ([3, 2], [2, 2], [1, 0], [1, 1])  # of (2, 3, 7, 6): (2, 3, 4, 3)
    _, argmax, _ = ops.max_pool(tensor(2, 3, 7, 6, grad=False), *pool, False, False)
    patch = ([3, 2], [2, 1], [1, 0, 0, 1], [1, 1])  # of (2, 3, 7, 6): (2, 18, 3, 6)
    patches = [(last, (*patch, keeps)) for last, keeps in ((False, False), (True, False), (True, True))]
    return {
        "convolution": [
            *[
                (tensor(*X), tensor(*W), tensor(6), scale, residual, *conv[:5], name, last, conv[5])
                for conv in convs
                for scale, residual, name, last in (
                    (None, None, None, None),
                    (tensor(6), tensor(*Y), "relu", True),
                    (None, tensor(*Y, channels_last=True), "gelu", None),
                )
            ],
            (tensor(*X, channels_last=True), tensor(*W), None, None, None, *convs[2][:5], None, None, "auto"),
            (tensor(*X, grad=False), tensor(*W), None, None, None, *convs[2][:5], None, None, "auto"),
            (tensor(0, *X[1:]), tensor(*W), tensor(6), None, None, *convs[2][:5], None, None, "auto"),
            (
                tensor(*X, dtype=torch.bfloat16),
                tensor(*W, dtype=torch.bfloat16),
                *(None, None, None),
                *convs[2][:5],
                None,
                None,
                "auto",
            ),
        ],
        "convolution_dgrad": [
            *[(tensor(*Y), tensor(*W), X[2:], *conv[:5], last, conv[5]) for conv in convs for last in (False, True)],
            (tensor(*Y, channels_last=True), tensor(*W, grad=False), X[2:], *convs[2][:5], True, "auto"),
        ],
        "convolution_transpose": [
            *[(tensor(*Y), tensor(*W), tensor(4), X[2:], *conv[:4], conv[5]) for conv in convs[:3]],
            (tensor(*Y, channels_last=True), tensor(*W, grad=False), None, X[2:], *convs[2][:4], "auto"),
        ],
        "convolution_wgrad": [
            *[
                (tensor(*Y), tensor(*X), W[2:], *c[:5], bias, last, c[5])
                for c in convs
                for bias, last in ((True, False), (False, True))
            ],
            (tensor(*Y, channels_last=True), tensor(*X, grad=False), W[2:], *convs[2][:5], True, True, "auto"),
        ],
        "convolution_max_pool": [
            *[
                (
                    tensor(*X),
                    tensor(*W),
                    tensor(6),
                    tensor(6),
                    *conv[:5],
                    "relu6",
                    [2, 3],
                    [1, 2],
                    [1, 1],
                    [1, 1],
                    True,
                    conv[5],
                )
                for conv in convs
            ],
            (  # more places than a byte names
                *(tensor(1, 1, 17, 17), tensor(2, 1, 1, 1), None, None, [1, 1], [0] * 4, [1, 1], 1, "zeros", "relu"),
                *([16, 17], [1, 1], [0, 0], [1, 1], False, "auto"),
            ),
            (
                tensor(*X, channels_last=True),
                tensor(*W),
                *(None, None),
                *convs[2][:5],
                "relu",
                [2, 2],
                [2, 2],
                [0, 0],
                [1, 1],
                False,
                "auto",
            ),
        ],
        "max_pool": [
            (tensor(2, 3, 7, 6, channels_last=last), *pool, ceil_mode, indices)
            for last, ceil_mode, indices in ((False, False, False), (True, False, True), (False, True, True))
        ]
        + [(tensor(1, 1, 17, 17), [16, 17], [1, 1], [0, 0], [1, 1], False, False)],
        "max_pool_backward": [
            (tensor(2, 3, 4, 3), argmax.contiguous(memory_format=layout), [7, 6], *pool, last)
            for layout in (torch.contiguous_format, torch.channels_last)  # the strides of dy, and others
            for last in (False, True)
        ],
        "max_pool_gather": [(tensor(2, 3, 7, 6), argmax, *pool, last) for last in (False, True)],
        "average_pool": [
            (tensor(2, 3, 7, 6, channels_last=last), [3, 2], [2, 2], [1, 0], ceil_mode, count, divisor)
            for last, ceil_mode, count, divisor in (
                (False, True, True, None),
                (True, False, False, None),
                (True, True, True, 5),
            )
        ],
        "average_pool_backward": [
            (tensor(2, 3, 4, 3), [7, 6], [3, 2], [2, 2], [1, 0], False, count, divisor, last)
            for count, divisor, last in ((True, None, False), (False, None, True), (True, 3, False))
        ],
        "lp_pool": [(torch.rand(2, 3, 7, 6).requires_grad_(), norm, [3, 2], [2, 2], True) for norm in (2.0, 2.5)],
        "adaptive_max_pool": [(tensor(2, 3, 7, 6, channels_last=last), [4, 9]) for last in (False, True)]
        + [(tensor(1, 2, 4, 3, 5), [2, 1, 3])],
        "adaptive_max_pool_backward": [
            (tensor(2, 3, 2, 2), torch.randint(42, (2, 3, 2, 2)).contiguous(memory_format=layout), [7, 6], last)
            for layout in (torch.contiguous_format, torch.channels_last)
            for last in (False, True)
        ],
        "adaptive_max_pool_gather": [
            (tensor(2, 3, 7, 6), torch.randint(42, (2, 3, 2, 2)), last) for last in (False, True)
        ],
        "resample": [
            (tensor(2, 3, 7, 6), [4, 9], "linear", [0.0, 0.0], False, False),
            (tensor(2, 3, 7, 6, channels_last=True), [3, 3], "area", [0.0, 0.0], False, False),
            (tensor(2, 3, 20, 20), [2, 3], "cubic", [0.1, 0.15], False, True),  # an axis at a time
            (tensor(2, 3, 5), [9], "nearest", [1.9], False, False),
        ],
        "resample_backward": [
            (tensor(2, 3, 4, 9), [7, 6], "linear", [0.0, 0.0], True, False, last) for last in (False, True)
        ]
        + [(tensor(1, 2, 2, 3, 1), [4, 3, 5], "area", [0.0] * 3, False, False, True)],
        "activate": [(t, "relu") for t in (tensor(2, 3, 4), tensor(2, 3, 4, 5, channels_last=True), tensor(0, 3))]
        + [(tensor(2, 3), "silu")],
        "activate_backward": [
            (tensor(2, 3), torch.rand(2, 3), "relu"),
            (tensor(2, 3, 4, 5, channels_last=True), torch.rand(2, 3, 4, 5), "relu"),
            (tensor(2, 3), tensor(2, 3), "tanh"),
        ],
        "max_unpool": [
            (tensor(2, 3, 4, 3, channels_last=last), torch.randint(42, (2, 3, 4, 3)), [7, 6]) for last in (False, True)
        ]
        + [(tensor(1, 2, 2, 3, 2), torch.randint(9, (1, 2, 2, 3, 2)), [4, 3, 5])],
        "max_unpool_backward": [
            (tensor(2, 3, 7, 6, channels_last=last), torch.randint(42, (2, 3, 4, 3))) for last in (False, True)
        ],
        "unfold": [(tensor(2, 3, 7, 6, channels_last=last), *how) for last, how in patches],
        "fold": [(tensor(2, 18, 3, 6, channels_last=last), [7, 6], *how) for last, how in patches],
    }


SAMPLES = [(name, i) for name, lists in samples().items() for i in range(len(lists))]
FIRST_OF_EACH = [pytest.param(name, i, marks=pytest.mark.slow if i else ()) for name, i in SAMPLES]


def on(device: torch.device, arguments: tuple) -> tuple:
    def move(t: torch.Tensor) -> torch.Tensor:
        return t.detach().to(device).requires_grad_(t.requires_grad)

    return tuple(move(a) if isinstance(a, torch.Tensor) else a for a in arguments)


def test_every_operator_has_samples():
    registered = {
        name.split("::")[1].removesuffix("_traced")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("tritonconv::")
    }
    assert registered == set(samples())


@pytest.mark.parametrize(("name", "i"), FIRST_OF_EACH, ids=[f"{name}-{i}" for name, i in SAMPLES])
def test_opcheck(name, i, device):
    torch.library.opcheck(getattr(ops, name).default, on(device, samples()[name][i]))


@pytest.mark.parametrize(("name", "i"), SAMPLES, ids=[f"{name}-{i}" for name, i in SAMPLES])
def test_fake_outputs_look_like_the_real_ones(name, i, device):
    """Shape, strides and dtype, learned without data."""
    arguments = on(device, samples()[name][i])
    real, fake = (getattr(ops, name)(*a) for a in (arguments, on(torch.device("meta"), arguments)))
    real, fake = ((t,) if isinstance(t, torch.Tensor) else t for t in (real, fake))
    assert [(t.shape, t.stride(), t.dtype) for t in fake] == [(t.shape, t.stride(), t.dtype) for t in real]


@pytest.mark.parametrize(("name", "i"), SAMPLES, ids=[f"{name}-{i}" for name, i in SAMPLES])
def test_offsets_look_at_every_tensor(name, i, device, launches, monkeypatch):
    """Whichever tensor of a launch is the one that needs 64-bit offsets: it is among those that are asked."""
    asked: set = set()

    def needs_int64(*tensors: torch.Tensor | None) -> bool:
        asked.update((t.shape, t.stride()) for t in tensors if t is not None)
        return False

    monkeypatch.setattr(arguments, "needs_int64", needs_int64)
    with torch.no_grad(), tuning.using({}):  # no launch was planned before
        getattr(ops, name)(*on(device, samples()[name][i]))
    for kernel, values in launches:
        for key, t in values.items():
            assert not isinstance(t, torch.Tensor) or (t.shape, t.stride()) in asked, (kernel, key)


def test_a_bias_gradient_not_asked_for_is_empty(device):
    dy, x, *arguments = on(device, samples()["convolution_wgrad"][0])
    for bias, numel in ((True, 6), (False, 0)):
        arguments[-3] = bias
        assert ops.convolution_wgrad(dy, x, *arguments)[1].numel() == numel


def test_indices_not_asked_for_are_empty(device):
    x = torch.zeros(1, 2, 4, 4, device=device)
    for asked, numel in ((True, 8), (False, 0)):
        for t in (x, x.to(memory_format=torch.channels_last)):
            assert ops.max_pool(t, [2, 2], [2, 2], [0, 0], [1, 1], False, asked)[2].numel() == numel


@pytest.mark.parametrize("groups", [1, 2])
def test_flops_are_counted_as_torchs(groups, device):
    """torch.utils.flop_counter, forward and backward, fused or not."""
    layers = (torch.nn.Conv2d(2, 4, 3, 2, 1, groups=groups), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    theirs = torch.nn.Sequential(*layers, torch.nn.Conv2d(4, 2, 1, groups=groups), torch.nn.ReLU()).to(device)
    ours = copy.deepcopy(theirs)
    tritonconv.convert(ours)
    x = torch.randn(2, 2, 9, 8, device=device, requires_grad=True)
    with FlopCounterMode(display=False) as expected:
        theirs(x).sum().backward()
    with FlopCounterMode(display=False) as counted:
        ours(x).sum().backward()
    flops = counted.get_flop_counts()
    assert counted.get_total_flops() == expected.get_total_flops() > 0
    assert {name: sum(each.values()) for name, each in flops.items()} == {
        name: sum(each.values()) for name, each in expected.get_flop_counts().items()
    }
    with FlopCounterMode(display=False) as fused:
        TF.conv2d_bias_relu_max_pool2d(x, ours[0].weight, stride=2, padding=1, groups=groups, pool_kernel_size=2)
    assert fused.get_total_flops() == 2 * (2 * 4 * 5 * 4) * (2 // groups * 9)


@pytest.mark.parametrize("groups", [1, 2])
def test_flops_of_a_transposed_convolution_are_torchs(groups, device):
    x, w = (
        torch.randn(2, 4, 5, 6, device=device).requires_grad_(),
        torch.randn(4, 3, 3, 2, device=device).requires_grad_(),
    )
    counts = []
    for f in (TF, F):
        with FlopCounterMode(display=False) as counted:
            f.conv_transpose2d(x, w, None, 2, 1, 1, groups).sum().backward()
        counts.append((counted.get_total_flops(), min(counted.get_flop_counts()["Global"].values())))
    assert counts[0] == counts[1]


# --- torch.compile ---


CALLS = {
    "interpolate by a scale": lambda f, x: f.interpolate(x, scale_factor=2, mode="bilinear"),
    "interpolate to a size": lambda f, x: f.interpolate(x, size=(5, 9)),
    "area": lambda f, x: f.interpolate(x, scale_factor=0.5, mode="area"),
    "adaptive_avg_pool2d": lambda f, x: f.adaptive_avg_pool2d(x, (None, 2)),
    "avg_pool2d": lambda f, x: f.avg_pool2d(x, 2),
    "lp_pool2d": lambda f, x: f.lp_pool2d(x, 2, 2),
    "conv_transpose2d": lambda f, x: f.conv_transpose2d(x, torch.ones(3, 2, 3, 3, device=x.device), None, 2, 1, 1),
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_compiled_function_equals_torchs(call, dynamic, device):
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x: call(TF, x), fullgraph=True, backend=backend, dynamic=dynamic)
    for size in (6, 8):
        x = torch.rand(2, 3, size, size + 1, device=device, requires_grad=True)
        y, expected = compiled(x), call(F, x)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(*(torch.autograd.grad(t.sum(), x) for t in (y, expected)))
    assert backend.frame_count == (1 if dynamic else 2)  # with dynamic sizes one graph serves both


def network() -> torch.nn.Module:
    """Every operator once."""
    return torch.nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.ConvReLU2d(4, 4, 3, padding=1, groups=2),
        nn.ConvReLUMaxPool2d(4, 6, 2, pool_kernel_size=2),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(3),
    )


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled_model_equals_eager(dynamic, device):
    model = network().to(device)
    x = torch.rand(2, 1, 12, 12, device=device)
    model(x)  # gives the lazy layer its size
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch in (2, 3):
        x = torch.rand(batch, 1, 12, 12, device=device)
        results = []
        for run in (model, compiled):
            model.zero_grad()
            y = run(x)
            y.square().sum().backward()
            results.append([y, *[p.grad.clone() for p in model.parameters()]])
        torch.testing.assert_close(results[1], results[0])


def test_unfold_and_fold_compile(device):
    def roundtrip(x: torch.Tensor) -> torch.Tensor:
        return TF.fold(TF.unfold(x, 3, padding=1), (5, 6), 3, padding=1)

    x = torch.rand(2, 3, 5, 6, device=device)
    torch.testing.assert_close(torch.compile(roundtrip, fullgraph=True, backend="aot_eager")(x), roundtrip(x))


def test_model_exports(device):
    model = network().to(device)
    x = torch.rand(2, 1, 12, 12, device=device)
    model(x)
    program = torch.export.export(model, (x,))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"tritonconv.convolution.default", "tritonconv.max_pool.default"} <= called
    torch.testing.assert_close(program.module()(x), model(x))


def test_inference_tensors_beside_others(device):
    """An image made in inference mode meets a weight that was not: as torch, both by the dispatcher and by a plan."""
    w = torch.randn(4, 3, 3, 3, device=device)
    with torch.inference_mode():
        x = torch.randn(2, 3, 8, 8, device=device)
    for _ in range(2):
        torch.testing.assert_close(TF.conv2d(x, w), F.conv2d(x, w))
    for conv2d in (TF.conv2d, F.conv2d):
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            conv2d(x, w.clone().requires_grad_())


# --- autocast ---


def pooled(*tensors: torch.Tensor) -> torch.Tensor:
    return TF.conv2d_bias_relu_max_pool2d(*tensors, pool_kernel_size=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("convolve", [TF.conv2d, TF.conv2d_bias_relu, pooled], ids=lambda f: f.__name__)
def test_autocast_runs_convolutions_in_its_dtype(convolve, dtype, device):
    """The result is that of tensors cast by hand; gradients come back in the parameters' float32."""
    tensors = [t.requires_grad_() for t in case("plain").tensors(torch.float32, device)]
    with torch.autocast(device.type, dtype):
        y = convolve(*tensors)
        assert F.conv2d(*tensors).dtype == dtype
    assert y.dtype == dtype
    assert torch.equal(y, convolve(*[t.to(dtype) for t in tensors]))
    y.sum().backward()
    assert [t.grad.dtype for t in tensors] == [torch.float32] * 3


def test_autocast_mixes_dtypes(device):
    """A bfloat16 activation meets float32 parameters: each is cast."""
    x, w, b = case("plain").tensors(torch.float32, device)
    with torch.autocast(device.type, torch.bfloat16):
        assert TF.conv2d(x.bfloat16(), w, b).dtype == torch.bfloat16
        assert TF.conv2d(x.half(), w, b).dtype == torch.bfloat16


def test_backward_inside_the_region_is_exact(device):
    """What runs inside a kernel is not the region's business, nor is the precision set for torch's own products."""

    def gradients() -> tuple[torch.Tensor, ...]:
        y = TF.conv2d(x.bfloat16(), w.bfloat16(), padding=1)
        return torch.autograd.grad(y, (x, w), torch.ones_like(y))

    x, w = (torch.randn(*shape, device=device, requires_grad=True) for shape in ((2, 3, 8, 8), (4, 3, 3, 3)))
    expected = gradients()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast(device.type, torch.bfloat16):
            y = TF.conv2d(x, w, padding=1)
            inside = torch.autograd.grad(y, (x, w), torch.ones_like(y))
    finally:
        torch.set_float32_matmul_precision("highest")
    for got, wanted in zip(inside, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_autocast_leaves_float64_alone(device):
    tensors = case("plain").tensors(torch.float64, device)
    with torch.autocast(device.type, torch.bfloat16):
        assert F.conv2d(*tensors).dtype == torch.float64
        assert TF.conv2d(*tensors).dtype == torch.float64
        assert pooled(*tensors).dtype == torch.float64


def test_autocast_ends_where_it_is_disabled(device):
    tensors = case("plain").tensors(torch.float32, device)
    with torch.autocast(device.type, torch.bfloat16):
        assert TF.relu(tensors[0]).dtype == torch.float32
        with torch.autocast(device.type, enabled=False):
            assert TF.conv2d(*tensors).dtype == torch.float32


def test_on_meta_there_is_no_region(device):
    """Nor does asking for one raise: in a transform, under autocast of another device, in a chain that is fused."""
    net = torch.nn.Sequential(nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), nn.ReLU()).eval().requires_grad_(False)
    tritonconv.convert(net.to("meta"))
    x = torch.empty(2, 3, 8, 8, device="meta")
    assert torch.vmap(net)(x[None]).shape == (1, 2, 4, 6, 6)
    with torch.autocast(device.type, torch.bfloat16):
        assert (net(x).dtype, net(x).shape) == (torch.float32, (2, 4, 6, 6))


@pytest.mark.parametrize("on", ["CPU", "CUDA"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_what_runs_in_float32_in_a_region_is_what_torch_runs_so(rank, on):
    """Of torch's operators that a region casts: convolutions to its dtype, all others here to float32."""

    def asked(kind, **values):
        return kind(x=torch.empty(1, 1, *[4] * rank), **values).autocast(on.lower())

    def theirs(*names: str) -> torch.dtype | None:
        has_rule = torch._C._dispatch_has_kernel_for_dispatch_key
        return torch.float32 if any(has_rule(f"aten::{name}", f"Autocast{on}") for name in names) else None

    linear = ["upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"][rank - 1]
    assert asked(pool.MaxPool, return_indices=False) == theirs(f"max_pool{rank}d")
    assert asked(pool.MaxPool, return_indices=True) == theirs(f"max_pool{rank}d_with_indices")
    assert asked(pool.AveragePool) == theirs(f"avg_pool{rank}d")
    assert asked(pool.AdaptiveMaxPool) == theirs(f"adaptive_max_pool{rank}d")
    assert asked(pool.LpPool) == theirs(f"avg_pool{rank}d", "pow.Tensor_Scalar")
    assert asked(pool.MaxUnpool) == theirs(f"max_unpool{max(rank, 2)}d")  # of one axis torch's has two
    assert asked(resample.Resample, mode="area") == theirs(f"adaptive_avg_pool{rank}d")
    assert asked(resample.Resample, mode="nearest") == theirs(f"upsample_nearest{rank}d")
    assert asked(resample.Resample, mode="linear") == theirs(linear)


# --- operators and kernels have no rank: two dimensions are what the functions offer, one and three come free ---


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-3, 4, shape).float().requires_grad_()


def leaves_and_gradients(y: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    dy = torch.randint(-3, 4, y.shape, generator=torch.Generator().manual_seed(1)).float()
    return [y, *torch.autograd.grad(y, leaves, dy)]


RANKS = {1: (9,), 3: (5, 4, 6)}


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "implicit_gemm"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("rank", RANKS)
def test_convolution_of_any_rank(rank, channels_last, algorithm):
    x, w, b = integers(2, 4, *RANKS[rank]), integers(6, 2, *(3, 2, 1)[:rank]), integers(6)
    stride, padding, dilation = (2, 1, 3)[:rank], (1, 1, 0)[:rank], (1, 2, 1)[:rank]
    if channels_last and rank == 3:
        x = x.detach().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    flat = [pad for pad in padding for _ in range(2)]
    y = ops.convolution(x, w, b, None, None, stride, flat, dilation, 2, "zeros", None, None, algorithm)
    peer = getattr(F, f"conv{rank}d")(x, w, b, stride, padding, dilation, 2)
    assert y.stride() == peer.stride()
    for found, expected in zip(leaves_and_gradients(y, x, w, b), leaves_and_gradients(peer, x, w, b), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("rank", RANKS)
def test_pooling_of_any_rank(rank):
    x = integers(2, 3, *RANKS[rank])
    window = ((3, 2, 2)[:rank], (2, 2, 1)[:rank], (1, 0, 1)[:rank], (1, 1, 2)[:rank])
    y, _, indices = ops.max_pool(x, *window, True, True)
    peer, peer_indices = getattr(F, f"max_pool{rank}d")(x, *window, True, True)
    assert torch.equal(indices, peer_indices)
    for found, expected in zip(leaves_and_gradients(y, x), leaves_and_gradients(peer, x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm"])
@pytest.mark.parametrize("rank", RANKS)
def test_fused_operator_of_any_rank(rank, algorithm):
    x, w, b = integers(2, 4, *RANKS[rank]), integers(3, 4, *(2, 1, 3)[:rank]), integers(3)
    ones, zeros = [1] * rank, [0] * (2 * rank)
    y, _ = ops.convolution_max_pool(
        x, w, b, None, ones, zeros, ones, 1, "zeros", "relu", [2] * rank, [2] * rank, [0] * rank, ones, False, algorithm
    )
    peer = getattr(F, f"max_pool{rank}d")(getattr(F, f"conv{rank}d")(x, w, b).relu(), 2)
    for found, expected in zip(leaves_and_gradients(y, x, w, b), leaves_and_gradients(peer, x, w, b), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("rank", RANKS)
def test_unfold_and_fold_of_any_rank_are_adjoint(rank):
    """⟨unfold(x), c⟩ = ⟨x, fold(c)⟩; and the columns times a filter are the convolution."""
    x, w = integers(2, 2, *RANKS[rank]), integers(3, 2, *[2] * rank)
    patch = ([2] * rank, [2, 1, 1][:rank], [1, 0] * rank, [1] * rank, False)
    columns = ops.unfold(x, *patch)
    c = integers(*columns.shape)
    folded = ops.fold(c, RANKS[rank], *patch)
    assert (columns * c).sum() == (x * folded).sum()
    product = torch.einsum("kj,njl->nkl", w.flatten(1), columns.flatten(2)).view(2, 3, *columns.shape[2:])
    padded = F.pad(x, [1, 0] * rank)
    assert torch.equal(product, getattr(F, f"conv{rank}d")(padded, w, None, patch[1]))


# --- the table of activations ---


@jit
def double(values, ARGUMENT: tl.constexpr):
    return values * 2


@jit
def double_gradient(dy, output, ARGUMENT: tl.constexpr):
    return dy * 2


def test_an_activation_is_one_row(monkeypatch):
    monkeypatch.setitem(epilogue.ACTIVATIONS, "double", epilogue.Activation(double, double_gradient, "output"))
    x, w, b = integers(2, 3, 5, 5), integers(4, 3, 3, 3), integers(4)
    conv = ([1, 1], [0, 0, 0, 0], [1, 1], 1, "zeros")
    for algorithm in ("direct", "im2col", "implicit_gemm"):
        y = ops.convolution(x, w, b, None, None, *conv, "double", None, algorithm)
        peer = F.conv2d(x, w, b) * 2
        for found, expected in zip(leaves_and_gradients(y, x, w, b), leaves_and_gradients(peer, x, w, b), strict=True):
            assert torch.equal(found, expected)
    y = ops.activate(x, "double")
    for found, expected in zip(leaves_and_gradients(y, x), leaves_and_gradients(x * 2, x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("saves", ["input", "output"])
def test_an_activation_keeps_what_its_row_says(saves, monkeypatch):
    monkeypatch.setitem(epilogue.ACTIVATIONS, "double", epilogue.Activation(double, double_gradient, saves))
    x, saved = integers(2, 3).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()), lambda t: t):
        y = ops.activate(x, "double")
    assert saved == [x.data_ptr() if saves == "input" else y.data_ptr()]


def test_what_cannot_be_an_epilogue_is_refused(monkeypatch):
    x, w = integers(2, 3, 5, 5), integers(4, 3, 3, 3)
    conv, pool = ([1, 1], [0, 0, 0, 0], [1, 1], 1, "zeros"), ([2, 2], [2, 2], [0, 0], [1, 1], False, "auto")
    for name in ("swish", "leaky_relu(x)", "relu(2)"):
        with pytest.raises(ValueError, match=r"activation must be .*'relu', .*but got activation="):
            ops.convolution(x, w, None, None, None, *conv, name, None, "auto")
        with pytest.raises(ValueError, match=r"activation must be .*'relu', .*but got activation="):
            ops.activate(x, name)
    with pytest.raises(NotImplementedError, match="gradient is 0 or 1, but got activation='gelu'"):
        ops.convolution_max_pool(x, w, None, None, *conv, "gelu", *pool)
