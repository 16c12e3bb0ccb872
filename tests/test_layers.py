"""Every layer of tritonconv.nn that torch.nn has too, against torch's: one table for all of them.

Values and gradients in float64, where assert_close's own tolerance (1e-7) is far above the rounding of a few products.
"""

import copy
import inspect
import itertools
import pickle
import types

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree

import tritonconv
from tritonconv import nn

# The class, its arguments, and the size of an input.
LAYERS = [
    ("AdaptiveAvgPool1d", dict(output_size=4), (2, 3, 9)),
    ("AdaptiveAvgPool2d", dict(output_size=(None, 3)), (3, 6, 7)),
    ("AdaptiveAvgPool2d", dict(output_size=1), (2, 3, 6, 7)),
    ("AdaptiveAvgPool3d", dict(output_size=(2, 7, 3)), (2, 3, 4, 5, 6)),
    ("AdaptiveMaxPool1d", dict(output_size=4, return_indices=True), (2, 3, 9)),
    ("AdaptiveMaxPool2d", dict(output_size=(None, 3)), (3, 6, 7)),
    ("AdaptiveMaxPool2d", dict(output_size=1, return_indices=True), (2, 3, 6, 7)),
    ("AdaptiveMaxPool3d", dict(output_size=(2, 7, 3), return_indices=True), (2, 3, 4, 5, 6)),
    ("AvgPool1d", dict(kernel_size=3, stride=2, padding=1, ceil_mode=True), (2, 3, 9)),
    ("AvgPool1d", dict(kernel_size=3, padding=1, count_include_pad=False), (3, 9)),
    ("AvgPool2d", dict(kernel_size=(3, 2), stride=(2, 3), padding=(1, 0), ceil_mode=True), (2, 3, 6, 7)),
    ("AvgPool2d", dict(kernel_size=2, stride=1, divisor_override=3), (3, 6, 7)),
    ("AvgPool3d", dict(kernel_size=(2, 3, 1), stride=2, padding=(1, 1, 0), count_include_pad=False), (2, 3, 4, 5, 6)),
    ("AvgPool3d", dict(kernel_size=2, ceil_mode=True, divisor_override=-2), (3, 5, 6, 4)),
    ("Conv1d", dict(in_channels=2, out_channels=3, kernel_size=3, padding="same"), (2, 2, 9)),
    ("Conv1d", dict(in_channels=4, out_channels=6, kernel_size=2, stride=2, dilation=3, groups=2, bias=False), (4, 9)),
    ("Conv2d", dict(in_channels=2, out_channels=3, kernel_size=3, padding=1), (2, 2, 6, 7)),
    ("Conv2d", dict(in_channels=2, out_channels=4, kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)), (2, 2, 6, 7)),
    ("Conv3d", dict(in_channels=2, out_channels=3, kernel_size=(2, 3, 1), padding=(0, 1, 2)), (2, 2, 4, 5, 6)),
    ("Conv3d", dict(in_channels=2, out_channels=2, kernel_size=2, stride=2, groups=2), (2, 4, 5, 6)),
    ("Conv1d", dict(in_channels=2, out_channels=3, kernel_size=3, padding=5, padding_mode="replicate"), (2, 2, 4)),
    (
        "Conv2d",
        dict(in_channels=2, out_channels=2, kernel_size=3, stride=(2, 1), padding=(1, 3), padding_mode="reflect"),
        (2, 2, 3, 4),
    ),
    ("Conv2d", dict(in_channels=2, out_channels=2, kernel_size=2, padding=2, padding_mode="circular"), (2, 2, 3, 4)),
    (
        "Conv3d",
        dict(in_channels=2, out_channels=2, kernel_size=(2, 3, 1), padding="same", padding_mode="circular"),
        (2, 2, 3, 4, 2),
    ),
    ("ConvTranspose1d", dict(in_channels=2, out_channels=3, kernel_size=4, stride=3, padding=1), (2, 2, 5)),
    ("ConvTranspose2d", dict(in_channels=2, out_channels=3, kernel_size=3, stride=2, output_padding=1), (2, 2, 4, 5)),
    (
        "ConvTranspose2d",
        dict(in_channels=4, out_channels=2, kernel_size=(3, 2), stride=(1, 2), padding=(2, 1), groups=2, bias=False),
        (4, 5, 6),
    ),
    (
        "ConvTranspose2d",
        dict(in_channels=2, out_channels=2, kernel_size=3, stride=2, padding=3, output_padding=3, dilation=4),
        (2, 2, 3, 4),
    ),
    (
        "ConvTranspose2d",  # as many positions as pixels, and not the same ones
        dict(in_channels=2, out_channels=3, kernel_size=1, padding=1, output_padding=2, dilation=3),
        (2, 2, 4, 5),
    ),
    (
        "ConvTranspose3d",
        dict(in_channels=2, out_channels=3, kernel_size=(2, 3, 1), stride=2, padding=(0, 1, 0), output_padding=1),
        (2, 2, 3, 4, 2),
    ),
    ("Fold", dict(output_size=(5, 6), kernel_size=2, dilation=2, padding=1, stride=(1, 2)), (2, 8, 15)),
    ("LPPool1d", dict(norm_type=2, kernel_size=3, stride=2, ceil_mode=True), (2, 3, 9)),
    ("LPPool2d", dict(norm_type=4, kernel_size=(3, 2), stride=2), (3, 6, 7)),
    ("LPPool2d", dict(norm_type=1.0, kernel_size=2), (2, 3, 6, 7)),
    ("LPPool3d", dict(norm_type=2.0, kernel_size=2, stride=1), (2, 3, 4, 5, 3)),
    ("MaxPool1d", dict(kernel_size=3, stride=2, padding=1, ceil_mode=True), (2, 3, 9)),
    ("MaxPool1d", dict(kernel_size=2, return_indices=True), (3, 9)),
    ("MaxPool2d", dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 3, 6, 7)),
    ("MaxPool2d", dict(kernel_size=2, return_indices=True), (3, 6, 7)),
    ("MaxPool3d", dict(kernel_size=(2, 3, 1), stride=2, padding=(1, 1, 0)), (2, 3, 4, 5, 6)),
    ("MaxPool3d", dict(kernel_size=2, dilation=2, return_indices=True), (3, 5, 6, 4)),
    ("MaxUnpool1d", dict(kernel_size=2), (2, 3, 4)),
    ("MaxUnpool2d", dict(kernel_size=(3, 2), stride=2, padding=(1, 0)), (2, 3, 2, 3)),
    ("MaxUnpool3d", dict(kernel_size=2, stride=(1, 2, 2)), (3, 2, 3, 2)),
    ("PixelShuffle", dict(upscale_factor=2), (2, 8, 3, 2)),
    ("PixelUnshuffle", dict(downscale_factor=3), (2, 1, 2, 3, 6)),
    ("ReLU", dict(inplace=True), (2, 3)),
    ("Upsample", dict(scale_factor=1.7, mode="linear"), (2, 3, 5)),
    ("Upsample", dict(size=(5, 9), mode="bicubic", align_corners=True), (2, 3, 6, 7)),
    ("Upsample", dict(scale_factor=(2.6, 1.3, 0.7), mode="trilinear", recompute_scale_factor=True), (1, 2, 3, 4, 5)),
    ("UpsamplingBilinear2d", dict(scale_factor=2), (2, 3, 3, 4)),
    ("UpsamplingNearest2d", dict(size=(5, 3)), (2, 3, 4, 6)),
    ("Unfold", dict(kernel_size=(3, 2), dilation=(1, 2), padding=1, stride=2), (2, 3, 6, 7)),
]
OWN = {"ConvReLU2d", "ConvReLUMaxPool2d"}  # torch.nn has no such layer
LAZY = {f"Lazy{name}{rank}d" for name in ("Conv", "ConvTranspose") for rank in (1, 2, 3)}
each_layer = pytest.mark.parametrize(("name", "arguments", "shape"), LAYERS, ids=lambda value: str(value)[:40])


def build(module, name: str, arguments: dict) -> torch.nn.Module:
    torch.manual_seed(7)
    return getattr(module, name)(**arguments).double()


def inputs(layer: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What it takes: x, and to unpool indices, of which none is there twice."""
    if "MaxUnpool" not in type(layer).__name__:
        return (x,)
    size = x.shape[-int(type(layer).__name__[-2]) :]
    return x, torch.arange(size.numel(), device=x.device).flip(0).view(size).expand(x.shape)


def results(layer: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What it returns, and the gradients of the input and the parameters."""
    x = x.clone().requires_grad_()
    answer = layer(*inputs(layer, x * 1))
    floating = [t for t in _pytree.tree_leaves(answer) if t.is_floating_point()]
    weights = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype, device=t.device).view(t.shape) for t in floating]
    gradients = torch.autograd.grad(floating, [x, *layer.parameters()], weights)
    return [*_pytree.tree_leaves(answer), *gradients]


def test_every_layer_is_in_the_table():
    assert {name for name, _, _ in LAYERS} | OWN | LAZY | {"Sequential"} == set(nn.__all__)


@pytest.mark.parametrize("name", sorted(set(nn.__all__) - OWN))
def test_the_constructor_takes_torchs_arguments(name):
    def taken(kind) -> list:
        parameters = inspect.signature(kind).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters if p.name != "algorithm"]

    assert issubclass(getattr(nn, name), getattr(torch.nn, name))
    assert taken(getattr(nn, name)) == taken(getattr(torch.nn, name))


@pytest.mark.parametrize("name", [name for name in nn.functional.__all__ if hasattr(F, name)])
def test_a_function_takes_torchs_arguments(name):
    """By position as torch; what is ours is for keywords. Of a builtin, torch's table of overrides knows them."""
    theirs = getattr(F, f"_{name}", getattr(F, name))
    if isinstance(theirs, types.BuiltinFunctionType):
        theirs = torch.overrides.get_testing_overrides()[theirs]
    ours = inspect.signature(getattr(nn.functional, name)).parameters.values()
    assert {p.name for p in ours if p.kind is p.KEYWORD_ONLY} <= {
        "algorithm",
        "padding_mode",
        "scale",
        "residual",
        "activation",
    }
    taken = [(p.name, p.default) for p in ours if p.kind is not p.KEYWORD_ONLY]
    assert taken == [(p.name, p.default) for p in inspect.signature(theirs).parameters.values()]
    assert getattr(nn.functional, name).__name__ == name


@each_layer
def test_it_is_built_as_torch_builds_it(name, arguments, shape):
    ours, theirs = build(nn, name, arguments), build(torch.nn, name, arguments)
    assert repr(ours) == f"tritonconv.nn.{theirs}"
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


@each_layer
def test_it_computes_what_torch_computes(name, arguments, shape, device):
    x = torch.randn(shape, dtype=torch.float64, device=device)
    ours, theirs = (results(build(module, name, arguments).to(device), x) for module in (nn, torch.nn))
    torch.testing.assert_close(ours, theirs)
    assert [t.requires_grad for t in ours] == [t.requires_grad for t in theirs]


@each_layer
def test_an_autocast_region_is_torchs(name, arguments, shape, device):
    """The answer's dtype in it, whatever the input's; the input's gradient has its own."""
    for dtype in (torch.float32, torch.bfloat16):
        answers = []
        for module in (nn, torch.nn):
            layer = build(module, name, arguments).to(device, dtype)
            with FakeTensorMode(allow_non_fake_inputs=True):
                x = torch.empty(shape, device=device, dtype=dtype, requires_grad=True)
                given = inputs(layer, x * 1)
                with torch.autocast(device.type, torch.bfloat16):
                    y = _pytree.tree_leaves(layer(*given))[0]
                answers.append((y.dtype, torch.autograd.grad(y.sum(), x)[0].dtype))
        assert answers[0] == answers[1], dtype


@each_layer
def test_the_same_bits_twice_and_no_input_is_written(name, arguments, shape, device):
    layer = build(nn, name, {key: value for key, value in arguments.items() if key != "inplace"}).to(device)
    x = torch.randn(shape, dtype=torch.float64, device=device)
    before = [t.detach().clone() for t in (x, *layer.parameters())]
    first, second = (results(layer, x) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(before, (x, *layer.parameters()), strict=True))


@each_layer
def test_a_backward_runs_once_and_on_what_was_kept(name, arguments, shape, device):
    layer = build(nn, name, arguments).to(device)
    x = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)
    kept: list[torch.Tensor] = []

    def answer() -> torch.Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            return _pytree.tree_leaves(layer(*inputs(layer, x * 1)))[0]

    y = answer()
    if any(t.is_floating_point() for t in kept):
        y.sum().backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            y.sum().backward()


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "ConvTranspose3d", "LPPool2d", "ReLU"])
def test_a_kept_tensor_changed_before_backward_raises(name, device):
    arguments, shape = next((a, s) for n, a, s in LAYERS if n == name)
    layer = build(nn, name, {} if name == "ReLU" else arguments).to(device)
    x = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True) * 1
    y = layer(x)
    (y if name == "ReLU" else x).detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@each_layer
def test_a_copy_is_the_same_layer(name, arguments, shape):
    layer = build(nn, name, arguments)
    x = torch.randn(shape, dtype=torch.float64)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(twin) is type(layer) and repr(twin) == repr(layer)
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in layer.parameters()}
        torch.testing.assert_close(results(twin, x), results(layer, x), rtol=0, atol=0)


@each_layer
def test_it_is_converted_and_restored(name, arguments, shape, device):
    x = torch.randn(shape, dtype=torch.float64, device=device)
    model = torch.nn.ModuleList([build(torch.nn, name, arguments)]).to(device)
    expected = results(model[0], x)
    report = tritonconv.convert(model)
    assert type(model[0]) is getattr(nn, name) and [row.after for row in report.swapped] == [f"tritonconv.nn.{name}"]
    torch.testing.assert_close(results(model[0], x), expected)
    tritonconv.restore(model)
    assert type(model[0]) is getattr(torch.nn, name)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_chain_is_fused_along_every_number_of_axes(rank, device):
    conv, pool = getattr(torch.nn, f"Conv{rank}d"), getattr(torch.nn, f"MaxPool{rank}d")
    torch.manual_seed(0)
    model = torch.nn.Sequential(conv(2, 3, 3, padding=1), torch.nn.ReLU(), pool(2), conv(3, 2, 2), torch.nn.ReLU())
    model = model.double().to(device)
    x = torch.randn(2, 2, *(6, 5, 4)[:rank], dtype=torch.float64, device=device)
    expected = results(model, x)
    report = tritonconv.convert(model)
    assert report.fused == (("0", "1", "2"), ("3", "4"))
    torch.testing.assert_close(results(model, x), expected)
    model[0].algorithm = "im2col"
    calls = [call for step in tritonconv.explain(model, x, backward=False).steps for call in step.calls]
    assert [call.operator for call in calls] == ["convolution_max_pool", "convolution"]
    assert [call.algorithm for call in calls] == ["im2col", "implicit_gemm"]


@pytest.mark.parametrize("name", sorted(LAZY))
def test_a_lazy_layer_becomes_ours(name, device):
    x = torch.randn((2, 3, 6, 5, 4)[: int(name[-2]) + 2], dtype=torch.float64, device=device)
    ours, theirs = (build(module, name, dict(out_channels=4, kernel_size=2)).to(device) for module in (nn, torch.nn))
    assert repr(ours) == f"tritonconv.nn.{theirs}"
    found, expected = [], []
    for layer, answers in ((ours, found), (theirs, expected)):
        torch.manual_seed(0)
        answers += results(layer, x)
    torch.testing.assert_close(found, expected)
    assert type(ours) is getattr(nn, name.removeprefix("Lazy"))
    assert repr(ours) == f"tritonconv.nn.{theirs}"


@pytest.mark.parametrize(("ours", "theirs"), [(nn, torch.nn), (nn.functional, F)], ids=["nn", "functional"])
def test_what_is_not_ours_is_torchs(ours, theirs):
    """A model's file works with our names, and no convolution or pooling of torch's comes with them."""
    names = [name for name in dir(theirs) if name[0] != "_"]
    refused = [
        name for name in names if name not in ours.__all__ and ("conv" in name.lower() or "pool" in name.lower())
    ]
    for name in refused:
        with pytest.raises(AttributeError, match=rf"has no {name}, .*no kernel for it yet"):
            getattr(ours, name)
    assert any("ractional" in name for name in refused)
    rest = set(names) - set(refused) - set(dir(ours))
    assert "Linear" in rest or "cross_entropy" in rest
    assert all(getattr(ours, name) is getattr(theirs, name) for name in rest)
    with pytest.raises(AttributeError, match="no_such_name"):
        ours.no_such_name  # noqa: B018


def test_unpooling_takes_what_pooling_gives(device):
    """And of several sizes that pool to one, the given one."""
    x = torch.randn(2, 3, 7, 6, device=device).contiguous(memory_format=torch.channels_last)
    pooled, indices = nn.MaxPool2d(2, return_indices=True)(x)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    for size in (None, (7, 6), x.shape):
        y = nn.MaxUnpool2d(2)(pooled, indices, size)
        expected = torch.nn.MaxUnpool2d(2)(pooled, indices, size)
        assert torch.equal(y, expected) and y.stride() == expected.stride()


def test_second_gradients_of_one_index_add(device):
    x = torch.randn(2, 3, 4, device=device, dtype=torch.float64, requires_grad=True)
    indices = torch.randint(0, 3, x.shape, device=device)
    dy = torch.randn(2, 3, 8, device=device, dtype=torch.float64, requires_grad=True)
    found, expected = [], []
    for module, answers in ((nn.functional, found), (F, expected)):
        (dx,) = torch.autograd.grad(module.max_unpool1d(x, indices, 2), x, dy, create_graph=True)
        answers += torch.autograd.grad(dx.square().sum(), dy)
    torch.testing.assert_close(found, expected)


def test_of_several_pixels_at_one_index_the_last_is_kept(device):
    """Bitwise the same from run to run; each gets the gradient of the place, as in torch."""
    x = torch.randn(3, 4, 50, device=device, requires_grad=True)
    indices = torch.randint(0, 60, x.shape, device=device)
    y = nn.functional.max_unpool1d(x, indices, 2)
    last = torch.zeros(3, 4, 100, device=device)
    for n, c, i in itertools.product(range(3), range(4), range(50)):
        last[n, c, indices[n, c, i]] = x[n, c, i]
    assert torch.equal(y, last)
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(dx, dy.gather(2, indices))


@pytest.mark.parametrize("shape", [(0, 4, 2, 2), (2, 0, 2, 2), (2, 4, 0, 2), (3, 0, 4, 2, 2), (4, 2, 2)])
def test_shuffling_nothing_and_any_batch(shape, device):
    """torch answers an empty image's own size when it unshuffles."""
    x = torch.randn(shape, device=device, requires_grad=True)
    for name in ("pixel_shuffle", "pixel_unshuffle"):
        y, expected = getattr(nn.functional, name)(x, 2), getattr(F, name)(x, 2)
        if name == "pixel_unshuffle":
            expected = expected.view(*shape[:-3], shape[-3] * 4, shape[-2] // 2, shape[-1] // 2)
        assert torch.equal(y, expected) and y.stride() == expected.stride()
        assert torch.equal(*torch.autograd.grad(y.sum(), x), torch.ones_like(x))


@pytest.mark.parametrize("name", ["pixel_shuffle", "pixel_unshuffle"])
def test_shuffling_keeps_the_memory_format(name, device):
    x = torch.randn(2, 4, 4, 6, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()
    for dy_layout in (torch.contiguous_format, torch.channels_last):
        ours, theirs = getattr(nn.functional, name)(x, 2), getattr(F, name)(x, 2)
        dy = torch.randn_like(theirs).contiguous(memory_format=dy_layout)
        found, expected = ((y, *torch.autograd.grad(y, x, dy)) for y in (ours, theirs))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other) and one.stride() == other.stride()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mixed_precision_with_a_gradient_scaler(dtype, device):
    """A step of training is torch's, within the dtype."""
    trained = []
    for module in (nn, torch.nn):
        torch.manual_seed(0)
        model = module.Sequential(module.Conv2d(1, 4, 3), module.ReLU(), module.MaxPool2d(2), module.Conv2d(4, 2, 2))
        model.to(device)
        optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler(device.type)
        x = torch.randn(4, 1, 8, 8, device=device)
        with torch.autocast(device.type, dtype):
            y = model(x)
            loss = y.float().square().mean()
        assert y.dtype == dtype
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 65536
        trained.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*trained, rtol=0.01, atol=1e-3)


def test_folding_is_contiguous_whatever_the_strides(device):
    """Unlike pixel shuffling, which shares its kernel."""
    columns = torch.randn(2, 12, 12, device=device).transpose(1, 2)
    ours, theirs = nn.functional.fold(columns, (4, 5), 2), F.fold(columns, (4, 5), 2)
    torch.testing.assert_close(ours, theirs)
    assert ours.stride() == theirs.stride() == (60, 20, 5, 1)
