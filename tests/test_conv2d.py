"""conv2d against the oracle: named cases, dtypes, layouts, tiles, exact integers, partial gradients, 64-bit offsets."""

import contextlib
import functools
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from oracle import (
    ALGORITHMS,
    CASES,
    Case,
    assert_all_close_to_oracle,
    axes,
    case,
    double,
    magnitudes,
    peer_conv,
    reference_conv,
    value_and_gradients,
)

from tritonconv import functional as TF
from tritonconv import interpreter, tuning
from tritonconv.tuning import tiles

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
by_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def conv(c: Case, algorithm: str = "auto"):
    return functools.partial(getattr(TF, f"conv{c.rank}d"), **c.arguments, algorithm=algorithm)


def reference(c: Case):
    return functools.partial(reference_conv, **c.arguments)


def peer(c: Case):
    return functools.partial(peer_conv, **c.arguments)


def like_y(c: Case, tensors: list) -> torch.Tensor:
    """A dy with a different value everywhere."""
    y = reference(c)(*double(tensors))
    return (torch.rand_like(y) - 0.5).to(tensors[0].device, tensors[0].dtype)


def check(c: Case, algorithm: str, tensors: list, dy: torch.Tensor) -> dict[str, torch.Tensor]:
    ours = value_and_gradients(conv(c, algorithm), tensors, dy)
    theirs = value_and_gradients(peer(c), tensors, dy)
    oracle = value_and_gradients(reference(c), double(tensors), *double([dy]))
    scale = value_and_gradients(reference(c), magnitudes(tensors), *magnitudes([dy]))
    assert_all_close_to_oracle(algorithm, ours, theirs, oracle, scale)
    return ours


# --- values and gradients ---


@by_algorithm
@pytest.mark.parametrize("c", CASES, ids=str)
def test_named_case(c, algorithm, device):
    tensors = c.tensors(torch.float32, device)
    check(c, algorithm, tensors, like_y(c, tensors))


RANKS = [c.along(rank) for c in CASES for rank in (1, 3)]


OTHERS = [c for c in RANKS if c.name in ("plain", "unbatched", "stride (2,1)", "same 4x2", "groups 2")]


@pytest.mark.parametrize(
    ("c", "algorithm"),
    [*((c, "implicit_gemm") for c in RANKS), *((c, algorithm) for c in OTHERS for algorithm in ("direct", "im2col"))],
    ids=str,
)
def test_named_case_along_one_and_three_axes(c, algorithm, device):
    tensors = c.tensors(torch.float32, device)
    check(c, algorithm, tensors, like_y(c, tensors))


# --- transposed: from a case's output to its input ---


def output_padding(c: Case) -> tuple[int, ...]:
    """What makes the transposed convolution answer the case's input size."""
    sizes = (c.size, c.filter, *(axes(value, c.rank) for value in (c.stride, c.padding, c.dilation)))
    return tuple((n + 2 * p - d * (r - 1) - 1) % s for n, r, s, p, d in zip(*sizes, strict=True))


def check_transposed(
    c: Case, algorithm: str, dtype: torch.dtype, device, layout=lambda t: t
) -> dict[str, torch.Tensor]:
    arguments = {**c.arguments, "output_padding": output_padding(c)}
    function, name = functools.partial, f"conv_transpose{c.rank}d"
    oracle = peer = function(getattr(F, name), **arguments)
    ours = function(getattr(TF, name), **arguments, algorithm=algorithm)
    x, w, _ = c.tensors(dtype, device)
    x, b = like_y(c, [x, w, None]), (torch.rand(x.shape[-c.rank - 1], dtype=torch.float64) - 0.5).to(device, dtype)
    tensors = [layout(x), w, b if c.bias else None]
    dy = (torch.rand(peer(*tensors).shape) - 0.5).to(device, dtype)
    assert dy.shape == c.tensors()[0].shape
    found = value_and_gradients(ours, tensors, dy)
    theirs = value_and_gradients(peer, tensors, dy)
    truth = value_and_gradients(oracle, double(tensors), *double([dy]))
    scale = value_and_gradients(oracle, magnitudes(tensors), *magnitudes([dy]))
    assert_all_close_to_oracle(algorithm, found, theirs, truth, scale)
    return found


TRANSPOSED = [c for c in CASES if not isinstance(c.padding, str)]
FEW = ("plain", "unbatched", "stride (2,1)", "groups 2")


def slow_unless(is_quick: bool, *values: object):
    return pytest.param(*values, marks=() if is_quick else pytest.mark.slow)


@pytest.mark.parametrize(
    ("c", "algorithm"),
    [
        *(slow_unless("implicit" in name or c.name in FEW, c, name) for c in TRANSPOSED for name in ALGORITHMS),
        *(slow_unless(c.name in FEW, c.along(rank), "implicit_gemm") for c in TRANSPOSED for rank in (1, 3)),
    ],
    ids=str,
)
def test_transposed_named_case(c, algorithm, device):
    check_transposed(c, algorithm, torch.float32, device)


@by_algorithm
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_transposed_dtype(dtype, algorithm, device):
    check_transposed(case("stride (2,1)"), algorithm, dtype, device)


@by_algorithm
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "expanded"])
def test_transposed_layout(layout, algorithm, device):
    check_transposed(case("groups 2"), algorithm, torch.float32, device, globals()[layout])


@by_algorithm
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("which", ["", "x", "w", "y"])
def test_transposed_memory_format_follows_torch(which, rank, algorithm, device):
    c = case("plain").along(rank)
    x, w, _ = c.tensors(torch.float32, device)
    x = like_y(c, [x, w, None])
    dy = torch.rand(c.tensors()[0].shape, device=device)
    x, w, dy = (channels_last(t) if letter in which else t for letter, t in zip("xwy", (x, w, dy), strict=True))
    ours, theirs = (value_and_gradients(getattr(f, f"conv_transpose{rank}d"), [x, w, None], dy) for f in (TF, F))
    assert {k: steps(t) for k, t in ours.items()} == {k: steps(t) for k, t in theirs.items()}


@by_algorithm
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["plain", "stride (2,1)", "groups 2"])
def test_dtype(name, dtype, algorithm, device):
    tensors = case(name).tensors(dtype, device)
    check(case(name), algorithm, tensors, like_y(case(name), tensors))


@pytest.mark.slow
@by_algorithm
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("c", [*CASES, *RANKS], ids=str)
def test_named_case_in_every_dtype(c, dtype, algorithm, device):
    tensors = c.tensors(dtype, device)
    check(c, algorithm, tensors, like_y(c, tensors))


@by_algorithm
@pytest.mark.parametrize("name", ["33 to 17 channels", "stride (2,1)", "dilation 4, stride 6", "groups 2", "depthwise"])
def test_small_tiles(name, algorithm, device, monkeypatch):
    """Several ragged programs a launch, where the interpreter's own tiles hold a whole test."""
    monkeypatch.setattr(tiles, "INTERPRETER_TILE", 512)
    tensors = case(name).tensors(torch.float32, device)
    check(case(name), algorithm, tensors, like_y(case(name), tensors))


def many_pixels(algorithm: str) -> Case:
    """Several blocks of pixels: a block is 1024 for direct and up to 64 for the products."""
    W = 4500 if algorithm == "direct" else 306
    return Case("many pixels", "split-K", N=1, C_in=3, C_out=2, R=1, S=2, H=1, W=W)


@by_algorithm
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_tiles_of_a_gpu(layout, dtype, algorithm, device, launches):
    """A GPU's tiles split the weight gradient over the pixels, which the interpreter's never do."""
    c = many_pixels(algorithm)
    tensors = [t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in c.tensors(dtype, device)]
    with tuning.target("sm_90") if device.type == "cpu" else contextlib.nullcontext():
        check(c, algorithm, tensors, like_y(c, tensors))
    assert "sum_splits_kernel" in [name for name, _ in launches]


@pytest.mark.parametrize("algorithm", ["im2col", "implicit_gemm"])
@pytest.mark.parametrize(
    ("size", "dtype"),
    [((9,), torch.float16), ((6, 7), torch.bfloat16), ((6, 7), torch.float16), ((2, 3, 5), torch.bfloat16)],
    ids=str,
)
def test_a_product_reads_a_copy_in_channels_last(size, dtype, algorithm, device, launches):
    """Of an image and of a filter of 16 bits, where a group has channels enough; results stay contiguous."""
    rank = len(size)
    ours, theirs = (getattr(f, f"conv{rank}d") for f in (TF, F))
    # forward: x and w; dgrad: dy and w; wgrad: dy and x. im2col makes the columns as the product reads them (it cannot
    # along one axis), and its filters are a matrix, of more channels
    both, few = {"implicit_gemm": (6, 0), "im2col": (4, 4) if rank == 1 else (2, 2)}[algorithm]
    for groups, channels, copies in ((1, 20, both), (2, 36, both), (2, 20, few), (1, 3, 0)):
        x, w, b = (
            torch.randint(-1, 2, shape, device=device).to(dtype).requires_grad_()
            for shape in ((2, channels, *size), (channels * 2, channels // groups, *(2,) * rank), (channels * 2,))
        )
        launches.clear()
        with tuning.target("sm_90") if device.type == "cpu" else contextlib.nullcontext():
            y = ours(x, w, b, padding=1, groups=groups, algorithm=algorithm)
            dy = torch.randint(-1, 2, y.shape, device=device).to(dtype)
            found = [y, *torch.autograd.grad(y, [x, w, b], dy)]
        wide = [t.detach().double().requires_grad_() for t in (x, w, b)]
        expected = theirs(*wide, padding=1, groups=groups)
        for one, other in zip(found, [expected, *torch.autograd.grad(expected, wide, dy.double())], strict=True):
            assert one.is_contiguous() and torch.equal(one.double(), other.to(dtype).double())
        assert [name for name, _ in launches].count("relayout_kernel") == copies, (groups, channels)


def test_what_is_not_copied_for_a_product(device, launches):
    """What lies in channels_last already, and a view whose pixels are no one axis."""
    x = torch.ones(2, 20, 6, 12, dtype=torch.float16, device=device)
    w = torch.ones(20, 20, 1, 1, dtype=torch.float16, device=device)
    for image in (x.to(memory_format=torch.channels_last), x[..., :6]):
        with tuning.target("sm_90") if device.type == "cpu" else contextlib.nullcontext():
            y = TF.conv2d(image, w, algorithm="implicit_gemm")
        assert torch.equal(y, torch.full_like(y, 20))
    if device.type == "cpu":  # of which one reads as well as the other there
        TF.conv2d(x, w, algorithm="implicit_gemm")
    assert "relayout_kernel" not in [name for name, _ in launches]


@by_algorithm
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["plain", "groups 2", "dilation 2, stride 2"])
def test_small_integers_are_exact(name, dtype, algorithm, device):
    """Every product and sum is a whole number that the dtype holds, so the order of summation cannot show."""
    c = case(name)
    tensors = [(t * 5).round() for t in c.tensors(dtype, device)]  # -2 … 2: no sum here leaves ±256
    dy = (like_y(c, tensors) * 3).round()  # -1, 0, 1
    ours = value_and_gradients(conv(c, algorithm), tensors, dy)
    oracle = value_and_gradients(reference(c), double(tensors), *double([dy]))
    for which, truth in oracle.items():
        torch.testing.assert_close(ours[which].cpu().double(), truth, rtol=0, atol=0, msg=which)


@by_algorithm
def test_columns_of_a_gradient_are_not_rounded(algorithm, device):
    """257 is no bfloat16: a gradient of 257 − 256 is 1 where its terms are rounded once, together."""
    x, w = torch.zeros(1, 1, 3), torch.tensor([[[1.0, -1.0]], [[1.0, 1.0]]])
    dy = torch.tensor([[[256.0, 256.0], [0.0, 1.0]]])
    x, w, dy = (t.to(device, torch.bfloat16) for t in (x, w, dy))
    y = TF.conv1d(x.requires_grad_(), w, algorithm=algorithm)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert dx.flatten().tolist() == [256, 1, -255]


@by_algorithm
def test_windows_wholly_in_the_padding_answer_the_bias(algorithm, device):
    """No call of torch: its own convolution is unsafe here."""
    c = case("plain")
    x, w, b = c.tensors(torch.float32, device)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = TF.conv2d(x, w, b, padding=5, algorithm=algorithm)
    outside = y[:, :, [0, 1, 2, -3, -2, -1]]
    assert torch.equal(outside, b[:, None, None].expand_as(outside))
    (dx,) = torch.autograd.grad(outside.sum(), x)
    assert torch.equal(dx, torch.zeros_like(dx))


@by_algorithm
def test_nan_stays_in_the_windows_that_see_it(algorithm, device):
    x, w, b = case("plain").tensors(torch.float32, device)
    x[0, 1, 3, 2] = float("nan")
    y = TF.conv2d(x, w, b, padding=1, algorithm=algorithm)
    assert torch.equal(y.isnan(), torch.nn.functional.conv2d(x, w, b, padding=1).isnan())


def test_auto_is_the_default(device):
    x, w, b = case("plain").tensors(torch.float32, device)
    assert torch.equal(TF.conv2d(x, w, b), TF.conv2d(x, w, b, algorithm="auto"))


@by_algorithm
def test_same_bits_run_to_run(algorithm, device):
    c = many_pixels(algorithm)
    tensors = c.tensors(torch.float32, device)
    dy = like_y(c, tensors)
    with tuning.target("sm_90") if device.type == "cpu" else contextlib.nullcontext():
        first, second = (value_and_gradients(conv(c, algorithm), tensors, dy) for _ in range(2))
    assert all(torch.equal(first[which], second[which]) for which in first)


# --- layouts ---


def channels_last(t: torch.Tensor) -> torch.Tensor:
    return t.contiguous(memory_format=torch.channels_last if t.dim() == 4 else torch.channels_last_3d)


def transposed(t: torch.Tensor) -> torch.Tensor:
    return t.transpose(2, 3).contiguous().transpose(2, 3)


def sliced(t: torch.Tensor) -> torch.Tensor:
    """Every second element of a larger tensor of NaN, one element from its start: a stray read is seen."""
    whole = torch.full([2 * n + 1 for n in t.shape], float("nan"), dtype=t.dtype, device=t.device)
    view = whole[tuple(slice(1, None, 2) for _ in t.shape)]
    return view.copy_(t)


def expanded(t: torch.Tensor) -> torch.Tensor:
    """Stride 0 along rows: each column holds one value."""
    return t[:, :, :1].expand_as(t)


LAYOUTS = (channels_last, transposed, sliced, expanded)
by_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)


@by_algorithm
@by_layout
@pytest.mark.parametrize("which", ["x", "w", "dy", "all"])
@pytest.mark.parametrize("name", ["stride (2,1)", "groups 2"])
def test_layout(name, which, layout, algorithm, device):
    c = case(name)
    x, w, b = c.tensors(torch.float32, device)
    dy = like_y(c, [x, w, b])
    x = layout(x) if which in ("x", "all") else x
    w = layout(w) if which in ("w", "all") else w
    dy = layout(dy) if which in ("dy", "all") else dy
    check(c, algorithm, [x, w, b], dy)


@by_algorithm
def test_strided_bias(algorithm, device):
    c = case("plain")
    x, w, b = c.tensors(torch.float32, device)
    b = torch.stack([b, torch.full_like(b, float("nan"))], 1)[:, 0]
    check(c, algorithm, [x, w, b], like_y(c, [x, w, b]))


@by_algorithm
def test_expanded_gradient_of_a_sum(algorithm, device):
    """y.sum() sends back one number, expanded to y's shape: every stride of dy is 0."""
    c = case("stride (2,1)")
    tensors = c.tensors(torch.float32, device)
    ours, theirs = [t.clone().requires_grad_() for t in tensors], [t.clone().requires_grad_() for t in tensors]
    conv(c, algorithm)(*ours).sum().backward()
    peer(c)(*theirs).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def steps(t: torch.Tensor) -> list[int]:
    """The strides that matter: those of axes longer than 1."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]


FORMATS = [case(name) for name in ("plain", "N=1", "C_in=1", "C_out=1", "1x1", "groups 2", "depthwise")]
# not N=1: on a CPU torch then takes a path of its own that knows no channels_last_3d
FORMATS += [case(name).along(3) for name in ("plain", "C_in=1", "groups 2")]


@pytest.mark.parametrize(
    ("c", "algorithm"),
    [slow_unless("implicit" in name or c.name in FEW, c, name) for c in FORMATS for name in ALGORITHMS],
    ids=str,
)
@pytest.mark.parametrize("which", ["", "x", "w", "xw", "y", "xwy"])
def test_memory_format_follows_torch(which, c, algorithm, device):
    """The strides of y, dx, dw and db are those torch answers when x, w or dy are channels_last."""
    x, w, b = c.tensors(torch.float32, device)
    dy = like_y(c, [x, w, b])
    x, w, dy = (channels_last(t) if letter in which else t for letter, t in zip("xwy", (x, w, dy), strict=True))
    ours = value_and_gradients(conv(c, algorithm), [x, w, b], dy)
    theirs = value_and_gradients(peer(c), [x, w, b], dy)
    assert {k: steps(t) for k, t in ours.items()} == {k: steps(t) for k, t in theirs.items()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (1, 3, 1, 1), (2, 3, 1, 1), (2, 1, 3, 1), (1, 1, 1, 3), (1, 1, 1, 1)])
def test_memory_format_where_strides_say_both(shape, layout, device):
    """Axes of length 1 fit NCHW and channels_last."""
    x, w = torch.rand(shape, device=device), torch.rand(4, shape[1], 1, 1, device=device)
    x = x.contiguous(memory_format=layout)
    for ours, theirs in (
        (TF.conv2d(x, w, padding=1), F.conv2d(x, w, padding=1)),
        (TF.max_pool2d(x, 2, 1, 1), F.max_pool2d(x, 2, 1, 1)),
    ):
        assert ours.stride() == theirs.stride()


@by_algorithm
def test_unbatched_output_is_contiguous(algorithm, device):
    x, w, b = case("unbatched").tensors(torch.float32, device)
    assert TF.conv2d(x, w, b, algorithm=algorithm).is_contiguous()


@by_algorithm
@by_layout
def test_activations_are_read_where_they_lie(layout, algorithm, device, launches):
    """Kernels receive the addresses and strides of the caller's own x and dy; torch copies nothing of their size."""
    c = case("plain")
    x, w, b = c.tensors(torch.float32, device)
    dy = layout(like_y(c, [x, w, b]))
    x = layout(x).requires_grad_()
    w.requires_grad_()
    recording = dict(record_shapes=True, acc_events=True)  # torch 2.11 warns without the latter
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], **recording) as profile:
        y = conv(c, algorithm)(x, w, b)
        torch.autograd.grad(y, [x, w], dy)
    tensors = [t for _, arguments in launches for t in arguments.values() if isinstance(t, torch.Tensor)]
    for activation in (x, dy):
        assert (activation.data_ptr(), activation.stride()) in [(t.data_ptr(), t.stride()) for t in tensors]
    copies = [e for e in profile.events() if e.name in ("aten::copy_", "aten::clone", "aten::contiguous")]
    shapes = [list(t.shape) for t in (x, y, dy)]
    assert not [e for e in copies if any(shape in shapes for shape in e.input_shapes)]
    torchs = [e.name for e in profile.events() if e.name.startswith("aten::")]
    assert torchs and not [name for name in torchs if "conv" in name or "unfold" in name or "im2col" in name]


@by_algorithm
def test_inputs_are_not_written(algorithm, device):
    c = case("plain")
    tensors = c.tensors(torch.float32, device)
    dy = like_y(c, tensors)
    before = [t.clone() for t in [*tensors, dy]]
    value_and_gradients(conv(c, algorithm), tensors, dy)
    assert all(torch.equal(a, b) for a, b in zip(before, [*tensors, dy], strict=True))


# --- gradients on demand ---


@by_algorithm
@pytest.mark.parametrize("wanted", ["", "x", "w", "b", "xw", "xb", "wb", "xwb"])
def test_only_the_gradients_asked_for_are_computed(wanted, algorithm, device, launches):
    c = case("plain")
    tensors = dict(zip("xwb", c.tensors(torch.float32, device), strict=True))
    for name in wanted:
        tensors[name].requires_grad_()
    y = conv(c, algorithm)(*tensors.values())
    assert y.requires_grad == bool(wanted)
    launches.clear()
    if wanted:
        y.backward(torch.ones_like(y))
    assert [name for name, t in tensors.items() if t.grad is not None] == list(wanted)
    passes = " ".join(name for name, _ in launches)
    assert ("dgrad" in passes) == ("x" in wanted), passes
    # the bias gradient comes with the weight's, in one pass over dy; alone it is a sum
    assert passes.count("wgrad") == ("w" in wanted), passes
    with_bias = [arguments["db_ptr"] is not None for name, arguments in launches if "wgrad" in name]
    assert with_bias == ["b" in wanted] * len(with_bias)


@by_algorithm
def test_bias_gradient_alone(algorithm, device):
    c = case("plain")
    x, w, b = c.tensors(torch.float32, device)
    dy = like_y(c, [x, w, b])
    y = conv(c, algorithm)(x, w, b.requires_grad_())
    (db,) = torch.autograd.grad(y, b, dy)
    torch.testing.assert_close(db, dy.sum((0, 2, 3)))


@by_algorithm
def test_gradients_and_their_gradients_stay_in_the_algorithm(algorithm, device, launches):
    x, w, b = (t.requires_grad_() for t in case("plain").tensors(torch.float32, device))
    y = TF.conv2d(x, w, b, algorithm=algorithm)
    first = torch.autograd.grad(y, (x, w, b), torch.ones_like(y).requires_grad_(), create_graph=True)
    torch.autograd.grad(first, (x, w), [torch.ones_like(t) for t in first])
    kernels = {"im2col": "implicit_gemm"}.get(algorithm, algorithm)
    products = [name for name, _ in launches if not name.startswith(("unfold", "fold", "sum_splits"))]
    assert {name.rsplit("_", 2)[0] for name in products} == {kernels}
    assert any(name == "unfold_kernel" for name, _ in launches) == (algorithm == "im2col")
    launched = len(launches) // 2  # as many for what im2col and the others do twice
    assert launched >= 3


@pytest.mark.parametrize("wanted", ["x", "w", "dy"])
@pytest.mark.parametrize("first", ["x", "w"])
def test_second_gradients_are_computed_where_they_are_asked_for(first, wanted, device, launches):
    tensors = dict(zip("xw", case("plain").tensors(torch.float32, device), strict=False))
    leaves = {name: t.requires_grad_(name in (first, wanted)) for name, t in tensors.items()}
    y = TF.conv2d(leaves["x"], leaves["w"], algorithm="implicit_gemm")
    dy = torch.ones_like(y).requires_grad_(wanted == "dy")
    (gradient,) = torch.autograd.grad(y, leaves[first], dy, create_graph=True)
    if not gradient.requires_grad:  # dx knows nothing of x, dw nothing of w
        assert first == wanted
        return
    launches.clear()
    torch.autograd.grad(gradient, {**leaves, "dy": dy}[wanted], torch.ones_like(gradient))
    names = {"dy": "forward", "x": "dgrad", "w": "wgrad"}
    assert [name for name, _ in launches] == [f"implicit_gemm_{names[wanted]}_kernel"]


@by_algorithm
def test_only_inputs_are_saved(algorithm, device):
    tensors = [t.requires_grad_() for t in case("plain").tensors(torch.float32, device)]
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t), lambda t: t):
        TF.conv2d(*tensors, algorithm=algorithm)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in tensors[:2]}


@by_algorithm
def test_no_grad_saves_nothing(algorithm, device):
    x, w, b = case("plain").tensors(torch.float32, device)
    w.requires_grad_()
    with torch.no_grad():
        assert TF.conv2d(x, w, b, algorithm=algorithm).grad_fn is None


# --- 64-bit offsets ---


def available_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def lazy_memory():
    """Large tensors cost address space alone: nothing fills them."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True


def spread(t: torch.Tensor, axis: int, reach: int) -> torch.Tensor:
    """The same values, the last index of `axis` about `reach` elements from the first; few pages are touched."""
    strides = list(t.contiguous().stride())
    strides[axis] = reach // (t.shape[axis] - 1)
    return torch.empty_strided(t.shape, strides, dtype=t.dtype, device=t.device).copy_(t)


@by_algorithm
@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("which", ["x", "w", "dy"])
def test_offsets_beyond_32_bits(which, axis, algorithm, device, lazy_memory):
    """A tensor of a few hundred elements that reaches over 4 GiB; sanitize_overflow sees any 32-bit product."""
    check_offsets(which, axis, algorithm, device, reach=2**31 + 2**20)


@by_algorithm
@pytest.mark.parametrize("axis", range(4))
def test_offsets_just_within_32_bits(axis, algorithm, device, lazy_memory, monkeypatch):
    """The largest tensor that 32 bits reach: what overflows in lanes that are masked out must not matter."""
    monkeypatch.setattr(interpreter, "sanitize_overflow", False)
    check_offsets("x", axis, algorithm, device, reach=2**31 - 2**10)


@by_algorithm
def test_offsets_of_a_bias_beyond_32_bits(algorithm, device, lazy_memory):
    x, w, b = case("plain").tensors(torch.float32, device)
    far = spread(b, 0, 2**31 + 2**20)
    assert torch.equal(TF.conv2d(x, w, far, algorithm=algorithm), TF.conv2d(x, w, b, algorithm=algorithm))


def check_offsets(which: str, axis: int, algorithm: str, device: torch.device, reach: int) -> None:
    if available_bytes(device) < 6 * 2**30:
        pytest.skip("needs 6 GiB of address space that could be touched")
    c = Case("int64", "each axis has at least three entries", N=3, C_in=3, C_out=3, H=5, W=5, padding=1)
    x, w, b = c.tensors(torch.float16, device)
    dy = like_y(c, [x, w, b])
    near = value_and_gradients(conv(c, algorithm), [x, w, b], dy)
    x, w, dy = (spread(t, axis, reach) if name == which else t for name, t in (("x", x), ("w", w), ("dy", dy)))
    far = value_and_gradients(conv(c, algorithm), [x, w, b], dy)
    assert all(torch.equal(near[key], far[key]) for key in near)


# --- the process around it ---


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


def test_import_needs_no_gpu_and_prints_nothing():
    done = run_python("-W", "error", "-c", "import tritonconv", CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_triton_interpret_forces_interpretation():
    program = """
import torch
from tritonconv import functional as TF, jit
calls = []
interpret = jit._interpret
jit._interpret = lambda *a: (calls.append(a), interpret(*a))
d = "cuda" if torch.cuda.is_available() else "cpu"
x, w = torch.ones(1, 1, 4, 4, device=d), torch.ones(1, 1, 3, 3, device=d)
for algorithm in ("direct", "im2col", "implicit_gemm"):
    assert TF.conv2d(x, w, algorithm=algorithm).tolist() == [[[[9.0, 9.0], [9.0, 9.0]]]]
print(len(calls) >= 3)
"""
    done = run_python("-c", program, TRITON_INTERPRET="1")
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
