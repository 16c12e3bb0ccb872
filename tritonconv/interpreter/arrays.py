"""numpy arrays as Triton's interpreter holds tiles: broadcast ones, bfloat16 as bits, and sums of rows and columns."""

import ctypes
import math
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import TensorHandle

ALIGNMENT = 64  # bytes, as torch's: a product's bits may depend on it


def collapse(data: np.ndarray) -> np.ndarray:
    """The part of a broadcast array that holds its values: every axis of stride 0 cut to length 1."""
    if 0 not in data.strides:
        return data
    return data[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in data.strides)]


def expand(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return data if data.shape == shape else np.broadcast_to(data, shape)


def broadcast(shape: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """np.broadcast_shapes, which takes longer than adding two index vectors."""
    if shape == other or (shape and other == (1,)):
        return shape
    return other if other and shape == (1,) else np.broadcast_shapes(shape, other)


def allocate(shape: tuple[int, ...], dtype: np.dtype, by_columns: bool = False) -> np.ndarray:
    """An array in C order, or Fortran order, that begins at a multiple of ALIGNMENT."""
    raw: Any = np.empty(math.prod(shape) * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(raw)) % ALIGNMENT
    return np.ndarray(shape, dtype, raw, start, None, "F" if by_columns else "C")


def lies_by_columns(data: np.ndarray) -> bool:
    return data.flags.f_contiguous and not data.flags.c_contiguous


class Outer(TensorHandle):
    """A tile (M, K) of addresses or offsets that are sums of rows (M,) and columns (K,), of length 1 where it does not
    change along them. It is worked out when somebody looks at it."""

    def __init__(self, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...], dtype: tl.dtype) -> None:
        self.rows, self.columns, self.shape, self.dtype = rows, columns, shape, dtype
        self.attr: dict = {}

    @property  # type: ignore[override]
    def data(self) -> np.ndarray:
        if "whole" not in self.__dict__:
            self.whole = expand(self.rows[:, None] + self.columns[None, :], self.shape)
        return self.whole


def shape_of(tile: TensorHandle) -> tuple[int, ...]:
    return tile.shape if isinstance(tile, Outer) else tile.__dict__["data"].shape


def split(tile: TensorHandle) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and columns as in `Outer`, also of what is one of them: a tile of one axis is rows. None of another tile."""
    if isinstance(tile, Outer):
        return tile.rows, tile.columns
    data = collapse(tile.data)
    neutral = np.ones(1, np.bool_) if data.dtype == np.bool_ else np.zeros(1, data.dtype)
    if data.ndim != 2:
        return (data.reshape(-1), neutral) if data.ndim < 2 else None
    if data.shape[1] == 1:
        return data[:, 0], neutral
    return (neutral, data[0]) if data.shape[0] == 1 else None


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round to nearest even, as a GPU and torch do; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))
