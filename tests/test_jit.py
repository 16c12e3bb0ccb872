"""One kernel, two lives: what the interpreter must get right, what it must leave alone, and compiling without a GPU."""

import math
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

from tritonconv import functional as TF
from tritonconv import interpreter as tinterpreter
from tritonconv import jit as tjit
from tritonconv import tuning
from tritonconv.interpreter import language as tlanguage
from tritonconv.interpreter import recording
from tritonconv.interpreter.arrays import collapse
from tritonconv.interpreter.boxes import Places
from tritonconv.interpreter.language import OPERATORS
from tritonconv.jit import jit

SM_90 = GPUTarget("cuda", 90, 32)
only_interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="about the interpreter")


@jit
def dot_kernel(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr, START: tl.constexpr = 0):
    i = tl.arange(0, SIZE)
    offs = i[:, None] * SIZE + i[None, :]
    acc = tl.full((SIZE, SIZE), START, tl.float32)
    acc = tl.dot(tl.load(a_ptr + offs), tl.load(b_ptr + offs), acc, input_precision="ieee")
    tl.store(out_ptr + offs, acc)


@jit
def cast_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i).to(out_ptr.dtype.element_ty))


@jit
def count_kernel(n_ptr, out_ptr, n):
    """Loops to n, by 3 to n, and to a number read from memory."""
    total = 0
    for i in range(n):
        total += i
    for i in tl.range(1, n, 3):
        total += 1000 * i
    for _ in range(tl.load(n_ptr)):
        total += 1000000
    tl.store(out_ptr, total)


@jit
def halve(x):
    return x / 2, x * 2


@jit
def halve_and_sum(x, SCALE: tl.constexpr):
    half, twice = halve(x)
    return (half + twice) * SCALE


@jit
def helper_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, halve_and_sum(tl.load(x_ptr + i), SCALE=2))


@jit
def broadcast_kernel(x_ptr, out_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Arithmetic, comparison and a masked store on values that are broadcast along rows, columns and both."""
    i, j = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    row = tl.load(x_ptr + j)[None, :] + tl.zeros((ROWS, COLUMNS), tl.float32)
    column = tl.broadcast_to((i * 10).to(tl.float32)[:, None], (ROWS, COLUMNS))
    acc = tl.full((ROWS, COLUMNS), 1.0, tl.float32)
    before = acc
    acc += row * column
    acc = tl.where((i[:, None] > 0) & (row > 0), acc, before - 5)
    offs = i[:, None] * COLUMNS + j[None, :]
    tl.store(out_ptr + offs, acc)
    tl.store(out_ptr + offs, tl.full((ROWS, COLUMNS), 7.0, tl.float32), mask=(j[None, :] == 0) & (i[:, None] >= 0))


@jit
def product_kernel(out_ptr, n, OFFSET: tl.constexpr):
    tl.store(out_ptr, tl.full((), 3, OFFSET) * n)


@jit
def copy_kernel(x_ptr, out_ptr, n, mask_from, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < mask_from, other=-1.0), mask=i < n)


@jit
def shuffle_kernel(x_ptr, out_ptr, mask_from, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i * i % 1021, mask=i < mask_from, other=-1.0))


@jit
def one_place_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """Every lane reads the same place; the mask differs, or what is read instead, or both."""
    i, row = tl.arange(0, BLOCK), tl.arange(0, 2)
    here = x_ptr + tl.zeros((BLOCK,), tl.int32)
    tl.store(out_ptr + i, tl.load(here, mask=i < n, other=-1.0))
    tl.store(out_ptr + BLOCK + i, tl.load(here, mask=i < n, other=i.to(tl.float32)))
    tile = tl.zeros((2, BLOCK), tl.int32) + i[None, :]
    read = tl.load(x_ptr + tl.zeros((2, BLOCK), tl.int32), mask=row[:, None] < 1, other=tile.to(tl.float32))
    tl.store(out_ptr + 2 * BLOCK + tile, read, mask=row[:, None] == 1)


@jit
def program_kernel(out_ptr, n):
    """The program's number times n, whatever was there; twice the number of programs in the last place."""
    tl.store(out_ptr + tl.program_id(0), tl.program_id(0) * n)
    tl.store(out_ptr + 7, 2 * tl.num_programs(0))


@jit
def negated_program_kernel(out_ptr, n):
    tl.store(out_ptr + tl.program_id(0), -tl.program_id(0) * n)


@jit
def times_kernel(x_ptr, out_ptr, n):
    """A zero is stored between the load and its use."""
    x = tl.load(x_ptr)
    tl.store(out_ptr, 0)
    tl.store(out_ptr, x * n)


@jit
def larger_size(a, b):
    return tl.where(tl.abs(a) > tl.abs(b), a, b)


@jit
def reduce_kernel(x_ptr, out_ptr, HOW: tl.constexpr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    x = tl.load(x_ptr + i[:, None] * SIZE + i[None, :])
    if HOW == "one axis":
        tl.store(out_ptr + i, tl.sum(x, axis=0))
    elif HOW == "all axes":
        tl.store(out_ptr, tl.sum(x))
    elif HOW == "axis kept":
        row = tl.sum(tl.sum(x, axis=0), axis=0, keep_dims=True)
        tl.store(out_ptr + tl.arange(0, 1)[:, None], row[:, None])
    elif HOW == "largest":
        tl.store(out_ptr + i, tl.max(x, axis=1))
    elif HOW == "combination of its own":
        tl.store(out_ptr + i, tl.reduce(x, 1, larger_size))
    else:
        number = tl.load(x_ptr)
        tl.store(out_ptr, tl.sum(tl.full((SIZE,), 2.0, tl.float64) * number, axis=0))


@jit
def talking_kernel(x_ptr, out_ptr):
    print("in the kernel")
    tl.store(out_ptr, tl.load(x_ptr))


@jit
def print_kernel(x_ptr, out_ptr):
    tl.device_print("program", tl.program_id(0))
    tl.store(out_ptr, tl.load(x_ptr))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("start", [0, 3])
def test_dot(start, dtype, device):
    a, b = torch.randn(2, 16, 16).to(device, dtype)
    out = torch.empty(16, 16, device=device)
    dot_kernel[(1,)](a, b, out, SIZE=16, START=start)
    torch.testing.assert_close(out, start + a.float() @ b.float())


def test_bfloat16_rounds_to_nearest_even(device):
    """Also at ties, where bits are dropped from the largest number, and NaN stays NaN, also one of all ones."""
    special = [1.0, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, -3.4e38, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-45]
    nans = torch.tensor([0x7FC00000, 0x7F800001, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    x = torch.cat([torch.tensor(special), torch.randn(241) * 10 ** torch.randn(241), nans]).to(device)
    out = torch.empty(256, dtype=torch.bfloat16, device=device)
    cast_kernel[(1,)](x, out, BLOCK=256)
    assert out[-4:].isnan().all()
    assert torch.equal(out[:-4].view(torch.int16), x.bfloat16()[:-4].view(torch.int16))


def test_booleans_are_loaded_and_stored(device):
    x = torch.tensor([0.0, 1, 0, 0, 1, 1, 0, 1], device=device)
    flags, back = torch.empty(8, dtype=torch.bool, device=device), torch.empty(8, device=device)
    cast_kernel[(1,)](x, flags, BLOCK=8)
    cast_kernel[(1,)](flags, back, BLOCK=8)
    assert torch.equal(flags, x.bool())
    assert torch.equal(back, x)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("one axis", lambda x: x.sum(0)),
        ("all axes", lambda x: x.sum()),
        ("axis kept", lambda x: x.sum()),
        ("largest", lambda x: x.amax(1)),
        ("combination of its own", lambda x: x.gather(1, x.abs().argmax(1, keepdim=True))[:, 0]),
        ("of one number", lambda x: 16 * x[0, 0]),
    ],
)
def test_reductions(how, expected, device):
    """Twice, so that a record of the first is replayed on the second's numbers."""
    for _ in range(2):
        x, out = (
            torch.randn(8, 8, dtype=torch.float64, device=device),
            torch.empty(8, dtype=torch.float64, device=device),
        )
        reduce_kernel[(1,)](x, out, HOW=how, SIZE=8)
        torch.testing.assert_close(out[: expected(x).numel()], expected(x).flatten())


def test_one_place_read_under_a_mask(device):
    x, out = torch.tensor([5.0], device=device), torch.empty(24, device=device)
    one_place_kernel[(1,)](x, out, 3, BLOCK=8)
    assert out.tolist() == [5, 5, 5, -1, -1, -1, -1, -1, 5, 5, 5, 3, 4, 5, 6, 7, *range(8)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_casts_between_bfloat16_and_others(dtype, device):
    x = torch.randn(64, device=device).bfloat16()
    out = torch.empty(64, dtype=dtype, device=device)
    cast_kernel[(1,)](x, out, BLOCK=64)
    assert torch.equal(out, x.to(dtype))
    back = torch.empty_like(x)
    cast_kernel[(1,)](torch.randn(64, device=device).to(dtype), back, BLOCK=64)
    assert back.isfinite().all()


@pytest.mark.parametrize("n", [0, 1, 7])
def test_run_time_loop_bounds(n, device):
    out = torch.empty(1, dtype=torch.int64, device=device)
    count_kernel[(1,)](torch.tensor([n], dtype=torch.int32, device=device), out, n)
    assert out.item() == sum(range(n)) + 1000 * sum(range(1, n, 3)) + 1000000 * n


def test_helpers_call_helpers(device):
    x = torch.randn(8, device=device)
    out = torch.empty_like(x)
    helper_kernel[(1,)](x, out, BLOCK=8)
    torch.testing.assert_close(out, 5 * x)


def test_broadcast_arithmetic(device):
    x = torch.tensor([1.0, -2, 3, -4], device=device)
    out = torch.empty(8, 4, device=device)
    broadcast_kernel[(1,)](x, out, ROWS=8, COLUMNS=4)
    i = torch.arange(8.0, device=device)[:, None]
    expected = torch.where((i > 0) & (x > 0), 1 + 10 * i * x, torch.tensor(-4.0, device=device))
    expected[:, 0] = 7
    assert torch.equal(out, expected)


@jit
def masks_kernel(either_ptr, both_ptr, alike_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    r, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    offs = r[:, None] * COLUMNS + c[None, :]
    tl.store(either_ptr + offs, ((r < 1)[:, None] | (c < 1)[None, :]).to(tl.int32))
    tl.store(both_ptr + offs, ((r < 1).to(tl.int32)[:, None] + (c < 1)[None, :]).to(tl.int32))
    first = tl.broadcast_to((c < 1)[None, :], (ROWS, COLUMNS))
    alike = first == tl.broadcast_to((c < 3)[None, :], (ROWS, COLUMNS))
    tl.store(alike_ptr + offs, alike.to(tl.int32))


def test_masks_of_rows_and_columns(device):
    either, both, alike = torch.empty(3, 2, 4, dtype=torch.int32, device=device)
    masks_kernel[(1,)](either, both, alike, ROWS=2, COLUMNS=4)
    assert either.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert both.tolist() == [[2, 1, 1, 1], [1, 0, 0, 0]]
    assert alike.tolist() == [[1, 0, 0, 1]] * 2


# --- what the interpreter checks ---


@jit
def add_kernel(x_ptr, n, out_ptr, LOADED: tl.constexpr):
    tl.store(out_ptr, (tl.load(x_ptr) + n if LOADED else n + n) // 2)


@only_interpreted
@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(("n", "fails"), [(2**30 - 1, False), (2**30, True), (-(2**30), False), (-(2**30) - 1, True)])
def test_overflow_begins_at_32_bits(n, fails, loaded, device):
    x, out = torch.full((2,), n, dtype=torch.int32, device=device)
    if fails:
        with pytest.raises(Exception, match="overflow"):
            add_kernel[(1,)](x, n, out, LOADED=loaded)
    else:
        add_kernel[(1,)](x, n, out, LOADED=loaded)
        assert out == n


@only_interpreted
@pytest.mark.parametrize(("offset", "fails"), [(tl.int32, True), (tl.int64, False)], ids=["32 bits", "64 bits"])
def test_overflow_is_seen_when_asked_for(offset, fails, device, monkeypatch):
    out = torch.empty(1, dtype=torch.int64, device=device)
    if fails:
        with pytest.raises(Exception, match="overflow"):
            product_kernel[(1,)](out, 2**30, OFFSET=offset)
        with monkeypatch.context() as unchecked:
            unchecked.setattr(tinterpreter, "sanitize_overflow", False)
            product_kernel[(1,)](out, 2**30, OFFSET=offset)
        assert out.item() == 3 * 2**30 - 2**32
        with pytest.raises(Exception, match="overflow"):  # again: the record made without the check is not replayed
            product_kernel[(1,)](out, 2**30, OFFSET=offset)
    else:
        product_kernel[(1,)](out, 2**30, OFFSET=offset)
        assert out.item() == 3 * 2**30


@only_interpreted
def test_access_outside_a_tensor_raises(device):
    x, out = torch.ones(4, device=device), torch.zeros(8, device=device)
    copy_kernel[(1,)](x, out, 8, 4, BLOCK=8)  # masked out: fine
    assert out.tolist() == [1] * 4 + [-1] * 4
    with pytest.raises(IndexError, match="outside the tensor"):
        copy_kernel[(1,)](x, out, 8, 5, BLOCK=8)
    with pytest.raises(IndexError, match="outside the tensor"):
        copy_kernel[(1,)](out, x, 5, 8, BLOCK=8)
    copy_kernel[(1,)](x, out, 0, 0, BLOCK=8)  # all masked out
    copy_kernel[(1,)](x[:0], out, 8, 0, BLOCK=8)
    assert out.tolist() == [-1] * 8


@only_interpreted
def test_a_shuffled_access_outside_a_tensor_raises(device):
    """Of no even steps: each place has an index."""
    x, out = torch.ones(1021, device=device), torch.zeros(1024, device=device)
    shuffle_kernel[(1,)](x, out, 1024, BLOCK=1024)
    shuffle_kernel[(1,)](x[:26], out, 6, BLOCK=1024)  # masked out: fine
    assert out.tolist() == [1] * 6 + [-1] * 1018
    shuffle_kernel[(1,)](x[:0], out, 0, BLOCK=1024)  # all masked out
    assert out.tolist() == [-1] * 1024
    with pytest.raises(IndexError, match="outside the tensor"):
        shuffle_kernel[(1,)](x[:25], out, 6, BLOCK=1024)


@jit
def reverse_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + (0 - i)))


@jit
def wrap_kernel(out_ptr, half, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows, columns = tl.arange(0, ROWS) + half, tl.arange(0, COLUMNS) + half
    offs = rows[:, None] + columns[None, :]
    tl.store(out_ptr + offs + (0 - half) + (0 - half), tl.zeros((ROWS, COLUMNS), tl.int8))


@only_interpreted
def test_access_just_outside_a_tensor_raises(device, monkeypatch):
    """By one byte; before its beginning; and by an offset that would be right if 32 bits held it."""
    x, out = torch.ones(4, dtype=torch.int8, device=device), torch.zeros(8, dtype=torch.int8, device=device)
    with pytest.raises(IndexError, match="outside the tensor"):
        copy_kernel[(1,)](x, out, 5, 5, BLOCK=8)
    with pytest.raises(IndexError, match="outside the tensor"):
        reverse_kernel[(1,)](torch.ones(8, device=device)[4:], torch.zeros(4, device=device), BLOCK=4)
    monkeypatch.setattr(tinterpreter, "sanitize_overflow", False)
    wrap_kernel[(1,)](out, 2**20, ROWS=2, COLUMNS=4)
    with pytest.raises(IndexError, match="outside the tensor"):
        wrap_kernel[(1,)](out, 2**30, ROWS=2, COLUMNS=4)


@only_interpreted
def test_access_outside_a_view_raises(device):
    """Inside the storage that the tensor is a part of, before the tensor and behind it, and between its strides."""
    storage, out = torch.arange(16.0, device=device), torch.zeros(8, device=device)
    for view, n in ((storage[4:8], 4), (storage[4:12:2], 7), (storage[12:], 4)):
        copy_kernel[(1,)](view, out, 8, n, BLOCK=8)
        assert out[:n].tolist() == storage[view.storage_offset() :][:n].tolist()
        with pytest.raises(IndexError, match="outside the tensor"):
            copy_kernel[(1,)](view, out, 8, n + 1, BLOCK=8)


def test_two_devices_are_refused(device):
    with pytest.raises(RuntimeError, match=r"same device.*two devices.* and meta"):
        copy_kernel[(1,)](torch.ones(4, device=device), torch.ones(4, device="meta"), 4, 4, BLOCK=4)


def test_other_devices_are_refused():
    with pytest.raises(NotImplementedError, match=r"copy_kernel.*'meta'.*'cpu' or 'cuda'"):
        copy_kernel[(1,)](torch.ones(4, device="meta"), torch.ones(4, device="meta"), 4, 4, BLOCK=4)


# --- records: a launch on sizes seen before replays what depends on memory ---


def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget every record."""
    monkeypatch.setattr(tinterpreter, "_records", OrderedDict())


def replayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of calls in each replay from here on."""
    seen: list[int] = []
    replay = recording.Record.replay
    monkeypatch.setattr(
        recording.Record, "replay", lambda self, tensors: (seen.append(len(self.programs)), replay(self, tensors))[1]
    )
    return seen


def outputs(dtype: torch.dtype, algorithm: str, seed: int) -> list[torch.Tensor]:
    """What our kernels give on tensors of one size and layout, and numbers by the seed."""
    torch.manual_seed(seed)
    x, w, b = (torch.randn(s).to(dtype).requires_grad_() for s in ((2, 4, 7, 6), (6, 2, 3, 3), (6,)))
    pooled = TF.conv2d_bias_relu_max_pool2d(x, w, b, padding=1, groups=2, pool_kernel_size=2, algorithm=algorithm)
    y = TF.max_pool2d(TF.relu(pooled), 2, stride=1, padding=1)
    (dx,) = torch.autograd.grad(y, x, torch.randn_like(y), create_graph=True)
    return [pooled, y, dx, *torch.autograd.grad(dx, [x, w], torch.randn_like(dx), allow_unused=True)]


@only_interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("algorithm", ["direct", "im2col", "implicit_gemm"])
def test_a_replay_is_bit_for_bit_the_interpreted_launch(dtype, algorithm, monkeypatch):
    anew(monkeypatch)
    outputs(dtype, algorithm, seed=1)
    replays = replayed(monkeypatch)
    got = outputs(dtype, algorithm, seed=2)
    assert len(replays) >= 6
    anew(monkeypatch)
    replays.clear()
    monkeypatch.setattr(tinterpreter, "RECORD_BYTES", 0)
    expected = outputs(dtype, algorithm, seed=2)
    assert not replays
    for g, e in zip(got, expected, strict=True):
        assert (g is None and e is None) or torch.equal(g, e)


@only_interpreted
def test_what_depends_on_memory_is_not_taken_for_a_constant(monkeypatch, capsys):
    """A loop to a number that a kernel loads is interpreted each time, and so is what acts on more than memory."""
    replays = replayed(monkeypatch)
    for n in (2, 5, 2):
        out = torch.empty(1, dtype=torch.int64)
        count_kernel[(1,)](torch.tensor([n], dtype=torch.int32), out, 3)
        assert out.item() == 3 + 1000 + 1000000 * n
    for _ in range(2):
        print_kernel[(1,)](torch.ones(1), torch.empty(1))
        assert "program" in capsys.readouterr().out
    assert not replays


@only_interpreted
@pytest.mark.parametrize(("limit", "reached"), [(2**29, 1), (0, 3)])
def test_python_in_a_kernel_is_reached_in_each_launch_without_records(limit, reached, monkeypatch, capsys):
    """As a breakpoint is."""
    anew(monkeypatch)
    monkeypatch.setattr(tinterpreter, "RECORD_BYTES", limit)
    for _ in range(3):
        out = torch.zeros(1)
        talking_kernel[(1,)](torch.ones(1), out)
        assert out.item() == 1
    assert capsys.readouterr().out.count("in the kernel") == reached


@only_interpreted
def test_a_record_belongs_to_its_sizes_and_not_to_its_tensors(monkeypatch):
    """One tensor given twice and two tensors, another number, another dtype; a tensor too small for what was seen;
    another grid, another kernel, an equal number of another type."""
    anew(monkeypatch)
    x = torch.arange(8.0)
    copy_kernel[(1,)](x, x, 8, 8, BLOCK=8)
    out = torch.zeros(8)
    copy_kernel[(1,)](x, out, 8, 8, BLOCK=8)
    assert torch.equal(out, x)
    copy_kernel[(1,)](x, out, 8, 4, BLOCK=8)
    assert out.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    copy_kernel[(1,)](x.double() + 1, out, 8, 8, BLOCK=8)
    assert torch.equal(out, x + 1)
    for tensors in ((x[:4].clone(), out), (x, torch.zeros(4))):
        with pytest.raises(IndexError):
            copy_kernel[(1,)](*tensors, 8, 8, BLOCK=8)
    for kernel, grid, expected in (
        (program_kernel, 2, [0, 3, 9, 9, 9, 9, 9, 4]),
        (program_kernel, 4, [0, 3, 6, 9, 9, 9, 9, 8]),
        (negated_program_kernel, 4, [0, -3, -6, -9, 9, 9, 9, 9]),
    ):
        for _ in range(2):
            out.fill_(9)
            kernel[(grid,)](out, 3)
            assert out.tolist() == expected
    x, out = torch.tensor([2**24 + 1], dtype=torch.int32), torch.empty(1, dtype=torch.int64)
    for one, expected in ((1, 2**24 + 1), (1.0, 2**24), (1, 2**24 + 1)):  # the product with a float is a float32
        times_kernel[(1,)](x, out, one)
        assert out.item() == expected


@only_interpreted
def test_records_hold_no_more_than_their_limit(monkeypatch):
    anew(monkeypatch)
    out = torch.zeros(64)
    for limit, kept in ((10**6, 1), (10, 0)):
        monkeypatch.setattr(tinterpreter, "RECORD_BYTES", limit)
        copy_kernel[(1,)](torch.ones(64), out, 64, limit % 64, BLOCK=64)
        assert len(tinterpreter._records) == kept
        tinterpreter._records.clear()
    monkeypatch.setattr(tinterpreter, "RECORD_BYTES", 6000)
    copy_kernel[(1,)](torch.ones(64), out, 64, 1, BLOCK=64)
    replays = replayed(monkeypatch)
    for n in range(2, 9):
        for launched in (n, n, 1):
            copy_kernel[(1,)](torch.ones(64), out, 64, launched, BLOCK=64)
    assert len(replays) == 14  # neither the latest nor the one used most often goes
    assert 1 < len(tinterpreter._records) < 8
    shuffle_kernel[(1,)](torch.ones(1021), torch.zeros(256), 256, BLOCK=256)  # one that takes the place of several
    assert [*tinterpreter._records][-1][0] is shuffle_kernel.fn
    assert sum(record.size for record in tinterpreter._records.values()) <= 6000


def held() -> int:
    """The bytes of all arrays in all records."""
    programs = [program for record in tinterpreter._records.values() for program in record.programs]
    values = [v for program in programs for step in program.instructions for v in step.args]
    places = [array for v in values if isinstance(v, Places) for array in (v.at, v.mask)]
    arrays = [v.data for v in values if isinstance(v, interpreter.TensorHandle)] + places
    return sum({id(v): collapse(v).nbytes for v in arrays if v is not None}.values())


@only_interpreted
def test_a_records_size_is_what_it_holds(monkeypatch):
    """Indices that go up and down by no rule, and where the tile is masked out; a replay leaves nothing in it."""
    anew(monkeypatch)
    x = torch.arange(1024.0)
    for _ in range(2):
        shuffle_kernel[(1,)](x, out := torch.zeros(1024), 1000, BLOCK=1024)
        (record,) = tinterpreter._records.values()
        assert (8 + 1) * 1024 <= held() <= record.size
    at = torch.arange(1024)
    assert torch.equal(out, torch.where(at < 1000, x[at * at % 1021], -1.0))


@only_interpreted
def test_a_record_of_even_steps_holds_no_index(monkeypatch):
    anew(monkeypatch)
    copy_kernel[(1,)](torch.ones(1024), torch.zeros(1024), 1024, 7, BLOCK=1024)
    assert held() < 100


@only_interpreted
def test_a_record_over_the_limit_is_given_up_while_it_is_made(monkeypatch):
    anew(monkeypatch)
    monkeypatch.setattr(tinterpreter, "RECORD_BYTES", 2000)
    given_up = []
    give_up = recording.Recorder.give_up
    monkeypatch.setattr(recording.Recorder, "give_up", lambda self: (given_up.append(self.size), give_up(self))[1])
    copy_kernel[(1,)](torch.ones(64), torch.zeros(64), 64, 7, BLOCK=64)
    assert len(given_up) == 1


# --- operators ---


def tile(*values: float, dtype: tl.dtype, shape: tuple[int, ...]) -> tl.tensor:
    data = np.array(values, tlanguage.dtype_of(dtype)).reshape(shape or (1,))
    return tl.tensor(interpreter.TensorHandle(data, dtype), tl.block_type(dtype, [*shape]) if shape else dtype)


def answers() -> dict[tuple, tuple]:
    """What each operator makes of operands of many kinds: a type and values, or an exception."""
    found = {}
    with tlanguage.patched(False):
        kinds = (tl.int1, tl.uint8, tl.int32, tl.int64, tl.float16, tl.float32, tl.float64)
        vectors = [tile(1, 0, 1, 1, dtype=kind, shape=(4,)) for kind in kinds]
        pairs = [tile(3, 2, dtype=kind, shape=shape) for kind in kinds[2:4] for shape in ((2,), (1, 2), (2, 1))]
        pairs += [tile(5, dtype=kind, shape=(1,)) for kind in kinds[2:]]  # a block of one is no scalar
        scalars = [tile(7, dtype=kind, shape=()) for kind in kinds[2:]]
        tensors = [*vectors, *pairs, *scalars]
        numbers = [3, -2, 2**31, -(2**31) - 1, 2**40, 1.5, float("nan"), True, tl.constexpr(5), tl.constexpr(0.5)]
        for name in OPERATORS:
            for i, left in enumerate(tensors):
                for j, right in enumerate([*tensors, *numbers]):
                    try:
                        answer = getattr(tl.tensor, name)(left, right)
                    except Exception as error:
                        found[name, i, j] = (type(error),)
                    else:
                        shape = [*answer.type.shape] if answer.type.is_block() else [1]
                        values = np.broadcast_to(answer.handle.data, shape)
                        found[name, i, j] = (str(answer.type), str(values.dtype), values.tolist())
    return found


@only_interpreted
@pytest.mark.filterwarnings("ignore")
def test_operators_are_tritons(monkeypatch):
    """The short way gives the types and values of Triton's own, and raises where that does."""
    ours = answers()
    monkeypatch.setattr(tlanguage, "OPERATORS", {})
    tlanguage._language_patches.cache_clear()
    try:
        tritons = answers()
    finally:
        tlanguage._language_patches.cache_clear()
    assert len(ours) > 5000
    assert str({key: (ours[key], tritons[key]) for key in ours if str(ours[key]) != str(tritons[key])}) == "{}"


# --- what it leaves alone ---


def language() -> dict[tuple, object]:
    """Every attribute of what the interpreter patches."""
    builder, semantic = interpreter.interpreter_builder, interpreter.interpreter_semantic
    owners = (tl, tl.core, tl.math, tl.standard, tl.tensor, tl.dtype, JITFunction, builder, semantic)
    return {
        (id(owner), name): getattr(owner, name) for owner in owners for name in dir(owner) if name != "__annotations__"
    }


@only_interpreted
def test_the_language_is_unpatched_after_a_launch_and_after_a_failure(device):
    before = language()
    x, out = torch.ones(4, device=device), torch.zeros(8, device=device)
    copy_kernel[(1,)](x, out, 8, 4, BLOCK=8)
    assert language() == before
    with pytest.raises(IndexError):
        copy_kernel[(1,)](x, out, 8, 5, BLOCK=8)
    assert language() == before
    assert not hasattr(tl.tensor, "__index__")  # which patching adds
    assert type(interpreter.interpreter_builder) is interpreter.InterpreterBuilder


@only_interpreted
def test_a_failing_launch_does_not_spoil_the_next(device):
    x, out = torch.ones(4, device=device), torch.zeros(8, device=device)
    with pytest.raises(IndexError):
        copy_kernel[(1,)](x, out, 8, 5, BLOCK=8)
    copy_kernel[(1,)](x, out, 8, 4, BLOCK=8)
    assert out.sum() == 0


@only_interpreted
def test_a_product_is_in_full_precision_and_changes_no_switch_of_torchs(device, monkeypatch):
    """In the first launch and in a replay: another thread would meet what was switched."""
    seen = []
    precision = torch.backends.mkldnn.matmul

    def watched(matmul):
        def call(*args, **kwargs):
            seen.append((torch.get_num_threads(), precision.fp32_precision))
            return matmul(*args, **kwargs)

        return call

    monkeypatch.setattr(torch, "matmul", watched(torch.matmul))
    monkeypatch.setattr(np, "matmul", watched(np.matmul))
    monkeypatch.setattr(tinterpreter, "_records", OrderedDict())
    threads = torch.get_num_threads()
    exact = 1 + 2**-20  # bfloat16 would round it to 1
    try:
        torch.set_num_threads(threads + 1)
        torch.set_float32_matmul_precision("medium")
        for _ in range(2):
            x, w, y = torch.full((16, 16), exact), torch.eye(16), torch.empty(16, 16)
            dot_kernel[(1,)](x, w, y, SIZE=16)
            assert (y == exact).all()
        assert seen == [(threads + 1, "bf16"), (1, "bf16")]  # the replay is a worker's
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")


# --- compiling without a GPU ---


def record(dtype: torch.dtype, algorithm: str) -> list[tjit.Launch]:
    x, w, b = (torch.empty(shape, dtype=dtype).requires_grad_() for shape in ((2, 32, 9, 9), (32, 32, 3, 3), (32,)))
    with tuning.target("sm_90"), tjit.record_launches() as launches:
        y = TF.conv2d(x, w, b, padding=1, algorithm=algorithm)
        torch.autograd.grad(y, [x, w, b], torch.empty_like(y))
    return launches


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm"])
def test_forward_dgrad_and_wgrad_compile_for_hopper(algorithm, dtype):
    launches = {launch.kernel.fn.__name__: launch for launch in record(dtype, algorithm)}
    assert set(launches) >= {f"{algorithm}_{which}_kernel" for which in ("forward", "dgrad", "wgrad")}
    for launch in launches.values():
        assert len(tjit.compile_launch(launch, SM_90).asm["cubin"]) > 0


def test_recorded_launches_do_not_run(device):
    x, out = torch.ones(4, device=device), torch.zeros(8, device=device)
    with tjit.record_launches() as launches:
        copy_kernel[(3, 2)](x, out, 8, mask_from=4, BLOCK=8, num_warps=2)
    assert out.eq(0).all()
    (launch,) = launches
    assert (launch.kernel, launch.grid, launch.options["num_warps"]) == (copy_kernel, (3, 2), 2)
    assert {name: launch.arguments[name] for name in ("n", "mask_from", "BLOCK")} == {
        "n": 8,
        "mask_from": 4,
        "BLOCK": 8,
    }
    copy_kernel[(1,)](x, out, 8, 4, BLOCK=8)
    assert out.ne(0).all()


def test_recordings_nest_and_end_with_an_error(device):
    x, out = torch.ones(4, device=device), torch.zeros(8, device=device)
    with tjit.record_launches() as outer:
        with pytest.raises(LookupError), tjit.record_launches() as inner:
            copy_kernel[(1,)](x, out, 8, 4, BLOCK=8)
            raise LookupError
        copy_kernel[(1,)](x, out, 8, 4, BLOCK=8)
    assert len(outer) == len(inner) == 1
    with pytest.raises(LookupError), tjit.record_launches():
        raise LookupError
    copy_kernel[(1,)](x, out, 8, 4, BLOCK=8)
    assert out.ne(0).all()


def test_warming_up_does_not_run(device):
    x, out = torch.ones(4, device=device), torch.zeros(8, device=device)
    copy_kernel.warmup(x, out, 8, 4, BLOCK=8, grid=(1,))
    assert out.eq(0).all()


@only_interpreted
def test_one_launch_at_a_time(device, monkeypatch):
    """Interpreting patches Triton's language: a second thread waits."""
    running, most = [], []
    interpret = tjit._interpret

    def slow(*args):
        running.append(args)
        most.append(len(running))
        time.sleep(0.1)
        interpret(*args)
        running.pop()

    monkeypatch.setattr(tjit, "_interpret", slow)
    x, outs = torch.ones(8, device=device), torch.zeros(3, 8, device=device)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda out: helper_kernel[(1,)](x, out, BLOCK=8), outs))
    assert most == [1] * 3
    assert outs.eq(5).all()


@jit
def many_arguments_kernel(x_ptr, bias_ptr, one, eight, sixteen, scale, sizes, SIZE: tl.constexpr = 4):
    pass


def divisible(source) -> list[tuple[int, ...]]:
    """The arguments of which the compiler knows that 16 divides them."""
    return [path for path, known in source.attrs.items() if ["tt.divisibility", 16] in known]


def test_a_launch_is_compiled_with_the_specialisation_of_a_real_one(monkeypatch):
    """Integers of 1 and what is None are constants; addresses and integers that 16 divides are marked."""
    storage = torch.empty(16)
    with tjit.record_launches() as launches:
        many_arguments_kernel[(1,)](storage, None, 1, 8, 16, 0.5, (1, 32, 5), num_warps=2)
        many_arguments_kernel[(1,)](storage[2:], storage, 1, 8, 16, 0.5, (16, (1,)), SIZE=8)
    compiled = []
    monkeypatch.setattr(triton, "compile", lambda source, target, options: compiled.append((source, options)))
    for launch in launches:
        tjit.compile_launch(launch, SM_90)
    (first, options), (second, _) = compiled
    assert options["num_warps"] == 2
    numbers = ["i32", "i32", "fp32"]
    assert [*first.signature.values()] == [
        *("*fp32", "constexpr", "constexpr", *numbers),
        *(("constexpr", "i32", "i32"), "constexpr"),
    ]
    assert first.constants == {(1,): None, (2,): 1, (6, 0): 1, (7,): 4}
    assert divisible(first) == [(0,), (4,), (6, 1)]
    assert [*second.signature.values()] == [
        *("*fp32", "*fp32", "constexpr", *numbers),
        *(("i32", ("constexpr",)), "constexpr"),
    ]
    assert second.constants == {(2,): 1, (6, 1, 0): 1, (7,): 8}
    assert divisible(second) == [(1,), (4,), (6, 0)]


def test_interpreting_and_compiling_alternate(device):
    x = torch.randn(8, device=device)
    for _ in range(2):
        out = torch.empty_like(x)
        helper_kernel[(1,)](x, out, BLOCK=8)
        torch.testing.assert_close(out, 5 * x)
        with tjit.record_launches() as launches:
            helper_kernel[(1,)](x, out, BLOCK=8)
        assert "cubin" in tjit.compile_launch(launches[0], SM_90).asm
