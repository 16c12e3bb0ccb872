"""From a call to the driver, as on a GPU: Triton's binder and launcher, CUDA's limits, plans. Nothing is computed.

The stand-in for a GPU (launch_only.py) is for a whole process: each check here runs in a fork of one that has it.
"""

import functools
import json
import multiprocessing
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from test_edges import GRIDS
from test_layers import LAYERS, build, inputs
from torch.utils import _pytree
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.driver import driver

import tritonconv
from examples.networks import mnist_cnn3
from tritonconv import jit, nn, tuning
from tritonconv.kernels.split_k import sum_splits_kernel

ROOT = Path(__file__).parent.parent


pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has a launch path of its own")


def failure(check: Callable[[ModuleType], None]) -> str:
    """What `check`, one of this file's, says of its failed assertion in a process with the stand-in; "" if none did."""
    return failures()[check.__name__]


@functools.cache
def failures() -> dict[str, str]:
    """Of all checks: to start such a process takes longer than a check."""
    code = "import sys; sys.path[:0] = ['tests', '.']; import launch_only, test_launch_path as here; "
    command = [sys.executable, "-c", f"{code}here.print_failures(launch_only)"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # a fork has none of OpenMP's threads, and would wait for them
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def print_failures(gpu: ModuleType) -> None:
    found = {}
    for check in CHECKS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as fork:
            found[check.__name__] = fork.submit(said_by, check, gpu.__name__).result()
    print(json.dumps(found))


def said_by(check: Callable[[ModuleType], None], gpu: str) -> str:
    try:
        check(sys.modules[gpu])
    except BaseException:  # what pytest.raises says too
        return traceback.format_exc()
    return ""


def described(calls: list[tuple], named: dict[int, str]) -> list[tuple]:
    """Launches as they reached the driver, with names in the place of addresses."""
    found = []
    for grid, arguments, kinds in calls:
        shown = []
        for value, kind in zip(arguments, kinds.values(), strict=True):
            address = value.data_ptr() if isinstance(value, torch.Tensor) else value
            shown.append(named.get(address, "scratch") if str(kind).startswith("*") else value)
        found.append((grid, *shown))
    return found


def spied() -> list[tuple]:
    """The grid with the stream, the arguments and their types of each launch from here on."""
    calls: list[tuple] = []

    class Spy(driver.active.launcher_cls):
        def __init__(self, source, metadata):
            super().__init__(source, metadata)
            kinds, launch = source.signature, self.launch

            def spy(*given):  # before Triton 3.7 the kernel's arguments come one by one
                arguments = given[-1] if isinstance(given[-1], tuple | list) else given[-len(kinds) :]
                calls.append((given[:4], arguments, kinds))
                launch(*given)

            self.launch = spy

    driver.active.launcher_cls = Spy
    return calls


def a_splits_sums_lie_one_behind_the_other(gpu: ModuleType) -> None:
    """A plan gives the wgrad kernel two addresses in one buffer."""
    calls = spied()
    x, w, b = (torch.ones(shape, requires_grad=True) for shape in ((8, 20, 14, 16), (7, 20, 3, 3), (7,)))
    for _ in range(3):
        y = tritonconv.functional.conv2d(x, w, b, padding=1)
        y.backward(torch.ones_like(y))
    ((_, arguments, kinds),) = [call for call in calls[-3:] if "split_stride" in call[2]]
    found = dict(zip(kinds, arguments, strict=True))
    assert found["split_stride"] == w.numel() + 7
    assert found["db_ptr"] - found["dw_ptr"] == 4 * w.numel()


def every_layer_launches_again_what_it_launched(gpu: ModuleType) -> None:
    """A plan gives the driver what Triton's binder gave it, kernel by kernel, and compiles nothing."""
    calls = spied()
    own = {"in_channels": 2, "out_channels": 3, "kernel_size": 3}
    pooled = {**own, "pool_kernel_size": 2}
    layers = [*LAYERS, ("ConvReLUMaxPool2d", pooled, (2, 2, 6, 7)), ("ConvReLU2d", own, (2, 2, 6, 7))]
    for name, arguments, shape in layers:
        layer, x = build(nn, name, arguments).float(), torch.randn(shape, requires_grad=True)
        leaves, results, seen = [x, *layer.parameters()], [], []
        for _ in range(3):
            calls.clear()
            given = inputs(layer, x * 1)
            before = len(gpu.compiled)
            outputs = [t for t in _pytree.tree_leaves(layer(*given)) if t.is_floating_point()]
            torch.autograd.grad(outputs, leaves, [torch.ones_like(t) for t in outputs], retain_graph=True)
            results.append((given, outputs))  # alive, so that no address comes twice
            tensors = [*given, *layer.parameters(), *outputs]
            named = {t.data_ptr(): f"tensor {i}" for i, t in enumerate(tensors)}
            seen.append(described(calls, named))
            assert seen[-1], name
        assert len(gpu.compiled) == before, name
        assert seen[1] == seen[2], name  # from the second call on there is a plan
        assert [len(call) for call in seen[0]] == [len(call) for call in seen[1]], name
        assert seen[0] == seen[1], name


def what_may_change_is_asked_for_each_time(gpu: ModuleType) -> None:
    """By a launch that was made before: the stream, who watches launches, memory that Triton allocates."""
    calls, x = spied(), torch.ones(16)
    for _ in range(2):
        for stream in (0, 7, 7, 0):
            driver.active.get_current_stream = lambda device=0, stream=stream: stream
            tritonconv.functional.relu(x)
            assert calls[-1][0][3] == stream
    watcher = lambda *_: None  # noqa: E731
    triton.knobs.runtime.launch_enter_hook.add(watcher)
    with pytest.raises(AssertionError, match="no hook is set"):
        tritonconv.functional.relu(x)
    triton.knobs.runtime.launch_enter_hook.remove(watcher)
    allocated: list[int] = []
    triton.set_allocator(lambda size, align, stream: allocated.append(size) or torch.empty(size))
    driver.active.launcher_cls.global_scratch_size = property(lambda self: 16, lambda self, size: None)
    for _ in range(4):
        tritonconv.functional.relu(torch.ones(3))
    assert len(allocated) == 4


def cudas_limits_hold(gpu: ModuleType) -> None:
    """The stand-in refuses a grid that CUDA refuses, and no operator asks for one, however large its image."""
    tensors = torch.ones(16), torch.ones(16)
    with pytest.raises(RuntimeError, match="invalid argument"):
        sum_splits_kernel[(1, 65536)](*tensors, None, 16, 16, 1, 1, 1, tl.int32, 16, 16)
    for name, call in GRIDS.items():
        before = gpu.launches()
        y = call()
        if y.requires_grad:
            y.backward(torch.empty_like(y))
        assert gpu.launches() > before, name
        assert gpu.last_grid()[1:] == (1, 1), name


def another_batch_compiles_nothing(gpu: ModuleType) -> None:
    """The last batch of an epoch is smaller; evaluation's is larger; a single image is a batch too."""

    model = mnist_cnn3()
    tritonconv.convert(model)
    counts = {}
    for batch in (64, 37, 1, 500):
        before = len(gpu.compiled)
        model(torch.randn(batch, 1, 28, 28)).sum().backward()
        counts[batch] = gpu.compiled[before:]
    assert len(counts.pop(64)) > 10 and counts == {37: [], 1: [], 500: []}, counts


def what_is_compiled_offline_is_found(gpu: ModuleType) -> None:
    """What jit.compile_launch puts into Triton's cache folder has the key that the launch looks for."""

    def call() -> None:
        x, w, b = (torch.ones(shape, requires_grad=True) for shape in ((2, 20, 14, 16), (7, 20, 3, 3), (7,)))
        for algorithm in ("direct", "im2col", "implicit_gemm"):
            y = tritonconv.functional.conv2d(x, w, b, padding=1, algorithm=algorithm)
            y.backward(torch.ones_like(y))
        tritonconv.functional.max_pool2d(x, 3, 2, 1).sum().backward()

    call()
    offline = []
    jit.triton = SimpleNamespace(**vars(triton))
    jit.triton.compile = lambda source, target, options: offline.append((source, target, options))
    with tuning.target("sm_90"), jit.record_launches() as launches:
        call()
    for launch in launches:
        jit.compile_launch(launch, GPUTarget("cuda", 90, 32))
    expected = {(source.hash(), options.hash()) for source, options in gpu.sources}
    backend = make_backend(GPUTarget("cuda", 90, 32))
    found = {(source.hash(), backend.parse_options(options).hash()) for source, _, options in offline}
    assert found == expected and len(found) > 10


CHECKS = (
    every_layer_launches_again_what_it_launched,
    a_splits_sums_lie_one_behind_the_other,
    what_may_change_is_asked_for_each_time,
    cudas_limits_hold,
    what_is_compiled_offline_is_found,
    another_batch_compiles_nothing,
)


def test_every_layer_launches_again_what_it_launched():
    assert failure(every_layer_launches_again_what_it_launched) == ""


def test_a_splits_sums_lie_one_behind_the_other():
    assert failure(a_splits_sums_lie_one_behind_the_other) == ""


def test_what_may_change_is_asked_for_each_time():
    assert failure(what_may_change_is_asked_for_each_time) == ""


def test_cudas_limits_hold():
    assert failure(cudas_limits_hold) == ""


def test_what_is_compiled_offline_is_found():
    assert failure(what_is_compiled_offline_is_found) == ""


def test_another_batch_compiles_nothing():
    assert failure(another_batch_compiles_nothing) == ""
