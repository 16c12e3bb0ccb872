"""A replay gives, bit for bit, what interpreting gives: every layer, dtype, number of threads, size of tiles."""

import _thread
import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layers import LAYERS

from tests import table
from tritonconv import interpreter
from tritonconv.interpreter import boxes, builder, memory, threads
from tritonconv.tuning import tiles

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="about the interpreter")
THREADS = (1, 2, 3)
# elements of a tile, of a part of a product, and that a box is worth: several programs, parts and boxes of what is
# small; and the interpreter's own
SIZES = ((16, 32, 4), (tiles.INTERPRETER_TILE, builder.PART, boxes.ELEMENTS))


@pytest.fixture
def fresh(monkeypatch):
    """No record yet; as many threads afterwards as before."""
    count = torch.get_num_threads()
    monkeypatch.setattr(interpreter, "_records", type(interpreter._records)())
    monkeypatch.setattr(interpreter, "sanitize_overflow", False)
    yield monkeypatch
    torch.set_num_threads(count)


def results(case: table.Case, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    ours, _, x = table.pair(case)
    ours, x = ours.to(dtype), x.to(dtype)
    return [table.first(ours, x).detach(), *table.gradients(ours, x)]


def require_same_bits(monkeypatch, case: table.Case, dtype: torch.dtype, sizes: tuple[int, int, int]) -> None:
    tile, part, elements = sizes
    monkeypatch.setattr(tiles, "INTERPRETER_TILE", tile)
    monkeypatch.setattr(builder, "PART", part)
    monkeypatch.setattr(memory, "ELEMENTS", elements)
    interpreter._records.clear()
    torch.set_num_threads(1)
    with monkeypatch.context() as without:
        without.setattr(interpreter, "RECORD_BYTES", 0)
        expected = results(case, dtype)
        assert not interpreter._records
    for count in (2, *THREADS):  # the first records
        torch.set_num_threads(count)
        found = results(case, dtype)
        assert interpreter._records
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.nan_to_num(7), other.nan_to_num(7))


def test_a_replay_has_the_bits_of_interpreting(fresh):
    @settings(max_examples=60)
    @given(st.sampled_from(LAYERS), st.sampled_from(table.DTYPES), st.sampled_from(SIZES))
    def holds(case, dtype, sizes):
        require_same_bits(fresh, case, dtype, sizes)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES, ids=["small", "own"])
@pytest.mark.parametrize("dtype", table.DTYPES, ids=str)
@pytest.mark.parametrize("case", LAYERS, ids=[f"{i}-{name}" for i, (name, *_) in enumerate(LAYERS)])
def test_every_layers_replay_has_the_bits_of_interpreting(case, dtype, sizes, fresh):
    require_same_bits(fresh, case, dtype, sizes)


# --- boxes ---


def places_of(run: boxes.Run) -> dict[int, int]:
    """Address by place."""
    found = {}
    for steps in itertools.product(*(range(n) for n, *_ in run.axes)):
        place = run.place + sum(i * step for i, (_, step, _) in zip(steps, run.axes, strict=True))
        found[place] = run.address + sum(i * by for i, (*_, by) in zip(steps, run.axes, strict=True))
    return found


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(-20, 20)), min_size=1, max_size=40))
def test_runs_hold_every_place_once(steps):
    places, addresses = np.cumsum(np.array(steps, np.int64), 0).T
    found = boxes.runs(places, addresses)
    held = [pair for run in found for pair in places_of(run).items()]
    assert sorted(held) == sorted(zip(places.tolist(), addresses.tolist(), strict=True))


def test_a_filter_over_images_is_a_few_runs():
    """Rows of 3 images of 5×7 of which a tap reaches all but a border: one run, of three axes."""
    n, p, q = np.meshgrid(np.arange(3), np.arange(1, 5), np.arange(6), indexing="ij")
    places, addresses = ((n * 5 + p) * 7 + q).ravel(), (n * 100 + p * 10 + q).ravel() * 4
    assert boxes.runs(places, addresses) == [boxes.Run(7, 40, ((6, 1, 4), (4, 7, 40), (3, 35, 400)))]


def test_places_twice_at_one_address_are_not_copied_by_twos():
    places = np.arange(40)
    assert boxes.runs(places, places // 2 * 4) == [boxes.Run(i, 0, ((20, 2, 4),)) for i in (0, 1)]


# --- threads ---


@pytest.fixture
def two_threads():
    count = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(count)


def test_what_a_program_raises_is_raised(two_threads):
    done = []

    def act(item: int) -> None:
        if item == 3:
            raise IndexError("the third")
        done.append(item)

    with pytest.raises(IndexError, match="the third"):
        threads.run(act, range(1000))
    assert {0, 1, 2} <= {*done} and len(done) < 1000
    threads.run(act, range(3))  # the threads serve on


def test_torch_has_one_thread_in_each(two_threads):
    found = []
    threads.run(lambda _: found.append(torch.get_num_threads()), range(8))
    assert found == [1] * 8 and torch.get_num_threads() == 2


def test_an_interrupt_waits_for_what_runs(two_threads):
    """The others write into the caller's memory: it may be gone when the interrupt is out."""
    running = []

    def act(item: int) -> None:
        running.append(item)
        if item == 0:
            _thread.interrupt_main()
        time.sleep(0.05)
        running.remove(item)

    with pytest.raises(KeyboardInterrupt):
        threads.run(act, range(1000))
    assert running == []
