"""A call made before goes to its plan: the same answer, and whatever has a say in a call still has it."""

import pytest
import torch
import torch.nn.functional as F
from test_layers import build, each_layer, results
from torch.autograd import forward_ad
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tritonconv import functional as TF
from tritonconv import jit, nn, tuning
from tritonconv.kernels import elementwise, epilogue
from tritonconv.ops import operators, plan, shortcuts

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch scripts its forward rules

IMAGE, FILTER = (2, 3, 6, 7), (4, 3, 3, 3)
WINDOW = ((1, 1), (1, 1, 1, 1), (1, 1), 1, "zeros")


def tensors(device, *shapes, grad: bool = True) -> list[torch.Tensor]:
    return [torch.randn(shape, device=device, requires_grad=grad) for shape in shapes]


def known(x: torch.Tensor, w: torch.Tensor, **arguments) -> torch.Tensor:
    """conv2d of the tensors, after a call like it."""
    TF.conv2d(x, w, **arguments)
    return TF.conv2d(x, w, **arguments)


@pytest.fixture
def planned(monkeypatch) -> list[int]:
    """The launches of each plan that a call went straight to."""
    seen = []
    run = plan.Plan.run
    monkeypatch.setattr(plan.Plan, "run", lambda self, tensors: seen.append(len(self.steps)) or run(self, tensors))
    return seen


@each_layer
def test_the_answer_is_the_same(name, arguments, shape, device, planned):
    """Values, strides and gradients, bit for bit, of the first call, of the second and of the third."""
    layer = build(nn, name, arguments).to(device)
    x = torch.randn(shape, device=device, dtype=torch.float64)
    first, *others = (results(layer, x) for _ in range(3))
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert one.stride() == two.stride() and torch.equal(one, two)
    assert planned or "MaxUnpool" in name


def test_an_argument_of_another_type_is_refused_as_ever(device):
    x, w = tensors(device, IMAGE, FILTER, grad=False)
    known(x, w, stride=1, groups=1)
    for wrong in (dict(stride=1.0), dict(stride=True), dict(stride=(1, 1.0)), dict(groups=1.0), dict(padding=False)):
        with pytest.raises(TypeError):
            TF.conv2d(x, w, **wrong)
    known(x, w, stride=(1, 1))
    for stride in ((1, 1.0), (1, True), (1, "1")):
        with pytest.raises(TypeError, match="stride"):
            TF.conv2d(x, w, stride=stride)
    for pool in (TF.max_pool2d, TF.avg_pool2d, lambda x, size, **how: TF.lp_pool2d(x, 2.0, size, **how)):
        known_size = pool(x, 2), pool(x, 2, ceil_mode=True)
        assert known_size[0].shape != known_size[1].shape
        for wrong in (1, 0.0, "no", None):
            with pytest.raises(TypeError, match="ceil_mode"):
                pool(x, 2, ceil_mode=wrong)
    for call, name in (
        (lambda value: TF.avg_pool2d(x, 2, divisor_override=value), "divisor_override"),
        (lambda value: TF.avg_pool2d(x, 2, count_include_pad=value), "count_include_pad"),
        (lambda value: TF.lp_pool2d(x, value, 2), "norm_type"),
        (lambda value: TF.interpolate(x, size=4, mode="bilinear", align_corners=value), "align_corners"),
    ):
        with pytest.raises(TypeError, match=name):
            call("1")
    for _ in range(2):
        operators.average_pool(x, (2, 2), (2, 2), (0, 0), False, True, 2)
    with pytest.raises(RuntimeError, match="divisor"):
        operators.average_pool(x, (2, 2), (2, 2), (0, 0), False, True, 2.0)


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "implicit_gemm"])
def test_two_tensors_that_were_one(algorithm, device):
    """Another time they are two, or two views of one."""
    x, w = tensors(device, (3, 3, 3, 3), (3, 3, 3, 3), grad=False)
    both = torch.randn(2, 3, 3, 3, 3, device=device)
    for one, two in ((x, x), (x, w), (both[0], both[1]), (w, x)):
        expected = F.conv2d(one, two, padding=1)
        torch.testing.assert_close(known(one, two, padding=1, algorithm=algorithm), expected)


def test_what_lies_in_memory_negated(device):
    z, w = torch.randn(IMAGE, dtype=torch.complex64, device=device), torch.randn(FILTER, device=device)
    known(z.imag, w)  # the same memory
    assert z.conj().imag.is_neg()
    torch.testing.assert_close(TF.conv2d(z.conj().imag, w), F.conv2d(-z.imag, w))


def test_the_precision_of_products_is_asked_for_each_time(device, launches):
    x, w = tensors(device, IMAGE, FILTER, grad=False)
    for allowed, precision in ((False, "tf32x3"), (True, "tf32"), (False, "tf32x3")):
        torch.backends.cudnn.allow_tf32 = allowed
        try:
            known(x, w, algorithm="implicit_gemm")
        finally:
            torch.backends.cudnn.allow_tf32 = False
        assert launches[-1][1]["PRECISION"] == precision


def test_what_a_plan_holds_for(device):
    (x,) = tensors(device, IMAGE, grad=False)
    flat = torch.zeros(x.numel() + 4, device=device)

    def at(start: int) -> torch.Tensor:
        return flat[start : start + x.numel()].view(IMAGE)

    assert plan.key([at(0)], ()) == plan.key([at(4)], ()) != plan.key([at(1)], ())
    assert plan.key([x], ()) != plan.key([x.detach().requires_grad_()], ())
    others = [x.double(), x[:1], x.to(memory_format=torch.channels_last), x[..., :1]]
    assert len({plan.key([t], ()) for t in (x, *others)}) == 5
    assert len({plan.key([x], (1,)), plan.key([x], (2,)), plan.key([x, None], (1,))}) == 3
    assert plan.key([x.half()], ()) != plan.key([x.bfloat16()], ())
    assert plan.key([x[:0]], ()) is None
    with tuning.using({}):
        other = plan.key([x], ())
    assert other not in (None, plan.key([x], ()))
    for context in (tuning.target("sm_90"), tuning.record_choices(), jit.record_launches()):
        with context:
            assert plan.key([x], ()) is None


def test_who_watches_sees_every_call(device):
    """torch's modes and its profiler, the recordings of launches."""
    x, w = tensors(device, IMAGE, FILTER)
    known(x, w)
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            TF.conv2d(x, w).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    with profile() as profiler:
        TF.conv2d(x, w)
    assert "tritonconv::convolution" in {event.name for event in profiler.events()}
    with jit.record_launches() as launches:
        TF.conv2d(x, w)
    assert launches


class Tagged(torch.Tensor):
    pass


def test_a_subclass_stays_one(device):
    x, w = tensors(device, IMAGE, FILTER, grad=False)
    known(x, w)
    for _ in range(3):
        assert type(TF.conv2d(x.as_subclass(Tagged), w)) is Tagged


def test_transforms_and_autocast_after_a_plain_call(device):
    x, w = tensors(device, IMAGE, FILTER, grad=False)
    y = known(x, w)
    torch.testing.assert_close(torch.vmap(TF.conv2d, (0, None))(x.unsqueeze(1), w).squeeze(1), y)
    _, tangent = torch.func.jvp(lambda x: TF.conv2d(x, w), (x,), (x,))
    torch.testing.assert_close(tangent, y)
    with forward_ad.dual_level():
        dual = TF.conv2d(forward_ad.make_dual(x, x), w)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, y)
    with torch.autocast(device.type, torch.bfloat16):
        for _ in range(3):
            assert TF.conv2d(x, w).dtype == torch.bfloat16
            assert TF.max_pool2d(x, 2).dtype == torch.float32
    with torch.inference_mode():
        assert known(x, w).is_inference()


def test_autograds_rules_hold(device):
    x, w = tensors(device, IMAGE, FILTER)
    for call in (lambda: known(x * 1, w), lambda: known(x * 1, w).relu_()):
        call().sum().backward()
    leaf = x.detach().clone().requires_grad_()
    y = known(leaf, w)
    with torch.no_grad():
        leaf.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y = known(x, w)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def test_a_result_that_nothing_depends_on_has_no_gradient(device):
    dy, x = tensors(device, (2, 4, 6, 7), IMAGE)
    for _ in range(3):
        dw, db = operators.convolution_wgrad(dy, x, (3, 3), *WINDOW, True, False, "direct")
        (found,) = torch.autograd.grad(db.sum(), dy, retain_graph=True)
        assert torch.equal(found, torch.ones_like(dy))
        found = torch.autograd.grad(dw.sum(), [dy, x])
        expected = torch.autograd.grad(dw_by_torch(dy, x), [dy, x])
        torch.testing.assert_close(found, expected)


def test_nothing_is_filled_for_an_argmax(device):
    """Its gradient is no tensor of zeros: on a GPU that would be a launch."""
    (x,) = tensors(device, IMAGE)
    TF.max_pool2d(x, 2)
    y = TF.max_pool2d(x, 2)
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.autograd.grad(y, x, torch.ones_like(y))
    assert not {name for name in seen if "zeros" in name or "fill" in name or "zero_" in name}


def dw_by_torch(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The sum of dw: the adjoint of a filter of ones."""
    return (F.conv2d(x, torch.ones(4, 3, 3, 3, device=x.device), padding=1) * dy).sum()


def test_a_view_of_an_argument_is_found_again(device):
    """With its sizes and its place in the memory that it shares."""

    def run(x: torch.Tensor) -> tuple[torch.Tensor]:
        y = torch.empty_like(x[1:, 2:])
        elementwise.activate(x[1:, 2:], y, epilogue.ACTIVATIONS["relu"])
        return (y,)

    made = plan.make([torch.zeros(5, 7, device=device)], run)
    for _ in range(2):
        x = torch.randn(6, 7, device=device)[1:]
        (y,) = made.run([x])
        assert torch.equal(y, x[1:, 2:].relu())


def relu(x: torch.Tensor) -> torch.Tensor:
    return operators.activate(x, "relu")


WINDOWS = (2, 2), (2, 2), (0, 0), (1, 1)
STRAIGHT = {
    "one of two tensors": lambda x, z: relu(z),
    "none among them": lambda x, z: operators.convolution(x, z, None, None, None, *WINDOW, "relu", None, "auto"),
    "two results": lambda x, z: operators.max_pool(z, *WINDOWS, False, True)[::2],
    "the second result": lambda x, z: operators.max_pool(x, *WINDOWS, False, True)[1],
}
AROUND = {
    "something before": lambda x, z: relu(z * 1),
    "something after": lambda x, z: relu(x) + 1,
    "two operators": lambda x, z: relu(relu(x)),
    "no operator": lambda x, z: z,
    "no plan": lambda x, z: operators.max_unpool(x, z, x.shape[2:]),
}


@pytest.mark.parametrize("name", [*STRAIGHT, *AROUND])
def test_what_goes_straight_to_an_operators_plan(name, device):
    """A function that calls one, and does nothing else: it is run for new arguments alone."""
    function, ran = (STRAIGHT | AROUND)[name], []
    call = shortcuts.shortcut(lambda x, z: ran.append(1) or function(x, z))
    for _ in range(3):
        given = tensors(device, (3, 3, 4, 4), (3, 3, 4, 4))
        if name == "no plan":
            given[1] = torch.zeros(given[1].shape, dtype=torch.int64, device=device)
        for one, two in zip(_several(call(*given)), _several(function(*given)), strict=True):
            assert torch.equal(one, two) and one.requires_grad == two.requires_grad
        with torch.no_grad():
            assert not any(t.requires_grad for t in _several(call(*given)) if t is not given[1])
    assert len(ran) == (1 if name in STRAIGHT else 6)


def _several(answer) -> tuple[torch.Tensor, ...]:
    return (answer,) if isinstance(answer, torch.Tensor) else answer


def test_keywords_are_told_apart(device):
    (x,) = tensors(device, IMAGE, grad=False)
    for _ in range(3):
        assert TF.avg_pool2d(x, 2, stride=1).shape != TF.avg_pool2d(x, 2, padding=1).shape


def test_no_more_plans_than_are_kept(device, monkeypatch):
    monkeypatch.setattr(plan, "MOST", 2)
    calls: dict = {}
    for i in range(5):
        shortcuts.keep(calls, i, i)
        assert calls[i] == i and len(calls) <= 2


@pytest.mark.parametrize("name", ["adaptive_max_pool2d", "adaptive_avg_pool2d"])
def test_an_empty_answer_is_a_tensor_each_time(name, device):
    (x,) = tensors(device, IMAGE)
    for _ in range(3):
        y = getattr(TF, name)(x, 0)
        assert y.shape == (2, 3, 0, 0)
        assert torch.equal(*torch.autograd.grad(y.sum(), x), torch.zeros_like(x))


def test_what_does_more_than_launch_has_no_plan(device):
    x, index = torch.randn(1, 1, 2, 2, device=device), torch.zeros(1, dtype=torch.int64, device=device)

    def writes(x: torch.Tensor) -> tuple[torch.Tensor]:
        y = torch.empty_like(x)
        y.fill_(1)
        return (y,)

    def reads(x: torch.Tensor) -> tuple[torch.Tensor]:
        y = torch.empty_like(x)
        torch._assert_async((x == x).all())
        return (y,)

    for run in (writes, reads, lambda x: (x.clone(),), lambda x: (torch.zeros_like(x),), lambda x: (x,)):
        assert plan.make([x], run) is None, run
    made = plan.make([x, index], lambda x, index: (torch.empty_like(x), torch.empty_like(index)))
    assert made is not None and [t.dtype for t in made.run([x, index])] == [x.dtype, index.dtype]
