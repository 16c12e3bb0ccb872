"""numpy arrays as Triton's interpreter holds tiles: broadcast ones, and bfloat16 as bits."""

import numpy as np


def collapse(data: np.ndarray) -> np.ndarray:
    """The part of a broadcast array that holds its values: every axis of stride 0 cut to length 1."""
    if 0 not in data.strides:
        return data
    return data[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in data.strides)]


def expand(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return data if data.shape == shape else np.broadcast_to(data, shape)


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round to nearest even, as a GPU and torch do; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))
