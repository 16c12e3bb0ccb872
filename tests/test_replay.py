"""A replay gives, bit for bit, what interpreting gives: every layer, dtype, number of threads, size of tiles."""

import itertools
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
import triton.language as tl
from conftest import exact_side
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layers import LAYERS

from tests import table
from tritonconv import interpreter
from tritonconv.interpreter import boxes, memory, recording, threads
from tritonconv.interpreter.recording import Recorder
from tritonconv.jit import jit
from tritonconv.tuning import tiles

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="about the interpreter")
THREADS = (1, 2, 3)
# elements of a tile, and that a box is worth: several programs and boxes of what is small; and the interpreter's own
SIZES = ((64, 4), (tiles.INTERPRETER_TILE, boxes.ELEMENTS))


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


def differing(monkeypatch, case: table.Case, dtype: torch.dtype, sizes: tuple[int, int]) -> list[tuple[int, int]]:
    """(threads, number of the result) where a replay's bits are not those of interpreting; its values are torch's."""
    tile, elements = sizes
    monkeypatch.setattr(tiles, "INTERPRETER_TILE", tile)
    monkeypatch.setattr(memory, "ELEMENTS", elements)
    if sizes == SIZES[1]:
        monkeypatch.setattr(tiles, "side", exact_side)
    interpreter._records.clear()
    torch.set_num_threads(1)
    with monkeypatch.context() as without:
        without.setattr(interpreter, "RECORD_BYTES", 0)
        expected = results(case, dtype)
        assert not interpreter._records
    if dtype == torch.float64:
        torch.manual_seed(0)
        _, theirs, x = table.pair(case)
        torch.testing.assert_close(expected, [table.first(theirs, x).detach(), *table.gradients(theirs, x)])
    differ = []
    for count in (2, *THREADS):  # the first records
        torch.set_num_threads(count)
        found = results(case, dtype)
        assert interpreter._records and len(found) == len(expected)
        pairs = enumerate(zip(found, expected, strict=True))
        differ += [(count, i) for i, (a, b) in pairs if not torch.equal(a.nan_to_num(7), b.nan_to_num(7))]
    return differ


def test_a_replay_has_the_bits_of_interpreting(fresh):
    @settings(max_examples=30)
    @given(st.sampled_from(LAYERS), st.sampled_from(table.DTYPES), st.sampled_from(SIZES))
    def holds(case, dtype, sizes):
        assert differing(fresh, case, dtype, sizes) == []

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES, ids=["small", "own"])
@pytest.mark.parametrize("dtype", table.DTYPES, ids=str)
@pytest.mark.parametrize("case", LAYERS, ids=[f"{i}-{name}" for i, (name, *_) in enumerate(LAYERS)])
def test_every_layers_replay_has_the_bits_of_interpreting(case, dtype, sizes, fresh):
    assert differing(fresh, case, dtype, sizes) == []


# --- what may be written over ---


@jit
def reuse_kernel(x_ptr, out_ptr, KIND: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    if KIND == "again":
        y = x + 1.0
        y = y * x  # x is needed below
        y = y + x
    elif KIND == "view":
        tile = tl.reshape(x, (2, BLOCK // 2))
        y = tl.reshape(tl.trans(tl.trans(tile) + 1.0), (BLOCK,)) + tl.reshape(tile, (BLOCK,))
    elif KIND == "itself":
        tile = tl.reshape(x, (BLOCK // 2, 2))
        y = tl.reshape(tl.reshape(tile, (2, BLOCK // 2)) + tl.trans(tile), (BLOCK,))
    else:
        y = tl.load(x_ptr + i, mask=i < 0, other=i.to(tl.float32))  # a constant
        y = y * 2.0
        y = y + x
    tl.store(out_ptr + i, y)


@pytest.mark.parametrize("kind", ["again", "view", "itself", "constant"])
def test_what_is_needed_again_is_not_written_over(kind, fresh):
    """Nor are a view's array, an operand that overlaps the other one, and a constant of the record."""
    for seed in range(3):
        torch.manual_seed(seed)
        x, out = torch.randn(16), torch.empty(16)
        reuse_kernel[(1,)](x, out, KIND=kind, BLOCK=16)
        expected = {
            "again": (x + 1) * x + x,
            "view": x + 1 + x,
            "itself": (x.view(2, 8) + x.view(8, 2).T).flatten(),
            "constant": torch.arange(16.0) * 2 + x,
        }[kind]
        torch.testing.assert_close(out, expected, rtol=0, atol=0)


@jit
def choose_kernel(x_ptr, n, out_ptr):
    i = tl.program_id(0)
    tl.store(out_ptr + i, tl.where(n > 0, n, tl.load(x_ptr + i)) + n)


def test_a_choice_known_beforehand_leaves_the_argument_that_it_takes_a_constant(fresh):
    """An argument is every program's; what one of them notes in its place would be its own."""
    x, out = torch.arange(3, dtype=torch.int32), torch.empty(3, dtype=torch.int32)
    for n in (5, 5, -5, -5):
        choose_kernel[(3,)](x, n, out)
        assert torch.equal(out, torch.full((3,), 2 * n) if n > 0 else x + n)


@jit
def load_again_kernel(x_ptr, y_ptr, out_ptr, BY_MAXIMUM: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    first, few = tl.load(x_ptr + i), tl.load(x_ptr + i, mask=i < 4, other=7)
    if BY_MAXIMUM:
        tl.atomic_max(y_ptr + i, first)
    else:
        tl.store(y_ptr + i, first)
    again, others = tl.load(x_ptr + i, mask=i < 4, other=8), tl.load(x_ptr + i, mask=i < 4, other=9)
    tl.store(out_ptr + i, first * 1000 + few * 100 + again * 10 + others)


@pytest.mark.parametrize("by_maximum", [False, True])
def test_what_a_store_may_have_changed_is_loaded_again(by_maximum, fresh):
    """x and y lie in one memory; and a load under another mask, or with other values outside it, is another load."""
    both, out = torch.empty(12, dtype=torch.int32), torch.empty(8, dtype=torch.int32)
    for seed in range(3):
        torch.manual_seed(seed)
        both.copy_(torch.randint(0, 10, (12,)))
        before = both[:8].clone()
        later = torch.maximum(both[2:10], before) if by_maximum else before
        load_again_kernel[(1,)](both, both[2:], out, BY_MAXIMUM=by_maximum, BLOCK=8)
        after = torch.cat([before[:2], later])[:8]
        few, again, others = (
            torch.where(torch.arange(8) < 4, x, other) for x, other in ((before, 7), (after, 8), (after, 9))
        )
        assert torch.equal(out, before * 1000 + few * 100 + again * 10 + others)


@jit
def many_loads_kernel(x_ptr, out_ptr, LOADS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, i)
    for number in range(LOADS):
        tl.load(x_ptr + number * BLOCK + i)


def test_a_loop_over_memory_does_not_hold_all_of_it(fresh):
    """What is kept, to be handed out again, is a few tiles."""
    recorders = []
    fresh.setattr(recording, "Recorder", lambda limit: recorders.append(Recorder(limit)) or recorders[-1])
    many_loads_kernel[(1,)](torch.zeros(800), torch.empty(8), LOADS=100, BLOCK=8)
    (recorder,) = recorders
    assert len(recorder.loaded) == recording.LOADS < 100


@jit
def store_kernel(x_ptr, out_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    r, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    row = tl.load(x_ptr + c)
    tl.store(out_ptr + r[:, None] * COLUMNS + c[None, :], tl.broadcast_to(row[None, :], (ROWS, COLUMNS)))


def test_a_row_is_stored_as_every_row(fresh):
    x, out = torch.arange(4.0), torch.empty(8, 4)
    for _ in range(2):
        store_kernel[(1,)](x, out, ROWS=8, COLUMNS=4)
        assert torch.equal(out, x.expand(8, 4))
        x += 1


@jit
def own_factor_kernel(x_ptr, out_ptr, SIDE: tl.constexpr):
    offs = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
    x = tl.load(x_ptr + offs)
    tl.store(out_ptr + offs, tl.dot(x, x, x, input_precision="ieee"))


def test_a_product_is_not_written_over_its_own_factor(fresh):
    for _ in range(3):
        x, out = torch.randint(-3, 4, (512, 512)).float(), torch.empty(512, 512)
        own_factor_kernel[(1,)](x, out, SIDE=512)
        assert torch.equal(out, x @ x + x)


@jit
def unused_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    constant = tl.load(x_ptr + i, mask=i < 0, other=i.to(tl.float32))
    tl.store(out_ptr + i, constant + tl.load(x_ptr + i))
    constant * 2.0  # last of all: nothing after it needs the constant


def test_a_constant_is_not_written_over_at_a_programs_end(fresh):
    for _ in range(3):
        x, out = torch.randn(16), torch.empty(16)
        unused_kernel[(1,)](x, out, BLOCK=16)
        assert torch.equal(out, torch.arange(16.0) + x)


# --- tiles ---


@given(st.integers(1, 10**6), st.integers(1, 2**18))
def test_a_tiles_side_leaves_no_block_empty(size, most):
    """Equal blocks, as few as can be: the last one lacks less than one element of each."""
    side = exact_side(size, most)
    blocks = -(-size // side)
    assert 1 <= side <= most and blocks == -(-size // most)
    assert blocks * side - size < blocks


# --- boxes ---


@jit
def tile_kernel(x_ptr, out_ptr, stride_m, stride_k, first, M: tl.constexpr, K: tl.constexpr):
    """A tile of which the k-th columns in threes begin k rows later."""
    m, k = tl.arange(0, M), tl.arange(0, K)
    mask = (m[:, None] >= first + (k // 3)[None, :]) & (k < K - 1)[None, :]
    tile = tl.load(x_ptr + m[:, None] * stride_m + (k * stride_k)[None, :], mask=mask, other=-1.0)
    tl.store(out_ptr + m[:, None] * K + k[None, :], tile)


def loaded_places() -> boxes.Places:
    (record,) = interpreter._records.values()
    found = [a for p in record.programs for step in p.instructions for a in step.args if isinstance(a, boxes.Places)]
    return found[0]


@pytest.mark.parametrize("by_columns", [False, True])
def test_a_tile_lies_as_memory_does(by_columns, fresh):
    """So that it is copied along what is contiguous; a product takes it either way."""
    fresh.setattr(memory, "ELEMENTS", 50)
    x = torch.randn(7, 50).T if by_columns else torch.randn(50, 7)
    out = torch.empty(50, 7)
    for _ in range(2):
        tile_kernel[(1,)](x, out, *x.stride(), -9, M=50, K=7)
        assert torch.equal(out[:, :6], x[:, :6]) and (out[:, 6] == -1).all()
    assert loaded_places().by_columns == by_columns


def test_columns_of_different_masks_are_boxes_of_their_own(fresh):
    x, out = torch.randn(4000, 7), torch.empty(4000, 7)
    for _ in range(2):
        tile_kernel[(1,)](x, out, *x.stride(), 5, M=4000, K=7)
        for k in range(6):
            begin = 5 + k // 3
            assert torch.equal(out[begin:, k], x[begin:, k]) and (out[:begin, k] == -1).all()
    assert [box.shape for box in loaded_places().boxes] == [(3995, 3), (3994, 3)]
    interpreter._records.clear()
    tile_kernel[(1,)](x[:40], out, *x.stride(), 5, M=40, K=7)  # too small for that
    assert loaded_places().at is not None


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


def test_runs_that_are_alike_are_one_run_whatever_lies_between():
    """The first line of each of 4 images of 7×7, and of the other lines the first pixel."""
    places = np.array([n * 49 + i for n in range(4) for i in (0, 1, 2, 3, 4, 5, 6, 7, 14, 21, 28, 35, 42)])
    assert sorted(boxes.runs(places, places)) == [
        boxes.Run(0, 0, ((8, 1, 1), (4, 49, 49))),
        boxes.Run(14, 14, ((5, 7, 7), (4, 49, 49))),
    ]


@jit
def border_kernel(x_ptr, out_ptr, SIDE: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):
    """The pixels above and to the left of each, of one image of K channels; -1 outside."""
    i, k = tl.arange(0, BLOCK), tl.arange(0, K)
    row, column = i // SIDE - 1, i % SIDE - 1
    offs = (row * SIDE + column)[:, None] + (k * SIDE * SIDE)[None, :]
    inside = ((row >= 0) & (column >= 0))[:, None] & (k < K)[None, :]
    tl.store(out_ptr + i[:, None] * K + k[None, :], tl.load(x_ptr + offs, mask=inside, other=-1.0))


def test_lines_are_copied_as_one_over_the_gaps_between_them(fresh):
    """A copy of short lines takes longer than one of all that lies between too; what the mask leaves out is filled."""
    fresh.setattr(memory, "ELEMENTS", 10)
    x, out = torch.randn(3, 8, 8), torch.empty(8, 8, 3)
    for _ in range(2):
        border_kernel[(1,)](x, out, SIDE=8, K=3, BLOCK=64)
        assert torch.equal(out[1:, 1:], x[:, :-1, :-1].permute(1, 2, 0))
        assert (out[0] == -1).all() and (out[:, 0] == -1).all()
    places = loaded_places()
    assert [box.shape for box in places.boxes] == [(55, 3)] and len(places.gaps) == 2


def test_lines_far_apart_stay_lines():
    def lines(apart: int) -> boxes.Box:
        return boxes.Box((3, 4), 0, (apart, 4), (0, (apart, 4)), (0, (apart, 4)))

    assert lines(24).joined() == boxes.Box((16,), 0, (4,), (0, (4,)), (0, (4,)))
    assert lines(40).joined() == lines(40)


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
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))  # of the caller's: as many as before
    other.start()
    other.join()
    assert found[8:] == [2]


FORKS = """
import os, signal, sys, torch
from tritonconv.interpreter import threads
torch.set_num_threads(2)
threads.run(id, range(4))
child = os.fork()
if child == 0:
    signal.alarm(20)
    torch.set_num_threads(2)
    threads.run(id, range(4))
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_has_threads_of_its_own():
    subprocess.run([sys.executable, "-c", FORKS], check=True, timeout=60)


def test_an_interrupt_waits_for_what_runs(two_threads):
    """The others write into the caller's memory, which may be gone afterwards; what has not begun is left."""
    running, begun = [], []

    def act(item: int) -> None:
        running.append(item)
        begun.append(item)
        if item == 0:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.05)
        running.remove(item)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.run(act, range(1000))
    finally:
        signal.signal(signal.SIGINT, before)
    assert running == [] and len(begun) < 100
