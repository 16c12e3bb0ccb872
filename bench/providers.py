"""Who runs a layer: our algorithms, torch's own in either layout, and torch.compile; and the float64 reference."""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch._functorch.config
import torch.nn.functional as F

from bench.workloads import Problem
from tritonconv import functional

Tensors = Mapping[str, torch.Tensor]
Function = Callable[..., torch.Tensor]

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
ALGORITHMS: tuple[functional.Algorithm, ...] = ("direct", "im2col", "implicit_gemm")
# Without its own CUDA graphs: they would copy the inputs on each call, which is no part of the layer. A step's graph is
# captured by the bench, the same for everyone.
COMPILE_MODE = "max-autotune-no-cudagraphs"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A provider set up on one problem: what the gate compares, what is timed, and what peak memory is taken over."""

    results: Tensors
    call: Callable[[], Any]
    whole: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Provider:
    """`set_up` gives the trial for a problem's inputs; `ours` are judged against the others."""

    name: str
    layout: str
    ours: bool
    set_up: Callable[[Problem, Tensors], Trial]


def draw(problem: Problem, device: torch.device) -> dict[str, torch.Tensor]:
    """Fresh random x, w, b and dy, in the problem's dtype; outputs are of the order of 1."""

    def normal(shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
        return (scale * torch.randn(shape, device=device)).to(problem.torch_dtype)

    drawn = {"x": normal(problem.x_shape)}
    if problem.w_shape is not None:
        _, channels, height, width = problem.w_shape
        drawn["w"] = normal(problem.w_shape, (channels * height * width) ** -0.5)
    if problem.b_shape is not None:
        drawn["b"] = normal(problem.b_shape)
    if problem.mode == "backward":
        drawn["dy"] = normal(problem.y_shape)
    return drawn


def torch_function(problem: Problem) -> Function:
    """The problem in torch.nn.functional, of (x), (x, w) or (x, w, b)."""
    c = problem.workload

    def run(x: torch.Tensor, w: torch.Tensor | None = None, b: torch.Tensor | None = None) -> torch.Tensor:
        if w is not None:
            x = F.conv2d(x, w, b, c.stride, c.padding, c.dilation, c.groups)
        if "relu" in problem.variant:
            x = F.relu(x)
        return F.max_pool2d(x, *c.pool) if "pool" in problem.variant and c.pool is not None else x

    return run


def our_function(problem: Problem, algorithm: functional.Algorithm) -> Function:
    """The problem in tritonconv, in one call."""
    c, variant = problem.workload, problem.variant
    arguments: dict[str, Any] = {"stride": c.stride, "padding": c.padding, "dilation": c.dilation, "groups": c.groups}
    if c.pool is not None and variant == "pool":
        window, step, pad = c.pool
        return lambda x: functional.max_pool2d(x, window, step, pad)  # type: ignore[return-value]
    if c.pool is not None and "pool" in variant:
        window, step, pad = c.pool
        arguments |= {"pool_kernel_size": window, "pool_stride": step, "pool_padding": pad}
        return functools.partial(functional.conv2d_bias_relu_max_pool2d, **arguments, algorithm=algorithm)
    fused = functional.conv2d_bias_relu if "relu" in variant else functional.conv2d
    return functools.partial(fused, **arguments, algorithm=algorithm)


def set_up(function: Function, problem: Problem, inputs: Tensors, layout: str) -> Trial:
    """Run once for the results, in the given layout; backward is timed alone, over a kept graph."""

    def arranged(t: torch.Tensor) -> torch.Tensor:
        return t.detach().to(memory_format=LAYOUTS[layout]) if t.dim() == 4 else t.detach()

    leaves = {name: arranged(t) for name, t in inputs.items() if name != "dy"}
    operands = list(leaves.values())
    if problem.mode == "forward":

        def forward() -> torch.Tensor:
            with torch.no_grad():
                return function(*operands)

        return Trial({"y": forward()}, forward, forward)

    wanted = {f"d{name}": t.requires_grad_() for name, t in leaves.items() if name != "x" or not problem.workload.first}
    sources, dy = list(wanted.values()), arranged(inputs["dy"])
    y = function(*operands)

    def backward() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(y, sources, dy, retain_graph=True)

    def both() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(function(*operands), sources, dy)

    gradients = dict(zip(wanted, backward(), strict=True))
    return Trial({"y": y.detach(), **gradients}, backward, both)


def reference(problem: Problem, inputs: Tensors) -> Tensors:
    """The results in float64, by torch."""
    return set_up(torch_function(problem), problem, {name: t.double() for name, t in inputs.items()}, "nchw").results


def ours(algorithm: functional.Algorithm, layout: str) -> Provider:
    def set_up_ours(problem: Problem, inputs: Tensors) -> Trial:
        return set_up(our_function(problem, algorithm), problem, inputs, layout)

    return Provider(f"ours {algorithm}" if algorithm != "auto" else "ours", layout, True, set_up_ours)


def eager(layout: str) -> Provider:
    def set_up_eager(problem: Problem, inputs: Tensors) -> Trial:
        return set_up(torch_function(problem), problem, inputs, layout)

    return Provider("torch", layout, False, set_up_eager)


def compiled(layout: str) -> Provider:
    def set_up_compiled(problem: Problem, inputs: Tensors) -> Trial:
        torch.compiler.reset()
        # without donation a graph kept for a second backward is refused
        with torch._functorch.config.patch(donated_buffer=False):
            function = torch.compile(torch_function(problem), mode=COMPILE_MODE, dynamic=False)
            return set_up(function, problem, inputs, layout)

    return Provider("torch.compile", layout, False, set_up_compiled)


def providers(problem: Problem, layouts: list[str], compile: bool) -> list[Provider]:
    """Baselines in both layouts, then ours in `layouts`: whoever is asked about, the best baseline is the same."""
    algorithms = ("auto",) if problem.variant == "pool" else ALGORITHMS
    return [
        *(eager(layout) for layout in LAYOUTS),
        *(compiled(layout) for layout in LAYOUTS if compile),
        *(ours(algorithm, layout) for algorithm in algorithms for layout in layouts),
    ]


@contextlib.contextmanager
def precision(tf32: str) -> Iterator[None]:
    """TF32 "on" or "off" for convolutions and products alike, on all sides; cudnn.benchmark on throughout."""
    switches: tuple[Any, Any] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        for switch in switches:
            switch.allow_tf32 = tf32 == "on"
        with warnings.catch_warnings():  # inductor's advice to allow TF32, where TF32 is off on purpose
            warnings.filterwarnings("ignore", message=".*TensorFloat32.*")
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
