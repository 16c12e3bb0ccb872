"""What must hold without any reference, and random geometries against float64 torch."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracle import (
    ALGORITHMS,
    TRIPLE_TF32,
    Case,
    assert_all_close_to_oracle,
    axes,
    case,
    double,
    magnitudes,
    reference_conv,
    value_and_gradients,
)

from tritonconv import functional as TF

by_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
NAMES = (
    "plain",
    "stride (2,1)",
    "dilation 4, stride 6",
    "same 4x2",
    "groups 2",
    "depthwise, multiplier 2",
    "unbatched",
)
by_name = pytest.mark.parametrize("name", NAMES)


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.double() * b.double()).sum()


@by_algorithm
@by_name
def test_gradients_are_adjoints(name, algorithm, device):
    """⟨conv(x, w), y⟩ = ⟨x, dgrad(y, w)⟩ = ⟨w, wgrad(y, x)⟩: without a bias convolution is bilinear."""
    c = case(name)
    x, w, _ = (None if t is None else t.requires_grad_() for t in c.tensors(torch.float64, device))
    conv = TF.conv2d(x, w, **c.arguments, algorithm=algorithm)
    y = torch.rand_like(conv)
    dx, dw = torch.autograd.grad(conv, [x, w], y)
    torch.testing.assert_close(inner(x, dx), inner(conv, y))
    torch.testing.assert_close(inner(w, dw), inner(conv, y))


@by_algorithm
@by_name
def test_linear_in_the_input(name, algorithm, device):
    c = case(name)
    x, w, _ = c.tensors(torch.float64, device)
    x2 = torch.rand_like(x)

    def conv(t):
        return TF.conv2d(t, w, **c.arguments, algorithm=algorithm)

    torch.testing.assert_close(conv(2 * x - 3 * x2), 2 * conv(x) - 3 * conv(x2))


@by_algorithm
def test_commutes_with_a_shift(algorithm, device):
    """Shifting the picture by the stride shifts the output by one pixel; whole numbers make it exact."""
    x = torch.randint(-3, 4, (1, 2, 9, 10), device=device).float()
    w = torch.randint(-3, 4, (3, 2, 3, 3), device=device).float()
    whole = TF.conv2d(x, w, stride=2, padding=1, algorithm=algorithm)
    shifted = TF.conv2d(x.roll((2, 2), (2, 3)), w, stride=2, padding=1, algorithm=algorithm)
    assert torch.equal(shifted[..., 2:-1, 2:-1], whole[..., 1:-2, 1:-2])


@by_name
def test_algorithms_agree(name, device):
    c = case(name)
    tensors = c.tensors(torch.float64, device)
    answers = [
        value_and_gradients(lambda *t, a=a: TF.conv2d(*t, **c.arguments, algorithm=a), tensors)
        for a in (*ALGORITHMS, "auto")
    ]
    for other in answers[1:]:
        torch.testing.assert_close(other, answers[0])


PATCHES = (
    dict(kernel_size=3),
    dict(kernel_size=(5, 3), padding=(2, 1)),
    dict(kernel_size=(2, 3), stride=(2, 1), padding=1),
    dict(kernel_size=2, stride=3),
    dict(kernel_size=(2, 3), dilation=(3, 2), padding=(0, 2)),
    dict(kernel_size=1),
)


@pytest.mark.parametrize("patch", PATCHES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (3, 7, 8), (0, 3, 7, 8)], ids=str)
def test_unfold_and_fold_are_torchs_and_adjoint(shape, patch, device):
    x = torch.rand(shape, dtype=torch.float64, device=device, requires_grad=True)
    columns = TF.unfold(x, **patch)
    assert torch.equal(columns, F.unfold(x, **patch))
    y = torch.rand_like(columns).requires_grad_()
    folded = TF.fold(y, shape[-2:], **patch)
    torch.testing.assert_close(folded, F.fold(y, shape[-2:], **patch))
    torch.testing.assert_close(inner(columns, y), inner(x, folded))
    # each is the other's gradient
    assert torch.equal(torch.autograd.grad(columns, x, y.detach())[0], folded)
    assert torch.equal(torch.autograd.grad(folded, y, x.detach())[0], columns)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_fold_rounds_once(dtype, device):
    """Nine copies of each value are added up in float32, where this sum is exact."""
    columns = torch.rand(2, 27, 48, device=device).to(dtype)
    arguments = dict(output_size=(6, 8), kernel_size=3, padding=1)
    assert torch.equal(TF.fold(columns, **arguments).cpu(), F.fold(*double([columns]), **arguments).to(dtype))


def test_fold_reads_any_strides(device):
    columns = torch.rand(2, 12, 20, device=device).transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(TF.fold(columns, (5, 6), 2), F.fold(columns, (5, 6), 2))
    expanded = torch.rand(1, 1, 1, device=device).expand(2, 12, 20)
    torch.testing.assert_close(TF.fold(expanded, (5, 6), 2), F.fold(expanded, (5, 6), 2))


def test_fold_reads_its_columns_in_place(device, launches):
    columns = torch.rand(2, 12, 20, device=device).transpose(1, 2).contiguous().transpose(1, 2)
    TF.fold(columns, (5, 6), 2)
    ((_, arguments),) = launches
    assert arguments["columns_ptr"].data_ptr() == columns.data_ptr()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_unfold_reads_any_strides(layout, device):
    x = torch.rand(2, 3, 7, 8, device=device).contiguous(memory_format=layout)[:, :, ::2].transpose(2, 3)
    assert torch.equal(TF.unfold(x, (3, 2), padding=1), F.unfold(x, (3, 2), padding=1))


def test_convolution_is_unfold_and_a_product(device):
    c = case("stride (2,1)")
    x, w, _ = c.tensors(torch.float64, device)
    columns = TF.unfold(x, (c.R, c.S), padding=c.padding, stride=c.stride)
    y = TF.conv2d(x, w, **c.arguments, algorithm="implicit_gemm")
    torch.testing.assert_close((w.flatten(1) @ columns).view_as(y), y)


# --- random geometries ---

sides = st.integers(1, 4)
steps = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def cases(draw) -> Case:
    groups = draw(st.integers(1, 3))
    R, S = draw(sides), draw(sides)
    stride, dilation = draw(steps), draw(steps)
    same = stride == (1, 1) and draw(st.booleans())
    padding = "same" if same else (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    pads = [d * (r - 1) for d, r in zip(dilation, (R, S), strict=True)] if same else [2 * p for p in axes(padding, 2)]
    least = [max(1, d * (r - 1) + 1 - p) for d, r, p in zip(dilation, (R, S), pads, strict=True)]
    H, W = (least_size + draw(st.integers(0, 5)) for least_size in least)
    return Case(
        "random",
        "drawn by hypothesis",
        N=draw(st.sampled_from([None, 0, 1, 2, 3])),
        C_in=groups * draw(st.integers(1, 3)),
        H=H,
        W=W,
        C_out=groups * draw(st.integers(1, 3)),
        R=R,
        S=S,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
    )


@given(c=cases(), algorithm=st.sampled_from(ALGORITHMS))
def test_random_convolutions(device, c, algorithm):
    """Also windows wholly in the padding: the reference pads beforehand, so torch never sees one."""
    tensors = c.tensors(torch.float64, device)
    truth, scale = (
        value_and_gradients(lambda *t: reference_conv(*t, **c.arguments), prepare(tensors))
        for prepare in (double, magnitudes)
    )
    ours = value_and_gradients(lambda *t: TF.conv2d(*t, **c.arguments, algorithm=algorithm), tensors)
    assert_all_close_to_oracle(algorithm, ours, truth, truth, scale)


@given(c=cases())
def test_random_patches(device, c):
    if c.padding == "same":
        c = dataclasses.replace(c, padding=(0, 0), H=c.H + c.dilation[0] * c.R, W=c.W + c.dilation[1] * c.S)
    x, _, _ = c.tensors(torch.float64, device)
    patch = dict(kernel_size=(c.R, c.S), dilation=c.dilation, padding=c.padding, stride=c.stride)
    columns = TF.unfold(x, **patch)
    assert torch.equal(columns, F.unfold(x, **patch))
    torch.testing.assert_close(TF.fold(columns, (c.H, c.W), **patch), F.fold(columns, (c.H, c.W), **patch))


@st.composite
def pools(draw) -> tuple[tuple[int, ...], dict]:
    kernel = draw(sides), draw(sides)
    dilation = draw(steps)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    # at least as large as the padding: no window then lies wholly in it, where torch is unsafe
    least = [max(d * (k - 1) + 1 - p, d, 1) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = tuple(n + draw(st.integers(0, 5)) for n in least)
    batch = draw(st.sampled_from([(), (0,), (1,), (2,)]))
    return (*batch, draw(st.integers(1, 3)), *size), dict(
        kernel_size=kernel,
        stride=draw(st.none() | steps),
        padding=padding,
        dilation=dilation,
        ceil_mode=draw(st.booleans()),
    )


@given(problem=pools(), channels_last=st.booleans())
def test_random_pools(device, problem, channels_last):
    """Values from a handful of whole numbers, so that ties are everywhere."""
    shape, arguments = problem
    x = torch.randint(-2, 3, shape).to(device, torch.float64)
    if channels_last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, index = TF.max_pool2d(ours, **arguments, return_indices=True)
    expected, expected_index = F.max_pool2d(theirs, **arguments, return_indices=True)
    assert torch.equal(y, expected)
    assert torch.equal(index, expected_index)
    dy = torch.randint(-3, 4, tuple(y.shape), device=device).to(y.dtype)
    y.backward(dy)
    expected.backward(dy)
    assert math.prod(shape) == 0 or torch.equal(ours.grad, theirs.grad)


def test_three_tf32_products_keep_the_bound_that_tests_allow():
    """High parts rounded to the 11 bits of TF32, low parts cut to them; in units of a float32's last place."""
    x, w = (torch.randn(10**5) * 2.0 ** torch.randint(-9, 9, (10**5,)) for _ in range(2))

    def parts(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        def cut(t: torch.Tensor) -> torch.Tensor:
            return (t.view(torch.int32) & ~0x1FFF).view(torch.float32)

        high = cut((t.view(torch.int32) + 0x1000).view(torch.float32))
        return high.double(), cut(t - high).double()

    (x_high, x_low), (w_high, w_low) = parts(x), parts(w)
    exact = x.double() * w.double()
    off = (x_high * w_high + x_high * w_low + x_low * w_high - exact).abs() / (exact.abs() * 2**-23)
    assert TRIPLE_TF32 / 3 < off.max() <= TRIPLE_TF32
