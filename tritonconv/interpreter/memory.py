"""Memory of an interpreted launch: the bytes of its tensors, read and written by numpy, with every pointer checked.

A pointer is the number of its tensor among the launch's arguments above TENSOR_BIT, and an offset in bytes below: the
same in every launch on such arguments, wherever they lie.
"""

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

from tritonconv.interpreter import recording
from tritonconv.interpreter.arrays import allocate, collapse, expand, lies_by_columns, shape_of, split
from tritonconv.interpreter.boxes import ELEMENTS, Box, Places, Run, boxes, runs

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

    Where pointers and mask do not come from memory, the places are a constant of the record.
    """
    recorder = recording.active
    if recorder is None:
        return _at_pointers(tensors, act, ptrs, mask, operand)
    if act is not load:
        recorder.loaded.clear()
        recorder.apart = recorder.apart and act is not maximum
    if isinstance(ptrs, recording.Loaded) or isinstance(mask, recording.Loaded):
        return recorder.call(_at_pointers, (tensors, act, ptrs, mask, operand), act)
    places = _locate(tensors, act, ptrs, mask, operand)
    if act is not load or not places.boxes or isinstance(operand, recording.Loaded):
        return recorder.call(act, (tensors, places, operand), act)
    key = places, operand.dtype.scalar.name, collapse(operand.data).tobytes()
    if key not in recorder.loaded:
        recorder.keep(key, recorder.call(act, (tensors, places, operand), act))
    return recorder.loaded[key]


def _at_pointers(
    tensors: list[np.ndarray], act: Callable, ptrs: TensorHandle, mask: TensorHandle, operand: TensorHandle
) -> Any:
    return act(tensors, _locate(tensors, act, ptrs, mask, operand), operand)


def _locate(
    tensors: list[np.ndarray], act: Callable, ptrs: TensorHandle, mask: TensorHandle, operand: TensorHandle
) -> Places:
    """Raises IndexError: an unmasked pointer lies outside the tensor that the first one points into."""
    places = Places(shape_of(ptrs), _sides(shape_of(ptrs)), dtype_of(ptrs.get_element_ty()))
    where, valid = split(ptrs), split(mask)
    fills = act is load and collapse(vars(operand)["data"]).size == 1
    if fills and len(places.shape) <= 2:
        changing = (
            _sides(collapse(tile.data).shape) if parts is None else tuple(map(len, parts))
            for tile, parts in ((ptrs, where), (mask, valid))
        )
        places = places._replace(loaded=tuple(map(max, *changing)))
    found = None
    if where is not None and act is not maximum:
        parts = _parts(mask, valid, places.loaded)
        found = None if parts is None else _in_boxes(tensors, where, parts, places, fills)
    return found or _at_index(tensors, act, ptrs, mask, places)


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tile; if its rank is not two, it is all rows."""
    return (shape[0], shape[1]) if len(shape) == 2 else (math.prod(shape), 1)


def _whole(tile: TensorHandle, sides: tuple[int, int]) -> np.ndarray:
    data = tile.data.reshape(_sides(tile.data.shape))[: sides[0], : sides[1]]
    return np.broadcast_to(data, sides)


def _parts(
    mask: TensorHandle, valid: tuple[np.ndarray, np.ndarray] | None, sides: tuple[int, int]
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Rows and columns that the mask holds in, once, or for each run of columns with the same mask. None if these are
    too many for boxes."""
    if valid is not None:
        rows, columns = (np.flatnonzero(np.broadcast_to(v, n)) for v, n in zip(valid, sides, strict=True))
        return [(rows, columns)] if len(rows) and len(columns) else []
    whole = _whole(mask, sides)
    ends = np.flatnonzero((whole[:, 1:] != whole[:, :-1]).any(0)) + 1
    if len(ends) > whole.size // ELEMENTS:
        return None
    parts = [(np.flatnonzero(whole[:, span[0]]), span) for span in np.split(np.arange(sides[1]), ends)]
    return [(rows, columns) for rows, columns in parts if len(rows)]


def _in_boxes(
    tensors: list[np.ndarray],
    where: tuple[np.ndarray, np.ndarray],
    parts: list[tuple[np.ndarray, np.ndarray]],
    places: Places,
    fills: bool,
) -> Places | None:
    """None if a gather of the elements takes less time than the boxes."""
    if not parts:
        return places
    rows, columns = (np.broadcast_to(v, n).view(np.int64) for v, n in zip(where, places.loaded, strict=True))
    tensor = int(rows[parts[0][0][0]] + columns[parts[0][1][0]]) >> TENSOR_BIT
    found: list[Box] = []
    elements, first, end = 0, 0, 0
    for at_rows, at_columns in parts:
        r, c = rows[at_rows] - (tensor << TENSOR_BIT), columns[at_columns]
        first, end = min(first, int(r.min() + c.min())), max(end, int(r.max() + c.max()) + places.dtype.itemsize)
        elements += len(r) * len(c)
        down, across = _runs(at_rows, r), _runs(at_columns, c)
        found += boxes(down, across, int(r[0] + c[0]), places.loaded, places.dtype.itemsize)
        if len(found) > 1 + elements // ELEMENTS:
            return None
    _require_inside(tensors, tensor, first, end)
    by_columns = _finest(down) < _finest(across)
    full = elements == math.prod(places.loaded)
    gaps = _gaps(parts, places) if fills and not full else []
    if gaps and len(found) == len(parts):
        found = [box.joined() for box in found]
    return places._replace(
        tensor=tensor, end=end, full=full, by_columns=by_columns, boxes=tuple(found), gaps=tuple(gaps)
    )


def _gaps(parts: list[tuple[np.ndarray, np.ndarray]], places: Places) -> list[Box]:
    """What is left of a tile, if that is few boxes: half of what a fill of the whole tile is worth."""
    height, width = map(np.arange, places.loaded)
    rest = np.setdiff1d(width, np.concatenate([columns for _, columns in parts]), assume_unique=True)
    found: list[Box] = []
    for rows, columns in [(height[:0], rest), *parts]:
        missing = np.setdiff1d(height, rows, assume_unique=True)
        if len(missing) and len(columns):
            down, across = _runs(missing, missing), _runs(columns, columns)
            found += boxes(down, across, 0, places.loaded, places.dtype.itemsize)
        if len(found) > math.prod(places.loaded) // (2 * ELEMENTS):
            return []
    return found


def _runs(places: np.ndarray, addresses: np.ndarray) -> list[Run]:
    return _relative_runs(places.tobytes(), (addresses - addresses[0]).tobytes())


@functools.lru_cache(16)  # the taps of a filter, and what is loaded and stored at the same pixels, ask for the same
def _relative_runs(places: bytes, addresses: bytes) -> list[Run]:
    return runs(np.frombuffer(places, np.int64), np.frombuffer(addresses, np.int64))


def _finest(found: list[Run]) -> float:
    """The smallest step in memory."""
    return min((abs(by) for run in found for *_, by in run.axes), default=math.inf)


def _require_inside(tensors: list[np.ndarray], tensor: int, first: int, end: int) -> None:
    if first < 0 or tensor >= len(tensors) or end > tensors[tensor].size:
        raise IndexError("a pointer lies outside the tensor that the launch points into")


def _at_index(
    tensors: list[np.ndarray], act: Callable, ptrs: TensorHandle, mask: TensorHandle, places: Places
) -> Places:
    address, valid = _whole(ptrs, places.loaded), _whole(mask, places.loaded)
    if not valid.any():
        return places
    itemsize, full, known = places.dtype.itemsize, bool(valid.all()), None
    tensor = int(address.flat[valid.argmax()]) >> TENSOR_BIT
    index = address - np.uint64(tensor << TENSOR_BIT) >> np.uint64(itemsize.bit_length() - 1)
    if act is load and not full:
        index, known = index * valid, np.negative(valid.view(np.int8))
    elif act is not load:
        index, known = index[valid], None if full else np.flatnonzero(valid)
    end = (int(index.max()) + 1) * itemsize
    _require_inside(tensors, tensor, 0, end)
    return places._replace(tensor=tensor, end=end, full=full, at=index.astype(np.int64), mask=known)


def _memory(tensors: list[np.ndarray], places: Places) -> np.ndarray:
    _require_inside(tensors, places.tensor, 0, places.end)
    return tensors[places.tensor]


def load(tensors: list[np.ndarray], places: Places, other: TensorHandle) -> TensorHandle:
    if places.end == 0:
        return TensorHandle(expand(other.data, places.shape), other.dtype.scalar)
    memory, dtype, outside = _memory(tensors, places), places.dtype, other.data
    if not places.full:
        outside = collapse(outside)
        outside = outside.reshape(()) if outside.size == 1 else other.data.reshape(places.loaded)
    if places.at is not None:
        values = memory.view(dtype).take(places.at)
        if places.mask is not None:  # by bits: numpy takes a branch for each element of a mask
            bits, outside = values.view(f"i{dtype.itemsize}"), outside.view(f"i{dtype.itemsize}")
            bits &= places.mask
            if outside.ndim or outside:
                bits |= ~places.mask & outside
    else:
        values = allocate(places.loaded, dtype, places.by_columns)
        if not places.full and not places.gaps:
            np.copyto(values, outside)
        for box in places.boxes:
            np.copyto(box.of_tile(values), box.of_memory(memory, dtype))
        for gap in places.gaps:
            gap.of_tile(values).fill(outside)
    if len(places.shape) != 2:
        values = values.reshape(-1 if len(places.shape) == 1 else places.shape)
    return TensorHandle(expand(values, places.shape), other.dtype.scalar)


def store(tensors: list[np.ndarray], places: Places, value: TensorHandle) -> None:
    """Of places at one address any wins, as on a GPU."""
    if places.end == 0:
        return
    memory, data = _memory(tensors, places), value.data
    if places.at is not None:
        memory.view(places.dtype)[places.at] = data.reshape(-1) if places.mask is None else data.take(places.mask)
        return
    data = data if lies_by_columns(data) else np.ascontiguousarray(data)
    for box in places.boxes:
        np.copyto(box.of_memory(memory, places.dtype), box.of_tile(data))


def maximum(tensors: list[np.ndarray], places: Places, value: TensorHandle) -> None:
    """Store the larger of what is there and the value; one place may be there several times."""
    if places.end:
        values = value.data if places.mask is None else value.data.take(places.mask)
        np.maximum.at(_memory(tensors, places).view(places.dtype), places.at, values.reshape(-1))  # type: ignore[arg-type]
