"""torch.func over every layer: forward mode, batching, and any nesting of them; second gradients as torch has them."""

from collections.abc import Callable

import pytest
import torch
from test_layers import LAYERS, build, inputs
from torch.autograd import forward_ad
from torch.utils import _pytree

from tritonconv import functional, nn

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torch scripts its forward rules
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),  # and loops over a batch
]


FUSED = [
    ("ConvReLU2d", dict(in_channels=2, out_channels=3, kernel_size=3, padding=1), (2, 2, 6, 7)),
    ("ConvReLUMaxPool2d", dict(in_channels=2, out_channels=3, kernel_size=2, pool_kernel_size=2), (2, 2, 6, 7)),
]
each_layer = pytest.mark.parametrize(("name", "arguments", "shape"), LAYERS + FUSED, ids=lambda value: str(value)[:40])

_seen: set[str] = set()
FIRST_OF_EACH = [  # of layers that differ in the number of axes or in arguments, the others in the long matrices
    pytest.param(*row, marks=() if not (row[0][:-2] in _seen or _seen.add(row[0][:-2])) else pytest.mark.slow)
    for row in LAYERS + FUSED
]
each_kind = pytest.mark.parametrize(("name", "arguments", "shape"), FIRST_OF_EACH, ids=lambda value: str(value)[:40])


def peer(name: str, arguments: dict) -> torch.nn.Module:
    """torch's layer, of a fused one the chain."""
    if hasattr(torch.nn, name):
        return build(torch.nn, name, arguments)
    arguments = dict(arguments)
    pool = [torch.nn.MaxPool2d(arguments.pop("pool_kernel_size"))] if "MaxPool" in name else []
    return torch.nn.Sequential(build(torch.nn, "Conv2d", arguments), torch.nn.ReLU(), *pool)


def function_of(layer: torch.nn.Module):
    """The layer's output, a tensor, from its input and its parameters."""
    names = [name for name, _ in layer.named_parameters()]

    def function(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        answer = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), inputs(layer, x * 1))
        return _pytree.tree_leaves(answer)[0]

    return function


def functions(name: str, arguments: dict, shape: tuple, device) -> tuple:
    """Ours, torch's, and the tensors: distinct values, for a maximum has no derivative where two are equal."""
    layers = [layer.to(device) for layer in (build(nn, name, arguments), peer(name, arguments))]
    numel = torch.Size(shape).numel()
    x = ((torch.randperm(numel) - numel // 2 + 0.5) / 10).reshape(shape).to(device, torch.float64)
    if name.startswith("LPPool"):
        x = x.abs()
    tensors = [x, *(p.detach().clone() for p in layers[0].parameters())]
    return *map(function_of, layers), tensors


def batches(tensors: list[torch.Tensor], dims: list[int | None], size: int = 3) -> list[torch.Tensor]:
    """The tensors where a dimension is None, else `size` different ones stacked along it."""
    return [
        t if dim is None else torch.stack([t * (1 + i / 8) + i / 16 for i in range(size)], dim)
        for t, dim in zip(tensors, dims, strict=True)
    ]


def which_are_batched(count: int) -> list[list[int | None]]:
    """The input alone, along each end; the parameters alone; all."""
    found: list[list[int | None]] = [[0] + [None] * (count - 1), [-1] + [None] * (count - 1)]
    if count > 1:
        found += [[None] + [0] * (count - 1), [1] + [0] * (count - 1), [0, -1] + [None] * (count - 2)]
    return found


@each_layer
def test_vmap(name, arguments, shape, device):
    ours, theirs, tensors = functions(name, arguments, shape, device)
    for dims in which_are_batched(len(tensors)):
        stacked = batches(tensors, dims)
        found = torch.vmap(ours, tuple(dims))(*stacked)
        torch.testing.assert_close(found, torch.vmap(theirs, tuple(dims))(*stacked), msg=str)


@each_kind
def test_a_batch_of_none(name, arguments, shape, device):
    """Its answer has the axes of one of many; gradients too. A Jacobian of an empty image is such a batch."""
    ours, _, tensors = functions(name, arguments, shape, device)
    y = ours(*tensors)
    for dims in which_are_batched(len(tensors)):
        stacked = [
            t if dim is None else t.unsqueeze(dim).narrow(dim, 0, 0) for t, dim in zip(tensors, dims, strict=True)
        ]
        assert torch.vmap(ours, tuple(dims))(*stacked).shape == (0, *y.shape)
        gradients = torch.func.grad(lambda *t: ours(*t).sin().sum(), tuple(range(len(tensors))))
        found = torch.vmap(gradients, tuple(dims))(*stacked)
        assert [t.shape for t in found] == [(0, *t.shape) for t in tensors]


def test_a_batch_of_numbers(device):
    """Elementwise, of no axis at all."""
    x = torch.randn(5, device=device)
    assert torch.equal(torch.vmap(functional.relu)(x), x.relu())


@each_kind
def test_gradients_of_each_in_a_batch(name, arguments, shape, device):
    def gradients(function):
        every = tuple(range(len(tensors)))
        return torch.vmap(torch.func.grad(lambda *t: function(*t).sin().sum(), every), (0, *[None] * (len(every) - 1)))

    ours, theirs, tensors = functions(name, arguments, shape, device)
    stacked = batches(tensors, [0] + [None] * (len(tensors) - 1))
    torch.testing.assert_close(gradients(ours)(*stacked), gradients(theirs)(*stacked))


@each_layer
def test_forward_mode(name, arguments, shape, device):
    """Along all tensors, and along each alone: the others then have no tangent."""
    ours, theirs, tensors = functions(name, arguments, shape, device)
    for chosen in {tuple(range(len(tensors))), *((i,) for i in range(len(tensors)))}:

        def along(function, chosen=chosen):
            def of_chosen(*some: torch.Tensor) -> torch.Tensor:
                return function(*(some[chosen.index(i)] if i in chosen else t for i, t in enumerate(tensors)))

            some = tuple(tensors[i] for i in chosen)
            tangents = (torch.linspace(-1, 1, t.numel(), device=device, dtype=t.dtype).view(t.shape) for t in some)
            return torch.func.jvp(of_chosen, some, tuple(tangents))

        torch.testing.assert_close(along(ours), along(theirs))


@each_kind
def test_jacobians_both_ways_and_their_jacobians(name, arguments, shape, device):
    ours, _, tensors = functions(name, arguments, shape, device)
    tensors = [t.clone() for t in tensors]
    dy = torch.randn_like(ours(*tensors))
    for chosen in range(len(tensors)):
        torch.testing.assert_close(torch.func.jacfwd(ours, chosen)(*tensors), torch.func.jacrev(ours, chosen)(*tensors))
    last = len(tensors) - 1

    def scalar(*tensors):
        return (ours(*tensors).sin() * dy).sum()

    def slice_of(direction, jacobian):
        """The product of the Hessian by the last tensor and a direction."""
        gradient = torch.func.grad(scalar, last)
        if jacobian == "forward":
            return torch.func.jvp(lambda t: gradient(*tensors[:last], t), (tensors[last],), (direction,))[1]
        inner = lambda t: (gradient(*tensors[:last], t) * direction).sum()  # noqa: E731
        return torch.func.grad(inner)(tensors[last])

    direction = torch.randn_like(tensors[last])
    torch.testing.assert_close(slice_of(direction, "forward"), slice_of(direction, "reverse"))


def transformed(function: Callable[..., torch.Tensor], word: str) -> Callable[..., torch.Tensor]:
    """Of tensors, the image first: derivatives in forward mode (F) and in reverse (R), and over three images (V)."""

    def forward(*tensors: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(inner, tensors, tuple(t.cos() for t in tensors))[1]

    def reverse(*tensors: torch.Tensor) -> torch.Tensor:
        gradients = torch.func.grad(lambda *t: inner(*t).sin().sum(), tuple(range(len(tensors))))(*tensors)
        return torch.cat([g.flatten() for g in gradients])

    def over_a_batch(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.vmap(inner, (0, *[None] * len(parameters)))(torch.stack([x, x * 2, x - 1]), *parameters)

    if not word:
        return function
    inner = transformed(function, word[1:])
    return {"F": forward, "R": reverse, "V": over_a_batch}[word[0]]


@pytest.mark.parametrize(
    "letters", ["FF", "RFF", "FRF", *(pytest.param(word, marks=pytest.mark.slow) for word in ("FFR", "FRR", "FFF"))]
)
@each_kind
def test_derivatives_of_derivatives(letters, name, arguments, shape, device):
    """In any order of the two modes: torch turns forward mode off in a Function's jvp, and an outer one saw nothing."""
    found, expected, tensors = functions(name, arguments, shape, device)
    found, expected = (transformed(lambda *t, f=f: f(*t).sin(), letters) for f in (found, expected))
    torch.testing.assert_close(found(*tensors), expected(*tensors))


@each_kind
def test_functionalize(name, arguments, shape, device):
    ours, _, tensors = functions(name, arguments, shape, device)
    leaves = [t.clone().requires_grad_() for t in tensors]
    pure = torch.func.functionalize(ours, remove="mutations_and_views")
    assert torch.equal(pure(*tensors), ours(*tensors))
    if "inplace" in arguments:
        return  # torch has no derivative of what it makes of copy_
    assert torch.equal(transformed(pure, "R")(*tensors), transformed(ours, "R")(*tensors))
    found, expected = (torch.autograd.grad(f(*leaves).sin().sum(), leaves) for f in (pure, ours))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_compiled_transforms(device):
    """In a graph no level of forward mode is known to Python."""

    def function(x):
        return functional.max_pool2d(functional.relu(functional.conv2d(x, w)), 2).sin().flatten()

    def nested(x):
        return transformed(function, "FF")(x), torch.vmap(transformed(function, "R"))(x[:, None])

    x, w = (torch.randn(shape, device=device).double() for shape in ((2, 2, 6, 6), (3, 2, 3, 3)))
    torch._dynamo.reset()
    compiled = torch.compile(nested, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), nested(x))

    def tangent(x):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(function(forward_ad.make_dual(x, x.cos()))).tangent

    for backend in ("eager", "aot_eager"):
        torch.testing.assert_close(torch.compile(tangent, fullgraph=True, backend=backend)(x), tangent(x))


@each_kind
def test_gradcheck(name, arguments, shape, device):
    ours, _, tensors = functions(name, arguments, shape, device)
    leaves = [t.requires_grad_() for t in tensors]
    how = {"fast_mode": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(ours, leaves, check_forward_ad=True, check_batched_forward_grad=True, **how)
    assert torch.autograd.gradgradcheck(ours, leaves, check_fwd_over_rev=True, **how)


@each_layer
def test_a_penalty_reaches_what_torch_reaches(name, arguments, shape, device):
    """Behind a layer with a bias: which parameters a penalty has a gradient by, be it zeros, and which not."""

    def gradients(layer):
        torch.manual_seed(3)
        before = torch.nn.Linear(shape[-1], shape[-1]).double()  # a layer for any number of axes
        model = torch.nn.ModuleList([before, layer]).to(device)
        x = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)
        y = _pytree.tree_leaves(layer(*inputs(layer, before(x))))[0]
        dx = torch.autograd.grad(
            (y * torch.linspace(-1, 1, y.numel(), device=device).view_as(y)).sum(), x, create_graph=True
        )
        return torch.autograd.grad(dx[0].square().sum(), [*model.parameters()], allow_unused=True)

    found, expected = gradients(build(nn, name, arguments)), gradients(peer(name, arguments))
    assert [t is None for t in found] == [t is None for t in expected]
    torch.testing.assert_close(found, expected)


def test_autocast_in_a_transform(device):
    """The region's dtype, also under vmap alone, where torch's stays float32; gradients in their tensors' dtype."""
    x, w = torch.rand(3, 2, 4, 5, 5, device=device), torch.rand(2, 4, 3, 3, device=device)

    def outputs_and_gradients(conv2d):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            y = torch.vmap(conv2d, (0, None))(x, w)
            return y, *torch.func.grad(lambda x, w: conv2d(x, w).sum().float(), (0, 1))(x[0], w)

    found = outputs_and_gradients(functional.conv2d)
    assert [t.dtype for t in found] == [torch.bfloat16, torch.float32, torch.float32]
    expected = outputs_and_gradients(torch.nn.functional.conv2d)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.02, check_dtype=False)
