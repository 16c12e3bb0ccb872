"""Random arguments to torch's functions and to ours: both answer alike, gradients too, or both raise alike. Ours again
the second time, by a plan. And random chains of layers, by torch and converted: called, transformed, and changed
between calls.

`pytest -m slow` draws many more. What is drawn is often wrong on purpose. Where torch contradicts itself, or answers
what no image can be, `torch_is_wrong` says so.
"""

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_transforms import transformed
from torch.utils import _pytree

import tritonconv
from tritonconv import functional as TF

FEW, MANY = 12, 2000
Draw = random.Random


def size(draw: Draw, rank: int, most: int = 7) -> tuple[int, ...]:
    return tuple(draw.choice([0, *range(1, most + 1), *range(1, most + 1)]) for _ in range(rank))


def steps(draw: Draw, rank: int, values: list[int], wrong: float = 0.03) -> Any:
    """A number, or one an axis; now and then of the wrong length."""
    if draw.random() < 0.5:
        return draw.choice(values)
    return tuple(draw.choice(values) for _ in range(rank if draw.random() > wrong else rank + 1))


def tensor(draw: Draw, shape: tuple[int, ...]) -> torch.Tensor:
    """Whole numbers, in some layout: contiguous, channels_last, transposed, sliced or expanded."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    t = torch.randint(-3, 4, shape, generator=generator).double()
    kind = draw.choice(["contiguous", "contiguous", "channels_last", "transposed", "sliced", "expanded"])
    if kind == "channels_last" and t.dim() in (4, 5):
        t = t.contiguous(memory_format=torch.channels_last if t.dim() == 4 else torch.channels_last_3d)
    elif kind == "transposed" and t.dim() > 2:
        t = t.transpose(-1, -2).contiguous().transpose(-1, -2)
    elif kind == "sliced":
        t = torch.stack([t, t + 1], -1)[..., 0]
    elif kind == "expanded" and t.numel():
        t = t[..., :1].expand(t.shape)
    return t.detach().requires_grad_()


def image(draw: Draw, rank: int, channels: int) -> torch.Tensor:
    batch = draw.choice([(), (0,), (1,), (2,), (2,)])
    return tensor(draw, (*batch, channels, *size(draw, rank)))


def conv(draw: Draw, rank: int) -> tuple[list, dict]:
    groups, each = draw.choice([1, 1, 1, 2, 3]), draw.choice([1, 1, 2, 3])
    channels = groups * each if draw.random() < 0.95 else groups * each + 1
    x = image(draw, rank, channels)
    out = groups * draw.choice([1, 2]) if draw.random() < 0.95 else 3
    w = tensor(draw, (out, each, *(draw.randint(1, 4) for _ in range(rank))))
    b = tensor(draw, (out if draw.random() < 0.95 else out + 1,)) if draw.random() < 0.5 else None
    stride, padding, dilation = (steps(draw, rank, v) for v in ([1, 1, 2, 3, 9], [0, 0, 1, 2, 5], [1, 1, 2, 3]))
    if draw.random() < 0.15:
        padding = draw.choice(["same", "valid", "full"])
    if draw.random() < 0.05:
        stride, padding, dilation = (draw.choice([-1, 0, value]) for value in (stride, padding, dilation))
    return [x, w, b], dict(stride=stride, padding=padding, dilation=dilation, groups=groups)


def conv_transpose(draw: Draw, rank: int) -> tuple[list, dict]:
    groups, each = draw.choice([1, 1, 2]), draw.choice([1, 2])
    x = image(draw, rank, groups * each)
    w = tensor(draw, (groups * each, draw.choice([1, 2]), *(draw.randint(1, 4) for _ in range(rank))))
    b = tensor(draw, (w.shape[1] * groups,)) if draw.random() < 0.5 else None
    stride, padding, dilation = (steps(draw, rank, v) for v in ([1, 1, 2, 3], [0, 0, 1, 2], [1, 1, 2]))
    added = steps(draw, rank, [0, 0, 1, 2])
    return [x, w, b], dict(stride=stride, padding=padding, output_padding=added, groups=groups, dilation=dilation)


def max_pool(draw: Draw, rank: int) -> tuple[list, dict]:
    arguments = dict(kernel_size=steps(draw, rank, [1, 2, 2, 3, 4]), padding=steps(draw, rank, [0, 0, 1, 2]))
    if draw.random() < 0.7:
        arguments["stride"] = steps(draw, rank, [1, 2, 3, 8])
    arguments |= dict(dilation=steps(draw, rank, [1, 1, 2]), ceil_mode=draw.random() < 0.5)
    return [image(draw, rank, draw.choice([0, 1, 2, 2]))], arguments | dict(return_indices=draw.random() < 0.5)


def avg_pool(draw: Draw, rank: int) -> tuple[list, dict]:
    arguments = dict(kernel_size=steps(draw, rank, [1, 2, 2, 3, 4]), padding=steps(draw, rank, [0, 0, 1, 2]))
    if draw.random() < 0.7:
        arguments["stride"] = steps(draw, rank, [1, 2, 3, 8])
    if rank > 1 and draw.random() < 0.3:
        arguments["divisor_override"] = draw.choice([-2, 0, 1, 5])
    arguments |= dict(ceil_mode=draw.random() < 0.5, count_include_pad=draw.random() < 0.5)
    return [image(draw, rank, draw.choice([0, 1, 2, 2]))], arguments


def lp_pool(draw: Draw, rank: int) -> tuple[list, dict]:
    x = image(draw, rank, draw.choice([1, 2])).abs().detach().requires_grad_()
    arguments: dict[str, Any] = dict(norm_type=draw.choice([1, 2, 3.0]), kernel_size=draw.choice([1, 2, 3]))
    if rank > 1 and draw.random() < 0.5:  # along one axis torch multiplies by it, and a tuple is no factor
        arguments["kernel_size"] = steps(draw, rank, [1, 2, 3], wrong=0)
    if draw.random() < 0.7:
        arguments["stride"] = steps(draw, rank, [1, 2, 3], wrong=0)
    return [x], arguments | dict(ceil_mode=draw.random() < 0.5)


def adaptive(draw: Draw, rank: int) -> tuple[list, dict]:
    return [image(draw, rank, draw.choice([1, 2]))], dict(output_size=steps(draw, rank, [0, 1, 2, 3, 9]))


def max_unpool(draw: Draw, rank: int) -> tuple[list, dict]:
    x = image(draw, rank, draw.choice([0, 1, 2, 2]))
    most = draw.choice([1, 4, 4, 30])
    indices = torch.randint(0, most, x.shape, generator=torch.Generator().manual_seed(draw.randrange(2**31)))
    arguments: dict[str, Any] = dict(kernel_size=steps(draw, rank, [1, 2, 2, 3], wrong=0), padding=0)
    if draw.random() < 0.3:
        arguments["padding"] = draw.choice([0, 1])
    if draw.random() < 0.3:
        arguments["output_size"] = size(draw, rank, 14)
    return [x, indices], arguments


def interpolate(draw: Draw, rank: int) -> tuple[list, dict]:
    x = tensor(draw, (draw.choice([1, 2]), draw.choice([1, 2]), *size(draw, rank)))
    modes = ["nearest", "nearest-exact", "area", {1: "linear", 2: "bilinear", 3: "trilinear"}[rank], "bicubic"]
    arguments: dict[str, Any] = dict(mode=draw.choice(modes))
    if draw.random() < 0.5:
        arguments["size"] = steps(draw, rank, [1, 2, 3, 5, 9, 14])
    else:
        scales = [0.3, 0.5, 1.0, 1.3, 2.0, 2.7]
        arguments["scale_factor"] = draw.choice([draw.choice(scales), tuple(draw.choice(scales) for _ in range(rank))])
    if draw.random() < 0.3:
        arguments["align_corners"] = draw.random() < 0.5
    if draw.random() < 0.2:
        arguments["antialias"] = True
    if draw.random() < 0.2:
        arguments["recompute_scale_factor"] = True
    return [x], arguments


def unfold(draw: Draw, rank: int) -> tuple[list, dict]:
    kernel, padding = steps(draw, 2, [1, 2, 3]), steps(draw, 2, [0, 0, 1, 2])
    arguments = dict(kernel_size=kernel, padding=padding, stride=steps(draw, 2, [1, 2, 3]))
    return [image(draw, 2, draw.choice([1, 2]))], arguments | dict(dilation=steps(draw, 2, [1, 1, 2]))


def fold(draw: Draw, rank: int) -> tuple[list, dict]:
    x = torch.zeros(draw.choice([1, 2]), draw.choice([1, 2]), draw.randint(2, 6), draw.randint(2, 6)).double()
    kernel, stride = draw.randint(1, 3), draw.randint(1, 2)
    padding = draw.choice([0, 1])
    try:
        shape = F.unfold(x, kernel, 1, padding, stride).shape
    except RuntimeError:
        shape = torch.Size((2, 4, 9))
    output_size = tuple(x.shape[2:]) if draw.random() < 0.9 else (3, 3)
    return [tensor(draw, tuple(shape))], dict(
        output_size=output_size, kernel_size=kernel, padding=padding, stride=stride
    )


def shuffle(draw: Draw, rank: int) -> tuple[list, dict]:
    batch = draw.choice([(), (1,), (2,), (2, 3)])
    shape = (*batch, draw.choice([1, 2, 4, 8, 9]), draw.randint(1, 6), draw.randint(1, 6))
    return [tensor(draw, shape), draw.choice([1, 2, 2, 3, 0])], {}


KINDS: dict[str, Callable[[Draw, int], tuple[list, dict]]] = {
    **{f"conv{rank}d": conv for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": conv_transpose for rank in (1, 2, 3)},
    **{f"max_pool{rank}d": max_pool for rank in (1, 2, 3)},
    **{f"avg_pool{rank}d": avg_pool for rank in (1, 2, 3)},
    **{f"lp_pool{rank}d": lp_pool for rank in (1, 2, 3)},
    **{f"adaptive_{name}_pool{rank}d": adaptive for name in ("avg", "max") for rank in (1, 2, 3)},
    **{f"max_unpool{rank}d": max_unpool for rank in (1, 2, 3)},
    **{f"interpolate, {rank}d": interpolate for rank in (1, 2, 3)},
    **{"unfold": unfold, "fold": fold, "pixel_shuffle": shuffle, "pixel_unshuffle": shuffle},
}


def answer(function: Callable[..., Any], tensors: list, arguments: dict) -> Any:
    """Its outputs and gradients, or the class of what it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            leaves = _pytree.tree_leaves(function(*tensors, **arguments))
    except Exception as error:
        return type(error)
    given = [t for t in tensors if isinstance(t, torch.Tensor) and t.requires_grad]
    y = leaves[0]
    if y.numel() == 0 or not y.requires_grad:  # torch's backward refuses some images without a pixel
        return leaves, ()
    dy = (torch.arange(y.numel()) % 5 - 2.0).view(y.shape).to(y.dtype)
    return leaves, torch.autograd.grad(y, given, dy, allow_unused=True)


def torch_is_wrong(name: str, tensors: list, arguments: dict, ours: Any, theirs: Any) -> bool:
    """Corners that docs/decisions write down: torch's answer is none, or is not its own in another layout."""
    x, family = tensors[0], name.split(",")[0].rstrip("123d").rstrip("_")
    if x.numel() == 0 and family in ("conv", "conv_transpose", "adaptive_avg_pool", "adaptive_max_pool"):
        return ours is RuntimeError  # what torch checks of an image with pixels alone
    if family == "conv_transpose":  # an output without a pixel
        return ours is RuntimeError and not isinstance(theirs, type) and theirs[0][0].numel() == 0
    if family == "max_pool":
        if theirs is RuntimeError and x.dim() == 4 and x.stride(1) == 1:  # max_pool3d of an unbatched image
            return not isinstance(ours, type)
        # a window wholly in the padding: its index lies outside the image, and its gradient anywhere
        return not isinstance(theirs, type) and bool((theirs[0][0] == -float("inf")).any())
    if family in ("pixel_shuffle", "pixel_unshuffle") and x.dim() == 5:  # strides like channels_last_3d's are refused
        return theirs is RuntimeError and not isinstance(ours, type)
    if arguments.get("antialias") and not isinstance(theirs, type):  # contiguous, to a single pixel along an axis
        return 1 in theirs[0][0].shape[2:]
    if family == "interpolate" and arguments["mode"].startswith("nearest") and not isinstance(theirs, type):
        sizes = zip(x.shape[2:], theirs[0][0].shape[2:], strict=True)
        # an axis that keeps or doubles its size has another rule in some layouts, and in backward
        return "scale_factor" in arguments and any(length in (n, 2 * n) for n, length in sizes)
    return False


def assert_alike(name: str, draw: Draw) -> None:
    function, _, axes = name.partition(", ")
    rank = int((axes or name)[-2]) if (axes or name)[-1] == "d" and (axes or name)[-2].isdigit() else 2
    tensors, arguments = KINDS[name](draw, rank)
    ours, again, theirs = (answer(getattr(module, function), tensors, arguments) for module in (TF, TF, F))
    if torch_is_wrong(name, tensors, arguments, ours, theirs):
        return
    shown = f"{function}({[getattr(t, 'shape', t) for t in tensors]}, {arguments})"
    if isinstance(ours, type) or isinstance(theirs, type):
        assert ours is again is theirs, f"{shown}: ours {ours}, then {again}, torch's {theirs}"
        return
    for found, second, expected in zip(ours, again, theirs, strict=True):
        torch.testing.assert_close(list(found), list(expected), msg=lambda text: f"{shown}: {text}")
        torch.testing.assert_close(
            list(second), list(found), rtol=0, atol=0, msg=lambda text: f"{shown}, again: {text}"
        )


ACTIVATIONS = ("ReLU", "ReLU6", "LeakyReLU", "Hardswish", "SiLU", "GELU", "Sigmoid", "Tanh", "Identity")


def layer(draw: Draw, rank: int, channels: int) -> torch.nn.Module:
    kind = draw.choice(["Conv", "Conv", "BatchNorm", "BatchNorm", "MaxPool", "activation", "activation"])
    if kind == "activation":
        return getattr(torch.nn, draw.choice(ACTIVATIONS))()
    if kind == "Conv":
        arguments = [channels, draw.choice([1, 2, 4]), draw.choice([1, 2, 3])]
        how = dict(stride=draw.choice([1, 2]), padding=draw.choice([0, 1]), bias=draw.random() < 0.7)
    elif kind == "MaxPool":
        arguments, how = [2], dict(stride=draw.choice([None, 1]), ceil_mode=draw.random() < 0.3)
    else:
        arguments, how = [channels], dict(affine=draw.random() < 0.7, track_running_stats=draw.random() < 0.9)
    made = getattr(torch.nn, f"{kind}{rank}d")(*arguments, **how)
    if getattr(made, "running_var", None) is not None:
        torch.nn.init.uniform_(made.running_mean, -2, 2)
        torch.nn.init.uniform_(made.running_var, 0.5, 2)
    return made


def chain(draw: Draw) -> tuple[torch.nn.Sequential, torch.Tensor]:
    """Layers of which some may be fused, train or are frozen, and an image for them."""
    torch.manual_seed(draw.randrange(2**31))
    rank = draw.choice([1, 2, 2, 3])
    first = channels = draw.choice([1, 2, 4])
    layers = []
    for _ in range(draw.randint(2, 5)):
        layers.append(layer(draw, rank, channels).train(draw.random() < 0.1).requires_grad_(draw.random() < 0.6))
        channels = getattr(layers[-1], "out_channels", channels)
    x = image(draw, rank, first).requires_grad_(draw.random() < 0.3)
    return torch.nn.Sequential(*layers).double(), x


def ran(net: torch.nn.Sequential, x: torch.Tensor, grad: bool) -> Any:
    """y and its gradients, and the strides of its axes longer than 1; or the class of what it raises."""
    try:
        with torch.set_grad_enabled(grad), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y = net(x)
    except Exception as error:
        return type(error)
    wanted = [t for t in (x, *net.parameters()) if t.requires_grad] if y.requires_grad and y.numel() else []
    gradients = torch.autograd.grad(y.sum(), wanted, allow_unused=True) if wanted else ()
    # on a CPU torch's conv3d in float64 knows no channels_last_3d
    is_ruled = y.numel() and not any(isinstance(layer, torch.nn.Conv3d) for layer in net)
    strides = [stride for n, stride in zip(y.shape, y.stride(), strict=True) if n > 1 and is_ruled]
    return [y, *gradients], (strides, y.requires_grad)


def assert_converted_alike(draw: Draw) -> None:
    net, x = chain(draw)
    ours, grad = copy.deepcopy(net), draw.random() < 0.6
    tritonconv.convert(ours)
    theirs = ran(net, x, grad)
    if theirs is RuntimeError and x.dim() == 4 and any(isinstance(layer, torch.nn.MaxPool3d) for layer in net):
        return  # as in torch_is_wrong
    for found in (ran(ours, x, grad), ran(ours, x, grad)):
        shown = f"{net}({list(x.shape)}, {x.stride()}), gradients {grad}"
        if isinstance(theirs, type) or isinstance(found, type):
            assert found is theirs, f"{shown}: ours {found}, torch's {theirs}"
            continue
        assert found[1] == theirs[1], f"{shown}: ours {found[1]}, torch's {theirs[1]}"
        torch.testing.assert_close(found[0], theirs[0], msg=lambda text: f"{shown}: {text}")  # noqa: B023


def assert_transformed_alike(draw: Draw) -> None:
    net, x = chain(draw)
    ours, word = copy.deepcopy(net), "".join(draw.choice("FRV") for _ in range(draw.randint(1, 3)))
    tritonconv.convert(ours)
    names = [name for name, _ in net.named_parameters()]
    answers: list[Any] = []
    for model in (net, ours):

        def function(x: torch.Tensor, *parameters: torch.Tensor, model: Any = model) -> torch.Tensor:
            return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

        try:
            answers.append(transformed(function, word)(x.detach(), *(p.detach() for p in net.parameters())))
        except Exception as error:
            answers.append(error)
    theirs, found = answers
    shown = f"{word} of {net}({list(x.shape)}, {x.stride()})"
    if isinstance(theirs, Exception):
        is_torchs_alone = x.numel() == 0 or "NYI" in str(theirs) or any(isinstance(m, torch.nn.MaxPool3d) for m in net)
        assert is_torchs_alone or type(found) is type(theirs), f"{shown}: ours {found!r}, torch's {theirs!r}"
    else:
        assert not isinstance(found, Exception), f"{shown}: ours {found!r}"
        torch.testing.assert_close(found, theirs, msg=lambda text: f"{shown}: {text}")


def halved(layer: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: type(layer).forward(layer, x) / 2


def give_another_weight(net: torch.nn.Sequential, layer: torch.nn.Module) -> None:
    if getattr(layer, "weight", None) is not None:
        layer.weight = torch.nn.Parameter(layer.weight.detach() * 0.75)


# What a user may do to a model between two calls: to the whole, or to one of its layers.
CHANGES: dict[str, Callable[[torch.nn.Sequential, torch.nn.Module], Any]] = {
    "train": lambda net, layer: layer.train(),
    "eval": lambda net, layer: net.eval(),
    "freeze": lambda net, layer: layer.requires_grad_(False),
    "thaw": lambda net, layer: net.requires_grad_(),
    "single": lambda net, layer: net.float(),
    "double": lambda net, layer: net.double(),
    "one single": lambda net, layer: layer.float(),
    "step": lambda net, layer: [p.data.mul_(0.5) for p in net.parameters()],
    "load": lambda net, layer: net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}),
    "another weight": give_another_weight,
    "hook": lambda net, layer: layer.register_forward_hook(lambda layer, args, y: y * 1.5),
    "pre-hook": lambda net, layer: layer.register_forward_pre_hook(lambda layer, args: (args[0] + 0.25,)),
    "no hooks": lambda net, layer: (layer._forward_hooks.clear(), layer._forward_pre_hooks.clear()),
    "another forward": lambda net, layer: vars(layer).update(forward=halved(layer)),
    "its forward": lambda net, layer: vars(layer).pop("forward", None),
    "no bias": lambda net, layer: layer.register_parameter("bias", None) if hasattr(layer, "bias") else None,
    "stride": lambda net, layer: vars(layer).update(stride=2) if hasattr(layer, "stride") else None,
    "swap": lambda net, layer: net.__setitem__(0, torch.nn.Tanh()),
    "append": lambda net, layer: net.append(torch.nn.ReLU6()),
    "twice": lambda net, layer: net.append(layer),
    "none": lambda net, layer: None,
}


def assert_changes_show(draw: Draw) -> None:
    """Between calls both models are changed alike: what was fused, or is called by a plan, must not outlive it."""
    net, x = chain(draw)
    ours, done = copy.deepcopy(net), []
    tritonconv.convert(ours)
    for _ in range(8):
        done.append(draw.choice([*CHANGES]))
        place, grad, x = draw.randrange(len(net)), draw.random() < 0.6, x.detach()
        for model in (net, ours):
            CHANGES[done[-1]](model, model[place])
        x = x.to(draw.choice([torch.float64, next((p.dtype for p in net.parameters()), torch.float64)]))
        for found, expected in [(ran(ours, x, grad), ran(net, x, grad)) for _ in range(2)]:
            shown = f"{net}({list(x.shape)}, {x.dtype}), gradients {grad}, after {done}"
            if isinstance(found, type) or isinstance(expected, type):
                is_torchs_alone = x.dim() == 4 and any(isinstance(layer, torch.nn.MaxPool3d) for layer in net)
                assert found is expected or x.numel() == 0 or is_torchs_alone, f"{shown}: {found}, torch's {expected}"
                continue
            rough = dict(rtol=1e-4, atol=1e-3) if x.dtype == torch.float32 else {}
            torch.testing.assert_close(found[0], expected[0], **rough, msg=lambda text: f"{shown}: {text}")  # noqa: B023


# What holds of each chain, and how many are drawn: few, and many in four parts.
CHAINS = {
    "chain": (assert_converted_alike, 4 * FEW, MANY // 4),
    "transformed": (assert_transformed_alike, 3 * FEW, MANY // 4),
    "changes": (assert_changes_show, 2 * FEW, MANY // 16),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_few_chains(name):
    assert_holds, few, _ = CHAINS[name]
    for seed in range(few):
        assert_holds(Draw(f"{name} {seed}"))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("name", CHAINS)
def test_many_chains(name, part):
    assert_holds, few, many = CHAINS[name]
    for seed in range(few + part * many, few + (part + 1) * many):
        assert_holds(Draw(f"{name} {seed}"))


@pytest.mark.parametrize("name", KINDS)
def test_a_few(name):
    for seed in range(FEW):
        assert_alike(name, Draw(f"{name} {seed}"))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("name", KINDS)
def test_many(name, part):
    for seed in range(FEW + part * MANY // 4, FEW + (part + 1) * MANY // 4):
        assert_alike(name, Draw(f"{name} {seed}"))
