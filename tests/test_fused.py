"""conv2d_bias_relu and conv2d_bias_relu_max_pool2d: the unfused chain's numbers, without its pictures."""

import functools

import pytest
import torch
import torch.nn.functional as F
from oracle import (
    ALGORITHMS,
    Case,
    assert_all_close_to_oracle,
    case,
    double,
    peer_conv,
    reference_conv,
    value_and_gradients,
)

from tritonconv import functional as TF
from tritonconv.checks import DTYPES

by_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)

POOLS = {
    "2x2": dict(kernel_size=2),
    "3x2, padding": dict(kernel_size=(3, 2), stride=(2, 3), padding=(1, 0)),
    "overlap": dict(kernel_size=3, stride=1, padding=1),
    "gaps": dict(kernel_size=2, stride=3),
    "ceil": dict(kernel_size=2, stride=2, ceil_mode=True),
    "dilated": dict(kernel_size=2, stride=1, dilation=2),
    "1x1": dict(kernel_size=1),
}
CONVS = ("plain", "no bias", "stride (2,1)", "groups 2", "depthwise", "C_in=1", "N=0", "N=1", "unbatched", "same 4x2")


def relu_chain(conv):
    return lambda *tensors: F.relu(conv(*tensors))


def pool_chain(conv, pool: dict):
    """torch's pooling after torch's ReLU; ties and dead ReLUs fall as they do in a user's own model."""
    return lambda *tensors: F.max_pool2d(F.relu(conv(*tensors)), **pool)


def fused_relu(c: Case, algorithm: str):
    return functools.partial(TF.conv2d_bias_relu, **c.arguments, algorithm=algorithm)


def fused_pool(c: Case, pool: dict, algorithm: str = "auto"):
    renamed = {name if name == "ceil_mode" else f"pool_{name}": value for name, value in pool.items()}
    return functools.partial(TF.conv2d_bias_relu_max_pool2d, **c.arguments, **renamed, algorithm=algorithm)


def check(ours, chain, c: Case, tensors: list) -> None:
    """Three-way against float64; the chain runs on torch's convolution as peer and on the padded one as oracle."""
    oracle = chain(functools.partial(reference_conv, **c.arguments))
    peer = chain(functools.partial(peer_conv, **c.arguments))
    y = oracle(*double(tensors))
    dy = (torch.rand_like(y) - 0.5).to(tensors[0])
    truth = value_and_gradients(oracle, double(tensors), *double([dy]))
    found, theirs = (value_and_gradients(function, tensors, dy) for function in (ours, peer))
    assert_all_close_to_oracle(ours.keywords["algorithm"], found, theirs, truth)


@by_algorithm
@pytest.mark.parametrize("name", CONVS)
def test_conv2d_bias_relu(name, algorithm, device):
    c = case(name)
    check(fused_relu(c, algorithm), relu_chain, c, c.tensors(torch.float32, device))


@by_algorithm
@pytest.mark.parametrize("name", CONVS)
def test_conv2d_bias_relu_max_pool2d(name, algorithm, device):
    c, pool = case(name), POOLS["2x2"]
    check(fused_pool(c, pool, algorithm), functools.partial(pool_chain, pool=pool), c, c.tensors(torch.float32, device))


@by_algorithm
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_every_kind_of_pool(pool, algorithm, device):
    c = case("plain")
    check(fused_pool(c, pool, algorithm), functools.partial(pool_chain, pool=pool), c, c.tensors(torch.float32, device))


@by_algorithm
@pytest.mark.parametrize("pool", [None, POOLS["overlap"]], ids=["relu", "overlap"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bit_equal_to_the_unfused_chain(dtype, pool, algorithm, device):
    """Our own convolution, then torch's ReLU and pooling, in the same dtype: in bf16 neighbours round to equal values
    and the first of them must win. Values, and with whole dy the gradients, bit for bit.
    """
    c = Case("many pixels", "with 8 bits of fraction, a hundred values meet often", N=1, C_in=2, H=9, W=10, padding=1)
    tensors = c.tensors(dtype, device)
    conv = functools.partial(TF.conv2d, **c.arguments, algorithm=algorithm)
    chain = relu_chain(conv) if pool is None else pool_chain(conv, pool)
    ours = fused_relu(c, algorithm) if pool is None else fused_pool(c, pool, algorithm)
    dy = torch.randint(-2, 3, tuple(chain(*tensors).shape)).to(tensors[0])
    expected, got = value_and_gradients(chain, tensors, dy), value_and_gradients(ours, tensors, dy)
    assert all(torch.equal(got[key], expected[key]) for key in expected)


@by_algorithm
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_fall_as_in_torch(dtype, algorithm, device):
    """Small whole numbers: every sum is exact, many windows are tied, and torch's whole chain must be met exactly."""
    c, pool = case("plain"), POOLS["overlap"]
    tensors = [(3 * t).round() for t in c.tensors(dtype, device)]
    chain = pool_chain(functools.partial(peer_conv, **c.arguments), pool)
    dy = torch.randint(-2, 3, tuple(chain(*tensors).shape)).to(tensors[0])
    expected = value_and_gradients(chain, tensors, dy)
    got = value_and_gradients(fused_pool(c, pool, algorithm), tensors, dy)
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=0, atol=0, msg=key)


@by_algorithm
@pytest.mark.parametrize("pool", [None, POOLS["2x2"]], ids=["relu", "2x2"])
def test_dead_relu_passes_no_gradient(pool, algorithm, device):
    """The bias makes every output of channel 0 negative, and of channel 1 exactly 0."""
    c = case("plain")
    x, w, b = c.tensors(torch.float32, device)
    w[:2] = 0
    b[0], b[1] = -1, 0
    ours = fused_relu(c, algorithm) if pool is None else fused_pool(c, pool, algorithm)
    result = value_and_gradients(ours, [x, w, b])
    assert result["y"][:, :2].eq(0).all()
    assert result["dw"][:2].eq(0).all() and result["db"][:2].eq(0).all()
    assert result["dw"][2:].ne(0).any()


@by_algorithm
def test_nan_and_infinity_pass_through(algorithm, device):
    c, pool = case("plain"), POOLS["2x2"]
    x, w, b = c.tensors(torch.float32, device)
    x[0, 0, 3, 3], x[1, 2, 0, 0] = float("nan"), float("inf")
    chain = pool_chain(functools.partial(F.conv2d, **c.arguments), pool)
    expected, got = (value_and_gradients(f, [x, w, b]) for f in (chain, fused_pool(c, pool, algorithm)))
    assert torch.equal(got["y"].isnan(), expected["y"].isnan())
    assert torch.equal(got["y"].isinf(), expected["y"].isinf())
    assert torch.equal(got["db"], expected["db"])  # the gradient passes


@by_algorithm
def test_window_wholly_in_the_padding(algorithm, device):
    """No call of torch. Places −1 and 2 of a 2 × 2 picture: −inf, and no gradient to anyone."""
    c = Case("1x1", "the convolution keeps the picture", R=1, S=1, H=2, W=2)
    tensors = c.tensors(torch.float32, device)
    result = value_and_gradients(fused_pool(c, dict(kernel_size=2, padding=1, dilation=3), algorithm), tensors)
    assert result["y"].shape == (2, 4, 1, 1) and result["y"].eq(-float("inf")).all()
    assert all(result[key].eq(0).all() for key in ("dx", "dw", "db"))


@by_algorithm
@pytest.mark.parametrize("which", ["x", "w", "all"])
@pytest.mark.parametrize("pool", [None, POOLS["2x2"]], ids=["relu", "2x2"])
def test_memory_format_follows_torch(pool, which, algorithm, device):
    c = case("plain")
    x, w, b = c.tensors(torch.float32, device)
    x = x.contiguous(memory_format=torch.channels_last) if which != "w" else x
    w = w.contiguous(memory_format=torch.channels_last) if which != "x" else w
    conv = functools.partial(F.conv2d, **c.arguments)
    expected = value_and_gradients(relu_chain(conv) if pool is None else pool_chain(conv, pool), [x, w, b])
    ours = fused_relu(c, algorithm) if pool is None else fused_pool(c, pool, algorithm)
    got = value_and_gradients(ours, [x, w, b])
    assert {key: t.stride() for key, t in got.items()} == {key: t.stride() for key, t in expected.items()}


# --- what is stored, and how often the picture is walked ---


def saved_by(function, tensors: list) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What is kept for backward beside the arguments, but for an empty tensor, and the result."""
    saved: list[torch.Tensor] = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        saved.append(t)
        return t

    leaves = [t.detach().requires_grad_() for t in tensors]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(*leaves)
    known = {t.data_ptr() for t in leaves}
    return [t for t in saved if t.numel() and t.data_ptr() not in known], y


@pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm"])
def test_pooled_backward_keeps_one_byte_an_output(algorithm, device):
    c = case("plain")  # y of (2, 4, 5, 4), pooled to (2, 4, 2, 2)
    (argmax,), _ = saved_by(fused_pool(c, POOLS["2x2"], algorithm), c.tensors(torch.float32, device))
    assert (argmax.shape, argmax.dtype) == ((2, 4, 2, 2), torch.uint8)


@pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm"])
def test_relu_backward_keeps_nothing_beside_inputs_and_output(algorithm, device):
    c = case("plain")
    saved, y = saved_by(fused_relu(c, algorithm), c.tensors(torch.float32, device))
    assert [t.data_ptr() for t in saved] == [y.data_ptr()]


@pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm"])
@pytest.mark.parametrize("pool", [None, POOLS["2x2"]], ids=["relu", "2x2"])
def test_forward_is_one_kernel(pool, algorithm, device, launches):
    """And no tensor that it is given has the size of the unpooled image, (2, 4, 5, 4)."""
    c = case("plain")
    ours = fused_relu(c, algorithm) if pool is None else fused_pool(c, pool, algorithm)
    ours(*c.tensors(torch.float32, device))
    assert [name for name, _ in launches] == [f"{algorithm}_forward_kernel"]
    if pool is not None:
        tensors = [t for t in launches[0][1].values() if isinstance(t, torch.Tensor)]
        assert max(t.numel() for t in tensors if t.shape[:2] == (2, 4)) == 2 * 4 * 2 * 2


@by_algorithm
@pytest.mark.parametrize("wanted", ["x", "w", "b"])
def test_only_the_gradients_asked_for_are_computed(wanted, algorithm, device, launches):
    c = case("plain")
    tensors = dict(zip("xwb", c.tensors(torch.float32, device), strict=True))
    tensors[wanted].requires_grad_()
    y = fused_pool(c, POOLS["2x2"], algorithm)(*tensors.values())
    launches.clear()
    y.sum().backward()
    passes = " ".join(name for name, _ in launches)
    assert ("dgrad" in passes) == (wanted == "x")
    assert ("wgrad" in passes) == (wanted == "w")


def test_more_places_than_a_byte_names(device):
    c = Case("1x1", "a pool of 272 places", N=1, C_in=1, C_out=2, H=17, W=18, R=1, S=1)
    pool = dict(kernel_size=(16, 17), stride=1)
    check(fused_pool(c, pool), functools.partial(pool_chain, pool=pool), c, c.tensors(torch.float32, device))
    (argmax,), _ = saved_by(fused_pool(c, pool), c.tensors(torch.float32, device))
    assert argmax.dtype == torch.int32
