"""convert: what it swaps, fuses and leaves, that the model computes and trains as before, and what the report says."""

import collections
import copy
import dataclasses
import pickle

import pytest
import torch
from torch.nn.utils import parametrizations, prune

from tritonconv import nn
from tritonconv.convert import Report, convert


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
    return [("nn." if type(m).__module__ == nn.__name__ else "") + type(m).__name__ for m in model.children()]


def reasons(report: Report) -> dict[str, str]:
    return {row.name: row.reason for row in report.rows}


def names(rows: tuple) -> list[str]:
    return [row.name for row in rows]


def assert_same_answer(model: torch.nn.Module, before: torch.nn.Module, x: torch.Tensor) -> None:
    torch.testing.assert_close(model(x), before(x))


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


def test_a_chain_is_fused_and_indices_and_keys_stay(device):
    model = chain().to(device)
    before = copy.deepcopy(model)
    report = convert(model)
    fused = ["nn.ConvReLUMaxPool2d", "Identity", "Identity", "nn.ConvReLU2d", "Identity"]
    assert classes(model) == [*fused, "Flatten", "Linear"]
    assert list(model.state_dict()) == list(before.state_dict())
    assert names(report.fused) == ["0", "1", "2", "3", "4"]
    assert report.swapped == report.left == ()
    assert_same_answer(model, before, picture(device))


def test_without_fuse_layers_are_only_swapped(device):
    model = chain().to(device)
    before = copy.deepcopy(model)
    report = convert(model, fuse=False)
    assert classes(model) == ["nn.Conv2d", "nn.ReLU", "nn.MaxPool2d", "nn.Conv2d", "nn.ReLU", "Flatten", "Linear"]
    assert names(report.swapped) == ["0", "1", "2", "3", "4"]
    assert set(reasons(report).values()) == {""}
    assert repr(model) == repr(before)
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
    assert classes(model) == ["nn.ConvReLUMaxPool2d", "Identity", "Identity"]
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
    assert names(report.fused) == ["body.0.conv", "body.0.relu", "body.0.pool"]
    assert reasons(report)["body.0.pool"] == "fused into body.0.conv"
    assert type(model.body[0].conv) is nn.ConvReLUMaxPool2d


@pytest.mark.parametrize(
    "between", [torch.nn.Identity(), torch.nn.Dropout(), torch.nn.BatchNorm2d(2)], ids=lambda m: type(m).__name__
)
def test_layers_with_something_between_are_not_fused(between):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), between, torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    report = convert(model)
    assert classes(model) == ["nn.Conv2d", type(between).__name__, "nn.ReLU", "nn.MaxPool2d"]
    assert reasons(report)["0"] == "not fused: no ReLU follows"


def test_a_custom_forward_is_swapped_and_not_fused(device):
    model = Branches().to(device)
    before = copy.deepcopy(model)
    report = convert(model)
    assert classes(model) == ["nn.Conv2d", "nn.ReLU", "nn.MaxPool2d"]
    assert reasons(report)["conv"] == "not fused: only an nn.Sequential tells what follows"
    assert_same_answer(model, before, picture(device))


def test_a_sequential_that_may_run_its_layers_in_another_way_is_not_fused():
    class Reversed(torch.nn.Sequential):
        def forward(self, x):
            for layer in reversed(list(self)):
                x = layer(x)
            return x

    patched = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    patched.forward = lambda x: patched[0](x)
    for model in (Reversed(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU()), patched):
        convert(model)
        assert classes(model) == ["nn.Conv2d", "nn.ReLU"]


def test_pooling_that_returns_indices_is_swapped_not_fused(device):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2, return_indices=True))
    model = model.to(device, torch.float64)
    before = copy.deepcopy(model)
    report = convert(model)
    assert classes(model) == ["nn.ConvReLU2d", "Identity", "nn.MaxPool2d"]
    assert reasons(report)["0"] == "takes over 1; pooling not fused: 2 returns indices"
    assert_same_answer(model, before, picture(device))


def test_the_root_may_be_a_layer():
    model = torch.nn.Conv2d(1, 2, 3)
    report = convert(model)
    assert type(model) is nn.Conv2d
    assert names(report.swapped) == [""]
    assert "(the model)" in str(report)


# --- hooks, sharing, filter ---


def record(seen: list):
    return lambda module, *args: seen.append(type(module).__name__)


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_state_dict_post_hook",
    ],
)
@pytest.mark.parametrize(
    "hooked, expected",
    [
        (0, ["nn.Conv2d", "nn.ReLU", "nn.MaxPool2d"]),
        (1, ["nn.Conv2d", "nn.ReLU", "nn.MaxPool2d"]),
        (2, ["nn.ConvReLU2d", "Identity", "nn.MaxPool2d"]),
    ],
)
def test_a_layer_with_a_hook_is_not_fused(register, hooked, expected):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    getattr(model[hooked], register)(record([]))
    report = convert(model)
    assert classes(model) == expected
    assert f"not fused: {hooked} has hooks" in reasons(report)["0"]


def test_hooks_still_see_what_they_saw(device):
    model = chain().to(device)
    values: list[torch.Tensor] = []
    model[1].register_forward_hook(lambda module, args, y: values.append(y))
    x = picture(device)
    model(x)
    convert(model)
    model(x)
    torch.testing.assert_close(*values)


@pytest.mark.parametrize(
    "give",
    [
        lambda relu: relu.register_buffer("calls", torch.zeros(())),
        lambda relu: relu.register_parameter("calls", torch.nn.Parameter(torch.zeros(()))),
        lambda relu: relu.add_module("calls", torch.nn.Identity()),
    ],
    ids=["buffer", "parameter", "module"],
)
def test_a_relu_with_a_state_keeps_it(give):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    give(model[1])
    keys = list(model.state_dict())
    report = convert(model)
    assert classes(model) == ["nn.Conv2d", "nn.ReLU"]
    assert reasons(report)["0"] == "not fused: 1 holds a state of its own"
    assert hasattr(model[1], "calls") and list(model.state_dict()) == keys


def test_a_shared_convolution_is_swapped_not_fused(device):
    conv = torch.nn.Conv2d(1, 1, 3, padding=1)
    model = torch.nn.Sequential(conv, torch.nn.ReLU(), conv, torch.nn.MaxPool2d(2)).to(device, torch.float64)
    before = copy.deepcopy(model)
    report = convert(model)
    assert classes(model) == ["nn.Conv2d", "nn.ReLU", "nn.MaxPool2d"]  # children() names the shared one once
    assert names(report.swapped) == ["0", "1", "3"]
    assert reasons(report)["0"] == "not fused: registered in 2 places"
    assert_same_answer(model, before, picture(device))


def test_a_convolution_that_a_slice_reaches_is_not_fused():
    """A network whose features are tapped through a second container, as perceptual losses do."""
    model = torch.nn.Module()
    model.features = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    model.tap = model.features[:1]
    report = convert(model)
    assert classes(model.features) == ["nn.Conv2d", "nn.ReLU"]
    assert reasons(report)["features.0"] == "not fused: registered in 2 places"


def test_a_shared_relu_is_fused_where_it_follows_a_convolution_and_works_elsewhere(device):
    relu = torch.nn.ReLU()
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 1, 3), relu, torch.nn.Conv2d(1, 1, 3), relu, torch.nn.Flatten(), torch.nn.Linear(4, 2), relu
    ).to(device, torch.float64)
    before = copy.deepcopy(model)
    report = convert(model)
    assert [type(layer).__name__ for layer in model] == (
        ["ConvReLU2d", "Identity", "ConvReLU2d", "Identity", "Flatten", "Linear", "ReLU"]
    )
    assert model[6] is relu
    assert names(report.fused) == ["0", "1", "2", "3"]
    assert names(report.swapped) == ["6"]
    assert_same_answer(model, before, picture(device))


def test_a_container_registered_twice_is_converted_once():
    model = torch.nn.Module()
    model.encoder = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    model.twin = model.encoder
    report = convert(model)
    assert model.twin is model.encoder
    assert classes(model.encoder) == ["nn.ConvReLU2d", "Identity"]
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
            ["nn.ConvReLU2d", "Identity", "MaxPool2d"],
            {
                "0": "takes over 1; pooling not fused: 2: left by filter_fn",
                "1": "fused into 0",
                "2": "left by filter_fn",
            },
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
    assert classes(model) == ["nn.Conv2d", "nn.ReLU", "nn.ConvReLU2d", "Identity"]
    assert reasons(report)["0"] == "left by filter_fn"


# --- what is left, and why ---


def parametrized() -> torch.nn.Module:
    return parametrizations.weight_norm(torch.nn.Conv2d(1, 2, 3))


def patched() -> torch.nn.Module:
    layer = torch.nn.Conv2d(1, 2, 3)
    layer.forward = lambda x: x
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
        (lambda: torch.nn.Conv2d(1, 2, 3, padding_mode="reflect"), "padding_mode='reflect' not supported yet"),
        (lambda: torch.nn.Conv2d(1, 2, 3, dtype=torch.complex64), "weight is torch.complex64: expected float16"),
        (lambda: torch.nn.LazyConv2d(2, 3), "lazy: convert after its first forward"),
        (parametrized, "parametrized: convert first"),
        (lambda: Doubled(1, 2, 3), "a subclass of torch.nn's layer"),
        (lambda: type("Leaky", (torch.nn.ReLU,), {})(), "a subclass of torch.nn's layer"),
        (lambda: with_tensor_subclass("weight"), "weight is a TensorSubclass, not a plain tensor"),
        (lambda: with_tensor_subclass("bias"), "bias is a TensorSubclass, not a plain tensor"),
        (patched, "its forward was replaced on the object"),
        (lambda: torch.nn.Conv1d(1, 2, 3), "not supported yet"),
        (lambda: torch.nn.Conv3d(1, 2, 3), "not supported yet"),
        (lambda: torch.nn.ConvTranspose2d(1, 2, 3), "not supported yet"),
        (lambda: type("Causal", (torch.nn.Conv1d,), {})(1, 2, 3), "not supported yet"),
        (lambda: torch.nn.LazyConv1d(2, 3), "not supported yet"),
        (lambda: torch.nn.AvgPool2d(2), "not supported yet"),
        (lambda: torch.nn.MaxPool1d(2), "not supported yet"),
        (lambda: torch.nn.AdaptiveAvgPool2d(1), "not supported yet"),
        (lambda: torch.nn.MaxUnpool2d(2), "not supported yet"),
        (lambda: torch.nn.Unfold(2), "not supported yet"),
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
    pool, conv = torch.nn.AvgPool2d(2), torch.nn.Conv2d(1, 2, 3, padding_mode="reflect")
    report = convert(torch.nn.Sequential(pool, pool, conv))
    assert names(report.left) == ["0", "2"]
    assert type(conv) is torch.nn.Conv2d


def test_other_layers_are_not_listed():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm2d(2), torch.nn.Sigmoid(), torch.nn.Flatten())
    report = convert(model)
    assert report.rows == ()
    assert str(report).endswith("0 swapped, 0 fused into 0, 0 left")


# --- twice, wrong calls, failures ---


def test_converting_twice_changes_nothing_more():
    model = chain()
    convert(model)
    shown, kinds = repr(model), classes(model)
    report = convert(model)
    assert report.swapped == report.fused == ()
    assert reasons(report) == dict.fromkeys(["0", "3"], "tritonconv's already")
    assert (repr(model), classes(model)) == (shown, kinds)


def test_a_layer_of_ours_that_is_not_fused_is_told_why():
    report = convert(torch.nn.Sequential(nn.Conv2d(1, 2, 3), torch.nn.Flatten()))
    assert reasons(report) == {"0": "tritonconv's already; not fused: no ReLU follows"}


def test_what_was_only_swapped_can_be_fused_later(device):
    model = chain().to(device)
    before = copy.deepcopy(model)
    convert(model, fuse=False)
    model[0].algorithm = "direct"
    report = convert(model)
    assert names(report.fused) == ["0", "1", "2", "3", "4"]
    assert type(model[0]) is nn.ConvReLUMaxPool2d
    assert model[0].algorithm == "direct"
    assert_same_answer(model, before, picture(device))


def test_a_chain_of_both_houses_is_fused():
    model = torch.nn.Sequential(nn.Conv2d(1, 2, 3), torch.nn.ReLU(), nn.MaxPool2d(2))
    assert names(convert(model).fused) == ["0", "1", "2"]


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
    convert(model)
    assert classes(model) == ["nn.Conv2d", "nn.ReLU"]
    torch.testing.assert_close(model(x), before)


def test_a_converted_layer_can_be_parametrized(device):
    model = chain().to(device)
    convert(model)
    x = picture(device)
    before = model(x)
    parametrizations.weight_norm(model[0])
    torch.testing.assert_close(model(x), before)
    torch.nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is nn.ConvReLUMaxPool2d


# --- the report ---


def test_the_report_is_a_table():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(2, 2, 1),
        torch.nn.AvgPool2d(2),
        torch.nn.Linear(2, 2),
    )
    report = convert(model)
    assert str(report).splitlines() == [
        "layer  was                 became                    why",
        "0      torch.nn.Conv2d     tritonconv.nn.ConvReLU2d  takes over 1",
        "1      torch.nn.ReLU       torch.nn.Identity         fused into 0",
        "2      torch.nn.Conv2d     tritonconv.nn.Conv2d      not fused: no ReLU follows",
        "3      torch.nn.AvgPool2d  left                      not supported yet",
        "1 swapped, 2 fused into 1, 1 left",
    ]
    assert report.swapped + report.fused + report.left == (report.rows[2], *report.rows[:2], report.rows[3])
    assert report.left[0].before == report.left[0].after == "torch.nn.AvgPool2d"
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.rows = ()


def test_rows_stand_in_the_models_order():
    chain = (torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    report = convert(torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.ReLU(), *chain, torch.nn.Conv2d(2, 2, 3)))
    assert names(report.rows) == ["0", "1", "2", "3", "4", "5"]
    assert names(report.swapped) == ["1", "5"]
