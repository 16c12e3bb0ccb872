"""What every test shares: one device, NaN-filled outputs, checked indices, a seed; slow tests only when asked for."""

import os
from collections.abc import Callable

import hypothesis
import pytest
import torch
import triton

from tritonconv import interpreter, jit
from tritonconv.ops import plan
from tritonconv.tuning import tiles

exact_side = tiles.side


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # workers share the cores, and a tile is small
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it the peer on a GPU warns
    config.addinivalue_line("filterwarnings", "ignore:.*deterministic:UserWarning")
    hypothesis.settings.register_profile(
        "tritonconv",
        deadline=None,  # the first launch of a kernel pays for compiling it
        database=None,
        max_examples=20,
        derandomize="CI" in os.environ,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("tritonconv")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session", autouse=True)
def strict_numerics():
    """An element nobody wrote is NaN, an index that leaves 32 bits raises, and fp32 means fp32.

    A tile on the CPU runs over the border of what it is for, as a GPU's does: its masks show.
    """
    tiles.side = lambda size, most: min(triton.next_power_of_2(max(size, 1)), most)
    interpreter.sanitize_overflow = True
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU where there is one, so that the same tests run compiled; else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def each_launch(monkeypatch: pytest.MonkeyPatch, call: Callable) -> None:
    """Have `call(launch, run)` in place of each launch. None goes past it to machine code that a plan has kept."""
    run = jit.Launch.run
    monkeypatch.setattr(jit.Launch, "run", lambda launch, warmup=False: call(launch, run))
    monkeypatch.setattr(plan._Step, "_keep", lambda *_: None)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict]]:
    """Every launch from here on, as (kernel's name, its keyword arguments); launches still run."""
    seen: list[tuple[str, dict]] = []

    def spy(launch, run):
        seen.append((launch.kernel.fn.__name__, {**launch.arguments, **launch.options, "grid": launch.grid}))
        return run(launch)

    each_launch(monkeypatch, spy)
    return seen
