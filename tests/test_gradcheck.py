"""First and second derivatives against finite differences, in float64."""

import pytest
import torch
import torch.nn.functional as F
from oracle import ALGORITHMS, Case

from tritonconv import functional as TF

TINY = (
    Case("bias", "all three gradients", N=2, C_in=1, H=3, W=2, C_out=2, R=2, S=2, padding=1),
    Case(
        "stride and dilation",
        "they share no factor",
        N=1,
        C_in=1,
        H=5,
        W=6,
        C_out=2,
        R=2,
        S=2,
        stride=(2, 3),
        dilation=(3, 2),
    ),
    Case("groups", "two channels a group", N=1, C_in=4, H=3, W=3, C_out=2, R=2, S=2, groups=2, padding=(1, 0)),
    Case("depthwise", "with a multiplier, no bias", N=1, C_in=2, H=3, W=3, C_out=4, R=2, S=2, groups=2, bias=False),
    Case("unbatched", "'same' with an even filter", N=None, C_in=1, H=3, W=4, C_out=2, R=2, S=2, padding="same"),
)
POOLS = (
    dict(kernel_size=2),
    dict(kernel_size=(3, 2), stride=(1, 2), padding=1),
    dict(kernel_size=2, stride=1, dilation=2),
    dict(kernel_size=3, stride=2, ceil_mode=True),
)
PATCHES = (dict(kernel_size=2, stride=(1, 2), padding=1), dict(kernel_size=(1, 2), dilation=(1, 2)))

by_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
each_case = pytest.mark.parametrize(
    ("c", "algorithm"),
    [*((c, "auto") for c in TINY if c is not TINY[1]), *((TINY[1], algorithm) for algorithm in ALGORITHMS)],
    ids=str,
)


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["along a direction", "every entry"])
def check(request):
    """gradcheck and gradgradcheck: along a random direction, which a wrong entry turns too, or entry by entry."""

    def run(function, *tensors: torch.Tensor | None) -> None:
        leaves = [None if t is None else t.requires_grad_() for t in tensors]
        assert torch.autograd.gradcheck(function, leaves, fast_mode=request.param)
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=request.param)

    return run


def distinct(*shape: int, device) -> torch.Tensor:
    """A shuffle of values 0.1 apart, none within 0.05 of 0: a step of 1e-6 crosses no kink of ReLU or maximum."""
    n = torch.Size(shape).numel()
    return ((torch.randperm(n) - n // 2 + 0.5) / 10).reshape(shape).to(device, torch.float64)


@each_case
def test_conv2d(c, algorithm, device, check):
    check(lambda *t: TF.conv2d(*t, **c.arguments, algorithm=algorithm), *c.tensors(torch.float64, device))


@each_case
def test_conv_transpose2d(c, algorithm, device, check):
    _, w, _ = c.tensors(torch.float64, device)
    batch = () if c.N is None else (c.N,)
    x = torch.rand(*batch, c.C_out, 3, 2, dtype=torch.float64, device=device) - 0.5
    b = torch.rand(c.C_in, dtype=torch.float64, device=device) if c.bias else None
    arguments = {**c.arguments, "padding": 1, "output_padding": 1 if c.name == "stride and dilation" else 0}
    check(lambda *t: TF.conv_transpose2d(*t, **arguments, algorithm=algorithm), x, w, b)


def away_from_kinks(c: Case, device) -> list:
    """Small weights and a bias of ±1: about half of the channels are dead everywhere, none is near 0."""
    x, w, _ = c.tensors(torch.float64, device)
    b = torch.ones(c.C_out, dtype=torch.float64, device=device)
    b[::2] = -1
    return [x, w / 10, b]


@by_algorithm
def test_conv2d_bias_relu(algorithm, device, check):
    c = TINY[0]
    check(lambda *t: TF.conv2d_bias_relu(*t, **c.arguments, algorithm=algorithm), *away_from_kinks(c, device))


@by_algorithm
@pytest.mark.parametrize("pool", [POOLS[0], POOLS[1]], ids=str)
def test_conv2d_bias_relu_max_pool2d(pool, algorithm, device, check):
    c = Case("fused", "a picture with several windows", N=1, C_in=2, H=5, W=4, C_out=2, R=2, S=2, padding=1)
    pool = {f"pool_{name}": value for name, value in pool.items()}

    def fused(*t):
        return TF.conv2d_bias_relu_max_pool2d(*t, **c.arguments, **pool, algorithm=algorithm)

    check(fused, *away_from_kinks(c, device))


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_max_pool2d(pool, device, check):
    check(lambda x: TF.max_pool2d(x, **pool), distinct(2, 2, 4, 5, device=device))


AVERAGES = (
    dict(kernel_size=(3, 2), stride=(1, 2), padding=1),
    dict(kernel_size=2, ceil_mode=True, count_include_pad=False),
    dict(kernel_size=3, stride=2, padding=1, divisor_override=2),
)


@pytest.mark.parametrize("pool", AVERAGES, ids=str)
def test_avg_pool2d(pool, device, check):
    check(lambda x: TF.avg_pool2d(x, **pool), distinct(2, 2, 4, 5, device=device))


@pytest.mark.parametrize("norm", [1, 2, 3, 2.5])
def test_lp_pool2d(norm, device, check):
    check(lambda x: TF.lp_pool2d(x, norm, (3, 2), 2, True), distinct(2, 2, 4, 5, device=device).abs())


@pytest.mark.parametrize("size", [(3, 7), 1])
def test_adaptive_max_pool2d(size, device, check):
    check(lambda x: TF.adaptive_max_pool2d(x, size), distinct(2, 2, 4, 5, device=device))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
def test_interpolate(mode, device, check):
    check(lambda x: TF.interpolate(x, size=(3, 7), mode=mode), distinct(2, 2, 4, 5, device=device))


def test_relu(device, check):
    check(TF.relu, distinct(2, 3, 4, device=device))


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_unfold(patch, device, check):
    check(lambda x: TF.unfold(x, **patch), distinct(2, 2, 3, 4, device=device))


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_fold(patch, device, check):
    columns = TF.unfold(distinct(2, 2, 3, 4, device=device), **patch)
    check(lambda t: TF.fold(t, (3, 4), **patch), columns.detach())


# --- second gradients: torch's values whatever the strides, and the memory format ---

POOL = dict(pool_kernel_size=2, pool_stride=1)
CHAINS = {
    "conv2d": (TF.conv2d, F.conv2d),
    "conv2d_bias_relu": (TF.conv2d_bias_relu, lambda *t, **k: F.relu(F.conv2d(*t, **k))),
    "conv2d_bias_relu_max_pool2d": (
        lambda *t, **k: TF.conv2d_bias_relu_max_pool2d(*t, **k, **POOL),
        lambda *t, **k: F.max_pool2d(F.relu(F.conv2d(*t, **k)), 2, 1),
    ),
    "conv2d and max_pool2d": (
        lambda *t, **k: TF.max_pool2d(TF.conv2d(*t, **k), 2, 1),
        lambda *t, **k: F.max_pool2d(F.conv2d(*t, **k), 2, 1),
    ),
}
LAYOUTS = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(0, 3).contiguous().transpose(0, 3),
    "expanded": lambda t: t[:1].expand_as(t),
}


def second_gradients(chain, tensors: list, dy: torch.Tensor, gradients: list) -> tuple[torch.Tensor, ...]:
    """dx, dw, db, then the gradients of ⟨(dx, dw, db), gradients⟩ by x, w and dy."""
    x, w, b, dy = (t.detach().requires_grad_() for t in (*tensors, dy))
    first = torch.autograd.grad(chain(x, w, b, stride=(2, 1), padding=1, groups=2), (x, w, b), dy, create_graph=True)
    return *first, *torch.autograd.grad(first, (x, w, dy), gradients, materialize_grads=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["x", "w", "dy", "dx", "dw"])
@pytest.mark.parametrize("chain", CHAINS)
def test_second_gradients_in_any_strides(chain, which, layout, device):
    """Whole numbers: equal to torch's whatever the order of the sums."""

    def whole(*shape: int) -> torch.Tensor:
        return torch.randint(-3, 4, shape, device=device).double()

    ours, theirs = CHAINS[chain]
    sizes = {"x": (2, 4, 7, 6), "w": (6, 2, 3, 3), "dx": (2, 4, 7, 6), "dw": (6, 2, 3, 3)}
    values = {name: whole(*shape) for name, shape in sizes.items()} | {"b": whole(6), "db": whole(6)}
    values["dy"] = whole(*theirs(values["x"], values["w"], None, stride=(2, 1), padding=1, groups=2).shape)
    values[which] = LAYOUTS[layout](values[which])
    x, w, b, dy, dx, dw, db = (values[name] for name in ("x", "w", "b", "dy", "dx", "dw", "db"))
    found = second_gradients(ours, [x, w, b], dy, [dx, dw, db])
    expected = second_gradients(theirs, [x, w, b], dy, [dx, dw, db])
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("which", ["x", "w"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("chain", CHAINS)
def test_second_gradients_keep_the_memory_format(chain, channels_last, which, device):
    """The rule of the convolution itself: channels_last where its input or filter is."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    tensors = [torch.rand(*shape, device=device) for shape in ((2, 4, 7, 6), (6, 2, 3, 3), (6,))]
    dy = torch.rand_like(CHAINS[chain][1](*tensors, stride=(2, 1), padding=1, groups=2))
    index = "xw".index(which)
    tensors[index] = tensors[index].contiguous(memory_format=layout)
    gradients = [torch.rand_like(t) for t in tensors]
    for t in second_gradients(CHAINS[chain][0], tensors, dy, gradients):
        assert t.dim() == 1 or t.is_contiguous(memory_format=layout)
