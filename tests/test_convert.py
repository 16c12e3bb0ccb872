"""convert: what it swaps, fuses and leaves, that the model computes and trains as before, and what the report says."""

import collections
import copy
import dataclasses
import pickle

import pytest
import torch
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

from tritonconv import nn
from tritonconv.conversion import ConvertReport, convert, restore


def chain(**kwargs) -> torch.nn.Sequential:
    """Conv2d → ReLU → MaxPool2d → Conv2d → ReLU → Flatten → Linear on (N, 1, 6, 6), in float64."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, padding=1, **kwargs),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(2, 3, 2, **kwargs),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 2),
    ).double()


def picture(device: torch.device, channels: int = 1) -> torch.Tensor:
    return torch.randn(2, channels, 6, 6, dtype=torch.float64, device=device)


def classes(model: torch.nn.Module) -> list[str]:
    """The class of each of the model's children: 'nn.X' is ours, 'X' torch's."""
    return [("nn." if type(m).__module__.startswith(nn.__name__) else "") + type(m).__name__ for m in model.children()]


def reasons(report: ConvertReport) -> dict[str, str]:
    return {row.name: row.reason for row in report.rows}


def names(rows: tuple) -> list[str]:
    return [row.name for row in rows]


def assert_same_answer(model: torch.nn.Module, before: torch.nn.Module, x: torch.Tensor) -> None:
    torch.testing.assert_close(model(x), before(x))


class Operators(TorchDispatchMode):
    """The names of our operators that run inside the block."""

    def __enter__(self) -> list[str]:
        self.names: list[str] = []
        super().__enter__()
        return self.names

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "tritonconv":
            self.names.append(func._schema.name.removeprefix("tritonconv::"))
        return func(*args, **(kwargs or {}))


def operators(model: torch.nn.Module, x: torch.Tensor) -> list[str]:
    with torch.no_grad(), Operators() as names:
        model(x)
    return names


SWAPPED = ["nn.Conv2d", "nn.ReLU", "nn.MaxPool2d", "nn.Conv2d", "nn.ReLU", "Flatten", "Linear"]  # of chain()
UNFUSED = ["convolution", "activate", "max_pool"]  # the first three of its layers


class Branches(torch.nn.Module):
    """A custom forward: what follows what is known to nobody but itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3, padding=1, dtype=torch.float64)
        self.relu = torch.nn.ReLU(inplace=True)
        self.pool = torch.nn.MaxPool2d(2)

    def forward(self, x):
        y = self.conv(x)
        return self.pool(self.relu(y + x))


# --- what becomes of a chain ---


def test_a_chain_is_fused_when_it_is_called_and_its_layers_stay(device):
    model = chain().to(device)
    before, layers = copy.deepcopy(model), list(model)
    report = convert(model)
    assert classes(model) == SWAPPED
    assert all(now is then for now, then in zip(model, layers, strict=True))
    assert list(model.state_dict()) == list(before.state_dict())
    assert report.fused == (("0", "1", "2"), ("3", "4"))
    assert names(report.swapped) == ["0", "1", "2", "3", "4"] and report.left == ()
    assert operators(model, picture(device)) == ["convolution_max_pool", "convolution"]
    assert_same_answer(model, before, picture(device))


def test_without_fuse_layers_are_only_swapped(device):
    model = chain().to(device)
    before = copy.deepcopy(model)
    report = convert(model, fuse=False)
    assert classes(model) == SWAPPED and type(model) is torch.nn.Sequential
    assert report.fused == ()
    assert names(report.swapped) == ["0", "1", "2", "3", "4"]
    assert set(reasons(report).values()) == {""}
    assert operators(model, picture(device)) == [*UNFUSED, "convolution", "activate"]
    assert_same_answer(model, before, picture(device))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_an_optimizer_made_before_goes_on_as_with_torch(bias, device):
    """Two steps of SGD with momentum before converting, two after: the parameters are torch's."""
    ours = chain(bias=bias).to(device)
    theirs = copy.deepcopy(ours)
    parameters = list(ours.parameters())
    x, target = picture(device), torch.tensor([0, 1], device=device)
    for model in (ours, theirs):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for step in range(4):
            if step == 2 and model is ours:
                convert(model)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), target).backward()
            optimizer.step()
    assert all(now is then for now, then in zip(ours.parameters(), parameters, strict=True))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_every_argument_of_the_layers_survives_fusion(device):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, (3, 2), (2, 1), (1, 0), (1, 2), 2),
        torch.nn.ReLU(inplace=True),
        torch.nn.MaxPool2d((2, 3), (1, 2), (1, 0), (2, 1), ceil_mode=True),
    ).to(device, torch.float64)
    before = copy.deepcopy(model)
    convert(model)
    assert operators(model, picture(device, 2)) == ["convolution_max_pool"]
    assert_same_answer(model, before, picture(device, 2))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_named_padding_survives(padding, device):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=padding), torch.nn.ReLU()).to(device, torch.float64)
    before = copy.deepcopy(model)
    convert(model)
    assert_same_answer(model, before, picture(device))


def test_chains_in_nested_and_named_sequentials_are_found():
    layers = [("conv", torch.nn.Conv2d(1, 2, 3)), ("relu", torch.nn.ReLU()), ("pool", torch.nn.MaxPool2d(2))]
    model = torch.nn.Module()
    model.body = torch.nn.Sequential(torch.nn.Sequential(collections.OrderedDict(layers)), torch.nn.Dropout())
    report = convert(model)
    assert report.fused == (("body.0.conv", "body.0.relu", "body.0.pool"),)
    assert str(report).splitlines()[-2] == "  in body.0: conv + relu + pool"
    assert operators(model.body, torch.zeros(1, 1, 8, 8)) == ["convolution_max_pool"]


@pytest.mark.parametrize(
    "between", [torch.nn.Identity(), torch.nn.Dropout(), torch.nn.BatchNorm2d(2)], ids=lambda m: type(m).__name__
)
def test_layers_with_something_between_are_not_fused(between):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), between, torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    report = convert(model)
    assert classes(model) == ["nn.Conv2d", type(between).__name__, "nn.ReLU", "nn.MaxPool2d"]
    why = f"{type(between).__name__} follows"
    if isinstance(between, torch.nn.BatchNorm2d):
        why = "1 normalizes by its batch while it trains"
    assert reasons(report)["0"] == f"not fused: {why}"
    assert report.fused == ()


def test_a_convolution_at_the_end_is_told_so():
    report = convert(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)))
    assert reasons(report) == {"0": "not fused: nothing follows"}


def test_a_custom_forward_is_swapped_and_not_fused(device):
    model = Branches().to(device)
    before = copy.deepcopy(model)
    report = convert(model)
    assert classes(model) == ["nn.Conv2d", "nn.ReLU", "nn.MaxPool2d"]
    assert reasons(report)["conv"] == "not fused: only an nn.Sequential tells what follows"
    assert_same_answer(model, before, picture(device))


class Block(torch.nn.Sequential):
    """As libraries of models have it: a constructor of its own, nn.Sequential's forward."""

    def __init__(self, channels: int) -> None:
        super().__init__(torch.nn.Conv2d(1, channels, 3), torch.nn.ReLU(inplace=True))


def test_a_subclass_of_sequential_with_its_forward_is_fused(device):
    model = torch.nn.Sequential(Block(2), torch.nn.MaxPool2d(2)).to(device, torch.float64)
    before = copy.deepcopy(model)
    report = convert(model)
    assert report.fused == (("0.0", "0.1"),)
    assert isinstance(model[0], Block) and repr(model[0]).startswith("Block(\n  (0): tritonconv.nn.Conv2d(1, 2,")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin[0]) is type(model[0])
        assert operators(twin, picture(device)) == ["convolution", "max_pool"]
        assert_same_answer(twin, before, picture(device))
    assert convert(model).fused == report.fused
    assert type(pickle.loads(pickle.dumps(restore(model) and model))[0]) is Block


class Reversed(torch.nn.Sequential):
    def forward(self, x):
        for layer in reversed(list(self)):
            x = layer(x)
        return x


class Backwards(torch.nn.Sequential):
    def __iter__(self):
        return reversed(self._modules.values())


class Registered(torch.nn.Sequential):
    def __init_subclass__(cls) -> None:
        raise AssertionError("a subclass that its author does not know of")


class Reduced(torch.nn.Sequential):
    def __reduce__(self):
        return Reduced, tuple(self)


@pytest.mark.parametrize("kind", [Reversed, Backwards, Registered, Reduced])
def test_a_sequential_that_may_do_something_else_is_not_fused(kind):
    model = kind(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    report = convert(model)
    assert classes(model) == ["nn.Conv2d", "nn.ReLU"] and type(model) is kind
    assert report.fused == ()
    assert reasons(report)["0"] == "not fused: only an nn.Sequential tells what follows"


def test_a_sequential_whose_forward_was_replaced_is_not_fused():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    model.forward = lambda x: model[0](x)
    assert convert(model).fused == () and type(model) is torch.nn.Sequential


def test_pooling_that_returns_indices_is_swapped_not_fused(device):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2, return_indices=True))
    model = model.to(device, torch.float64)
    before = copy.deepcopy(model)
    report = convert(model)
    assert report.fused == (("0", "1"),)
    assert reasons(report)["0"] == "pooling not fused: 2 returns indices"
    assert_same_answer(model, before, picture(device))


def test_the_root_may_be_a_layer():
    model = torch.nn.Conv2d(1, 2, 3)
    report = convert(model)
    assert type(model) is nn.Conv2d
    assert names(report.swapped) == [""]
    assert "(the model)" in str(report)


# --- hooks, sharing, filter ---


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
@pytest.mark.parametrize(
    "hooked, expected",
    [(0, UNFUSED), (1, UNFUSED), (2, ["convolution", "max_pool"])],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_layer_with_a_hook_is_not_fused(register, hooked, expected, when, device):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)).to(device).double()
    if when == "after":
        convert(model)
    handle = getattr(model[hooked], register)(lambda *_: None)
    report = convert(model)
    assert f"not fused: {hooked} has hooks" in reasons(report)["0"]
    assert operators(model, picture(device)) == expected
    handle.remove()
    assert operators(model, picture(device)) == ["convolution_max_pool"]


@pytest.mark.parametrize(
    "register",
    [
        torch.nn.modules.module.register_module_forward_hook,
        torch.nn.modules.module.register_module_forward_pre_hook,
        torch.nn.modules.module.register_module_full_backward_hook,
    ],
)
def test_a_hook_for_all_modules_meets_every_layer(register, device):
    model = chain().to(device)
    convert(model)
    handle = register(lambda *_: None)
    try:
        assert operators(model, picture(device))[:3] == UNFUSED
    finally:
        handle.remove()


def test_hooks_still_see_what_they_saw(device):
    model = chain().to(device)
    values: list[torch.Tensor] = []
    model[1].register_forward_hook(lambda module, args, y: values.append(y))
    x = picture(device)
    model(x)
    convert(model)
    model(x)
    torch.testing.assert_close(*values)


def test_a_shared_layer_is_fused_where_it_can_be(device):
    conv, relu = torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.ReLU()
    layers = (conv, relu, conv, torch.nn.MaxPool2d(2), conv, relu, torch.nn.Flatten(), torch.nn.Linear(9, 9), relu)
    model = torch.nn.Sequential(*layers).to(device, torch.float64)
    before = copy.deepcopy(model)
    report = convert(model)
    assert report.fused == (("0", "1"), ("4", "5"))
    assert names(report.swapped) == ["0", "1", "3"]  # a layer has one row, at its first place
    assert operators(model, picture(device)) == ["convolution", "convolution", "max_pool", "convolution", "activate"]
    assert_same_answer(model, before, picture(device))


def test_a_slice_taken_before_answers_what_it_did(device):
    model = chain().to(device)
    x = picture(device)
    slices = [model[:i] for i in range(1, 6)]
    expected = [stem(x) for stem in slices]
    convert(model)
    for stem, value in zip([*slices, *(model[:i] for i in range(1, 6))], expected * 2, strict=True):
        torch.testing.assert_close(stem(x), value)


def test_a_loop_over_the_layers_meets_what_it_met(device):
    """A tap after each layer, as perceptual losses have it."""
    model = chain().to(device)
    before, x = copy.deepcopy(model), picture(device)
    y = x
    convert(model)
    for ours, theirs in zip(model, before, strict=True):
        x, y = ours(x), theirs(y)
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["forward", "_conv_forward"])
def test_a_layer_whose_forward_was_replaced_keeps_it_and_the_relu_after_it(name, when, device):
    """Circular padding put into a layer of a network, as for images that tile."""

    def circular(self, x, weight=None, bias=None):
        x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
        return torch.nn.functional.conv2d(x, self.weight, self.bias)

    model = chain().to(device)
    before = copy.deepcopy(model)
    if when == "after":
        convert(model)
    for each in (model, before):
        setattr(each[0], name, circular.__get__(each[0]))
    report = convert(model)
    assert report.fused == (("3", "4"),)
    assert_same_answer(model, before, picture(device))


def test_a_method_replaced_in_a_class_is_called(device, monkeypatch):
    model = chain().to(device)
    convert(model)
    calls = []
    forward = torch.nn.Conv2d.forward
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda self, x: calls.append(self) or forward(self, x))
    assert operators(model, picture(device))[:3] == UNFUSED
    assert calls == [model[0], model[3]]


def test_a_container_registered_twice_is_converted_once():
    model = torch.nn.Module()
    model.encoder = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    model.twin = model.encoder
    report = convert(model)
    assert model.twin is model.encoder
    assert report.fused == (("encoder.0", "encoder.1"),)
    assert names(report.rows) == ["encoder.0", "encoder.1"]


def test_aliases_and_ties_stay(device):
    model = chain().to(device)
    alias, tied = model[0], torch.nn.Conv2d(1, 2, 3).to(device)
    tied.weight = alias.weight
    convert(model)
    assert model[0] is alias
    assert tied.weight is model[0].weight


@pytest.mark.parametrize(
    "refused, expected, reason",
    [
        ("0", ["Conv2d", "nn.ReLU", "nn.MaxPool2d"], {"0": "left by filter_fn", "1": "", "2": ""}),
        (
            "1",
            ["nn.Conv2d", "ReLU", "nn.MaxPool2d"],
            {"0": "not fused: 1: left by filter_fn", "1": "left by filter_fn", "2": ""},
        ),
        (
            "2",
            ["nn.Conv2d", "nn.ReLU", "MaxPool2d"],
            {"0": "pooling not fused: 2: left by filter_fn", "1": "", "2": "left by filter_fn"},
        ),
    ],
)
def test_the_filter_leaves_a_layer(refused, expected, reason):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    report = convert(model, filter_fn=lambda layer, name: name != refused)
    assert classes(model) == expected
    assert reasons(report) == reason
    assert names(report.left) == [refused]


def test_the_filter_is_asked_for_supported_layers_under_each_name():
    model = torch.nn.Module()
    model.a = chain()
    model.b = torch.nn.Sequential(model.a[0])
    asked = []
    convert(model, filter_fn=lambda layer, name: asked.append(name) or name != "b.0")
    assert asked == ["a.0", "a.1", "a.2", "a.3", "a.4", "b.0"]
    assert type(model.a[0]) is torch.nn.Conv2d


def test_the_filter_is_asked_for_layers_that_are_ours_already():
    model = torch.nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), torch.nn.ReLU())
    report = convert(model, filter_fn=lambda layer, name: name != "0")
    assert classes(model) == ["nn.Conv2d", "nn.ReLU", "nn.Conv2d", "nn.ReLU"]
    assert reasons(report)["0"] == "left by filter_fn"


# --- what is left, and why ---


def parametrized() -> torch.nn.Module:
    return parametrizations.weight_norm(torch.nn.Conv2d(1, 2, 3))


def with_its_own(name: str) -> torch.nn.Module:
    layer = torch.nn.Conv2d(1, 2, 3)
    setattr(layer, name, lambda x, *_: x)
    return layer


class Doubled(torch.nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class TensorSubclass(torch.Tensor):
    pass


def with_tensor_subclass(name: str) -> torch.nn.Module:
    layer = torch.nn.Conv2d(1, 2, 3)
    setattr(layer, name, torch.nn.Parameter(getattr(layer, name).detach().as_subclass(TensorSubclass)))
    return layer


@pytest.mark.parametrize(
    "build, reason",
    [
        (lambda: torch.nn.Conv2d(1, 2, 3, dtype=torch.complex64), "weight is torch.complex64: expected float16"),
        (lambda: torch.nn.LazyConv2d(2, 3), "lazy: convert after its first forward"),
        (parametrized, "parametrized: convert first"),
        (lambda: Doubled(1, 2, 3), "a subclass of torch.nn's layer"),
        (lambda: type("Leaky", (torch.nn.ReLU,), {})(), "a subclass of torch.nn's layer"),
        (lambda: with_tensor_subclass("weight"), "weight is a TensorSubclass, not a plain tensor"),
        (lambda: with_tensor_subclass("bias"), "bias is a TensorSubclass, not a plain tensor"),
        (lambda: with_its_own("forward"), "its forward was replaced on the object"),
        (lambda: with_its_own("_conv_forward"), "its forward was replaced on the object"),
        (lambda: torch.nn.LazyConvTranspose2d(2, 3), "lazy: convert after its first forward"),
        (lambda: type("Causal", (torch.nn.Conv1d,), {})(1, 2, 3), "a subclass of torch.nn's layer"),
        (lambda: torch.nn.LazyConv1d(2, 3), "lazy: convert after its first forward"),
        (lambda: torch.nn.FractionalMaxPool2d(2, 2), "not supported yet"),
        (lambda: type("Seeded", (torch.nn.FractionalMaxPool2d,), {})(2, 2), "not supported yet"),
    ],
)
def test_a_layer_is_left_with_a_reason(build, reason):
    layer = build()
    kind = type(layer)
    report = convert(torch.nn.Sequential(layer, torch.nn.ReLU()))
    assert type(layer) is kind
    assert names(report.left) == ["0"]
    assert reasons(report)["0"].startswith(reason)
    assert names(report.swapped) == ["1"]


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
def test_a_quantized_convolution_is_left():
    quantized = torch.ao.nn.quantized  # a Linear is no layer of ours, quantized or not
    report = convert(torch.nn.Sequential(quantized.Conv2d(1, 2, 3), quantized.Linear(2, 2)))
    assert reasons(report) == {"0": "quantized: no kernel for it yet"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model_is_left():
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten()))
    assert reasons(convert(scripted)) == {"0": "scripted: convert before torch.jit"}


def test_a_lazy_layer_is_swapped_once_it_knows_its_sizes():
    model = torch.nn.Sequential(torch.nn.LazyConv2d(2, 3))
    assert names(convert(model).left) == ["0"]
    with torch.no_grad():
        model(torch.zeros(1, 1, 4, 4))
    assert names(convert(model).swapped) == ["0"]


def test_a_layer_left_in_two_places_does_not_hide_the_next():
    pool, conv = torch.nn.FractionalMaxPool2d(2, 2), torch.nn.Conv2d(1, 2, 3, dtype=torch.complex64)
    report = convert(torch.nn.Sequential(pool, pool, conv))
    assert names(report.left) == ["0", "2"]
    assert type(conv) is torch.nn.Conv2d


def test_other_layers_are_not_listed():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm2d(2), torch.nn.Sigmoid(), torch.nn.Flatten())
    report = convert(model)
    assert report.rows == ()
    assert str(report).endswith("0 swapped, 0 left, 0 fused where they are called")


# --- twice, wrong calls, failures ---


def test_converting_twice_changes_nothing_more():
    model = chain()
    convert(model)
    shown, kinds = repr(model), classes(model)
    report = convert(model)
    assert report.swapped == ()
    assert report.fused == (("0", "1", "2"), ("3", "4"))
    assert reasons(report) == dict.fromkeys(["0", "1", "2", "3", "4"], "tritonconv's already")
    assert (repr(model), classes(model)) == (shown, kinds)


def test_a_layer_of_ours_that_is_not_fused_is_told_why():
    report = convert(torch.nn.Sequential(nn.Conv2d(1, 2, 3), torch.nn.Flatten()))
    assert reasons(report) == {"0": "tritonconv's already; not fused: Flatten follows"}


def test_what_was_only_swapped_can_be_fused_later(device):
    model = chain().to(device)
    before = copy.deepcopy(model)
    convert(model, fuse=False)
    model[0].algorithm = "direct"
    report = convert(model)
    assert report.fused == (("0", "1", "2"), ("3", "4"))
    assert model[0].algorithm == "direct"
    assert_same_answer(model, before, picture(device))


def test_a_chain_of_both_houses_is_fused():
    model = torch.nn.Sequential(nn.Conv2d(1, 2, 3), torch.nn.ReLU(), nn.MaxPool2d(2))
    assert convert(model).fused == (("0", "1", "2"),)


def test_a_wrong_model_or_filter_is_named():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, but got list"):
        convert([torch.nn.Conv2d(1, 2, 3)])
    model = chain()
    with pytest.raises(TypeError, match=r"filter_fn must be callable or None, but got str"):
        convert(model, filter_fn="conv")
    assert not any(kind.startswith("nn.") for kind in classes(model))


def test_a_filter_that_fails_leaves_the_model_untouched():
    model = chain()
    kinds, modules = classes(model), list(model.modules())

    def fails_at_the_end(layer, name):
        if name == "4":
            raise LookupError(name)
        return True

    with pytest.raises(LookupError):
        convert(model, filter_fn=fails_at_the_end)
    assert classes(model) == kinds
    assert all(now is then for now, then in zip(model.modules(), modules, strict=True))


# --- life after converting ---


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "swapped"])
def test_modes_dtypes_copies_and_state_dicts_go_on_working(fuse, device):
    model = chain().eval()
    weights = {name: torch.full_like(value, 0.5) for name, value in chain().state_dict().items()}
    convert(model, fuse=fuse)
    assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.train().modules())
    model.load_state_dict(weights)
    chain().load_state_dict(model.state_dict())
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert classes(twin) == classes(model)
    half = twin.to(device).half()
    assert half(picture(device).half()).dtype == torch.float16
    torch.testing.assert_close(half.float().cpu().double().state_dict(), weights)


def test_a_convolution_pruned_by_a_hook_is_swapped(device):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU()).to(device, torch.float64)
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    x = picture(device)
    before = model(x)
    assert convert(model).fused == ()
    torch.testing.assert_close(model(x), before)


def test_a_subclass_of_relu_put_in_later_is_not_fused(device):
    class Halved(nn.ReLU):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) / 2

    model = chain().to(device)
    convert(model)
    model[1] = Halved()
    assert operators(model, picture(device))[:3] == UNFUSED
    assert reasons(convert(model))["0"].endswith("1: a subclass of torch.nn's layer: it may compute something else")


def test_a_converted_layer_can_be_parametrized(device):
    model = chain().to(device)
    convert(model)
    x = picture(device)
    before = model(x)
    parametrizations.weight_norm(model[0])
    assert operators(model, x)[:3] == UNFUSED
    torch.testing.assert_close(model(x), before)
    assert reasons(restore(model))["0"] == "parametrized: remove its parametrizations first"
    torch.nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is nn.Conv2d


# --- the report ---


def test_the_report_is_a_table():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3),
        torch.nn.ReLU(),
        *(torch.nn.Conv2d(2, 2, 1) for _ in range(4)),
        torch.nn.FractionalMaxPool2d(2, 2),
        torch.nn.Linear(2, 2),
    )
    report = convert(model)
    assert str(report).splitlines() == [
        "layer    was                           became                why",
        "0        torch.nn.Conv2d               tritonconv.nn.Conv2d",
        "1        torch.nn.ReLU                 tritonconv.nn.ReLU",
        "2, 3, 4  torch.nn.Conv2d               tritonconv.nn.Conv2d  not fused: Conv2d follows",
        "5        torch.nn.Conv2d               tritonconv.nn.Conv2d  not fused: FractionalMaxPool2d follows",
        "6        torch.nn.FractionalMaxPool2d  left                  not supported yet",
        "6 swapped, 1 left, 1 fused where they are called",
        "  in (the model): 0 + 1",
        "tritonconv.restore(model) swaps back, as ONNX export, quantization and torch.jit.script need it",
    ]
    assert report.swapped + report.left == report.rows
    assert report.left[0].before == report.left[0].after == "torch.nn.FractionalMaxPool2d"
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.rows = ()


def test_many_equal_rows_and_containers_are_one_line():
    lines = str(convert(torch.nn.Sequential(*(Block(1) for _ in range(5))))).splitlines()
    assert lines[1].split("  ")[0] == "0.0, 1.0 and 3 more" and lines[2].split("  ")[0] == "0.1, 1.1 and 3 more"
    assert lines[3:5] == ["10 swapped, 0 left, 5 fused where they are called", "  in 0, 1 and 3 more: 0 + 1"]


def test_a_forward_that_calls_torchs_functions_is_told():
    class Net(torch.nn.Module):
        def forward(self, x):
            return [torch.relu(torch.nn.functional.max_pool2d(y, 2)) for y in (x, x)]

    report = convert(torch.nn.Sequential(Net(), Net()))
    ((kind, calls),) = report.calls
    assert kind.endswith("Net") and calls == ("torch.relu", "torch.nn.functional.max_pool2d")
    assert f"torch's own: the forward of {kind} calls {', '.join(calls)}; tritonconv.patched()" in str(report)
    left = convert(torch.nn.Sequential(torch.nn.MaxPool2d(2)), filter_fn=lambda *_: False)
    assert left.left and left.calls == ()  # torch's own layers call them too, and were left on purpose


def test_rows_stand_in_the_models_order():
    chain = (torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    report = convert(
        torch.nn.Sequential(torch.nn.FractionalMaxPool2d(2, 2), torch.nn.ReLU(), *chain, torch.nn.Conv2d(2, 2, 3))
    )
    assert names(report.rows) == ["0", "1", "2", "3", "4", "5"]
    assert names(report.left) == ["0"]


# --- restore ---


def test_restore_undoes_it(device):
    model = torch.nn.Sequential(chain(), Block(2).double()).to(device)
    before = copy.deepcopy(model)
    modules = list(model.modules())
    convert(model)
    model[0][0].algorithm = "direct"
    report = restore(model)
    assert repr(model) == repr(before)
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    assert [set(vars(m)) for m in model.modules()] == [set(vars(m)) for m in before.modules()]
    assert all(now is then for now, then in zip(model.modules(), modules, strict=True))
    assert names(report.swapped) == ["0.0", "0.1", "0.2", "0.3", "0.4", "1.0", "1.1"]
    assert str(report).endswith("7 swapped, 0 left, 0 fused where they are called")


def test_restore_names_what_it_leaves():
    class Mine(nn.Conv2d):
        pass

    model = torch.nn.Sequential(nn.ConvReLU2d(1, 2, 3), Mine(2, 2, 3), torch.nn.Linear(2, 2))
    assert reasons(restore(model)) == {"0": "torch.nn has no such layer", "1": "a subclass of ours"}
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, but got list"):
        restore([model])
