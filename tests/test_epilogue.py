"""What follows a convolution in its kernel: scale, bias, residual, activation, pooling; and what a Sequential fuses."""

import copy

import pytest
import torch
import torch.nn.functional as F
from oracle import ALGORITHMS

import tritonconv
from tritonconv import functional as TF
from tritonconv import recording
from tritonconv.functional.conv import convolve

ops = torch.ops.tritonconv
ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "leaky_relu(0.3)": lambda x: F.leaky_relu(x, 0.3),
    "leaky_relu(0)": lambda x: F.leaky_relu(x, 0.0),
    "leaky_relu(-0.5)": lambda x: F.leaky_relu(x, -0.5),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
POOLED = ("relu", "relu6")
each_activation = pytest.mark.parametrize("name", ACTIVATIONS)
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch scripts its forward rules


# --- the table of activations ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@each_activation
def test_values_and_two_derivatives_are_torchs(name, dtype, device):
    """Around the kinks and where a quotient would cancel; kinks themselves, infinities and NaN without derivatives."""
    x = torch.cat([torch.linspace(-8, 8, 301), torch.linspace(-0.1, 0.1, 102), torch.tensor([1e-6, -1e-6, 30, -30])])
    x = x.to(device, dtype).requires_grad_()
    dy = torch.linspace(-2, 2, x.numel(), device=device).to(dtype).requires_grad_()
    found, expected = [], []
    for function, answers in ((lambda x: ops.activate(x, name), found), (ACTIVATIONS[name], expected)):
        y = function(x)
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        answers += [y, dx]
        if dtype in (torch.float64, torch.float32):
            answers += torch.autograd.grad(dx.sin().sum(), (x, dy), materialize_grads=True)
    half = dict(rtol=2e-2, atol=2e-3)  # torch rounds between its steps
    torch.testing.assert_close(found, expected, **({} if dtype.itemsize > 2 else half))


@each_activation
def test_forward_over_reverse_is_torchs(name, device):
    x = torch.linspace(-4, 4, 30, dtype=torch.float64, device=device)

    def product(function):
        gradient = torch.func.grad(lambda x: function(x).sin().sum())
        return torch.func.jvp(gradient, (x,), (x.cos(),))

    torch.testing.assert_close(product(lambda x: ops.activate(x, name)), product(ACTIVATIONS[name]))


@each_activation
def test_four_derivatives_are_torchs(name, device):
    x = torch.linspace(-4, 4, 30, dtype=torch.float64, device=device).requires_grad_()
    found, expected = ops.activate(x, name), ACTIVATIONS[name](x)
    for _ in range(4):
        found, expected = (
            torch.autograd.grad(y.sin().sum(), x, create_graph=True, materialize_grads=True)[0]
            for y in (found, expected)
        )
        torch.testing.assert_close(found, expected)


@each_activation
def test_special_values_are_torchs(name, device):
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, 3, -3, 6], device=device)
    torch.testing.assert_close(ops.activate(x, name), ACTIVATIONS[name](x), equal_nan=True)
    if name in ("relu", "relu6", "leaky_relu", "hardswish"):  # their gradients at the kinks
        x = x[3:].clone().requires_grad_()
        found, expected = (
            torch.autograd.grad(f(x).sum(), x) for f in (lambda x: ops.activate(x, name), ACTIVATIONS[name])
        )
        torch.testing.assert_close(found, expected)


# --- in a convolution ---


def chain(name, x, w, b, scale, residual, groups=2):
    y = F.conv2d(x, w, None, 1, 1, 1, groups)
    y = y if scale is None else y * scale.view(-1, 1, 1)
    y = y if b is None else y + b.view(-1, 1, 1)
    y = y if residual is None else y + residual
    return y if name is None else ACTIVATIONS[name](y)


def tensors(device) -> list[torch.Tensor]:
    shapes = ((2, 4, 5, 4), (6, 2, 3, 3), (6,), (6,), (2, 6, 5, 4))
    return [torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True) for shape in shapes]


def gradients(function, given) -> list[torch.Tensor]:
    """y, its gradients, and those of their squares."""
    y = function(*given)
    first = torch.autograd.grad(y.sin().sum(), given, create_graph=True)
    return [y, *first, *torch.autograd.grad(sum(t.square().sum() for t in first), given)]


@each_algorithm
@each_activation
def test_everything_in_a_convolution(name, algorithm, device):
    def ours(x, w, b, scale, residual):
        how = dict(scale=scale, residual=residual, activation=name, algorithm=algorithm)
        return TF.conv2d(x, w, b, 1, 1, 1, 2, **how)

    given = tensors(device)
    theirs = lambda *t: chain(name, *t)  # noqa: E731
    torch.testing.assert_close(gradients(ours, given), gradients(theirs, given))
    tangents = tuple(torch.randn_like(t) for t in given)
    torch.testing.assert_close(*(torch.func.jvp(f, tuple(given), tangents) for f in (ours, theirs)))
    stacked = [torch.stack([t, t * 2]) for t in given]
    torch.testing.assert_close(*(torch.vmap(f)(*stacked) for f in (ours, theirs)))


@pytest.mark.parametrize("absent", ["b", "scale", "residual"])
@pytest.mark.parametrize("name", [None, "leaky_relu", "silu"])
def test_something_less_in_a_convolution(name, absent, device):
    place = ["b", "scale", "residual"].index(absent) + 2
    given = tensors(device)
    given.pop(place)

    def ours(*t):
        x, w, b, scale, residual = (*t[:place], None, *t[place:])
        return TF.conv2d(x, w, b, 1, 1, 1, 2, scale=scale, residual=residual, activation=name)

    theirs = lambda *t: chain(name, *t[:place], None, *t[place:])  # noqa: E731
    torch.testing.assert_close(gradients(ours, given), gradients(theirs, given))


@each_algorithm
@pytest.mark.parametrize("name", POOLED)
def test_scale_before_a_pooling(name, algorithm, device):
    x, w, b, scale, _ = tensors(device)

    def ours(x, w, b, scale):
        conv = ([1, 1], [1] * 4, [1, 1], 2, "zeros")
        return ops.convolution_max_pool(
            x, w, b, scale, *conv, name, [2] * 2, [1] * 2, [0] * 2, [1] * 2, False, algorithm
        )[0]

    theirs = lambda *t: F.max_pool2d(chain(name, *t, None), 2, 1)  # noqa: E731
    torch.testing.assert_close(gradients(ours, [x, w, b, scale]), gradients(theirs, [x, w, b, scale]))


@each_algorithm
def test_a_dead_relu6_passes_no_gradient(algorithm, device):
    """Windows of 6 and more, of 0 and less, and between."""
    x = torch.tensor([7.0, 9, -1, 0, 6, 6, 2, 3], device=device).view(1, 1, 1, 8).requires_grad_()
    conv = (torch.ones(1, 1, 1, 1, device=device), None, None, [1, 1], [0] * 4, [1, 1], 1, "zeros")
    y, _ = ops.convolution_max_pool(x, *conv, "relu6", [1, 2], [1, 2], [0, 0], [1, 1], False, algorithm)
    assert y.flatten().tolist() == [6, 0, 6, 3]
    assert torch.autograd.grad(y.sum(), x)[0].flatten().tolist() == [0, 0, 0, 0, 0, 0, 0, 1]


def test_a_residual_of_any_strides_and_an_unbatched_one(device):
    x, w, b, _, residual = (t.detach() for t in tensors(device))
    for r in (residual.contiguous(memory_format=torch.channels_last), residual[:1].expand(2, -1, -1, -1)):
        y = TF.conv2d(x, w, b, 1, 1, 1, 2, residual=r)
        torch.testing.assert_close(y, chain(None, x, w, b, None, r))
        assert y.is_contiguous()  # the input's format, not the residual's
    y = TF.conv2d(x[0], w, b, 1, 1, 1, 2, residual=residual[0])
    torch.testing.assert_close(y, chain(None, x, w, b, None, residual)[0])


def test_a_scale_or_a_residual_that_does_not_fit(device):
    x, w, b, scale, residual = (t.detach() for t in tensors(device))
    with pytest.raises(RuntimeError, match=r"expected scale of size \[6\], but got scale of size \[5\]"):
        TF.conv2d(x, w, b, 1, 1, 1, 2, scale=scale[:5])
    with pytest.raises(RuntimeError, match=r"expected residual of size \[2, 6, 5, 4\], but got .* \[2, 6, 5, 3\]"):
        TF.conv2d(x, w, b, 1, 1, 1, 2, residual=residual[..., :3])
    with pytest.raises(RuntimeError, match=r"residual type \(torch.float32\) should be the same"):
        TF.conv2d(x, w, b, 1, 1, 1, 2, residual=residual.float())
    with pytest.raises(TypeError, match=r"argument 'scale' must be Tensor, not float"):
        TF.conv2d(x, w, b, 1, 1, 1, 2, scale=2.0)


# --- a Sequential ---

LAYERS = {
    "relu": torch.nn.ReLU(),
    "relu6": torch.nn.ReLU6(inplace=True),
    "leaky_relu": torch.nn.LeakyReLU(0.2),
    "hardswish": torch.nn.Hardswish(),
    "silu": torch.nn.SiLU(),
    "gelu": torch.nn.GELU(),
    "gelu_tanh": torch.nn.GELU("tanh"),
    "sigmoid": torch.nn.Sigmoid(),
    "tanh": torch.nn.Tanh(),
    "identity": torch.nn.Identity(),
}
NORM = torch.nn.BatchNorm2d(4)


def model(name: str, norm: torch.nn.Module | None, pool: bool, device) -> torch.nn.Sequential:
    torch.manual_seed(1)
    layers = [torch.nn.Conv2d(3, 4, 3), *([] if norm is None else [norm]), LAYERS[name]]
    built = torch.nn.Sequential(*layers, *([torch.nn.MaxPool2d(2)] if pool else [])).double().to(device)
    if norm is not None and norm.affine:
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.uniform_(norm.bias, -1, 1)
    for _ in range(3):
        built(torch.randn(4, 3, 6, 6, dtype=torch.float64, device=device))  # a running mean and variance
    return built.eval()


def launched(call) -> list[str]:
    return [operation.operator for operation in recording.record(call, (), {}, backward=False)]


@pytest.mark.parametrize("pool", [False, True], ids=["", "pooled"])
@pytest.mark.parametrize("norm", [None, "affine", "plain"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_sequential_fuses_what_follows(name, norm, pool, device):
    norm = norm and torch.nn.BatchNorm2d(4, affine=norm == "affine")
    net = model(name, norm, pool, device)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, device=device)
    expected = net(x)
    wanted = torch.autograd.grad(expected.sin().sum(), [*net.parameters()])
    report = tritonconv.convert(net)
    assert type(net[0]) is tritonconv.nn.Conv2d
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(torch.autograd.grad(net(x).sin().sum(), [*net.parameters()]), wanted)
    length = 1 + (norm is not None) + (name != "identity") + (pool and name in POOLED)
    assert report.fused == ((tuple(map(str, range(length))),) if length > 1 else ())
    with torch.no_grad():
        assert len(launched(lambda: net(x))) == 1 + (pool and name not in POOLED)


@pytest.mark.parametrize("name", ["relu", "silu"])
def test_a_batch_norm_stays_apart_while_it_trains_or_a_gradient_is_wanted(name, device):
    """Its running averages must move; and of what a gradient reads, nothing is computed twice."""
    net = model(name, torch.nn.BatchNorm2d(4), False, device)
    assert tritonconv.convert(net).fused == (("0", "1", "2"),)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, device=device)
    assert launched(lambda: net(x)) == (["convolution", "activate"] if name == "relu" else ["convolution"])
    net.train()
    before = net[1].running_mean.clone()
    with torch.no_grad():
        net(x)
    assert not torch.equal(net[1].running_mean, before)
    (row, *_) = tritonconv.convert(net).rows
    assert row.reason.endswith("not fused: 1 normalizes by its batch while it trains")


@pytest.mark.parametrize(("name", "is_fused"), [("tanh", True), ("silu", False)])
def test_what_reads_its_input_stays_apart_where_a_gradient_is_wanted(name, is_fused, device):
    net = model(name, None, False, device)
    tritonconv.convert(net)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, device=device)
    (call, *_) = recording.record(net, (x,), {}, False)
    assert (call.arguments["activation"] is not None) is is_fused


def test_a_batch_norm_that_trains_behind_a_frozen_convolution_stays_apart(device):
    net = model("relu", torch.nn.BatchNorm2d(4), False, device)
    tritonconv.convert(net)
    net[0].requires_grad_(False)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, device=device)
    assert launched(lambda: net(x)) == ["convolution", "activate"]
    net.requires_grad_(False)
    assert launched(lambda: net(x)) == ["convolution"]


def test_explain_counts_what_torchs_layers_move_between(device):
    """Of conv, batch norm, sum and SiLU: y is written and read three times more, and SiLU's input is kept."""
    x, w, b, scale, residual = (t.detach() for t in tensors(device))
    w.requires_grad_()
    how = dict(scale=scale, residual=residual, activation="silu")
    step, *_ = tritonconv.explain(TF.conv2d, x, w, b, 1, 1, 1, 2, **how).steps
    assert step.torch_bytes == step.least_bytes + 3 * 2 * residual.nbytes
    assert (step.kept_bytes, step.torch_kept_bytes) == (0, residual.nbytes)


def test_a_batch_norm_in_another_dtype_or_under_autocast_stays_apart(device):
    net = model("relu", torch.nn.BatchNorm2d(4), False, device).float()
    tritonconv.convert(net)
    x = torch.randn(2, 3, 8, 8, device=device)
    with torch.no_grad():
        assert launched(lambda: net(x)) == ["convolution"]
        with torch.autocast(device.type, torch.bfloat16):
            assert launched(lambda: net(x)) == ["convolution", "activate"]
        net[1].double()  # which torch refuses for float32
        with pytest.raises(RuntimeError, match="type"):
            net(x)


def test_pooling_in_float32_under_autocast_stays_apart(device):
    """As torch's max_pool3d is on a CPU."""
    net = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 2), torch.nn.ReLU(), torch.nn.MaxPool3d(2)).to(device)
    ours = copy.deepcopy(net)
    tritonconv.convert(ours)
    x = torch.randn(1, 2, 5, 5, 5, device=device)
    assert launched(lambda: ours(x)) == ["convolution_max_pool"]
    with torch.autocast(device.type, torch.bfloat16):
        assert launched(lambda: ours(x)) == ["convolution", "max_pool"]
        assert ours(x).dtype == net(x).dtype


@pytest.mark.parametrize("norm", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_a_batch_norm_is_not_rounded_to_16_bits(seed, norm, device):
    """Far from 0 its shift is large: fused is as near to the right answer as torch, which rounds between."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Conv2d(8, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    net[1].running_mean.normal_(0, 10)
    net[1].running_var.uniform_(0.01, 1)
    net.to(device, torch.bfloat16)[1].to(norm)
    x = torch.randn(2, 8, 8, 8, device=device, dtype=torch.bfloat16)
    right, ours = copy.deepcopy(net).double(), copy.deepcopy(net)
    tritonconv.convert(ours)
    with torch.no_grad():
        assert launched(lambda: ours(x)) == ["convolution"] and ours(x).dtype == net(x).dtype
        far, farther = ((y.double() - right(x.double())).abs() for y in (ours(x), net(x)))
    assert far.mean() <= farther.mean() and far.max() <= 1.5 * farther.max()


@pytest.mark.parametrize("pool", [False, True], ids=["", "pooled"])
def test_a_scale_of_32_bits_beside_images_of_16(pool, device):
    """With gradients of its own dtype; the bias goes with it."""
    x, w = (torch.randn(s, device=device, dtype=torch.bfloat16) for s in ((2, 4, 5, 4), (6, 4, 3, 3)))
    scale, b = torch.rand(6, device=device), torch.randn(6, device=device)
    given = [t.requires_grad_() for t in (x, w, b, scale)]
    window = ((2, 2), (2, 2), (0, 0), (1, 1), False) if pool else None

    def ours(x, w, b, scale):
        return convolve("conv2d", 2, x, w, b, 1, 1, 1, 1, "zeros", "auto", "relu", window, scale)

    def theirs(*tensors):
        y = chain("relu", *tensors, None, groups=1)
        return F.max_pool2d(y, 2) if pool else y

    y, expected = ours(*given), theirs(*(t.double() for t in given))
    dy = torch.randn_like(y)
    found, wanted = torch.autograd.grad(y, given, dy), torch.autograd.grad(expected, given, dy.double())
    assert y.dtype == torch.bfloat16 and [t.dtype for t in found] == [t.dtype for t in given]
    for one, other in zip((y, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=0.03, atol=0.03 * other.abs().max().item())
    with pytest.raises(RuntimeError, match=r"scale type \(torch.float32\) and bias type \(torch.bfloat16\)"):
        ours(x, w, b.bfloat16(), scale)


@pytest.mark.parametrize(("batch", "channels", "size"), [(2, 1, 4), (2, 3, 1), (1, 1, 4), (0, 3, 4), (2, 3, 4)])
@pytest.mark.parametrize("pool", [False, True], ids=["", "pooled"])
def test_what_is_contiguous_and_channels_last_is_contiguous_behind_an_activation(batch, channels, size, pool, device):
    """As in torch, whose next convolution then answers in NCHW. Strides of size-1 axes count."""
    net = torch.nn.Sequential(torch.nn.Conv2d(4, channels, 1), torch.nn.ReLU(), *[torch.nn.MaxPool2d(1)] * pool)
    net.to(device, memory_format=torch.channels_last)
    x = torch.randn(batch, 4, size, size, device=device).to(memory_format=torch.channels_last)
    y, before = net(x), net[0](x).detach()
    tritonconv.convert(net)
    assert net(x).stride() == y.stride()
    assert batch == 0 or net[0](x).stride() == before.stride()
    assert ops.activate(before, "relu").stride() == net[1](before).stride() == F.relu(before).stride()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_batch_norm_of_an_unbatched_input_is_torchs(rank, device):
    """Along one axis it takes the convolution's channels for a batch and its pixels for channels; else it raises."""
    conv, norm = getattr(torch.nn, f"Conv{rank}d"), getattr(torch.nn, f"BatchNorm{rank}d")
    net = torch.nn.Sequential(conv(3, 4, 3), norm(4), torch.nn.ReLU()).to(device).eval()
    net[1].running_mean.copy_(torch.arange(4.0))
    x = torch.randn(3, *[6] * rank, device=device)
    ours = copy.deepcopy(net)
    assert tritonconv.convert(ours).fused
    with torch.no_grad():
        if rank == 1:
            torch.testing.assert_close(ours(x), net(x))
        else:
            with pytest.raises(ValueError, match=f"expected {rank + 2}D input"):
                ours(x)


@pytest.mark.parametrize("member", [1, 2])
def test_a_hook_on_what_follows_is_met(member, device):
    net = model("silu", torch.nn.BatchNorm2d(4), False, device)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, device=device)
    expected = net(x)
    tritonconv.convert(net)
    seen = []
    net[member].register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected)
    assert len(seen) == 1
