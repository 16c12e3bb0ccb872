"""Triton's interpreter for tensors on the CPU: put right, made fast, and recorded.

What is put right while one of our kernels runs in it, on Triton 3.6 to 3.9 alike: bf16 values are rounded to nearest
even and multiplied as numbers (not as bit patterns); a run-time loop bound works with any numpy; arithmetic on a
broadcast tile is done once on what was broadcast; memory is read and written by numpy, and a pointer outside the
launch's tensors raises IndexError.

The first launch of a kernel on arguments of some sizes is interpreted and recorded; later ones replay the record. What
depends on the sizes alone (indices, masks, loop bounds: most of the work) is a constant in it; what depends on memory
(loads, products, comparisons, stores) is done again, by the same functions on the same operands in the same order, so a
replay gives bit for bit what interpreting would. A kernel whose Python depends on what it loads is interpreted anew.
"""

import collections
import contextlib
import ctypes
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.language import core  # noqa: F401  (the interpreter patches the language modules that it finds here)
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, ReduceOps, TensorHandle
from triton.runtime.jit import JITFunction

# The interpreter can check every 32-bit integer operation for overflow, at 1.2 to 2.2 times a kernel's whole time. The
# tests turn it on; compiled code has no such check.
sanitize_overflow = False
# Bytes that all records together may hold; the ones longest unused go first. A training step of the example's network
# at batch 64 needs 0.1 GB.
RECORD_BYTES = 2**29
# A pointer is the number of its tensor among the launch's arguments above this bit, and an offset in bytes below.
TENSOR_BIT = 48

_memory: list[np.ndarray] = []  # the bytes of each tensor that the running launch was given, to the end of its storage


def interpret(fn: Callable, constants: set[str], arguments: dict[str, Any], grid: tuple[int, ...]) -> None:
    """Run every program of the grid in turn, on the host; `constants` names the arguments that are tl.constexpr."""
    tensors = [v for v in arguments.values() if isinstance(v, torch.Tensor)]
    key = (fn, grid, sanitize_overflow, *(_identity(v) for v in arguments.values()))
    record = _records.get(key)
    _memory[:] = map(_bytes, tensors)
    try:
        with np.errstate(all="ignore"), _exact_products():
            if record is not None:
                _records.move_to_end(key)
                record.replay()
                return
            values = {k: v if k in constants else _as_argument(v, tensors) for k, v in arguments.items()}
            with _interpreting() as recorder:
                _run_programs(fn, values, grid)
        if recorder.possible:
            _keep(key, recorder.record())
    finally:
        _memory.clear()


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """torch.set_float32_matmul_precision is for torch's own products."""
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    precision = products.fp32_precision
    if precision in ("none", "ieee"):
        yield
        return
    products.fp32_precision = "ieee"
    try:
        yield
    finally:
        products.fp32_precision = precision


def _run_programs(fn: Callable, values: dict[str, Any], grid: tuple[int, ...]) -> None:
    grid = (*grid, 1, 1)[:3]
    _builder.set_grid_dim(*grid)
    for index in np.ndindex(*grid):
        _builder.set_grid_idx(*index)
        _rewritten(fn)(**values)


def _identity(value: Any) -> Any:
    """What a record depends on: a number's type and value, a tensor's dtype."""
    return value.dtype if isinstance(value, torch.Tensor) else (type(value), value)


def _bytes(t: torch.Tensor) -> np.ndarray:
    size = int(t.untyped_storage().nbytes()) - t.storage_offset() * t.element_size()
    if size <= 0:
        return np.empty(0, np.uint8)
    bytes_type: Any = ctypes.c_uint8 * size
    return np.ctypeslib.as_array(bytes_type.from_address(t.data_ptr()))


def _as_argument(value: Any, tensors: list[torch.Tensor]) -> Any:
    converted = interpreter._implicit_cvt(value)
    if isinstance(value, torch.Tensor):
        number = next(i for i, t in enumerate(tensors) if t is value)
        converted.handle.data = np.array([number << TENSOR_BIT], np.uint64)
    return converted


# --- recording ---


@dataclasses.dataclass
class _Instruction:
    """One call again: `args` with the registers of `inputs`, as (place, register), put in; its result, if any, kept in
    `output`; the registers in `last` are not needed after it."""

    function: Callable
    args: list
    inputs: list[tuple[int, int]]
    output: int
    last: list[int]


@dataclasses.dataclass
class _Record:
    instructions: list[_Instruction]
    registers: int
    size: int  # bytes of its constants

    def replay(self) -> None:
        registers: list = [None] * self.registers
        for step in self.instructions:
            args = step.args
            if step.inputs:
                args = args.copy()
                for place, register in step.inputs:
                    args[place] = registers[register]
            registers[step.output] = step.function(*args)
            for register in step.last:
                registers[register] = None


_records: "collections.OrderedDict[tuple, _Record]" = collections.OrderedDict()


def _keep(key: tuple, record: _Record) -> None:
    _records[key] = record
    while sum(r.size for r in _records.values()) > RECORD_BYTES:
        _records.popitem(last=False)


class _Loaded(TensorHandle):
    """A value that depends on memory. Only the builder may look at its data: what else does cannot be replayed."""

    register: int

    @property  # type: ignore[override]
    def data(self) -> np.ndarray:
        if _recorder is not None and not _recorder.busy:
            _recorder.give_up()
        return self.__dict__["data"]

    @data.setter
    def data(self, value: np.ndarray) -> None:
        self.__dict__["data"] = value


class _Recorder:
    """Notes each call of the builder that depends on memory; what depends on constants alone is a constant."""

    def __init__(self) -> None:
        self.possible = True
        self.busy = False  # inside a call of the builder, which may call itself
        self.instructions: list[_Instruction] = []
        self.registers = 1  # 0 takes the results of stores
        self.constants: dict[int, np.ndarray] = {}
        self.size = 0

    def give_up(self) -> None:
        self.possible = False
        self.instructions.clear()
        self.constants.clear()

    def call(self, function: Callable, args: tuple, act: Callable | None = None) -> Any:
        """The function's result; noted if it comes from memory or if the function is an `act` upon it."""
        self.busy = True
        try:
            result = function(*args)
        finally:
            self.busy = False
        if self.possible and (act or any(isinstance(a, _Loaded) for a in args)):
            self._note(function, args, result)
        return result

    def _note(self, function: Callable, args: tuple, result: Any) -> None:
        if isinstance(result, _Loaded):  # an argument, handed through
            return
        if not isinstance(result, TensorHandle | None):
            return self.give_up()
        inputs = [(i, a.register) for i, a in enumerate(args) if isinstance(a, _Loaded)]
        constants = [None if isinstance(a, _Loaded) else a for a in args]
        output = 0
        if result is not None:
            result.__class__, output = _Loaded, self.registers
            result.register = output  # type: ignore[attr-defined]
            self.registers += 1
        self.instructions.append(_Instruction(function, constants, inputs, output, []))
        for array in (a.data if isinstance(a, TensorHandle) else a for a in constants):
            if isinstance(array, np.ndarray) and id(array) not in self.constants:
                self.constants[id(array)] = array
                self.size += _collapse(array).nbytes
        if self.size > RECORD_BYTES:
            self.give_up()

    def record(self) -> _Record:
        seen: set[int] = set()
        for step in reversed(self.instructions):
            step.last = [r for r in {step.output, *(r for _, r in step.inputs)} if r not in seen]
            seen.update(step.last)
        return _Record(self.instructions, self.registers, self.size)


_recorder: _Recorder | None = None


def _recorded(operation: Callable) -> Callable:
    @functools.wraps(operation)
    def call(self: "_Builder", *args: Any, **kwargs: Any) -> Any:
        if _recorder is None or _recorder.busy:
            return operation(self, *args, **kwargs)
        return _recorder.call(functools.partial(operation, self, **kwargs), args)

    return call


def _unrecorded(operation: Callable) -> Callable:
    @functools.wraps(operation)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _recorder is not None:
            _recorder.give_up()
        return operation(*args, **kwargs)

    return call


# --- the builder: what an operation of Triton's language does to numpy arrays ---


class _Builder(InterpreterBuilder):
    """Triton's interpreter with right bf16 arithmetic, cheap broadcasts, numpy's loads and stores, and a recorder."""

    def cast_impl(self, src: TensorHandle, dst_type: Any) -> TensorHandle:
        source, target = src.dtype.scalar, dst_type.scalar
        if tl.bfloat16 not in (source, target) or source == target:
            return super().cast_impl(src, dst_type)
        data = _bfloat16_to_float32(src.data) if source == tl.bfloat16 else src.data
        if target == tl.bfloat16:
            return TensorHandle(_float32_to_bfloat16(data.astype(np.float32)), tl.bfloat16)
        return TensorHandle(data.astype(interpreter._get_np_dtype(target)), target)

    def get_bf16(self, value: float) -> TensorHandle:
        return self.cast_impl(self.get_fp32(value), tl.bfloat16)

    def create_dot(self, a: TensorHandle, b: TensorHandle, d: TensorHandle, *precision: Any) -> TensorHandle:
        # by torch and not by numpy, whose BLAS brings threads of its own: two pools fight for the cores
        a, b = (self.cast_impl(t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b))
        x, y = (torch.from_numpy(np.require(t.data, d.data.dtype, "W")) for t in (a, b))
        product = np.empty(d.data.shape, d.data.dtype)
        torch.matmul(x, y, out=torch.from_numpy(product))  # with `out=`, autocast leaves it alone
        if _collapse(d.data).size > 1 or d.data.any():
            product += d.data
        return TensorHandle(product, d.dtype.scalar)

    def create_splat(self, ret_ty: Any, arg: TensorHandle) -> TensorHandle:
        return TensorHandle(_expand(arg.data, tuple(ret_ty.shape)), arg.dtype.scalar)

    def create_addptr(self, ptr: TensorHandle, offset: TensorHandle) -> TensorHandle:
        step = max(1, ptr.get_element_ty().primitive_bitwidth // 8)
        address = _collapse(ptr.data) + _collapse(offset.data).astype(np.uint64) * np.uint64(step)
        return TensorHandle(_expand(address, ptr.data.shape), ptr.dtype)

    def binary_op(self, lhs: TensorHandle, rhs: TensorHandle, op: Callable) -> TensorHandle:
        shape = np.broadcast_shapes(lhs.data.shape, rhs.data.shape)
        lhs, rhs = (TensorHandle(_collapse(t.data), t.dtype) for t in (lhs, rhs))
        out = super().binary_op(lhs, rhs, op)
        return TensorHandle(_expand(out.data, shape), out.dtype)

    def create_reduce(self, value: TensorHandle, kind: Any, reduce: ReduceOps) -> TensorHandle:
        return reduce.apply(tl.tensor(value, kind)).handle

    def create_load(self, ptr: TensorHandle, *_: Any) -> TensorHandle:
        return self.create_masked_load(ptr, _everywhere(ptr.data.shape), None)

    def create_store(self, ptr: TensorHandle, value: TensorHandle, *_: Any) -> None:
        self.create_masked_store(ptr, value, _everywhere(ptr.data.shape))

    def create_masked_load(self, ptrs: TensorHandle, mask: TensorHandle, other: TensorHandle | None, *_: Any) -> Any:
        element = ptrs.get_element_ty()
        if other is None:
            other = TensorHandle(np.zeros(1, interpreter._get_np_dtype(element)), element)
        return _on_memory(_load, ptrs, mask, other, element)

    def create_masked_store(self, ptrs: TensorHandle, value: TensorHandle, mask: TensorHandle, *_: Any) -> None:
        _on_memory(_store, ptrs, mask, value, ptrs.get_element_ty())


def _wrap_builder() -> None:
    """Record every operation but loads and stores, which do it themselves, and give up on what acts otherwise."""
    for name in dir(_Builder):
        if any(word in name for word in ("atomic", "descriptor", "print")):
            setattr(_Builder, name, _unrecorded(getattr(_Builder, name)))
        elif name.startswith("create_") and not name.endswith(("_load", "_store")):
            setattr(_Builder, name, _recorded(getattr(_Builder, name)))


_wrap_builder()
_builder = _Builder()


# --- memory ---


def _on_memory(act: Callable, ptrs: TensorHandle, mask: TensorHandle, operand: TensorHandle, element: Any) -> Any:
    """Load or store; where pointers and mask do not come from memory, what they say is a constant of the record."""
    whole = act is _store or _collapse(vars(operand)["data"]).size > 1
    if _recorder is None:
        return _at_pointers(act, ptrs, mask, operand, element, whole)
    if isinstance(ptrs, _Loaded) or isinstance(mask, _Loaded):
        return _recorder.call(_at_pointers, (act, ptrs, mask, operand, element, whole), act)
    return _recorder.call(act, (*_locate(ptrs, mask, element, whole), operand, element), act)


def _at_pointers(
    act: Callable, ptrs: TensorHandle, mask: TensorHandle, operand: TensorHandle, element: Any, whole: bool
) -> Any:
    return act(*_locate(ptrs, mask, element, whole), operand, element)


def _locate(ptrs: TensorHandle, mask: TensorHandle, element: Any, whole: bool) -> tuple:
    """(the number of the tensor that `ptrs` point into, indices into it in elements, where the mask holds, the tile's
    shape). Indices are 0 where the mask does not hold, and None where that is everywhere; the mask is None where it
    holds everywhere. Unless `whole`, axes along which nothing changes have length 1."""
    shape = ptrs.data.shape
    places, valid = ptrs.data, np.broadcast_to(mask.data, shape)
    if not whole:
        steps = zip(places.strides, valid.strides, strict=True)
        cut = tuple(slice(0, 1) if step == (0, 0) else slice(None) for step in steps)
        places, valid = places[cut], valid[cut]
    if not valid.any():
        return 0, None, None, shape
    everywhere = valid.all()
    tensor = int(places.flat[valid.argmax()]) >> TENSOR_BIT
    index = places - np.uint64(tensor << TENSOR_BIT)
    index >>= np.uint64(_dtype(element).itemsize.bit_length() - 1)
    if not everywhere:
        index *= valid
    largest = int(index.max())
    if tensor >= len(_memory) or largest >= _memory[tensor].size // _dtype(element).itemsize:
        raise IndexError("a pointer lies outside the tensor that the launch points into")
    return tensor, index.astype(np.int32 if largest < 2**31 else np.int64), None if everywhere else valid, shape


_dtype = functools.cache(interpreter._get_np_dtype)


def _load(
    tensor: int, index: Any, valid: np.ndarray | None, shape: tuple[int, ...], other: TensorHandle, element: Any
) -> TensorHandle:
    if index is None:
        return TensorHandle(_expand(other.data, shape), element)
    values = _memory[tensor].view(_dtype(element)).take(index)
    if valid is not None:
        np.copyto(values, other.data if other.data.shape == values.shape else _collapse(other.data), where=~valid)
    return TensorHandle(_expand(values, shape), element)


def _store(
    tensor: int, index: Any, valid: np.ndarray | None, shape: tuple[int, ...], value: TensorHandle, element: Any
) -> None:
    if index is None:
        return
    memory = _memory[tensor].view(_dtype(element))
    if valid is None:
        memory[index] = value.data
    else:
        memory[index[valid]] = value.data[valid]


def _collapse(data: np.ndarray) -> np.ndarray:
    """The part of a broadcast array that holds its values: every axis of stride 0 cut to length 1."""
    if 0 not in data.strides:
        return data
    return data[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in data.strides)]


def _everywhere(shape: tuple[int, ...]) -> TensorHandle:
    return TensorHandle(np.broadcast_to(np.True_, shape), tl.int1)


def _expand(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return data if data.shape == shape else np.broadcast_to(data, shape)


def _bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round to nearest even, as a GPU and torch do; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))


# --- Triton's language, patched while a kernel is interpreted ---


@functools.cache
def _rewritten(fn: Callable) -> Callable:
    return InterpretedFunction(fn).rewrite()


def _call_interpreted(self: JITFunction, *args: Any, **kwargs: Any) -> Any:
    return _rewritten(self.fn)(*args, **kwargs)


def _reduce(value: Any, axis: Any, combine_fn: Any, keep_dims: bool = False, **_: Any) -> Any:
    """tl.reduce: of one tensor along one axis by the interpreter's fast ways, which can be recorded."""
    reduce = ReduceOps(axis, combine_fn, keep_dims)
    fast = combine_fn in (tl.standard._sum_combine, tl.standard._elementwise_max, tl.standard._elementwise_min)
    if _recorder is None or isinstance(value, tuple) or axis is None or not fast:
        if _recorder is not None:
            _recorder.give_up()
        return reduce.apply(value)
    handle = _builder.create_reduce(value.handle, value.type, reduce)
    shape = list(vars(handle)["data"].shape)
    return tl.tensor(handle, tl.block_type(value.dtype, shape) if keep_dims or len(value.shape) > 1 else value.dtype)


@functools.cache
def _language_patches() -> list[tuple[Any, str, Any]]:
    """What must be replaced where, as (object, attribute, value), for Triton's language to run on numpy."""
    scope = interpreter._patch_lang(_call_interpreted)
    patches = {(id(owner), name): (owner, name, getattr(owner, name)) for owner, name, _ in scope._changes}
    scope.restore()
    return [
        *patches.values(),
        (tl.tensor, "__init__", _init_tensor),
        (tl.block_type, "__init__", _init_block_type),
        (tl.tensor, "__index__", lambda self: int(self.handle.data.item())),
        (tl, "reduce", _reduce),
        (tl.core, "reduce", _reduce),
        (JITFunction, "__call__", _call_interpreted),
        (interpreter.interpreter_semantic, "builder", _builder),
    ]


# The interpreter makes tens of thousands of short-lived tensors and types of a few kinds: what their constructors work
# out is kept, by the type's name or by element type and shape.
_tensor_attributes: dict[str, dict[str, Any]] = {}
_block_type_attributes: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
_tensor_init, _block_type_init = tl.tensor.__init__, tl.block_type.__init__


def _init_tensor(self: tl.tensor, handle: TensorHandle, type: tl.dtype) -> None:
    known = _tensor_attributes.get(type.name)
    if known is None:
        _tensor_init(self, handle, type)
        _tensor_attributes[type.name] = {name: value for name, value in vars(self).items() if name != "handle"}
    else:
        vars(self).update(known)
        self.handle = handle


def _init_block_type(self: tl.block_type, element_ty: tl.dtype, shape: list) -> None:
    key = (element_ty.name, tuple(map(operator.index, shape)))
    known = _block_type_attributes.get(key)
    if known is None:
        _block_type_init(self, element_ty, shape)
        _block_type_attributes[key] = dict(vars(self))
    else:
        vars(self).update(known)


_missing = object()


@contextlib.contextmanager
def _interpreting() -> Iterator[_Recorder]:
    """Patch Triton's language for the interpreter, and record; on leaving, all is as it was."""
    global _recorder
    patches = _language_patches()
    # a failed check is a device_assert, which only speaks under `debug`
    options = dataclasses.replace(_builder.options, sanitize_overflow=sanitize_overflow, debug=sanitize_overflow)
    originals = []
    _recorder = recorder = _Recorder()
    try:
        for owner, name, value in [*patches, (_builder, "options", options)]:
            originals.append((owner, name, getattr(owner, name, _missing)))
            setattr(owner, name, value)
        yield recorder
    finally:
        _recorder = None
        for owner, name, original in reversed(originals):
            if original is _missing:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
