"""Triton's language, patched while a kernel is interpreted."""

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import triton.language as tl
from triton.language import core  # noqa: F401  (the interpreter patches the language modules that it finds here)
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction, ReduceOps, TensorHandle
from triton.runtime.jit import JITFunction

from tritonconv.interpreter import recording
from tritonconv.interpreter.builder import numpy_builder


@functools.cache
def rewritten(fn: Callable) -> Callable:
    return InterpretedFunction(fn).rewrite()


def _call_interpreted(self: JITFunction, *args: Any, **kwargs: Any) -> Any:
    return rewritten(self.fn)(*args, **kwargs)


def _reduce(value: Any, axis: Any, combine_fn: Any, keep_dims: bool = False, **_: Any) -> Any:
    """tl.reduce: of one tensor along one axis by the interpreter's fast ways, which can be recorded."""
    reduce = ReduceOps(axis, combine_fn, keep_dims)
    fast = combine_fn in (tl.standard._sum_combine, tl.standard._elementwise_max, tl.standard._elementwise_min)
    if recording.active is None or isinstance(value, tuple) or axis is None or not fast:
        if recording.active is not None:
            recording.active.give_up()
        return reduce.apply(value)
    handle = numpy_builder.create_reduce(value.handle, value.type, reduce)
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
    return [
        *patches.values(),
        (tl.tensor, "__init__", _init_tensor),
        (tl.block_type, "__init__", _init_block_type),
        (tl.tensor, "__index__", lambda self: int(self.handle.data.item())),
        (tl, "reduce", _reduce),
        (tl.core, "reduce", _reduce),
        (JITFunction, "__call__", _call_interpreted),
        (interpreter.interpreter_semantic, "builder", numpy_builder),
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
