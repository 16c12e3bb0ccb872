"""patched: what a block calls of torch.nn.functional runs on our kernels, and nothing outside it."""

import threading

import pytest
import torch
import torch.nn.functional as F

import tritonconv
from tests.test_convert import Operators
from tritonconv.patching import OURS, calls_of

CALLS = {
    "avg_pool1d": lambda x, w: F.avg_pool1d(x[0], 2),
    "torch.avg_pool1d": lambda x, w: torch.avg_pool1d(x[0], 2),
    "avg_pool2d": lambda x, w: F.avg_pool2d(x, 3, 2, divisor_override=4),
    "avg_pool3d": lambda x, w: F.avg_pool3d(x, 2, count_include_pad=False),
    "lp_pool1d": lambda x, w: F.lp_pool1d(x[0], 2, 2),
    "lp_pool2d": lambda x, w: F.lp_pool2d(x, 2, 2),
    "lp_pool3d": lambda x, w: F.lp_pool3d(x, 2, 2),
    "adaptive_avg_pool1d": lambda x, w: F.adaptive_avg_pool1d(x[0], 2),
    "torch.adaptive_avg_pool1d": lambda x, w: torch.adaptive_avg_pool1d(x[0], 2),
    "adaptive_avg_pool2d": lambda x, w: F.adaptive_avg_pool2d(x, (None, 3)),
    "adaptive_avg_pool3d": lambda x, w: F.adaptive_avg_pool3d(x, 2),
    "adaptive_max_pool1d": lambda x, w: F.adaptive_max_pool1d(x[0], 2),
    "torch.adaptive_max_pool1d": lambda x, w: torch.adaptive_max_pool1d(x[0], 2),
    "adaptive_max_pool2d": lambda x, w: F.adaptive_max_pool2d(x, (None, 3), return_indices=True),
    "adaptive_max_pool2d_with_indices": lambda x, w: F.adaptive_max_pool2d_with_indices(x, 2),
    "adaptive_max_pool3d": lambda x, w: F.adaptive_max_pool3d(x, 2),
    "interpolate": lambda x, w: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
    "conv1d": lambda x, w: F.conv1d(x.flatten(2), w.flatten(2), padding="same"),
    "torch.conv1d": lambda x, w: torch.conv1d(x.flatten(2), w.flatten(2)),
    "conv3d": lambda x, w: F.conv3d(x[:, :, None], w[:, :, None]),
    "conv_transpose1d": lambda x, w: F.conv_transpose1d(x.flatten(2), w.flatten(2).transpose(0, 1)),
    "conv_transpose2d": lambda x, w: F.conv_transpose2d(x, w.transpose(0, 1), None, 2, 1, 1),
    "torch.conv_transpose2d": lambda x, w: torch.conv_transpose2d(x, w.transpose(0, 1)),
    "conv_transpose3d": lambda x, w: F.conv_transpose3d(x[:, :, None], w.transpose(0, 1)[:, :, None]),
    "torch.conv3d": lambda x, w: torch.conv3d(x[:, :, None], w[:, :, None]),
    "max_pool1d": lambda x, w: F.max_pool1d(x[0], 2),
    "torch.max_pool1d": lambda x, w: torch.max_pool1d(x[0], 2),
    "max_pool1d_with_indices": lambda x, w: F.max_pool1d_with_indices(x[0], 2),
    "max_pool3d": lambda x, w: F.max_pool3d(x, 2, 1),
    "torch.max_pool3d": lambda x, w: torch.max_pool3d(x, 2, 1),
    "max_pool3d_with_indices": lambda x, w: F.max_pool3d_with_indices(x, 2),
    "conv2d": lambda x, w: F.conv2d(x, w, None, 2, padding=1),
    "torch.conv2d": lambda x, w: torch.conv2d(x, w),
    "max_pool2d": lambda x, w: F.max_pool2d(x, 2, padding=1, ceil_mode=True),
    "max_pool2d with indices": lambda x, w: F.max_pool2d(x, 2, return_indices=True),
    "max_pool2d_with_indices": lambda x, w: F.max_pool2d_with_indices(x, 3, 1),
    "torch.max_pool2d": lambda x, w: torch.max_pool2d(x, 3, (), 1),
    "relu": lambda x, w: F.relu(x),
    "relu in place": lambda x, w: F.relu(x * 1, inplace=True),
    "relu_": lambda x, w: F.relu_(x * 1),
    "torch.relu": lambda x, w: torch.relu(x),
    "tensor.relu": lambda x, w: x.relu(),
    "tensor.relu_": lambda x, w: (x * 1).relu_(),
    "unfold": lambda x, w: F.unfold(x, 3, padding=1),
    "fold": lambda x, w: F.fold(x.flatten(2)[:, :8], (7, 9), 2, dilation=(1, 3)),
    "a layer": lambda x, w: torch.nn.MaxPool2d(2)(x),
    "padding_mode": lambda x, w: torch.nn.Conv2d(8, 1, 3, padding=1, padding_mode="circular", dtype=x.dtype)(x).sum(),
}


def tensors(device: torch.device) -> list[torch.Tensor]:
    return [torch.randn(shape, dtype=torch.float64, device=device) for shape in ((2, 8, 6, 6), (3, 8, 3, 3))]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_block_runs_on_our_kernels_and_gives_torchs_answer(call, device):
    x, w = (t.requires_grad_() for t in tensors(device))
    torch.manual_seed(0)
    expected = call(x, w)
    torch.manual_seed(0)
    with Operators() as names, tritonconv.patched():
        answer = call(x, w)
    assert len(names) == 1
    torch.testing.assert_close(answer, expected)
    first = [y if isinstance(y, torch.Tensor) else y[0] for y in (answer, expected)]
    (ours,), (theirs,) = (torch.autograd.grad(y.square().sum(), x) for y in first)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("relu", [F.relu_, torch.relu_, torch.Tensor.relu_, lambda x: F.relu(x, True)])
def test_relu_in_place_writes_where_torch_writes(relu, device):
    x, _ = tensors(device)
    expected = x.clamp(min=0)
    with tritonconv.patched():
        assert relu(x) is x
    assert torch.equal(x, expected)


def test_every_function_of_ours_that_torch_has_is_patched():
    theirs = {getattr(F, name) for name in tritonconv.functional.__all__ if hasattr(F, name)}
    assert len(theirs) == 33 and theirs <= set(OURS)


def test_nothing_outside_the_block_or_in_another_thread_changes(device):
    x, _ = tensors(device)
    with Operators() as names:
        with tritonconv.patched():
            pass
        F.relu(x)
    assert names == []
    seen: list[list[str]] = []

    def other() -> None:
        with Operators() as names:
            F.relu(x)
        seen.append(names)

    with tritonconv.patched():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [[]]


def test_it_decorates_a_function_and_what_fails_leaves_nothing_behind(device):
    x, _ = tensors(device)

    @tritonconv.patched()
    def forward(x):
        return F.relu(x)

    with Operators() as names:
        forward(x)
        with pytest.raises(NotImplementedError, match="relu"):
            forward(x.to(torch.int64))
        forward(x)
        F.relu(x)
    assert names == ["activate"] * 3  # the one that raised too


def test_other_functions_are_torchs(device):
    x, _ = tensors(device)
    with tritonconv.patched():
        torch.testing.assert_close(F.gelu(x), torch.nn.GELU()(x))
        assert x.unfold(2, 2, 2).shape == (2, 8, 3, 6, 2)  # a tensor's unfold is another function


def test_a_compiled_function_may_be_called_in_the_block(device):
    x, w = tensors(device)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def forward(x, w):
        return F.relu(F.conv2d(x, w))

    expected = forward(x, w)
    with tritonconv.patched():
        torch.testing.assert_close(forward(x, w), expected)


def test_calls_are_found_in_code():
    relu = F.relu

    def forward(self, x, local=torch):
        nested = [F.conv2d(y, y) for y in x]
        return torch.relu(torch.nn.functional.fold(nested)), relu(x), local.relu(x), F.relu, F.gelu(x), (F, x.conv1d)

    class Net(torch.nn.Module):
        pass

    Net.forward = forward
    assert (
        calls_of(forward) == calls_of(Net().forward) == ["torch.relu", "torch.nn.functional.fold", "F.relu", "F.conv2d"]
    )
    assert calls_of(torch.relu) == []
