"""The registered operators: opcheck, fake tensors, torch.compile, autocast."""

import pytest
import torch
import torch.nn.functional as F
from oracle import case

from tritonconv import functional as TF
from tritonconv import nn

ops = torch.ops.tritonconv


def tensor(*shape: int, channels_last: bool = False, grad: bool = True, dtype=torch.float32) -> torch.Tensor:
    t = torch.rand(shape, dtype=dtype) - 0.5
    if channels_last:
        t = t.contiguous(memory_format=torch.channels_last)
    return t.requires_grad_(grad)


def conv_samples() -> list[tuple]:
    """x (2, 4, 7, 6), w (6, 2, 3, 2), y (2, 6, 3, 7): stride (2, 1), padding 0 above and 1 elsewhere, two groups."""
    return [([2, 1], [0, 1, 1, 1], [1, 1], 2, algorithm) for algorithm in ("direct", "im2col", "implicit_gemm")]


def samples() -> dict[str, list[tuple]]:
    """Several argument lists an operator, one axis varied at a time."""
    convs = conv_samples()
    X, W, Y = (2, 4, 7, 6), (6, 2, 3, 2), (2, 6, 3, 7)
    pool = ([3, 2], [2, 2], [1, 0], [1, 1])  # of (2, 3, 7, 6): (2, 3, 4, 3)
    _, code, _ = ops.max_pool2d(tensor(2, 3, 7, 6, grad=False), *pool, False, False)
    patch = ([3, 2], [2, 1], [1, 0, 0, 1], [1, 1])  # of (2, 3, 7, 6): (2, 18, 3, 6)
    return {
        "conv2d": [
            *[
                (tensor(*X), tensor(*W), tensor(6), *conv[:4], relu, conv[4])
                for conv in convs
                for relu in (False, True)
            ],
            (tensor(*X, channels_last=True), tensor(*W), None, *convs[2][:4], False, "auto"),
            (tensor(*X, grad=False), tensor(*W), None, *convs[2][:4], False, "auto"),
            (tensor(0, *X[1:]), tensor(*W), tensor(6), *convs[2][:4], False, "auto"),
            (tensor(*X, dtype=torch.bfloat16), tensor(*W, dtype=torch.bfloat16), None, *convs[2][:4], False, "auto"),
        ],
        "conv2d_dgrad": [
            *[(tensor(*Y), tensor(*W), X[2:], *conv[:4], last, conv[4]) for conv in convs for last in (False, True)],
            (tensor(*Y, channels_last=True), tensor(*W, grad=False), X[2:], *convs[2][:4], True, "auto"),
        ],
        "conv2d_wgrad": [
            *[
                (tensor(*Y), tensor(*X), W[2:], *c[:4], bias, last, c[4])
                for c in convs
                for bias, last in ((True, False), (False, True))
            ],
            (tensor(*Y, channels_last=True), tensor(*X, grad=False), W[2:], *convs[2][:4], True, True, "auto"),
        ],
        "conv2d_bias_relu_max_pool2d": [
            *[
                (tensor(*X), tensor(*W), tensor(6), *conv[:4], [2, 3], [1, 2], [1, 1], [1, 1], True, conv[4])
                for conv in convs
            ],
            (
                tensor(*X, channels_last=True),
                tensor(*W),
                None,
                *convs[2][:4],
                [2, 2],
                [2, 2],
                [0, 0],
                [1, 1],
                False,
                "auto",
            ),
        ],
        "max_pool2d": [
            (tensor(2, 3, 7, 6, channels_last=last), *pool, ceil_mode, indices)
            for last, ceil_mode, indices in ((False, False, False), (True, False, True), (False, True, True))
        ],
        "max_pool2d_backward": [(tensor(2, 3, 4, 3), code, [7, 6], *pool, last) for last in (False, True)],
        "max_pool2d_gather": [(tensor(2, 3, 7, 6), code, *pool, last) for last in (False, True)],
        "relu": [(tensor(2, 3, 4),), (tensor(2, 3, 4, 5, channels_last=True),), (tensor(0, 3),)],
        "relu_backward": [
            (tensor(2, 3), torch.rand(2, 3)),
            (tensor(2, 3, 4, 5, channels_last=True), torch.rand(2, 3, 4, 5)),
        ],
        "unfold": [(tensor(2, 3, 7, 6), *patch), (tensor(2, 3, 7, 6, channels_last=True), *patch)],
        "fold": [(tensor(2, 18, 3, 6), [7, 6], *patch), (tensor(2, 18, 3, 6, channels_last=True), [7, 6], *patch)],
    }


SAMPLES = [(name, i) for name, lists in samples().items() for i in range(len(lists))]


def on(device: torch.device, arguments: tuple) -> tuple:
    def move(t: torch.Tensor) -> torch.Tensor:
        return t.detach().to(device).requires_grad_(t.requires_grad)

    return tuple(move(a) if isinstance(a, torch.Tensor) else a for a in arguments)


def test_every_operator_has_samples():
    registered = {
        name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("tritonconv::")
    }
    assert registered == set(samples())


@pytest.mark.parametrize(("name", "i"), SAMPLES, ids=[f"{name}-{i}" for name, i in SAMPLES])
def test_opcheck(name, i, device):
    torch.library.opcheck(getattr(ops, name).default, on(device, samples()[name][i]))


@pytest.mark.parametrize(("name", "i"), SAMPLES, ids=[f"{name}-{i}" for name, i in SAMPLES])
def test_fake_outputs_look_like_the_real_ones(name, i, device):
    """Shape, strides and dtype, learned without data."""
    arguments = on(device, samples()[name][i])
    real, fake = (getattr(ops, name)(*a) for a in (arguments, on(torch.device("meta"), arguments)))
    real, fake = ((t,) if isinstance(t, torch.Tensor) else t for t in (real, fake))
    assert [(t.shape, t.stride(), t.dtype) for t in fake] == [(t.shape, t.stride(), t.dtype) for t in real]


# --- torch.compile ---


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
    assert {"tritonconv.conv2d.default", "tritonconv.max_pool2d.default"} <= called
    torch.testing.assert_close(program.module()(x), model(x))


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


def test_autocast_leaves_the_rest_alone(device):
    x = case("plain").tensors(torch.float32, device)[0]
    with torch.autocast(device.type, torch.bfloat16):
        for ours, theirs in ((TF.relu(x), F.relu(x)), (TF.max_pool2d(x, 2), F.max_pool2d(x, 2))):
            assert ours.dtype == theirs.dtype == torch.float32
        with torch.autocast(device.type, enabled=False):
            assert TF.conv2d(*case("plain").tensors(torch.float32, device)).dtype == torch.float32
