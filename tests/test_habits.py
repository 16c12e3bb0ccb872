"""What people do with a model gives after convert what it gave before: thirty habits, on four networks.

A habit is a generator. Before its `yield` it does what happens before the model is converted; it returns what is
compared, between a model that was converted at the `yield` and one that was not. In float64, where the two differ by
rounding alone.
"""

import contextlib
import copy
import io
import itertools
import os
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import tritonconv
from tests.networks import NETWORKS
from tritonconv import tuning

Habit = Callable[[torch.nn.Module, torch.Tensor], Generator[None, None, Any]]
HABITS: dict[str, Habit] = {}


def habit(function: Habit) -> Habit:
    HABITS[function.__name__] = function
    return function


def layers_of(model: torch.nn.Module, *kinds: type) -> list[torch.nn.Module]:
    return [module for module in model.modules() if isinstance(module, kinds or (torch.nn.Conv2d, torch.nn.ReLU))]


def gradients(model: torch.nn.Module, y: torch.Tensor) -> list[torch.Tensor | None]:
    model.zero_grad()
    y.square().mean().backward()
    return [p.grad for p in model.parameters()]


def sequences(model: torch.nn.Module) -> list[torch.nn.Sequential]:
    """The containers of convolutions and of blocks of them."""
    return [m for m in model.modules() if isinstance(m, torch.nn.Sequential) and layers_of(m, torch.nn.Conv2d)]


def image_for(container: torch.nn.Sequential) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    channels = layers_of(container, torch.nn.Conv2d)[0].in_channels
    return torch.randn(2, channels, 32, 32, dtype=torch.float64, generator=generator)


# --- using it ---


@habit
def calling_it(model, x):
    yield
    return model(x)


@habit
def calling_it_in_evaluation(model, x):
    yield
    with torch.inference_mode():
        return model.eval()(x)


@habit
def one_image_in_channels_last(model, x):
    model.eval()
    yield
    return model.to(memory_format=torch.channels_last)(x[:1].to(memory_format=torch.channels_last))


@habit
def an_optimizer_made_before(model, x):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-2)  # not the sign of a gradient near 0
    yield
    for _ in range(2):
        gradients(model, model(x))
        optimizer.step()
    return model.state_dict()


@habit
def freezing_some_parameters(model, x):
    yield
    for layer in layers_of(model, torch.nn.Conv2d)[::2]:
        layer.requires_grad_(False)
    return gradients(model, model(x))


@habit
def initialising_by_kind(model, x):
    yield

    def initialise(module: torch.nn.Module) -> None:
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 0.01)

    return model.apply(initialise)(x)


@habit
def autocast(model, x):
    yield
    with torch.autocast("cpu", torch.bfloat16):
        return model.float().eval()(x.float()).isfinite().all()


# --- looking at single layers ---


@habit
def forward_hooks(model, x):
    values: list[torch.Tensor] = []
    layers = layers_of(model)
    for layer in layers[::2]:
        layer.register_forward_hook(lambda module, args, y: values.append(y.detach().clone()))
    yield
    for layer in layers[1::2]:
        layer.register_forward_hook(lambda module, args, y: values.append(y.detach().clone()))
    model(x)
    return values


@habit
def hooks_that_change_values(model, x):
    yield
    layers_of(model, torch.nn.Conv2d)[-1].register_forward_hook(lambda module, args, y: y - 1)
    layers_of(model, torch.nn.Conv2d)[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    return model(x)


@habit
def backward_hooks(model, x):
    for module in model.modules():  # torch's own condition for such hooks
        if isinstance(module, torch.nn.ReLU | torch.nn.ReLU6):
            module.inplace = False
    values: list[torch.Tensor] = []
    yield
    for layer in layers_of(model, torch.nn.Conv2d):
        layer.register_full_backward_hook(lambda module, dx, dy: values.append(dy[0].clone()))
    gradients(model, model(x.requires_grad_()))
    return values


@habit
def hooks_for_all_modules(model, x):
    names: list[str] = []
    yield
    register = torch.nn.modules.module.register_module_forward_hook
    handle = register(lambda module, *_: names.append(type(module).__name__))
    y = model(x)
    handle.remove()
    return y, names


@habit
def slices_taken_before(model, x):
    plain = [each for each in sequences(model) if type(each) is torch.nn.Sequential]
    slices = [(each[:i], image_for(each)) for each in plain for i in range(1, len(each))]
    yield
    return [part(image) for part, image in slices]


@habit
def taps_after_each_layer(model, x):
    yield
    values = []
    for container in sequences(model):
        y = image_for(container)
        for layer in container:
            y = layer(y)
            values.append(y.clone())
    return values


@habit
def replacing_a_layer(model, x):
    yield
    for container in sequences(model):
        old = container[0]
        if not isinstance(old, torch.nn.Conv2d):
            continue
        torch.manual_seed(3)
        new = torch.nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
        container[0] = new.double()
    return model(x)


@habit
def a_forward_put_into_a_layer(model, x):
    """Circular padding, for images that tile."""
    yield

    def circular(self, x, weight, bias):
        pads = [p for p in reversed(self.padding) for _ in range(2)]
        x = torch.nn.functional.pad(x, pads, mode="circular")
        return torch.nn.functional.conv2d(x, weight, bias, self.stride, 0, self.dilation, self.groups)

    for layer in layers_of(model, torch.nn.Conv2d):
        layer._conv_forward = circular.__get__(layer)
    return model(x)


@habit
def names_and_kinds(model, x):
    yield
    return [
        [(name, isinstance(module, torch.nn.Conv2d)) for name, module in model.named_modules()],
        list(model.state_dict()),
        [name for name, _ in model.named_children()],
    ]


# --- changing its parameters ---


@habit
def parametrizations_put_on(model, x):
    yield
    layer = layers_of(model, torch.nn.Conv2d)[1]
    parametrizations.weight_norm(layer)
    y = model(x)
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    return y, model(x)


@habit
def pruning(model, x):
    yield
    for layer in layers_of(model, torch.nn.Conv2d):
        prune.l1_unstructured(layer, "weight", amount=0.3)
    return model(x)


@habit
def averaging_weights(model, x):
    average = torch.optim.swa_utils.AveragedModel(model)
    yield
    later = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    for each in (average, later):
        each.update_parameters(model)
    return average(x), later(x)


@habit
def other_parameters_for_a_call(model, x):
    yield
    halved = {name: p.detach() / 2 for name, p in model.named_parameters()}
    return torch.func.functional_call(model, halved, (x,))


# --- copies and files ---


@habit
def deepcopy(model, x):
    earlier = copy.deepcopy(model)
    yield
    return earlier(x), copy.deepcopy(model)(x)


@habit
def saving_the_whole_model(model, x):
    yield
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)(x)


@habit
def safetensors_both_ways(model, x):
    """Weights saved before are loaded after, and the other way round."""
    before = safetensors.torch.save({name: t / 2 for name, t in model.state_dict().items()})
    yield
    model.load_state_dict(safetensors.torch.load(before))
    y = model(x)
    model.load_state_dict(safetensors.torch.load(safetensors.torch.save(model.state_dict())))
    return y, model(x)


@habit
def loading_weights_only(model, x):
    yield
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    weights = torch.load(file, weights_only=True)
    model.load_state_dict({name: value / 2 for name, value in weights.items()})
    return model(x)


# --- counting, tracing, compiling ---


@habit
def counting_flops(model, x):
    yield
    with FlopCounterMode(display=False) as counter:
        y = model(x)
        gradients(model, y)
    return counter.get_total_flops(), y


@habit
def symbolic_tracing(model, x):
    yield
    return torch.fx.symbolic_trace(model)(x)


@habit
def exporting(model, x):
    model.eval()
    yield
    return torch.export.export(model, (x,)).module()(x)


@habit
def compiling_before(model, x):
    compiled = torch.compile(model.eval(), backend="aot_eager", fullgraph=True)
    yield
    with torch.no_grad():
        return compiled(x)


@habit
def compiling_after(model, x):
    yield
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    y = compiled(x)
    return y, gradients(model, y)


@habit
def fusing_after_restore(model, x):
    model.eval()
    yield
    tritonconv.restore(model)
    pairs = [
        [f"{name}.{i}", f"{name}.{i + 1}"]
        for name, container in model.named_modules()
        if isinstance(container, torch.nn.Sequential)
        for i, (first, second) in enumerate(itertools.pairwise(container))
        if type(first) is torch.nn.Conv2d and type(second) in (torch.nn.ReLU, torch.nn.BatchNorm2d)
    ]
    return torch.ao.quantization.fuse_modules(model, pairs)(x)


# --- running it elsewhere ---


@habit
def checkpointing(model, x):
    yield
    x.requires_grad_()
    y = checkpoint(model.eval(), x, use_reentrant=False)
    kept = gradients(model, y)
    return kept, gradients(model, checkpoint(model, x, use_reentrant=True))


@contextlib.contextmanager
def group_of_one(folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@habit
def distributed_data_parallel(model, x):
    yield
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    y = parallel(x)
    return y, gradients(model, y)


@habit
def fully_sharded(model, x):
    yield
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    for layer in layers_of(model, torch.nn.Conv2d)[:2]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    y = model(x)
    return y, [g.to_local() for g in gradients(model, y) if g is not None]


@habit
def threads(model, x):
    model.eval()
    yield
    answers: list[Any] = [None] * 3

    def run(i: int) -> None:
        with torch.no_grad():
            answers[i] = model(x + i)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return answers


@habit
def a_forked_process(model, x):
    model.eval()
    yield
    torch.set_num_threads(1)  # torch's own threads do not live on in a child
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with torch.no_grad():
            y = model(x)
        os.write(writer, y.numpy().tobytes()[:4096])
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        return torch.frombuffer(bytearray(pipe.read()), dtype=torch.float64)


def outcome(name: str, network: str, convert: bool) -> Any:
    torch.manual_seed(0)
    model = NETWORKS[network](width=4, classes=3).double()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    steps = HABITS[name](model, torch.randn(2, 3, 32, 32, dtype=torch.float64))
    next(steps)
    if convert:
        assert tritonconv.convert(model).swapped
    with pytest.raises(StopIteration) as end:
        next(steps)
    return end.value.value


EVERYWHERE = ("calling_it", "calling_it_in_evaluation", "one_image_in_channels_last")  # the rest of one network
EACH = [
    pytest.param(name, network, marks=() if network == "ResNet-18" or name in EVERYWHERE else pytest.mark.slow)
    for name in HABITS
    for network in NETWORKS
]


@pytest.mark.parametrize(("name", "network"), EACH)
def test_a_habit_gives_what_it_gave(name, network, tmp_path):
    grouped = name in ("distributed_data_parallel", "fully_sharded")
    with group_of_one(tmp_path) if grouped else contextlib.nullcontext():
        expected, found = outcome(name, network, False), outcome(name, network, True)
    found, expected = torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(expected)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, torch.Tensor):
            torch.testing.assert_close(one, other)
        else:
            assert one == other


# (forward, backward) launches with tiles for sm_90, 32 images of 224 × 224, unfused and fused; also in decisions/0003
LAUNCHES = {
    "ResNet-18": ((40, 74), (40, 74)),
    "U-Net": ((45, 82), (27, 82)),
    "MobileNetV2": ((52, 138), (52, 138)),
    "VGG-16": ((34, 52), (16, 47)),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_launches_with_and_without_fusing(network):
    found = []
    for fuse in (False, True):
        model = NETWORKS[network]()
        tritonconv.convert(model, fuse=fuse)
        with tuning.target("sm_90"):
            steps = tritonconv.explain(model, torch.zeros(32, 3, 224, 224)).steps
        launches = {phase: [c for s in steps if s.phase == phase for c in s.calls] for phase in ("forward", "backward")}
        found.append(tuple(sum(len(call.launches) for call in calls) for calls in launches.values()))
    assert tuple(found) == LAUNCHES[network]
