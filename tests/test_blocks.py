"""Several blocks of channels. In the interpreter one block holds all of them, so these run with a GPU's tiles."""

import contextlib
import functools
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import Case, reference_conv, value_and_gradients

from tritonconv import functional as TF
from tritonconv import interpreter, tuning
from tritonconv.layouts import memory_format

# In float64 the tiles of sm_90 are 32 pixels × 32 channels, over blocks of 16: every side has several blocks, the last
# of them ragged.
CASES = (
    Case("80 channels", "a tap at a time", N=2, C_in=80, H=4, W=6, C_out=80, R=2, S=1),
    Case("groups of 40 channels", "a group ends within a block", N=2, C_in=80, H=4, W=6, C_out=80, R=2, S=1, groups=2),
    Case("12 to 80 channels", "few enough to run on across taps", N=2, C_in=12, H=4, W=6, C_out=80, R=3, S=2),
    Case("stride 2", "blocks of channels in each phase", N=2, C_in=40, H=5, W=6, C_out=80, R=3, S=2, stride=2),
)
# "direct" takes 64 channels of a channels_last output. It has a program for each of a filter's elements: the smallest.
DIRECT = (
    Case("80 channels", "two blocks of channels", N=1, C_in=80, H=2, W=3, C_out=80, R=1, S=1),
    Case("groups of 40 channels", "a block holds two groups", N=1, C_in=80, H=2, W=3, C_out=80, R=1, S=1, groups=2),
)
RUNS = [
    *[(c, algorithm) for c in CASES for algorithm in ("im2col", "implicit_gemm")],
    *[(c, "direct") for c in DIRECT],
]
CHAINS = {
    "conv": (TF.conv2d, lambda y: y),
    "relu": (TF.conv2d_bias_relu, F.relu),
    "pool": (
        functools.partial(TF.conv2d_bias_relu_max_pool2d, pool_kernel_size=2, pool_stride=1),
        lambda y: F.max_pool2d(F.relu(y), 2, 1),
    ),
}


def small_integers(*shape: int, device: torch.device) -> torch.Tensor:
    return torch.randint(-2, 3, shape, device=device).double()


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(("c", "algorithm"), RUNS, ids=str)
def test_several_blocks_of_channels(c, chain, algorithm, device, launches):
    """Every sum is a whole number, so values and gradients equal torch's, ties included."""
    x = small_integers(c.N, c.C_in, c.H, c.W, device=device).contiguous(memory_format=torch.channels_last)
    w = small_integers(c.C_out, c.C_in // c.groups, c.R, c.S, device=device)
    b = small_integers(c.C_out, device=device)
    ours, after = CHAINS[chain]
    arguments = {**c.arguments, "algorithm": algorithm}

    def expected_chain(*tensors: torch.Tensor) -> torch.Tensor:
        return after(reference_conv(*tensors, **c.arguments))

    dy = small_integers(*expected_chain(x, w, b).shape, device=device).contiguous(memory_format=torch.channels_last)
    expected = value_and_gradients(expected_chain, [x, w, b], dy)
    with tuning.target("sm_90") if device.type == "cpu" else contextlib.nullcontext():
        found = value_and_gradients(lambda *t: ours(*t, **arguments), [x, w, b], dy)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    columns = c.C_out if algorithm == "direct" else c.C_out // c.groups
    assert any(arguments["BLOCK_N"] < columns for _, arguments in launches if "BLOCK_N" in arguments)


@pytest.mark.parametrize("algorithm", ["implicit_gemm", "direct"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(23,), (5, 7), (3, 5, 7), (1, 1, 2)], ids=str)
def test_several_blocks_of_pixels(size, channels_last, algorithm, device):
    """A filter's gradient counts through the pixels, block by block, over rows, planes and images."""
    rank, channels = (
        len(size),
        16 if algorithm == "implicit_gemm" else 2,
    )  # "direct" has a program for each filter's element
    layout = memory_format(channels_last, rank + 2)
    x = small_integers(16, channels, *size, device=device).contiguous(memory_format=layout)
    w = small_integers(channels, channels, *(1,) * (rank - 1), 2, device=device)
    b = small_integers(channels, device=device)
    ours, theirs = (getattr(functional, f"conv{rank}d") for functional in (TF, F))
    dy = small_integers(*theirs(x, w, b).shape, device=device).contiguous(memory_format=layout)
    expected = value_and_gradients(theirs, [x, w, b], dy)
    with tuning.target("sm_90") if device.type == "cpu" else contextlib.nullcontext():
        found = value_and_gradients(lambda *t: ours(*t, algorithm=algorithm), [x, w, b], dy)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


FEW_CHANNELS = Case("groups of 2 channels", "a program a channel", N=2, C_in=4, H=5, W=6, C_out=6, R=2, S=2, groups=2)


@pytest.mark.parametrize(("c", "algorithm"), [RUNS[1], RUNS[4], (FEW_CHANNELS, "direct")], ids=str)
def test_programs_may_run_in_any_order(c, algorithm, monkeypatch):
    """On a GPU they do: no program writes where another does. Last to first, bit for bit what first to last gives."""
    reverse = types.SimpleNamespace(**vars(np) | {"ndindex": lambda *shape: reversed([*np.ndindex(*shape)])})
    tensors = [
        torch.rand(c.N, c.C_in, c.H, c.W),
        torch.rand(c.C_out, c.C_in // c.groups, c.R, c.S),
        torch.rand(c.C_out),
    ]
    results = []
    for numpy in (np, reverse):
        monkeypatch.setattr(interpreter, "np", numpy)
        monkeypatch.setattr(interpreter, "_records", OrderedDict())
        with tuning.target("sm_90"):
            convolve = functools.partial(TF.conv2d, **c.arguments, algorithm=algorithm)
            results.append(value_and_gradients(lambda *t: TF.max_pool2d(convolve(*t), 1), tensors))  # noqa: B023
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
