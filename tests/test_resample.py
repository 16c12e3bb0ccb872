"""Interpolation and adaptive averages: torch's values, gradients and memory format, and where torch is not itself."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import tritonconv
from tritonconv import functional as TF
from tritonconv.checks import DTYPES
from tritonconv.kernels import resample, tables

SHAPES = {1: (2, 3, 7), 2: (2, 3, 7, 6), 3: (2, 3, 4, 7, 6)}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
SIZES = {
    "larger": dict(size=(9, 11, 13)),
    "smaller": dict(size=(3, 4, 2)),
    "one pixel": dict(size=(1, 1, 1)),
    "as it is": dict(size=(4, 7, 6)),
    "doubled": dict(scale_factor=2.0),
    "by a scale whose sizes are not": dict(scale_factor=(2.6, 0.7, 1.9)),
    "the ratio computed anew": dict(scale_factor=(2.6, 0.7, 1.9), recompute_scale_factor=True),
}


def of_rank(how: dict, rank: int) -> dict:
    return {k: v[3 - rank :] if isinstance(v, tuple) else v for k, v in how.items()}


def assert_as_torch(name: str, x: torch.Tensor, *arguments, **how) -> None:
    """Value and gradient, and the strides of the value."""
    ours, theirs = x.detach().requires_grad_(), x.detach().requires_grad_()
    y, expected = getattr(TF, name)(ours, *arguments, **how), getattr(F, name)(theirs, *arguments, **how)
    torch.testing.assert_close(y.squeeze(), expected.squeeze(), check_stride=True)
    dy = torch.rand(y.shape, dtype=y.dtype, device=y.device)
    (dx,), (expected_dx,) = torch.autograd.grad(y, ours, dy), torch.autograd.grad(expected, theirs, dy)
    torch.testing.assert_close(dx, expected_dx)


@pytest.mark.parametrize("how", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area", "linear", "align_corners"])
@pytest.mark.parametrize("rank", SHAPES)
def test_mode_is_torchs(rank, mode, how, device):
    if mode in ("linear", "align_corners"):
        how = {**how, "align_corners": mode == "align_corners"}
        mode = LINEAR[rank]
    x = torch.rand(SHAPES[rank], dtype=torch.float64, device=device)
    assert_as_torch("interpolate", x, mode=mode, **of_rank(how, rank))


@pytest.mark.parametrize("how", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["bicubic", "antialiased bilinear", "antialiased bicubic", "lanczos"])
def test_mode_of_an_image_is_torchs(mode, align_corners, how, device):
    """Antialiased axis by axis: where one grows and one shrinks torch's answer depends on the memory format."""
    x = torch.rand(2, 3, 7, 6, dtype=torch.float64, device=device)
    how = {"mode": mode.split()[-1], "align_corners": align_corners, **of_rank(how, 2)}
    if mode == "bicubic":
        return assert_as_torch("interpolate", x, **how)
    how["antialias"] = True
    if mode == "lanczos" and align_corners:
        return None
    x = x.contiguous(memory_format=torch.channels_last)  # torch's other path is wrong in such a case
    assert_as_torch("interpolate", x, **how)
    return None


@pytest.mark.parametrize("how", [dict(mode="bilinear"), dict(mode="bicubic", antialias=True)])
def test_a_scale_that_leaves_the_size_leaves_the_image(how, device):
    x = torch.rand(2, 3, 7, 6, dtype=torch.float64, device=device)
    for f in (TF, F):
        torch.testing.assert_close(f.interpolate(x, scale_factor=(1.1, 1.15), **how), x)


@pytest.mark.parametrize("size", [1, 3, 9, (None, 4), (4, None), (7, 6), [2, 8]], ids=str)
def test_adaptive_average_is_torchs(size, device):
    x = torch.rand(2, 3, 7, 6, dtype=torch.float64, device=device)
    assert_as_torch("adaptive_avg_pool2d", x, size)
    assert_as_torch("adaptive_avg_pool2d", x[0], size)
    three = (size, size, size) if isinstance(size, int) else (3, *size)
    assert_as_torch("adaptive_avg_pool3d", torch.rand(2, 3, 4, 7, 6, dtype=torch.float64, device=device), three)
    if isinstance(size, int):
        assert_as_torch("adaptive_avg_pool1d", x[0], size)


def assert_maxima_as_torch(x: torch.Tensor, size, rank: int = 2) -> None:
    """Value, index and gradient, bit for bit, and the value's strides."""
    ours, theirs = x.detach().requires_grad_(), x.detach().requires_grad_()
    y, index = getattr(TF, f"adaptive_max_pool{rank}d")(ours, size, True)
    expected, expected_index = getattr(F, f"adaptive_max_pool{rank}d")(theirs, size, True)
    exact = dict(rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(y, expected, check_stride=True, **exact)
    torch.testing.assert_close(index, expected_index, **exact)
    dy = torch.randint(-3, 4, y.shape, device=y.device).to(y)
    (dx,), (expected_dx,) = torch.autograd.grad(y, ours, dy), torch.autograd.grad(expected, theirs, dy)
    torch.testing.assert_close(dx, expected_dx, **exact)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(size, torch.float32) for size in (1, 3, 9, (None, 4), (7, 6), (2, 8))]
    + [(3, dtype) for dtype in DTYPES if dtype is not torch.float32],
    ids=str,
)
def test_adaptive_maximum_is_torchs(size, dtype, device):
    """Ties, −inf and NaN too."""
    x = torch.randint(-3, 4, (3, 3, 7, 6)).to(device, dtype)
    x[0, 0] = -torch.inf
    x[1, :, ::3, ::2] = torch.nan
    assert_maxima_as_torch(x, size)
    assert_maxima_as_torch(x.contiguous(memory_format=torch.channels_last), size)
    assert_maxima_as_torch(x[0], size)
    if isinstance(size, int):
        assert_maxima_as_torch(x[1], size, 1)
        assert_maxima_as_torch(x[2, :, None].expand(3, 4, 7, 6), (2, size, 5), 3)


@pytest.mark.parametrize("size", [1, 3, (5, 2)], ids=str)
def test_many_terms_are_summed_an_axis_at_a_time(size, device, launches):
    x = torch.rand(2, 3, 40, 30, device=device)
    assert_as_torch("adaptive_avg_pool2d", x, size)
    assert [name for name, _ in launches][:2] == ["resample_kernel"] * 2
    assert max(arguments["ALL"] for _, arguments in launches) <= 40


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "sliced": lambda x: x.repeat(1, 1, 2, 2)[:, :, ::2, 1::2],
    "expanded": lambda x: x[:, :1].expand_as(x),
    "N=0": lambda x: x[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("how", [dict(mode="bilinear"), dict(mode="nearest"), dict(mode="area")], ids=str)
def test_layout(how, layout, device):
    assert_as_torch("interpolate", layout(torch.rand(2, 3, 7, 6)).to(device), size=(9, 4), **how)


@pytest.mark.parametrize("mode", ["nearest", "trilinear", "area"])
def test_channels_last_along_three_axes(mode, device):
    x = torch.rand(SHAPES[3], device=device).contiguous(memory_format=torch.channels_last_3d)
    assert_as_torch("interpolate", x, scale_factor=2, mode=mode)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", [dict(mode="bilinear"), dict(mode="bicubic"), dict(mode="area")], ids=str)
def test_sums_are_rounded_once(how, dtype, device):
    x = torch.rand(2, 3, 7, 6, device=device).to(dtype)
    y = TF.interpolate(x, size=(5, 9), **how)
    exact = F.interpolate(x.double().cpu(), size=(5, 9), **how)
    torch.testing.assert_close(y.cpu().double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@given(
    size=st.integers(1, 40),
    length=st.integers(1, 40),
    mode=st.sampled_from(["nearest", "nearest-exact", "area", "linear", "cubic"]),
    align_corners=st.booleans(),
    antialias=st.booleans(),
)
def test_tables_are_whole_and_turn_round(size, length, mode, align_corners, antialias):
    """Every place is in the image, weights sum to 1, and turned twice a table is itself."""
    table = tables.Table.of(mode, size, length, 0.0, align_corners, antialias and mode in ("linear", "cubic"))
    assert table.index.shape == table.weight.shape == (length, table.terms)
    assert table.index.min() >= -1 and table.index.max() < size
    torch.testing.assert_close(torch.from_numpy(table.weight.sum(1)), torch.ones(length, dtype=torch.float64))
    assert dense(table).T.equal(dense(table.turned)) and dense(table).equal(dense(table.turned.turned))


def dense(table: tables.Table) -> torch.Tensor:
    matrix = torch.zeros(table.length, table.size, dtype=torch.float64)
    rows = torch.arange(table.length)[:, None].expand(table.index.shape)
    valid = torch.from_numpy(table.index >= 0)
    index = torch.from_numpy(table.index).long()
    return matrix.index_put((rows[valid], index[valid]), torch.from_numpy(table.weight)[valid], accumulate=True)


def test_the_same_tables_are_made_once(device):
    x = torch.rand(1, 1, 5, 4, device=device)
    TF.interpolate(x, scale_factor=3, mode="bilinear")
    before = dict(tables._joined)
    TF.interpolate(x, scale_factor=3, mode="bilinear")
    assert before == tables._joined and before
    monkeypatched, tables.MOST_JOINED = tables.MOST_JOINED, 1
    try:
        TF.interpolate(x, size=(7, 3), mode="bilinear")
    finally:
        tables.MOST_JOINED = monkeypatched
    assert len(tables._joined) == 1  # they do not pile up


def test_tables_without_data_are_not_kept(device):
    """Or a call after one that was only looked at would sum nothing."""
    x = torch.rand(1, 1, 6, 11, device=device)
    tritonconv.explain(TF.interpolate, x, size=(10, 7), mode="bilinear")
    torch.testing.assert_close(*(f.interpolate(x, size=(10, 7), mode="bilinear") for f in (TF, F)))


def test_many_terms_are_rounded_once(device):
    x = torch.rand(1, 64, 40, 30, device=device)
    exact = F.adaptive_avg_pool2d(x.half().double().cpu(), 1)
    assert torch.equal(TF.adaptive_avg_pool2d(x.half(), 1).cpu(), exact.half())


def test_infinity_stays_in_the_windows_that_see_it(device):
    """A term that is not there is no product with 0."""
    x = torch.ones(1, 1, 7, 5, device=device)
    x[..., 3, 2] = torch.inf
    y = TF.adaptive_avg_pool2d(x, (3, 4))
    assert not y.isnan().any() and y.isinf().any() and y[..., 0, 0].item() == 1


@pytest.mark.parametrize("axis", range(4))
def test_offsets_beyond_32_bits(axis, device, monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    near = torch.rand(3, 3, 3, 3, device=device).half()
    strides = list(near.stride())
    strides[axis] = 2**30 + 1
    far = torch.empty_strided(near.shape, strides, dtype=near.dtype, device=device).copy_(near)
    assert torch.equal(TF.interpolate(far, size=5), TF.interpolate(near, size=5))
    assert torch.equal(TF.adaptive_max_pool2d(far, 2), TF.adaptive_max_pool2d(near, 2))


def test_old_names_warn_as_torch_does(device):
    x = torch.rand(1, 2, 4, 5, device=device)
    for name, how in (("upsample", dict(mode="bicubic")), ("upsample_nearest", {}), ("upsample_bilinear", {})):
        with pytest.warns(UserWarning, match=f"`{name}` is deprecated"):
            y = getattr(TF, name)(x, scale_factor=2, **how)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.testing.assert_close(y, getattr(F, name)(x, scale_factor=2, **how))


def test_a_few_terms_are_summed_at_once(device, launches):
    TF.interpolate(torch.rand(1, 1, 4, 4, device=device), size=(9, 9), mode="bicubic")
    assert [arguments["ALL"] for _, arguments in launches] == [16] and resample.SEPARATE_FROM > 16
