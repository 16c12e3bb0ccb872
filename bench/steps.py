"""Who runs a whole training step of mnist-cnn3: ours fused and unfused, torch's own, torch.compile."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import tritonconv
from bench.providers import COMPILE_MODE, LAYOUTS, Provider, Tensors, Trial
from bench.workloads import Problem
from examples.networks import mnist_cnn3

Change = Callable[[nn.Module], nn.Module]


def draw(problem: Problem, device: torch.device) -> dict[str, torch.Tensor]:
    """Random digits, their labels, and the network's first parameters, in float32."""
    N = problem.workload.N
    parameters = {name: p.detach().to(device) for name, p in mnist_cnn3().named_parameters()}
    return {
        "images": torch.randn(N, 1, 28, 28, device=device),
        "labels": torch.randint(0, 10, (N,), device=device),
        **parameters,
    }


def network(inputs: Tensors) -> nn.Module:
    model = mnist_cnn3().to(inputs["images"].device)
    model.load_state_dict({name: t for name, t in inputs.items() if name not in ("images", "labels")})
    return model


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """The loss, and its gradient for each parameter."""
    names = [name.removeprefix("_orig_mod.") for name, _ in model.named_parameters()]
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return {"loss": loss.detach(), **{f"d{name}": g for name, g in zip(names, grads, strict=True)}}


def set_up(change: Change, problem: Problem, inputs: Tensors, layout: str) -> Trial:
    """One step of Adam. float16 and bfloat16 run under autocast, over float32 parameters.

    The gate's results are taken without dropout, before the first step; what is timed has it.
    """
    model = change(network(inputs).to(memory_format=LAYOUTS[layout]))  # type: ignore[call-overload]
    images = inputs["images"].to(problem.torch_dtype if problem.dtype == "float64" else torch.float32)
    images, labels = images.to(memory_format=LAYOUTS[layout]), inputs["labels"]
    if problem.dtype == "float64":
        model = model.double()
    device = images.device
    autocast = problem.dtype in ("float16", "bfloat16")
    optimizer = torch.optim.Adam(model.parameters(), capturable=device.type == "cuda")

    def loss() -> torch.Tensor:
        # no cache of cast weights: one made outside a captured graph would not be made again inside it
        with torch.autocast(device.type, problem.torch_dtype if autocast else None, autocast, cache_enabled=False):
            return cross_entropy(model(images), labels)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    model.eval()
    results = gradients(model, loss())
    model.train()
    step()
    return Trial(results, step, step)


def reference(problem: Problem, inputs: Tensors) -> Tensors:
    """The loss and the gradients in float64, by torch."""
    model = network(inputs).double().eval()
    return gradients(model, cross_entropy(model(inputs["images"].double()), inputs["labels"]))


def _same(model: nn.Module) -> nn.Module:
    return model


def _fused(model: nn.Module) -> nn.Module:
    tritonconv.convert(model)
    return model


def _unfused(model: nn.Module) -> nn.Module:
    tritonconv.convert(model, fuse=False)
    return model


def _compiled(model: nn.Module) -> nn.Module:
    torch.compiler.reset()
    return torch.compile(model, mode=COMPILE_MODE, dynamic=False)  # type: ignore[return-value]


def provider(name: str, layout: str, ours: bool, change: Change) -> Provider:
    def set_up_step(problem: Problem, inputs: Tensors) -> Trial:
        return set_up(change, problem, inputs, layout)

    return Provider(name, layout, ours, set_up_step)


def providers(layouts: list[str], compile: bool) -> list[Provider]:
    """Baselines in both layouts, then ours in `layouts`."""
    return [
        *(provider("torch", layout, False, _same) for layout in LAYOUTS),
        *(provider("torch.compile", layout, False, _compiled) for layout in LAYOUTS if compile),
        *(provider("ours fused", layout, True, _fused) for layout in layouts),
        *(provider("ours unfused", layout, True, _unfused) for layout in layouts),
    ]
