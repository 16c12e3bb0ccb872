"""tritonconv.nn against torch.nn: constructor, repr, initial weights, state_dict, pickling, and a training step.

Values and gradients are compared in float64, where assert_close's own tolerance (1e-7) is far above the rounding of a
few dozen products; what the kernels do in other dtypes is their own tests' business.
"""

import collections
import copy
import pickle

import pytest
import torch

from tritonconv import functional, nn

CONVOLUTIONS = {
    "plain": dict(in_channels=2, out_channels=3, kernel_size=3),
    "no bias": dict(in_channels=2, out_channels=3, kernel_size=3, bias=False),
    "all pairs": dict(
        in_channels=2, out_channels=4, kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)
    ),
    "same": dict(in_channels=2, out_channels=3, kernel_size=3, padding="same"),
    "valid": dict(in_channels=2, out_channels=3, kernel_size=3, padding="valid"),
    "depthwise": dict(in_channels=2, out_channels=4, kernel_size=3, groups=2, padding=1),
    "float64": dict(in_channels=1, out_channels=2, kernel_size=1, dtype=torch.float64),
}
POOLS = {
    "plain": dict(kernel_size=2),
    "all pairs": dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), ceil_mode=True),
    "indices": dict(kernel_size=2, return_indices=True),
}
POOL = dict(pool_kernel_size=3, pool_stride=2, pool_padding=1, pool_dilation=1, ceil_mode=True)
LAYERS = {
    "Conv2d": lambda **kw: nn.Conv2d(2, 3, 3, padding=1, **kw),
    "ConvReLU2d": lambda **kw: nn.ConvReLU2d(2, 3, 3, padding=1, **kw),
    "ConvReLUMaxPool2d": lambda **kw: nn.ConvReLUMaxPool2d(2, 3, 3, padding=1, **POOL, **kw),
}
each_convolution = pytest.mark.parametrize("arguments", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
each_pool = pytest.mark.parametrize("arguments", POOLS.values(), ids=POOLS.keys())
each_layer = pytest.mark.parametrize("kind", LAYERS)


def torch_chain(kind: str, **kwargs) -> torch.nn.Sequential:
    """torch's layers for the same job as LAYERS[kind]."""
    layers = [
        torch.nn.Conv2d(2, 3, 3, padding=1, **kwargs),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(3, 2, 1, 1, False, True),
    ]
    return torch.nn.Sequential(*layers[: list(LAYERS).index(kind) + 1])


def seeded(build, *args, **kwargs) -> torch.nn.Module:
    torch.manual_seed(7)
    return build(*args, **kwargs)


# --- the constructor's side: nothing is computed ---


@each_convolution
def test_conv2d_is_built_as_torch_builds_it(arguments):
    ours, theirs = seeded(nn.Conv2d, **arguments), seeded(torch.nn.Conv2d, **arguments)
    assert repr(ours) == f"tritonconv.nn.{theirs}"
    assert isinstance(ours, torch.nn.Conv2d)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


@each_pool
def test_max_pool2d_is_built_as_torch_builds_it(arguments):
    assert repr(nn.MaxPool2d(**arguments)) == f"tritonconv.nn.{torch.nn.MaxPool2d(**arguments)}"


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_is_built_as_torch_builds_it(inplace):
    assert repr(nn.ReLU(inplace)) == f"tritonconv.nn.{torch.nn.ReLU(inplace)}"


def test_repr_names_what_torch_does_not_have():
    assert repr(nn.Conv2d(1, 2, 3, algorithm="direct")) == (
        "tritonconv.nn.Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), algorithm=direct)"
    )
    assert repr(nn.ConvReLU2d(1, 2, 3)) == "tritonconv.nn.ConvReLU2d(1, 2, kernel_size=(3, 3), stride=(1, 1))"
    assert repr(nn.ConvReLUMaxPool2d(1, 2, 3, pool_kernel_size=2)) == (
        "tritonconv.nn.ConvReLUMaxPool2d(1, 2, kernel_size=(3, 3), stride=(1, 1), pool_kernel_size=2, pool_stride=2, "
        "pool_padding=0, pool_dilation=1, ceil_mode=False)"
    )


@each_layer
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_weights_from_one_seed_and_state_dicts_are_torchs(kind, bias):
    ours, theirs = seeded(LAYERS[kind], bias=bias), seeded(torch.nn.Conv2d, 2, 3, 3, padding=1, bias=bias)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    for source, target in [(ours, torch.nn.Conv2d(2, 3, 3, bias=bias)), (theirs, LAYERS[kind](bias=bias))]:
        target.load_state_dict(source.state_dict())
        assert torch.equal(target.weight, source.weight)


def test_a_fused_layer_loads_what_torchs_chain_saved_and_the_other_way_round():
    chain = torch_chain("ConvReLUMaxPool2d")
    fused = torch.nn.Sequential(LAYERS["ConvReLUMaxPool2d"]())
    fused.load_state_dict(chain.state_dict())
    assert torch.equal(fused[0].bias, chain[0].bias)
    torch_chain("ConvReLUMaxPool2d").load_state_dict(fused.state_dict())


@each_layer
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_the_same_layer(kind, copied):
    layer = LAYERS[kind](algorithm="im2col")
    twin = copied(layer)
    assert type(twin) is type(layer)
    assert repr(twin) == repr(layer)
    assert torch.equal(twin.weight, layer.weight)
    assert twin.weight is not layer.weight


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2, padding=1), nn.ReLU(inplace=True)])
def test_a_pickled_layer_without_parameters_is_the_same_layer(layer):
    twin = pickle.loads(pickle.dumps(layer))
    assert type(twin) is type(layer)
    assert repr(twin) == repr(layer)


def test_an_object_that_never_saw_our_constructor_has_an_algorithm():
    layer = torch.nn.Conv2d(1, 2, 3)
    layer.__class__ = nn.Conv2d
    assert repr(layer) == f"tritonconv.nn.{torch.nn.Conv2d(1, 2, 3)}"
    assert layer.algorithm == "auto"


@each_layer
def test_a_padding_mode_may_be_set_later(kind):
    layer, other = LAYERS[kind](), LAYERS[kind](padding_mode="reflect")
    other.load_state_dict(layer.state_dict())
    x = torch.rand(1, 2, 4, 4)
    with_zeros = layer(x)
    layer.padding_mode = "reflect"
    assert torch.equal(layer(x), other(x))
    assert not torch.equal(layer(x), with_zeros)


@each_layer
def test_parameters_are_made_on_the_device_and_in_the_dtype_asked_for(kind):
    layer = LAYERS[kind](device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(padding_mode="mirror"), "padding_mode must be one of"),
        (dict(padding="full"), "Invalid padding string 'full'"),
        (dict(padding="same", stride=2), "padding='same' is not supported for strided convolutions"),
        (dict(groups=2), "in_channels must be divisible by groups"),
        (dict(groups=0), "groups must be a positive integer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_torchs_own_constructor_errors_stay(wrong, message):
    for kind in (nn.Conv2d, torch.nn.Conv2d):
        with pytest.raises(ValueError, match=message):
            kind(3, 4, 3, **wrong)


@each_layer
def test_an_unknown_algorithm_is_named(kind):
    with pytest.raises(ValueError, match=r"algorithm must be one of auto, direct, im2col, implicit_gemm.*'fft'"):
        LAYERS[kind](algorithm="fft")


def test_the_fused_layer_wants_its_pooling_window():
    with pytest.raises(TypeError, match="pool_kernel_size"):
        nn.ConvReLUMaxPool2d(1, 2, 3)


# --- forward and a training step ---


def assert_same_step(
    ours: torch.nn.Module, theirs: torch.nn.Module, x: torch.Tensor, same_strides: bool = True
) -> None:
    """The same answer and, after one step of SGD on the same loss, the same parameters and the same dx."""
    answers = []
    for model in (ours, theirs):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        y = model(leaf)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)).sum().backward()
        optimizer.step()
        answers.append((y.detach(), leaf.grad, [p.detach() for p in model.parameters()]))
    torch.testing.assert_close(*answers)
    assert not same_strides or answers[0][0].stride() == answers[1][0].stride()


@each_layer
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_training_step_is_torchs(kind, bias, device):
    ours = seeded(LAYERS[kind], bias=bias, dtype=torch.float64, device=device)
    theirs = seeded(torch_chain, kind, bias=bias, dtype=torch.float64, device=device)
    assert_same_step(ours, theirs, torch.randn(2, 2, 5, 6, dtype=torch.float64, device=device))


@each_layer
def test_an_unbatched_input(kind, device):
    ours = seeded(LAYERS[kind], dtype=torch.float64, device=device)
    theirs = seeded(torch_chain, kind, dtype=torch.float64, device=device)
    assert_same_step(ours, theirs, torch.randn(2, 5, 6, dtype=torch.float64, device=device))


@each_layer
def test_channels_last_stays_channels_last(kind, device):
    ours = seeded(LAYERS[kind], dtype=torch.float64, device=device).to(memory_format=torch.channels_last)
    theirs = seeded(torch_chain, kind, dtype=torch.float64, device=device).to(memory_format=torch.channels_last)
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, device=device).to(memory_format=torch.channels_last)
    assert ours(x).is_contiguous(memory_format=torch.channels_last)
    assert_same_step(ours, theirs, x, same_strides=device.type == "cpu")  # cuDNN has no float64 in channels_last
    assert ours.float()(x.float()).stride() == theirs.float()(x.float()).stride()


@each_convolution
def test_every_argument_reaches_the_operator(arguments, device):
    arguments = {**arguments, "dtype": torch.float64, "device": device}
    ours, theirs = seeded(nn.Conv2d, **arguments), seeded(torch.nn.Conv2d, **arguments)
    fused = seeded(nn.ConvReLU2d, **arguments)
    pooled = seeded(nn.ConvReLUMaxPool2d, **arguments, pool_kernel_size=2)
    x = torch.randn(1, arguments["in_channels"], 6, 7, dtype=torch.float64, device=device)
    y = theirs(x)
    torch.testing.assert_close(ours(x), y)
    torch.testing.assert_close(fused(x), y.relu())
    torch.testing.assert_close(pooled(x), torch.nn.functional.max_pool2d(y.relu(), 2))


@each_pool
def test_every_pooling_argument_reaches_the_operator(arguments, device):
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64, device=device)
    torch.testing.assert_close(nn.MaxPool2d(**arguments)(x), torch.nn.MaxPool2d(**arguments)(x))


@pytest.mark.parametrize("name", ["plain", "all pairs"])
def test_every_pooling_argument_reaches_the_fused_operator(name, device):
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64, device=device)
    pool = torch.nn.MaxPool2d(**POOLS[name])
    prefixed = {key if key == "ceil_mode" else f"pool_{key}": value for key, value in POOLS[name].items()}
    fused = nn.ConvReLUMaxPool2d(2, 1, 1, dtype=torch.float64, device=device, **prefixed)
    torch.testing.assert_close(fused(x), pool(torch.nn.functional.conv2d(x, fused.weight, fused.bias).relu()))


@each_layer
@pytest.mark.parametrize(
    "algorithm, kernel", [("direct", "direct"), ("im2col", "unfold"), ("implicit_gemm", "implicit_gemm")]
)
def test_algorithm_reaches_the_operator(kind, algorithm, kernel, launches, device):
    LAYERS[kind](algorithm=algorithm, device=device)(torch.ones(1, 2, 4, 4, device=device))
    assert launches[0][0].startswith(kernel)


@each_layer
def test_algorithm_may_be_set_on_a_built_layer(kind, device):
    layer = LAYERS[kind](device=device)
    layer.algorithm = "fft"
    with pytest.raises(ValueError, match="'fft'"):
        layer(torch.ones(1, 2, 4, 4, device=device))


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_writes_where_torch_writes(inplace, device):
    x = torch.tensor([-1.0, 0.0, 2.0, float("nan")], device=device)
    before = x.clone()
    y = nn.ReLU(inplace)(x)
    torch.testing.assert_close(y, before.relu(), equal_nan=True)
    assert (y.data_ptr() == x.data_ptr()) is inplace
    torch.testing.assert_close(x, before.relu() if inplace else before, equal_nan=True)


@each_layer
def test_a_subclass_that_prepares_its_parameters_runs_on_our_kernels(kind, launches, device):
    layer = LAYERS[kind](dtype=torch.float64, device=device)

    class Prepared(type(layer)):
        def forward(self, input):
            return self._conv_forward(input, self.weight - self.weight.mean(), 2 * self.bias)

    layer.__class__ = Prepared
    theirs = torch_chain(kind, dtype=torch.float64, device=device)
    with torch.no_grad():
        theirs[0].weight.copy_(layer.weight - layer.weight.mean())
        theirs[0].bias.copy_(2 * layer.bias)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, device=device)
    torch.testing.assert_close(layer(x), theirs(x))
    assert launches


@pytest.mark.parametrize("library", [nn, torch.nn])
def test_a_transposed_convolution_refuses_a_padding_mode_that_was_set_later(library):
    layer = library.ConvTranspose2d(2, 3, 3)
    layer.padding_mode = "circular"
    with pytest.raises(ValueError, match=r"zeros.*ConvTranspose2d"):
        layer(torch.zeros(1, 2, 4, 4))


# --- Sequential ---


def fused_chain(device) -> tuple[torch.nn.Module, torch.Tensor]:
    layers = (nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*layers).to(device), torch.randn(2, 2, 6, 6, device=device)


def test_sequential_takes_what_torchs_takes():
    assert nn.Sequential(torch.nn.Identity(), torch.nn.Identity())(("any", "thing")) == ("any", "thing")
    assert nn.Sequential()(x := torch.zeros(1)) is x
    with pytest.raises(TypeError, match=r"conv2d.*input.*must be Tensor"):
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())("an image")


def test_sequential_is_built_as_torch_builds_it():
    layers = {"a": torch.nn.Identity(), "b": torch.nn.Identity()}
    ours, theirs = (kind(collections.OrderedDict(layers)) for kind in (nn.Sequential, torch.nn.Sequential))
    assert repr(ours) == f"tritonconv.nn.{theirs}" and type(ours[:1]) is nn.Sequential


def test_a_layer_compiled_by_itself_is_called(device):
    model, x = fused_chain(device)
    model.requires_grad_(False)
    expected = model(x)
    calls = []
    model[1].compile(backend=lambda graph, inputs: calls.append(1) or graph.forward)
    assert torch.equal(model(x), expected) and calls == [1]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's unflatten, of torch's own
def test_an_exported_sequential_is_fused(device):
    model, x = fused_chain(device)
    exported = torch.export.export(model, (x,))
    targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert targets[0] == "tritonconv.convolution_max_pool.default" and len(targets) < 4
    for again in (exported.module(), torch.export.unflatten(exported)):
        assert torch.equal(again(x), model(x))


def test_a_compiled_sequential_is_fused(device):
    model, x = fused_chain(device)
    seen = []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.testing.assert_close(torch.compile(model, backend=backend, fullgraph=True)(x), model(x), rtol=0, atol=0)
    assert "tritonconv.convolution_max_pool.default" in seen or "tritonconv.convolution_max_pool" in seen


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("needs_gradients", [True, False])
@pytest.mark.parametrize("layers", [[nn.ReLU()], [nn.SiLU()], [nn.BatchNorm2d(3), nn.ReLU()]], ids=str)
def test_a_jit_trace_gives_the_same_and_passes_its_check(layers, needs_gradients, device):
    """The check runs without gradients: what was traced with them must not be fused otherwise then."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), *layers, nn.MaxPool2d(2)).to(device).eval()
    model.requires_grad_(needs_gradients)
    x = torch.randn(2, 2, 6, 6, device=device)
    for is_enabled in (True, False):
        with torch.set_grad_enabled(is_enabled):
            torch.testing.assert_close(torch.jit.trace(model, x)(x), model(x))


class Sized(torch.nn.Module):
    """An image, resampled to the size of another."""

    def __init__(self, library) -> None:
        super().__init__()
        self.pool, self.functional = library.MaxPool2d(2), functional if library is nn else torch.nn.functional

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.functional.interpolate(self.pool(x), size=x.shape[2:], mode="bilinear")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*:torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "build",
    [
        lambda library: library.ConvTranspose2d(4, 3, 3, stride=2, output_padding=1),
        lambda library: library.Upsample(scale_factor=1.5, mode="bicubic"),
        lambda library: library.Upsample(scale_factor=2.3, recompute_scale_factor=True),
        lambda library: library.PixelShuffle(2),
        lambda library: library.AdaptiveAvgPool2d((None, 3)),
        Sized,
    ],
    ids=["transposed", "by a scale", "by a new scale", "shuffle", "adaptive", "to a size"],
)
def test_a_jit_trace_serves_other_sizes(build, device):
    ours, theirs = (build(library).to(device) for library in (nn, torch.nn))
    theirs.load_state_dict(ours.state_dict())
    traced = torch.jit.trace(ours, torch.randn(2, 4, 6, 6, device=device))
    x = torch.randn(3, 4, 9, 7, device=device)
    torch.testing.assert_close(traced(x), theirs(x))


def test_an_export_by_a_scale_serves_other_sizes(device):
    layer, sizes = nn.Upsample(scale_factor=1.5), dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    exported = torch.export.export(layer, (torch.randn(2, 3, 6, 8, device=device),), dynamic_shapes=(sizes,))
    x = torch.randn(2, 3, 7, 5, device=device)
    assert torch.equal(exported.module()(x), layer(x))


def test_a_symbolic_trace_has_the_layers_functions(device):
    model, x = fused_chain(device)
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(x), model(x))
    functions = [node.target.__name__ for node in graph.graph.nodes if node.op == "call_function"]
    assert functions == ["conv2d", "relu", "max_pool2d"]
