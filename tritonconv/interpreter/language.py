"""Triton's language, patched while a kernel is interpreted."""

import contextlib
import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import triton.language as tl
from triton.language import core  # noqa: F401  (the interpreter patches the language modules that it finds here)
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction, ReduceOps, TensorHandle
from triton.runtime.jit import JITFunction

from tritonconv.interpreter import recording
from tritonconv.interpreter.arrays import broadcast, collapse, split
from tritonconv.interpreter.builder import numpy_builder
from tritonconv.interpreter.memory import dtype_of


@functools.cache
def rewritten(fn: Callable) -> Callable:
    return InterpretedFunction(fn).rewrite()


def _call_interpreted(self: JITFunction, *args: Any, **kwargs: Any) -> Any:
    return rewritten(self.fn)(*args, **kwargs)


_FOLDS = (
    (tl.standard._sum_combine, np.sum),
    (tl.standard._elementwise_max, np.nanmax),
    (tl.standard._elementwise_min, np.nanmin),
)


def _reduce(value: Any, axis: Any, combine_fn: Any, keep_dims: bool = False, **_: Any) -> Any:
    """tl.reduce: of one tensor along one axis by a sum or an extreme as an operation of the builder."""
    fold = next((fold for combine, fold in _FOLDS if combine is combine_fn), None)
    if isinstance(value, tuple) or axis is None or fold is None:
        if recording.active is not None:
            recording.active.give_up()
        return ReduceOps(axis, combine_fn, keep_dims).apply(value)
    handle = numpy_builder.create_reduce(value.handle, fold, axis, keep_dims)
    shape = list(vars(handle)["data"].shape)
    return tl.tensor(handle, tl.block_type(value.dtype, shape) if keep_dims or len(value.shape) > 1 else value.dtype)


@functools.cache
def _language_patches() -> list[tuple[Any, str, Any]]:
    """What must be replaced where, as (object, attribute, value), for Triton's language to run on numpy."""
    original = interpreter.interpreter_builder
    try:
        interpreter.interpreter_builder = numpy_builder  # Triton 3.6 keeps the one that it finds while it patches
        scope = interpreter._patch_lang(_call_interpreted)
    finally:
        interpreter.interpreter_builder = original
    patches = {(id(owner), name): (owner, name, getattr(owner, name)) for owner, name, _ in scope._changes}
    scope.restore()
    operators = [
        (tl.tensor, name, _operator(name, *creates, patches[id(tl.tensor), name][2]))
        for name, creates in OPERATORS.items()
    ]
    return [
        *patches.values(),
        *operators,
        (tl.tensor, "__init__", _init_tensor),
        (tl.block_type, "__init__", _init_block_type),
        (tl.tensor, "__index__", lambda self: int(self.handle.data.item())),
        (tl, "reduce", _reduce),
        (tl.core, "reduce", _reduce),
        (JITFunction, "__call__", _call_interpreted),
        (interpreter.interpreter_semantic, "builder", numpy_builder),
        # a tile may have any sides here: those of the problem, so that nothing is masked out
        (tl, "arange", _arange),
        (tl.core, "arange", _arange),
        (tl.core, "validate_block_shape", math.prod),
    ]


def _arange(start: Any, end: Any) -> tl.tensor:
    start, end = (bound.value if isinstance(bound, tl.constexpr) else bound for bound in (start, end))
    if not isinstance(start, int) or not isinstance(end, int):
        raise ValueError("arange's arguments must be of type tl.constexpr")
    return tl.tensor(numpy_builder.create_make_range(None, start, end), tl.block_type(tl.int32, [end - start]))


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


# An operator by what the builder calls it for integers and for floating dtypes, if it has a name for them.
OPERATORS: dict[str, tuple[str | None, str | None]] = {
    **{f"__{name}__": (f"create_{name}", f"create_f{name}") for name in ("add", "sub", "mul")},
    **{f"__r{name}__": (f"create_{name}", f"create_f{name}") for name in ("add", "sub", "mul")},
    **{
        f"__{name}__": (f"create_icmpS{name.upper()}", f"create_fcmpO{name.upper()}")
        for name in ("lt", "le", "gt", "ge")
    },
    **{"__eq__": ("create_icmpEQ", "create_fcmpOEQ"), "__ne__": ("create_icmpNE", "create_fcmpUNE")},
    **{"__floordiv__": ("create_sdiv", None), "__mod__": ("create_srem", None)},
    **{"__and__": ("create_and", None), "__or__": ("create_or", None)},
}
CHECKED = {"add": np.add, "sub": np.subtract, "mul": np.multiply}  # what Triton checks for overflow
_INTEGERS, _FLOATING = ("int32", "int64"), ("fp32", "fp64")


def _operator(name: str, integer: str | None, floating: str | None, original: Callable) -> Callable:
    """The operator, without Triton's way to it, of operands that have one dtype and one rank, or of one and a number.

    That way takes ten times as long as the operation on an index vector: it works out the types that they have, and
    broadcasts first.
    """
    swapped = name.startswith("__r")
    compares = name in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__")
    kinds = {
        **dict.fromkeys(_INTEGERS if integer else (), integer),
        **dict.fromkeys(_FLOATING if floating else (), floating),
        **dict.fromkeys(("int1",) if name in ("__and__", "__or__") else (), integer),
    }
    checked = name.strip("_").removeprefix("r")

    def operate(self: tl.tensor, other: Any) -> tl.tensor:
        kind = self.dtype
        create = "create_addptr" if name == "__add__" and kind.is_ptr() else kinds.get(kind.name)
        right = None if create is None else _operand(other, self)
        if create is None or right is None:
            return original(self, other)
        left, right = (right, self.handle) if swapped else (self.handle, right)
        if checked in CHECKED and kind.name == "int32" and numpy_builder.options.sanitize_overflow:
            if isinstance(left, recording.Loaded) or isinstance(right, recording.Loaded):
                return original(self, other)
            _require_int32(checked, left, right)
        handle = getattr(numpy_builder, create)(left, right)
        shape = self.type.shape if self.type.is_block() else ()
        if isinstance(other, tl.tensor) and other.type.is_block() and other.type.shape != shape:
            shape = broadcast(shape, other.type.shape)
        result = tl.int1 if compares else kind
        return tl.tensor(handle, tl.block_type(result, [*shape]) if shape else result)

    return operate


def _operand(other: Any, beside: tl.tensor) -> TensorHandle | None:
    """Its handle, if it has the dtype of the tensor beside it and the rank, or none; or a number of that kind."""
    kind = "int32" if beside.dtype.is_ptr() else beside.dtype.name
    if isinstance(other, tl.tensor):
        ranks = [len(t.type.shape) if t.type.is_block() else 0 for t in (beside, other)]
        alike = other.dtype.name in _INTEGERS if beside.dtype.is_ptr() else other.dtype.name == kind
        return other.handle if alike and (ranks[0] == ranks[1] or 0 in ranks) else None
    value = other.value if isinstance(other, tl.constexpr) else other
    if (type(value) is int and kind in _INTEGERS and -(2**31) <= value < 2**31) or (
        type(value) in (int, float) and kind in _FLOATING
    ):
        dtype = tl.int32 if beside.dtype.is_ptr() else beside.dtype
        return TensorHandle(np.array([value], dtype_of(dtype)), dtype)
    return None


def _require_int32(name: str, left: TensorHandle, right: TensorHandle) -> None:
    """Raises what Triton's check does."""
    operate = CHECKED[name]
    parts, others = split(left), split(right)
    if parts is None or others is None or name == "mul":
        pairs = [(collapse(left.data), collapse(right.data))]
    else:
        pairs = [*zip(parts, others, strict=True)]
    # of rows and of columns, the extremes add up
    exact = [operate(a.astype(np.int64), b.astype(np.int64)) for a, b in pairs]
    if sum(e.max() for e in exact) >= 2**31 or sum(e.min() for e in exact) < -(2**31):
        raise AssertionError(f"int32 overflow detected for operation {name}")


_missing = object()


@contextlib.contextmanager
def patched(sanitize_overflow: bool) -> Iterator[None]:
    """Triton's language runs on the builder; on leaving, all is as it was."""
    patches = _language_patches()
    # a failed check is a device_assert, which only speaks under `debug`
    options = dataclasses.replace(numpy_builder.options, sanitize_overflow=sanitize_overflow, debug=sanitize_overflow)
    originals = []
    try:
        for owner, name, value in [*patches, (numpy_builder, "options", options)]:
            originals.append((owner, name, getattr(owner, name, _missing)))
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, original in reversed(originals):
            if original is _missing:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
