"""Memory of an interpreted launch: the bytes of its tensors, read and written by numpy, with every pointer checked.

A pointer is the number of its tensor among the launch's arguments above TENSOR_BIT, and an offset in bytes below: the
same in every launch on such arguments, wherever they lie.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

from tritonconv.interpreter import recording
from tritonconv.interpreter.arrays import collapse, expand

TENSOR_BIT = 48

tensors: list[np.ndarray] = []  # the bytes that each tensor of the running launch lies in
dtype_of = functools.cache(interpreter._get_np_dtype)


def bytes_of(t: torch.Tensor) -> np.ndarray:
    """From the tensor's first element to its last; where its storage begins and ends does not matter."""
    if t.numel() == 0:
        return np.empty(0, np.uint8)
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    bytes_type: Any = ctypes.c_uint8 * ((last + 1) * t.element_size())
    return np.ctypeslib.as_array(bytes_type.from_address(t.data_ptr()))


def access(act: Callable, ptrs: TensorHandle, mask: TensorHandle, operand: TensorHandle) -> Any:
    """`load` (the operand is what masked places give), `store` or `maximum` (it is what to write).

    Where pointers and mask do not come from memory, what they say is a constant of the record.
    """
    if recording.active is None:
        return _at_pointers(act, ptrs, mask, operand)
    if isinstance(ptrs, recording.Loaded) or isinstance(mask, recording.Loaded):
        return recording.active.call(_at_pointers, (act, ptrs, mask, operand), act)
    return recording.active.call(act, (*_locate(act, ptrs, mask, operand), operand), act)


def _at_pointers(act: Callable, ptrs: TensorHandle, mask: TensorHandle, operand: TensorHandle) -> Any:
    return act(*_locate(act, ptrs, mask, operand), operand)


def _locate(act: Callable, ptrs: TensorHandle, mask: TensorHandle, operand: TensorHandle) -> tuple:
    """The arguments of `act` before the operand: the number of the tensor that `ptrs` point into, its dtype, indices in
    elements, what `act` must know of the mask (None if it holds everywhere), the tile's shape.

    Raises:
        IndexError: an unmasked pointer lies outside the launch's tensors.
    """
    shape, dtype = ptrs.data.shape, dtype_of(ptrs.get_element_ty())
    places, valid = ptrs.data, np.broadcast_to(mask.data, shape)
    if act is load and collapse(vars(operand)["data"]).size == 1:
        # axes along which neither pointers nor mask change are loaded once
        steps = zip(places.strides, valid.strides, strict=True)
        cut = tuple(slice(0, 1) if step == (0, 0) else slice(None) for step in steps)
        places, valid = places[cut], valid[cut]
    if not valid.any():
        return 0, dtype, np.empty(0, np.int32), None, shape
    tensor = int(places.flat[valid.argmax()]) >> TENSOR_BIT
    index = places - np.uint64(tensor << TENSOR_BIT)
    index >>= np.uint64(dtype.itemsize.bit_length() - 1)
    known = None
    if not valid.all():
        known = ~valid if act is load else np.flatnonzero(valid).astype(np.int32)
        index = index * valid if act is load else index[valid]
    largest = int(index.max())
    if tensor >= len(tensors) or largest >= tensors[tensor].size // dtype.itemsize:
        raise IndexError("a pointer lies outside the tensor that the launch points into")
    return tensor, dtype, index.astype(np.int32 if largest < 2**31 else np.int64), known, shape


def load(
    tensor: int,
    dtype: np.dtype,
    index: np.ndarray,  # of the whole tile, 0 where masked out; empty if that is everywhere
    outside: np.ndarray | None,  # where the tile is masked out
    shape: tuple[int, ...],
    other: TensorHandle,
) -> TensorHandle:
    if index.size == 0:
        return TensorHandle(expand(other.data, shape), other.dtype.scalar)
    values = tensors[tensor].view(dtype).take(index)
    if outside is not None:
        np.copyto(values, other.data if other.data.shape == values.shape else collapse(other.data), where=outside)
    return TensorHandle(expand(values, shape), other.dtype.scalar)


def store(
    tensor: int,
    dtype: np.dtype,
    index: np.ndarray,  # of the places that are not masked out
    inside: np.ndarray | None,  # those places in the tile
    shape: tuple[int, ...],
    value: TensorHandle,
) -> None:
    if index.size:
        tensors[tensor].view(dtype)[index] = value.data if inside is None else value.data.take(inside)


def maximum(
    tensor: int,
    dtype: np.dtype,
    index: np.ndarray,  # of the places that are not masked out; one may stand there several times
    inside: np.ndarray | None,
    shape: tuple[int, ...],
    value: TensorHandle,
) -> None:
    """Store the larger of what is there and the value."""
    if index.size:
        values = value.data if inside is None else value.data.take(inside)
        np.maximum.at(tensors[tensor].view(dtype), index, values)
