"""Problems at the edge of what a kernel counts on: grids, strides past the image, no channels, integers, memory."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tritonconv
from bench import codegen
from tests.oracle import ALGORITHMS, value_and_gradients
from tritonconv import functional as ours
from tritonconv import jit, tuning
from tritonconv.kernels import split_k

by_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def integers(*shape: int) -> torch.Tensor:
    """Small whole numbers: every sum of their products is exact, in whatever order it is added."""
    return torch.randint(-3, 4, shape).float()


# --- grids: CUDA ends the second and third axis at 65,535 programs ---

MANY = 70_000
GRIDS: dict[str, Callable[[], Any]] = {
    **codegen.workloads(torch.float32),
    "max pool over many channels": lambda: ours.max_pool2d(torch.empty(1, MANY, 2, 2), 2),
    "unfold many channels": lambda: ours.unfold(torch.empty(1, MANY, 2, 2), 2),
    "fold many channels": lambda: ours.fold(torch.empty(1, MANY * 4, 1), 2, 2),
    "depthwise over many channels": lambda: ours.conv2d(
        torch.empty(1, MANY, 2, 2), torch.empty(MANY, 1, 2, 2, requires_grad=True), groups=MANY, algorithm="direct"
    ),
    "many groups": lambda: ours.conv2d(
        torch.empty(1, MANY, 2, 2),
        torch.empty(MANY, 1, 2, 2, requires_grad=True),
        groups=MANY,
        algorithm="implicit_gemm",
    ),
    "no input channels, in splits": lambda: ours.conv2d(
        torch.empty(1, 0, 64, 64), torch.empty(2, 0, 3, 3, requires_grad=True), torch.empty(2, requires_grad=True)
    ),
    "many filter elements": lambda: ours.conv2d(
        torch.empty(1, MANY, 2, 2), torch.empty(1, MANY, 2, 2, requires_grad=True), algorithm="direct"
    ),
}


@pytest.mark.parametrize("call", GRIDS.values(), ids=GRIDS)
def test_a_grid_has_one_axis(call):
    with tuning.target("sm_90"), jit.record_launches() as launches:
        y = call()
        if y.requires_grad:
            y.backward(torch.empty_like(y))
    assert launches
    for launch in launches:
        assert len(launch.grid) == 1 and 0 < launch.grid[0] < 2**31, launch.kernel.fn.__name__


def test_a_sum_of_nothing_launches_nothing(launches):
    dw = torch.empty(0, 2)
    split_k.sum_splits(split_k.partial_sums(3, dw, None), dw, None)
    assert not launches


# --- strides past the image ---


@pytest.mark.parametrize(
    ("stride", "padding", "filter_size", "programs"),
    [
        (1000, 0, 3, 1),  # one output: no step is taken
        (2**31 + 5, 0, 1, 1),
        (2**31 + 5, 1, 3, 1),
        ((1000, 2), 1, 3, 2),
        (9, 9, 3, 64),  # steps of more than the image's 8 rows: a phase a row
    ],
    ids=str,
)
def test_a_stride_past_the_image_has_no_more_phases_than_pixels(stride, padding, filter_size, programs, launches):
    x, w, b = integers(2, 3, 8, 8), integers(4, 3, filter_size, filter_size), integers(4)
    expected = value_and_gradients(lambda x, w, b: F.conv2d(x, w, b, stride, padding), [x, w, b])
    for algorithm in ("direct", "implicit_gemm"):
        found = value_and_gradients(
            lambda x, w, b, a=algorithm: ours.conv2d(x, w, b, stride, padding, algorithm=a), [x, w, b]
        )
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
    (grid,) = [arguments["grid"] for name, arguments in launches if name == "implicit_gemm_dgrad_kernel"]
    assert grid == (programs,)


@pytest.mark.parametrize("dilation", [1000, 2**31 + 5])
def test_a_dilation_of_one_tap(dilation):
    """It spreads nothing. (torch's max pooling refuses what leaves 32 bits.)"""
    x, w = integers(2, 3, 8, 8), integers(4, 3, 1, 2)
    expected = value_and_gradients(lambda x, w: F.conv2d(x, w, dilation=(1, 2)), [x, w])
    for algorithm in ALGORITHMS:
        found = value_and_gradients(
            lambda x, w, a=algorithm: ours.conv2d(x, w, dilation=(dilation, 2), algorithm=a), [x, w]
        )
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.equal(ours.max_pool2d(x, (1, 2), dilation=(dilation, 2)), F.max_pool2d(x, (1, 2), dilation=(1, 2)))


@pytest.mark.parametrize("padding", [0, 1])
def test_pooling_with_a_stride_past_the_image(padding):
    x = integers(2, 3, 3, 3)
    expected = value_and_gradients(lambda x: F.max_pool2d(x, 3, 1000, padding), [x])
    found = value_and_gradients(lambda x: ours.max_pool2d(x, 3, 1000, padding), [x])
    assert torch.equal(found["y"], expected["y"]) and torch.equal(found["dx"], expected["dx"])


def test_dgrad_divides_by_no_count_that_may_be_zero():
    """With stride and dilation 2 no tap reaches half of the phases. The loop over their taps does not run, but the
    compiler may hoist a division out of it."""
    x, w = torch.empty(2, 64, 9, 9, requires_grad=True), torch.empty(64, 64, 3, 3)
    with tuning.target("sm_90"), jit.record_launches() as launches:
        ours.conv2d(x, w, stride=2, dilation=2).backward(torch.empty(2, 64, 3, 3))
    launch = launches[-1]
    assert launch.kernel.fn.__name__ == "implicit_gemm_dgrad_kernel"
    code = jit.compile_launch(launch, codegen.TARGETS["sm_90"]).asm["ttir"]
    made_by = dict(re.findall(r"(%\S+) = (\S+)", code))
    divisors = re.findall(r"arith\.(?:div|rem)[su]i %\S+, (%\w+)", code)
    scalars = [d for d in divisors if d in made_by and "arith.constant" not in made_by[d]]
    assert scalars and all(made_by[d] in ("arith.maxsi", "arith.extsi", "tt.splat") for d in scalars)
    assert any(made_by[d] == "arith.maxsi" for d in scalars)


# --- no input channels ---


@by_algorithm
@pytest.mark.parametrize("target", ["interpreter", "sm_90"])
def test_no_input_channels_answer_the_bias(algorithm, target):
    """The empty sum, and the bias. (torch 2.13 itself answers a tensor of no output channels.)"""
    x, w, b = torch.empty(2, 0, 5, 6), torch.empty(4, 0, 3, 3), integers(4)
    with tuning.target(target):
        found = value_and_gradients(lambda *t: ours.conv2d(*t, padding=1, algorithm=algorithm), [x, w, b])
        pooled = ours.conv2d_bias_relu_max_pool2d(x, w, b, pool_kernel_size=2, algorithm=algorithm)
        without = value_and_gradients(lambda *t: ours.conv2d(*t, algorithm=algorithm), [x, w])
    assert torch.equal(found["y"], b[:, None, None].expand(2, 4, 5, 6))
    assert found["dx"].shape == x.shape and found["dw"].shape == w.shape
    assert torch.equal(found["db"], torch.full((4,), 60.0))
    assert torch.equal(pooled, b.relu()[:, None, None].expand(2, 4, 1, 2))
    assert torch.equal(without["y"], torch.zeros(2, 4, 3, 4)) and without["dw"].shape == w.shape


# --- integers ---

INTEGERS = {
    "np.int64": np.int64(2),
    "np.uint8": np.uint8(2),
    "0-d tensor": torch.tensor(2),
    "1-d tensor": torch.tensor([2]),
    "list of np.int64": [np.int64(2), 2],
    "tuple of a tensor": (torch.tensor(2), 2),
    "array": np.array([2, 2]),
    "range": range(2, 3),
}


@pytest.mark.parametrize("two", INTEGERS.values(), ids=INTEGERS)
def test_what_python_takes_as_an_integer_is_one(two):
    x, w = torch.randn(1, 2, 8, 8), torch.randn(4, 2, 2, 2)
    columns = torch.randn(1, 8, 4)
    for call in (
        lambda n: ours.conv2d(x, w, stride=n),
        lambda n: ours.conv2d(x, w, padding=n),
        lambda n: ours.conv2d(x, w, dilation=n),
        lambda n: ours.max_pool2d(x, n),
        lambda n: ours.max_pool2d(x, 3, n),
        lambda n: ours.max_pool2d(x, 2, dilation=n),
        lambda n: ours.max_pool2d(x, 4, padding=n),
        lambda n: ours.unfold(x, n),
        lambda n: ours.unfold(x, 2, stride=n),
        lambda n: ours.fold(columns, 4, n, stride=n),
        lambda n: ours.conv2d_bias_relu_max_pool2d(x, w, pool_kernel_size=n),
    ):
        assert torch.equal(call(two), call(2))


@pytest.mark.parametrize("groups", [np.int64(2), torch.tensor(2), np.array(2)], ids=["numpy", "tensor", "0-d array"])
def test_groups_too(groups):
    x, w = torch.randn(1, 4, 5, 5), torch.randn(4, 2, 3, 3)
    assert torch.equal(ours.conv2d(x, w, groups=groups), ours.conv2d(x, w, groups=2))


@pytest.mark.parametrize("value", [True, np.bool_(True), torch.tensor(True), [True, 2], 2.0, np.float32(2), None, "2"])
def test_what_torch_does_not_take_as_an_integer_is_none(value):
    x, w = torch.randn(1, 2, 8, 8), torch.randn(4, 2, 2, 2)
    with pytest.raises(TypeError, match="stride must be an integer or a tuple of 2 integers, but got stride="):
        ours.conv2d(x, w, stride=value)


def test_a_model_built_of_numpys_integers():
    conv = torch.nn.Conv2d(3, 4, np.int64(3), stride=np.int64(2), padding=np.int64(1))
    model = torch.nn.Sequential(conv, torch.nn.ReLU(), torch.nn.MaxPool2d(np.int64(2)))
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    tritonconv.convert(model)
    torch.testing.assert_close(model(x), expected)


# --- memory ---


def test_where_a_storage_ends_does_not_matter():
    storage = torch.zeros(865, dtype=torch.uint8)
    w = storage[:864].view(torch.float32).view(8, 3, 3, 3)
    w.copy_(integers(8, 3, 3, 3))
    x = integers(1, 3, 5, 5)
    assert torch.equal(ours.conv2d(x, w), F.conv2d(x, w.clone()))
    assert storage[864] == 0
