"""Nothing leaks: between threads, into a forked child, from a signal handler into the launch it interrupts."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tritonconv
from tritonconv import functional as TF
from tritonconv import interpreter, jit, nn, tuning
from tritonconv.interpreter import memory
from tritonconv.tuning import reasons

SWITCHES: dict[str, Callable[[], Any]] = {
    "record_launches": jit.record_launches,
    "record_choices": tuning.record_choices,
    "target": lambda: tuning.target("sm_90"),
    "using": lambda: tuning.using({}),
}


def in_a_thread(function: Callable[[], Any]) -> Any:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(function()))
    thread.start()
    thread.join(60)
    return answers[0]


def step(device: torch.device, seed: int = 0, gradients: bool = True) -> list[torch.Tensor]:
    """An output and its gradients."""
    generator = torch.Generator().manual_seed(seed)
    x, w, b = (
        torch.randn(s, generator=generator).to(device).requires_grad_() for s in ((2, 3, 9, 9), (4, 3, 3, 3), (4,))
    )
    y = TF.conv2d_bias_relu_max_pool2d(x, w, b, pool_kernel_size=2)
    return [y.detach(), *(torch.autograd.grad(y.square().sum(), (x, w, b)) if gradients else ())]


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


# --- threads ---


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_the_threads_own(name, device):
    def state() -> list[Any]:
        return [reasons.is_recording(), tuning.current_target(), tuning.tuned() is tuning.choices._tuned]

    before, expected = state(), step(device)
    with SWITCHES[name]() as collected:
        assert in_a_thread(state) == before
        assert_equal(in_a_thread(lambda: step(device)), expected)
        assert not collected
    assert state() == before


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_set_twice_is_what_it_was(name, device):
    """Inside itself; what the outer one collects goes on."""
    with SWITCHES[name]() as outer:
        state = [reasons.is_recording(), tuning.current_target()]
        with SWITCHES[name]():
            pass
        assert [reasons.is_recording(), tuning.current_target()] == state
        TF.relu(torch.ones(3, device=device))
    assert outer is None or len(outer) == 1


def test_a_model_runs_while_another_thread_explains_it(device):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)).to(device)
    tritonconv.convert(model)
    x = torch.randn(2, 1, 9, 9, device=device)
    expected = model(x)
    stop = threading.Event()
    reports = []

    def explain() -> None:
        while not stop.is_set():
            reports.append(str(tritonconv.explain(model, x)))

    thread = threading.Thread(target=explain)
    thread.start()
    try:
        answers = [model(x) for _ in range(30)]
        while not reports:
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join(60)
    assert all(torch.equal(y, expected) for y in answers)
    assert len(set(reports)) == 1 and "convolution_max_pool" in reports[0]


def test_what_backward_needs_of_the_caller_reaches_autograds_thread(monkeypatch):
    """On a GPU backward runs on a thread of autograd's own; here it is any other thread."""
    backward, threads = torch.autograd.backward, []

    def elsewhere(*args: Any, **kwargs: Any) -> None:
        threads.append(in_a_mode_of_this_thread(backward, args, kwargs))

    monkeypatch.setattr(torch.autograd, "backward", elsewhere)
    x = torch.zeros(64, 64, 16, 16, requires_grad=True)
    with tuning.target("sm_90"):
        report = tritonconv.explain(nn.Conv2d(64, 64, 3, padding=1), x)
    tiles = [launch.tile for step in report.steps for call in step.calls for launch in call.launches]
    assert len(threads) == 1 and len(tiles) > 2 and all("num_warps" in tile for tile in tiles)


def in_a_mode_of_this_thread(function: Callable, args: tuple, kwargs: dict) -> Any:
    """In a thread with this one's torch dispatch modes, as autograd starts it, and none of its context variables."""
    modes = torch.utils._python_dispatch._get_current_dispatch_mode_stack()

    def run() -> Any:
        for mode in modes:
            torch._C._push_on_torch_dispatch_stack(mode)
        return function(*args, **kwargs)

    return in_a_thread(run)


# --- fork ---

FORK = """
import os, sys, threading, time
import torch
from tritonconv import functional as TF, jit

torch.set_num_threads(1)
x, w = torch.randn(1, 2, 8, 8), torch.randn(2, 2, 3, 3)
expected = TF.conv2d(x, w)
in_launch, interpret = threading.Event(), jit.interpret

def slow(*args):
    in_launch.set()
    time.sleep(0.5)
    return interpret(*args)

jit.interpret = slow
thread = threading.Thread(target=TF.conv2d, args=(x, w))
thread.start()
in_launch.wait()
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(TF.conv2d(x, w), expected) else 1)
for _ in range(400):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        break
    time.sleep(0.1)
else:
    os.kill(child, 9)
    sys.exit("the child hangs")
thread.join()
assert torch.equal(TF.conv2d(x, w), expected)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_process_forks_while_another_thread_is_in_a_launch():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120)


# --- signals ---


@pytest.fixture
def interrupted(monkeypatch):
    """Raise a signal in the middle of each of the test's launches; its handler gets no signal itself."""
    original, handler = memory._locate, signal.getsignal(signal.SIGUSR1)
    state = {"inside": False, "count": 0}

    def locate(*args):
        if not state["inside"]:
            state["inside"] = True
            state["count"] += 1
            signal.raise_signal(signal.SIGUSR1)
            state["inside"] = False
        return original(*args)

    monkeypatch.setattr(memory, "_locate", locate)
    yield state
    signal.signal(signal.SIGUSR1, handler)


def test_a_signal_handler_may_run_the_model_in_the_middle_of_a_launch(interrupted, monkeypatch):
    cpu = torch.device("cpu")
    signal.signal(signal.SIGUSR1, lambda *_: None)
    interpreter._records.clear()
    expected, others = step(cpu), step(cpu, seed=1, gradients=False)
    answers = []
    # no gradients: torch has them off inside an operator, and on this thread that is where the handler is
    signal.signal(signal.SIGUSR1, lambda *_: answers.append(step(cpu, seed=1, gradients=False)))
    for records in (True, False):  # replayed inside a launch that is recorded, and recorded inside one that is
        for _ in range(2):
            interpreter._records.clear()
            if records:
                interrupted["inside"] = True
                step(cpu)
                interrupted["inside"] = False
            assert_equal(step(cpu), expected)
        monkeypatch.setattr(interpreter, "RECORD_BYTES", 1)  # nothing is kept
    assert len(answers) > 10
    for found in answers:
        assert_equal(found, others)
    assert memory.tensors == [] and interpreter.recording.active is None


def test_records_dropped_meanwhile_do_no_harm(interrupted):
    cpu = torch.device("cpu")
    signal.signal(signal.SIGUSR1, lambda *_: interpreter._records.clear())
    interpreter._records.clear()
    assert_equal(step(cpu), step(cpu))


# --- importing again ---

AGAIN = """
import sys, torch
import tritonconv
from torch.utils.flop_counter import FlopCounterMode

def run(package):
    layer = package.nn.Conv2d(1, 2, 3)
    x = torch.ones(1, 1, 5, 5, requires_grad=True)
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        y.sum().backward()
    assert torch.compile(layer, backend="aot_eager", fullgraph=True)(x).shape == (1, 2, 3, 3)
    return y.dtype, x.grad.shape, counter.get_total_flops()

first, old = run(tritonconv), tritonconv
for _ in range(2):
    for name in [name for name in sys.modules if name.split(".")[0] == "tritonconv"]:
        del sys.modules[name]
    import tritonconv
    assert tritonconv is not old
    assert run(tritonconv) == run(old) == first and first[2] > 0
"""


def test_the_package_may_be_imported_again():
    subprocess.run(
        [sys.executable, "-c", AGAIN], check=True, timeout=300, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
