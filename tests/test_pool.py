"""max_pool2d and relu: torch's values, indices, gradients and memory format, and what torch gets wrong."""

import math

import pytest
import torch
import torch.nn.functional as F
from oracle import along, assert_close_to_oracle

from tritonconv import functional as TF
from tritonconv.checks import DTYPES

NAN, INF = float("nan"), float("inf")

POOLS = {
    "2x2": dict(kernel_size=2),
    "3x2, the axes differ": dict(kernel_size=(3, 2), stride=(2, 3), padding=(1, 0), dilation=(1, 2)),
    "overlap": dict(kernel_size=3, stride=1, padding=1),
    "gaps": dict(kernel_size=2, stride=3),
    "ceil": dict(kernel_size=2, stride=2, ceil_mode=True),
    "ceil, last window would start in the padding": dict(kernel_size=2, stride=3, padding=1, ceil_mode=True),
    "dilated": dict(kernel_size=3, stride=1, dilation=2, padding=1),
    "stride longer than the window's step": dict(kernel_size=2, stride=(3, 1), dilation=2),
    "1x1": dict(kernel_size=1),
    "whole picture": dict(kernel_size=(9, 8)),
    "stride given as []": dict(kernel_size=2, stride=[]),
}
by_pool = pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)


def tied(*shape: int) -> torch.Tensor:
    """Whole numbers with many equal ones: sums of gradients are exact and ties decide."""
    return torch.randint(-3, 4, shape).float()


def assert_same_as_torch(x: torch.Tensor, pool: dict, rank: int = 2) -> None:
    """Value, index and gradient, bit for bit, and the strides of all three."""
    ours, theirs = x.detach().requires_grad_(), x.detach().requires_grad_()
    pool = {name: along(value, rank) for name, value in pool.items()} | {"return_indices": True}
    y, index = getattr(TF, f"max_pool{rank}d")(ours, **pool)
    expected, expected_index = getattr(F, f"max_pool{rank}d")(theirs, **pool)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True, check_stride=True)
    torch.testing.assert_close(index, expected_index, rtol=0, atol=0, check_stride=True)
    dy = tied(*y.shape).to(y)
    (dx,), (expected_dx,) = torch.autograd.grad(y, ours, dy), torch.autograd.grad(expected, theirs, dy)
    torch.testing.assert_close(dx, expected_dx, rtol=0, atol=0, check_stride=True)


@by_pool
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_as_torch(pool, dtype, device):
    assert_same_as_torch(tied(2, 3, 9, 8).to(device, dtype), pool)


@by_pool
@pytest.mark.parametrize("shape", [(2, 3, 8), (3, 8), (2, 3, 5, 6, 7), (3, 5, 6, 7)], ids=str)
def test_same_as_torch_along_one_and_three_axes(pool, shape, device):
    rank = 1 if len(shape) < 4 else 3
    if rank == 3 and pool["kernel_size"] == (9, 8):
        pool = dict(kernel_size=(5, 6, 7))
    assert_same_as_torch(tied(*shape).to(device), pool, rank)


def test_channels_last_along_three_axes(device):
    x = tied(2, 3, 7, 9, 8).to(device).contiguous(memory_format=torch.channels_last_3d)
    assert_same_as_torch(x, dict(kernel_size=(3, 2), stride=(2, 3), padding=(1, 0)), 3)


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "sliced": lambda x: x.repeat(1, 1, 2, 2)[:, :, ::2, 1::2],
    "expanded": lambda x: x[:, :1].expand_as(x),
    "unbatched": lambda x: x[0],
    "N=0": lambda x: x[:0],
    "N=1": lambda x: x[:1],
    "C=1": lambda x: x[:, :1].contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("pool", [POOLS["3x2, the axes differ"], POOLS["overlap"]], ids=["3x2", "overlap"])
def test_layout(pool, layout, device):
    assert_same_as_torch(layout(tied(2, 3, 9, 8)).to(device), pool)


@by_pool
def test_infinities_and_nan(pool, device):
    """A third of −inf, some +inf, some NaN: a window of −inf alone, of two NaN, of NaN and +inf all occur."""
    x = torch.tensor([-INF, -INF, 0.0, 1.0, INF, NAN])[torch.randint(6, (3, 4, 9, 8))]
    x[0] = -INF
    x[1, 0] = NAN
    assert_same_as_torch(x.to(device), pool)


def test_nan_wins(device):
    x = torch.tensor([[1.0, NAN], [INF, 2.0]], device=device, requires_grad=True)
    y, index = TF.max_pool2d(x[None, None], 2, return_indices=True)
    assert y.isnan().all() and index.item() == 1
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [[0, 1], [0, 0]]


def test_first_of_equals_wins(device):
    x = torch.tensor([[1.0, 2.0], [2.0, 2.0]], device=device, requires_grad=True)
    y, index = TF.max_pool2d(x[None, None], 2, return_indices=True)
    assert index.item() == 1
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [[0, 1], [0, 0]]


def test_window_of_minus_infinity_names_its_first_place(device):
    x = torch.full((1, 1, 2, 2), -INF, device=device, requires_grad=True)
    y, index = TF.max_pool2d(x, 2, stride=1, padding=1, return_indices=True)
    assert y.eq(-INF).all()
    assert index.flatten().tolist() == [0, 0, 1, 0, 0, 1, 2, 2, 3]
    assert torch.autograd.grad(y, x, torch.ones_like(y))[0].flatten().tolist() == [4, 2, 2, 1]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_window_wholly_in_the_padding(dtype, memory_format, device):
    """No call of torch: it answers an index outside the plane and its backward writes there.

    Places −1 and 2 of a picture of 2 × 2 pixels: the dilated window straddles it.
    """
    x = torch.ones(2, 3, 2, 2, dtype=dtype, device=device).contiguous(memory_format=memory_format).requires_grad_()
    y, index = TF.max_pool2d(x, 2, padding=1, dilation=3, return_indices=True)
    assert y.shape == (2, 3, 1, 1)
    assert y.eq(-INF).all()
    assert ((index >= 0) & (index < 4)).all()
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert dx.eq(0).all()


@pytest.mark.parametrize(
    ("kernel", "argmax_dtype"),
    [((15, 17), torch.uint8), ((16, 16), torch.int32), ((2, 150), torch.int32)],
    ids=["255 places", "256 places", "300 places"],
)
def test_many_places(kernel, argmax_dtype, device):
    """One byte names 255 places; the winner of each window is its last place."""
    H, W = kernel[0] + 1, kernel[1] + 2
    x = torch.arange(float(H * W), device=device).reshape(1, 1, H, W)
    assert_same_as_torch(x, dict(kernel_size=kernel, stride=1))
    assert saved_by(lambda t: TF.max_pool2d(t, kernel, stride=1), x) == {((1, 1, 2, 3), argmax_dtype)}


@pytest.mark.parametrize("kernel", [(15, 17), (16, 17)], ids=["one byte", "four bytes"])
def test_windows_without_a_place_pass_no_gradient(kernel, device):
    """Their argmax is the number after the last place, which a pixel just past the window's last row must not match."""
    places = kernel[0] * kernel[1]
    argmax = torch.full((1, 1, 4, 4), places, device=device, dtype=torch.uint8 if places < 256 else torch.int32)
    dy = torch.ones(1, 1, 4, 4, device=device)
    window = (kernel, (3, 3), (0, 0), (1, 1))
    dx = torch.ops.tritonconv.max_pool_backward(dy, argmax, (26, 27), *window, False)
    assert dx.eq(0).all()


def saved_by(function, x: torch.Tensor) -> set[tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor that autograd keeps for backward, but for an empty one."""
    saved: set = set()

    def pack(t: torch.Tensor) -> torch.Tensor:
        saved.update({(tuple(t.shape), t.dtype)} if t.numel() else ())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(x.detach().requires_grad_())
    return saved


def test_backward_keeps_one_byte_a_window(device):
    x = tied(2, 3, 8, 8).to(device)
    assert saved_by(lambda t: TF.max_pool2d(t, 2), x) == {((2, 3, 4, 4), torch.uint8)}
    assert saved_by(lambda t: TF.max_pool2d(t, 2, return_indices=True), x) == {((2, 3, 4, 4), torch.uint8)}


def test_indices_are_made_only_when_asked_for(device, launches):
    x = tied(2, 3, 8, 8).to(device).requires_grad_()
    y = TF.max_pool2d(x, 2)
    assert isinstance(y, torch.Tensor)
    y.sum().backward()
    written = [t for _, arguments in launches for t in arguments.values() if isinstance(t, torch.Tensor)]
    assert torch.int64 not in [t.dtype for t in written]
    launches.clear()
    _, index = TF.max_pool2d(x, 2, return_indices=True)
    assert index.dtype == torch.int64 and not index.requires_grad
    assert index.data_ptr() in [t.data_ptr() for t in launches[0][1].values() if isinstance(t, torch.Tensor)]


def test_overlapping_gradients_sum_in_float32(device):
    """One bright pixel wins all nine windows: nine values of bfloat16 are added and rounded once."""
    x = torch.zeros(1, 1, 3, 3, device=device, dtype=torch.bfloat16)
    x[..., 1, 1] = 1
    x.requires_grad_()
    y = TF.max_pool2d(x, 3, stride=1, padding=1)
    dy = torch.rand(y.shape, device=device).to(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    expected = torch.zeros_like(dx)
    expected[..., 1, 1] = dy.double().sum().to(dx)
    assert torch.equal(dx, expected)


def test_expanded_gradient(device):
    x = tied(2, 3, 9, 8).to(device)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    TF.max_pool2d(ours, 3, stride=2).sum().backward()
    F.max_pool2d(theirs, 3, stride=2).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_inputs_are_not_written(device):
    x = tied(2, 3, 9, 8).to(device).requires_grad_()
    before = x.detach().clone()
    y = TF.max_pool2d(x, 2)
    dy = torch.rand_like(y)
    dy_before = dy.clone()
    y.backward(dy)
    assert torch.equal(x, before) and torch.equal(dy, dy_before)


@pytest.mark.parametrize("axis", range(4))
def test_offsets_beyond_32_bits(axis, device, monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    near = tied(3, 3, 3, 3).half().to(device)
    strides = list(near.stride())
    strides[axis] = 2**30 + 1
    far = torch.empty_strided(near.shape, strides, dtype=near.dtype, device=device).copy_(near)
    assert_same_as_torch(near, dict(kernel_size=2, stride=1))
    y, index = TF.max_pool2d(far, 2, stride=1, return_indices=True)
    expected, expected_index = F.max_pool2d(near, 2, stride=1, return_indices=True)
    assert torch.equal(y, expected) and torch.equal(index, expected_index)


# --- relu ---


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(1, 3),
        lambda x: x[:, ::2, 1:, ::3],
        lambda x: x[:, :1].expand_as(x),
        lambda x: x[:0],
        lambda x: x[0, 0, 0, 0],
        lambda x: x.flatten()[::2],
        lambda x: x.reshape(2, 1, 3, 2, 2, 7)[..., ::2].transpose(2, 4),
    ],
    ids=["dense", "channels_last", "transposed", "sliced", "expanded", "empty", "scalar", "every second", "six axes"],
)
def test_relu_is_torchs(make, dtype, device):
    """Also its strides, and at −inf, +inf, NaN, 0 and −0."""
    x = torch.randn(2, 3, 4, 7)
    x.view(-1)[:5] = torch.tensor([-INF, INF, NAN, 0.0, -0.0])
    x = make(x.to(device, dtype))
    ours, theirs = x.detach().requires_grad_(), x.detach().requires_grad_()
    y, expected = TF.relu(ours), F.relu(theirs)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True, check_stride=True)
    dy = torch.randn(y.shape).to(y)
    (dx,), (expected_dx,) = torch.autograd.grad(y, ours, dy), torch.autograd.grad(expected, theirs, dy)
    torch.testing.assert_close(dx, expected_dx, rtol=0, atol=0, equal_nan=True)


def test_axes_of_length_1_do_not_matter(device, launches):
    """Whatever their strides: what is left lies in one run."""
    TF.relu(torch.rand(3, 4, device=device).as_strided((3, 1, 4, 1), (4, 1, 1, 7)))
    assert launches[-1][1]["DENSE"]


def test_relu_in_place(device):
    x = torch.randn(2, 3, 4, device=device)
    expected = x.clamp(min=0)
    leaf = torch.randn(2, 3, 4, device=device, requires_grad=True)
    assert TF.relu(x, inplace=True) is x and torch.equal(x, expected)
    y = leaf * 1
    TF.relu(y, inplace=True).sum().backward()
    assert torch.equal(leaf.grad, (leaf > 0).float())


def test_relu_keeps_only_its_output(device):
    saved: list[torch.Tensor] = []
    x = torch.randn(2, 3, device=device, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = TF.relu(x)
    assert [t.data_ptr() for t in saved] == [y.data_ptr()]


def test_maximum_of_random_values(device):
    """Not only ties: float32 values all different, against float64."""
    x = torch.randn(2, 3, 9, 8, device=device)
    y = TF.max_pool2d(x, 3, stride=2)
    assert_close_to_oracle(y, F.max_pool2d(x, 3, stride=2), F.max_pool2d(x.double().cpu(), 3, stride=2))
    assert math.isfinite(y.sum())


# --- averages and norms ---

AVERAGES = {
    "padded": dict(kernel_size=3, stride=2, padding=1),
    "image": dict(kernel_size=(3, 2), stride=(1, 2), padding=(1, 0), count_include_pad=False),
    "a number": dict(kernel_size=2, stride=3, padding=1, divisor_override=5),
    "ceil": dict(kernel_size=2, ceil_mode=True),
    "overlap, ceil": dict(kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    "last window in the padding alone": dict(kernel_size=2, stride=3, padding=1, ceil_mode=True),
    "whole picture": dict(kernel_size=(9, 8)),
}
SHAPES = {1: (2, 3, 8), 2: (2, 3, 9, 8), 3: (2, 3, 5, 6, 5)}


def assert_pooled_as_torch(name: str, x: torch.Tensor, *arguments, **pool) -> None:
    """Value and gradient to rounding, and the strides of axes longer than 1."""

    def close(one: torch.Tensor, other: torch.Tensor) -> None:
        torch.testing.assert_close(one.squeeze(), other.squeeze(), equal_nan=True, check_stride=True)

    ours, theirs = x.detach().requires_grad_(), x.detach().requires_grad_()
    y, expected = getattr(TF, name)(ours, *arguments, **pool), getattr(F, name)(theirs, *arguments, **pool)
    close(y, expected)
    dy = torch.rand_like(y)
    (dx,), (expected_dx,) = torch.autograd.grad(y, ours, dy), torch.autograd.grad(expected, theirs, dy)
    close(dx, expected_dx)


@pytest.mark.parametrize("pool", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("rank", SHAPES)
def test_average_is_torchs(rank, pool, device):
    pool = {name: along(value, rank) for name, value in pool.items()}
    if pool["kernel_size"] == along((9, 8), rank):
        pool["kernel_size"] = SHAPES[rank][2:]
    if rank == 1:
        pool.pop("divisor_override", None)  # avg_pool1d has none
    assert_pooled_as_torch(f"avg_pool{rank}d", torch.rand(SHAPES[rank], device=device), **pool)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ["avg_pool2d", "lp_pool2d"])
def test_layout_of_a_sum(name, layout, device):
    x = layout(torch.rand(2, 3, 9, 8)).to(device)
    assert_pooled_as_torch(name, x, *([2] if name == "lp_pool2d" else []), (3, 2), stride=(2, 3), ceil_mode=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_average_is_rounded_once(dtype, device):
    """Whole numbers: the sum is exact, and one division follows."""
    x = tied(2, 3, 9, 8).to(device, dtype)
    y = TF.avg_pool2d(x, 3, 2, divisor_override=7)
    total = F.avg_pool2d(x.double().cpu(), 3, 2, divisor_override=1)
    expected = (total.to(torch.float64 if dtype == torch.float64 else torch.float32) / 7).to(dtype)
    assert torch.equal(y.cpu(), expected)


@pytest.mark.parametrize("norm", [1, 2.0, 3, 4, 2.5, 0.5, -1.0])
@pytest.mark.parametrize("rank", SHAPES)
def test_lp_norm_is_torchs(rank, norm, device):
    """Also of negative values: a power or a root that is not real is NaN."""
    x = torch.rand(SHAPES[rank], dtype=torch.float64, device=device) - 0.5
    x[: 2 if norm < 0 else 1].abs_()  # reciprocals of both signs may cancel
    pool = dict(kernel_size=along((3, 2), rank) if rank > 1 else 2, stride=4, ceil_mode=True)
    assert F.lp_pool2d(x[None].flatten(3), norm, 2).isnan().any() == (norm in (0.5, 2.5, 3))
    assert_pooled_as_torch(f"lp_pool{rank}d", x, norm, **pool)


@pytest.mark.parametrize("norm", [float("inf"), float("-inf")])
@pytest.mark.parametrize("rank", SHAPES)
def test_lp_norm_at_its_limits_is_the_largest_and_the_smallest_magnitude(rank, norm, device):
    """As torch 2.13 has it."""
    x = (torch.randperm(math.prod(SHAPES[rank])) - 30.5).reshape(SHAPES[rank]).to(device).requires_grad_()
    sign = math.copysign(1, norm)
    pools = [(TF, f"lp_pool{rank}d", x, norm), (F, f"max_pool{rank}d", sign * x.abs())]
    found, expected = (getattr(module, name)(*values, 2, ceil_mode=True) for module, name, *values in pools)
    torch.testing.assert_close(found, sign * expected, rtol=0, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x) for y in (found, sign * expected)), rtol=0, atol=0)


def test_lp_norm_says_that_its_norm_gets_no_gradient(device):
    x, norm = torch.rand(1, 1, 4, 4, device=device), torch.tensor(2.5, device=device)
    torch.testing.assert_close(TF.lp_pool2d(x, norm, 2), F.lp_pool2d(x, norm, 2))
    with pytest.raises(NotImplementedError, match="norm_type=tensor"):
        TF.lp_pool2d(x, norm.requires_grad_(), 2)


@pytest.mark.parametrize("norm", [1, 2, 3])
def test_lp_norm_of_zeros_has_no_gradient(norm, device):
    """Whatever the power of 0 would be."""
    x = torch.zeros(1, 1, 4, 4, device=device)
    x[..., 2:] = 1
    assert_pooled_as_torch("lp_pool2d", x, norm, 2)
    y = TF.lp_pool2d(x.requires_grad_(), norm, 2)
    (dx,) = torch.autograd.grad(y, x, torch.full_like(y, float("inf")))
    assert dx[..., :2].eq(0).all()


def test_lp_norm_of_half_precision_does_not_overflow(device):
    x = torch.full((1, 1, 4, 4), 300.0, device=device, dtype=torch.float16, requires_grad=True)
    y = TF.lp_pool2d(x, 2, 2)
    assert y.eq(600).all()  # 300² leaves float16
    assert torch.autograd.grad(y, x, torch.ones_like(y))[0].eq(0.5).all()
    (dx,) = torch.autograd.grad(TF.lp_pool2d(x / 40, 8, 2).sum(), x)  # 7.5⁷ leaves it too
    torch.testing.assert_close(dx, torch.full_like(dx, 4 ** (1 / 8 - 1) / 40))
