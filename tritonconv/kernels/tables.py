"""What each pixel along one axis is made of when an image is resampled: places and weights, by mode.

Weights are worked out in float64. Only a place that is rounded to the nearest is rounded to float32 before, as
torch does: it decides between neighbours. Source: torch's aten/src/ATen/native/UpSample.h, cpu/UpSampleKernel.cpp and
AdaptiveAveragePooling.cpp.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

_joined: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}  # tables on their device
MOST_JOINED = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """One axis: output pixel p is Σ weight[p, i] · input[index[p, i]]; the index is −1 past a pixel's last term."""

    size: int  # of the input
    length: int  # of the output
    index: np.ndarray  # (length, terms), int32
    weight: np.ndarray  # (length, terms), float64

    @property
    def terms(self) -> int:
        """Of a pixel, at most; 0 where each pixel is the input's."""
        return self.index.shape[1]

    @staticmethod
    @functools.lru_cache(1024)
    def identity(size: int) -> "Table":
        return Table(size, size, np.zeros((size, 0), np.int32), np.zeros((size, 0)))

    @staticmethod
    @functools.lru_cache(1024)
    def of(mode: str, size: int, length: int, scale: float, align_corners: bool, antialias: bool) -> "Table":
        """From `size` to `length` pixels; `scale` is length / size as the caller gave it, 0 if it did not."""
        places = np.arange(length)
        if mode == "area":
            first, end = places * size // length, -(-(places + 1) * size // length)
            return _windows(size, first, end, lambda *_: 1 / (end - first)[:, None])
        if mode.startswith("nearest"):
            index = _nearest(places, size, length, scale, exact=mode == "nearest-exact")
            return Table(size, length, index.astype(np.int32)[:, None], np.ones((length, 1)))
        if align_corners:
            ratio = (size - 1) / (length - 1) if length > 1 else 0.0
        else:
            ratio = 1 / scale if scale else size / length
        if antialias:
            return _antialiased(mode, size, length, ratio)
        centre = ratio * places if align_corners else ratio * (places + 0.5) - 0.5
        if mode == "linear":
            centre = places.astype(np.float64) if size == length else centre  # as torch, whatever the scale
            first = np.minimum(centre.astype(np.int64), size - 1)
            share = np.clip(centre - first, 0, 1)
            index, weight = np.stack([first, np.minimum(first + 1, size - 1)], 1), np.stack([1 - share, share], 1)
        else:
            first = np.floor(centre).astype(np.int64)
            around = np.arange(-1, 3)
            index = np.clip(first[:, None] + around, 0, size - 1)
            weight = _cubic((centre - first)[:, None] - around, -0.75)
        return Table(size, length, index.astype(np.int32), weight)

    @staticmethod
    @functools.lru_cache(1024)
    def padding(mode: str, size: int, before: int, after: int) -> "Table":
        """From an image to the padded one, in a mode that repeats pixels."""
        names = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        index = np.pad(np.arange(size, dtype=np.int32), (before, after), names[mode])  # type: ignore[call-overload]
        return Table(size, len(index), index[:, None], np.ones((len(index), 1)))

    @functools.cached_property
    def turned(self) -> "Table":
        """Each input pixel with the outputs that it went to: what the gradient sums."""
        outputs, terms = np.nonzero(self.index >= 0)
        inputs, weights = self.index[outputs, terms], self.weight[outputs, terms]
        order = np.argsort(inputs, kind="stable")
        inputs, outputs, weights = inputs[order], outputs[order], weights[order]
        counts = np.bincount(inputs, minlength=self.size)
        place = np.arange(len(inputs)) - np.repeat(np.cumsum(counts) - counts, counts)
        index = np.full((self.size, max(counts.max(initial=0), 1)), -1, np.int32)
        weight = np.zeros(index.shape)
        index[inputs, place], weight[inputs, place] = outputs, weights
        return Table(self.length, self.size, index, weight)


def joined(axes: tuple[Table, ...], device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and weights of all axes, one after the other."""
    key = (*axes, device, dtype)
    found = _joined.get(key)
    if found is None:
        with _disable_current_modes():  # with their data, also while a call is only looked at
            index = torch.as_tensor(np.concatenate([axis.index.ravel() for axis in axes]), device=device)
            weight = torch.as_tensor(np.concatenate([axis.weight.ravel() for axis in axes]), device=device, dtype=dtype)
        if len(_joined) >= MOST_JOINED:
            _joined.clear()
        found = _joined[key] = index, weight
    return found


def _nearest(places: np.ndarray, size: int, length: int, scale: float, exact: bool) -> np.ndarray:
    ratio = 1 / scale if scale else size / length
    centre = np.maximum(ratio * (places + 0.5) - 0.5, 0) + 0.5 if exact else ratio * places
    return np.minimum(np.floor(centre.astype(np.float32)).astype(np.int64), size - 1)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution."""
    d = np.abs(distance)
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _lanczos(distance: np.ndarray) -> np.ndarray:
    return np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)


def _antialiased(mode: str, size: int, length: int, ratio: float) -> Table:
    """A filter as wide as the step, where that is more than a pixel; its weights sum to 1."""
    reach = {"linear": 1.0, "cubic": 2.0, "lanczos": 3.0}[mode]
    filters: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "linear": lambda d: np.maximum(1 - np.abs(d), 0),
        "cubic": lambda d: _cubic(d, -0.5),
        "lanczos": _lanczos,
    }
    width = max(ratio, 1.0)
    centre = ratio * (np.arange(length) + 0.5)
    first = np.maximum((centre - reach * width + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + reach * width + 0.5).astype(np.int64), size)

    def weight(place: np.ndarray, valid: np.ndarray) -> np.ndarray:
        raw = np.where(valid, filters[mode]((place + 0.5 - centre[:, None]) / width), 0.0)
        total = raw.sum(1, keepdims=True)
        return raw / np.where(total == 0, 1.0, total)

    return _windows(size, first, end, weight)


def _windows(
    size: int, first: np.ndarray, end: np.ndarray, weight: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Table:
    """The pixels from `first` to `end`, with the weight of each place."""
    terms = max(int((end - first).max(initial=1)), 1)
    place = first[:, None] + np.arange(terms)
    valid = place < end[:, None]
    weights = np.broadcast_to(weight(place, valid), place.shape)
    index = np.where(valid, place, -1).astype(np.int32)
    return Table(size, len(index), index, np.where(valid, weights, 0.0))


def tables(
    mode: str, sizes: tuple[int, ...], lengths: tuple[int, ...], scales: tuple[float, ...], *how: bool
) -> tuple[Table, ...]:
    """A table for each axis."""
    return tuple(Table.of(mode, *axis, *how) for axis in zip(sizes, lengths, scales, strict=True))
