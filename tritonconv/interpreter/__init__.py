"""Triton's interpreter for tensors on the CPU: put right, made fast, and recorded.

What is put right while one of our kernels runs in it, on Triton 3.6 to 3.9 alike: bf16 values are rounded to nearest
even and multiplied as numbers (not as bit patterns); a run-time loop bound works with any numpy; arithmetic on a
broadcast tile is done once on what was broadcast; memory is read and written by numpy, and a pointer outside the
launch's tensors raises IndexError.

The first launch of a kernel on arguments of some sizes is interpreted and recorded; later ones replay the record. What
depends on the sizes alone (indices, masks, loop bounds: most of the work) is a constant in it; what depends on memory
(loads, products, comparisons, stores) is done again, by the same functions on the same operands, program by program in
the same order, so a replay gives bit for bit what interpreting would. A kernel whose Python depends on what it loads is
interpreted anew.
"""

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

from tritonconv.interpreter import language, memory, recording
from tritonconv.interpreter.builder import numpy_builder

# The interpreter can check every 32-bit integer operation for overflow, at 1.2 to 2.2 times a kernel's whole time. The
# tests turn it on; compiled code has no such check.
sanitize_overflow = False
# Bytes that all records together may hold; the ones longest unused go first. A training step of the example's network
# at batch 64 needs 17 MB, one of ResNet-18 at 224x224 31 MB.
RECORD_BYTES = 2**29

_records: OrderedDict[tuple, recording.Record] = OrderedDict()


def interpret(fn: Callable, constants: set[str], arguments: dict[str, Any], grid: tuple[int, ...]) -> None:
    """Run every program of the grid in turn, on the host; `constants` names the arguments that are tl.constexpr."""
    tensors = [v for v in arguments.values() if isinstance(v, torch.Tensor)]
    key = (fn, grid, sanitize_overflow, *map(_identity, arguments.values()))
    with _own_state(), np.errstate(all="ignore"):
        memory.tensors = [memory.bytes_of(t) for t in tensors]
        record = _records.get(key)
        if record is not None:
            _records.move_to_end(key)
            recording.active = None
            record.replay(memory.tensors)
        else:
            number = itertools.count()
            values = {k: v if k in constants else _as_argument(v, number) for k, v in arguments.items()}
            record = _record(fn, values, grid)
            if record is not None:
                _keep(key, record)


def _identity(value: Any) -> Any:
    """What a record depends on: a number's type and value, a tensor's dtype. Triton's own objects take long to hash."""
    if isinstance(value, torch.Tensor):
        return value.dtype
    if isinstance(value, JITFunction):
        return value.fn
    return type(value), value.name if isinstance(value, tl.dtype) else value


def _as_argument(value: Any, number: Iterator[int]) -> Any:
    converted = interpreter._implicit_cvt(value)
    if isinstance(value, torch.Tensor):
        converted.handle.data = np.array([next(number) << memory.TENSOR_BIT], np.uint64)
    return converted


def _record(fn: Callable, values: dict[str, Any], grid: tuple[int, ...]) -> recording.Record | None:
    """Interpret the launch; None if what it did cannot be replayed."""
    grid = (*grid, 1, 1)[:3]
    recording.active = recorder = recording.Recorder(RECORD_BYTES)
    with language.patched(sanitize_overflow):
        numpy_builder.set_grid_dim(*grid)
        for index in np.ndindex(*grid):
            numpy_builder.set_grid_idx(*index)
            recorder.begin()
            language.rewritten(fn)(**values)
    return recorder.record()


def _keep(key: tuple, record: recording.Record) -> None:
    """Drop those longest unused until it fits; a launch in a signal handler may do so meanwhile."""
    _records[key] = record
    while sum(r.size for r in [*_records.values()]) > RECORD_BYTES:
        _records.popitem(last=False)


@contextlib.contextmanager
def _own_state() -> Iterator[None]:
    """A launch's state is its own: a signal handler may run another one in the middle of it, on this thread."""
    outer = memory.tensors, recording.active, numpy_builder.grid_idx, numpy_builder.grid_dim
    try:
        yield
    finally:
        memory.tensors, recording.active, numpy_builder.grid_idx, numpy_builder.grid_dim = outer
