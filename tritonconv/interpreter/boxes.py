"""Addresses of a tile as few arrays of fixed strides: a view of memory is copied several times as fast as a gather."""

from typing import NamedTuple

import numpy as np

from tritonconv.interpreter.arrays import lies_by_columns

DEPTH = 7  # axes that a run has at most: pixels of a line, lines, planes, each perhaps several times, and images
SHORT = 4  # an inner axis of so few is a run for each: numpy copies axis by axis
ELEMENTS = 4000  # a gather of so many takes about as long as one box more


class Run(NamedTuple):
    """Places of a vector, and their addresses, that advance together: an axis is (count, step, bytes), inner first."""

    place: int
    address: int
    axes: tuple[tuple[int, int, int], ...]


class Box(NamedTuple):
    """Part of a tile (M, K), and the memory that it is: arrays of one shape. Offsets and strides are in bytes."""

    shape: tuple[int, ...]
    address: int
    strides: tuple[int, ...]
    by_rows: tuple[int, tuple[int, ...]]  # offset and strides in a tile that lies in C order
    by_columns: tuple[int, tuple[int, ...]]  # and in Fortran order

    def of_memory(self, memory: np.ndarray, dtype: np.dtype) -> np.ndarray:
        return np.ndarray(self.shape, dtype, memory, self.address, self.strides)

    def of_tile(self, tile: np.ndarray) -> np.ndarray:
        """Of a contiguous one."""
        flat, (offset, strides) = (tile.T, self.by_columns) if lies_by_columns(tile) else (tile, self.by_rows)
        return np.ndarray(self.shape, tile.dtype, flat, offset, strides)

    def joined(self) -> "Box":
        """With what lies between its lines, if that is little: fewer and longer lines."""
        axes: list[tuple[int, ...]] = []
        for n, *steps in zip(
            self.shape[::-1], self.strides[::-1], self.by_rows[1][::-1], self.by_columns[1][::-1], strict=True
        ):
            count, *inner = axes[-1] if axes else (0, 0)
            times = steps[0] // inner[0] if inner[0] else 0
            if count <= times <= 2 * count and steps == [step * times for step in inner]:
                axes[-1] = ((n - 1) * times + count, *inner)
            else:
                axes.append((n, *steps))
        shape, strides, by_rows, by_columns = zip(*axes[::-1], strict=True) if axes else ((),) * 4
        return Box(shape, self.address, strides, (self.by_rows[0], by_rows), (self.by_columns[0], by_columns))


class Places(NamedTuple):
    """Where the elements of a tile lie in memory: in boxes, or at an index each."""

    shape: tuple[int, ...]  # of the tile
    loaded: tuple[int, int]  # rows and columns that are loaded: 1 where neither pointers nor mask change
    dtype: np.dtype
    tensor: int = 0  # its number
    end: int = 0  # bytes of the tensor that are reached; 0 if the mask holds nowhere
    full: bool = False  # the mask holds everywhere
    by_columns: bool = False  # memory does: a loaded tile is put in Fortran order
    boxes: tuple[Box, ...] = ()
    gaps: tuple[Box, ...] = ()  # all that the mask leaves out, without address; then boxes may reach into them
    at: np.ndarray | None = None  # in elements: of the tile to load, 0 where masked; or of what the mask leaves
    mask: np.ndarray | None = None  # of the tile to load, all bits where it holds; or the places in the tile it leaves

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (self.at, self.mask) if array is not None) + 200 * len(
            self.boxes + self.gaps
        )


def runs(places: np.ndarray, addresses: np.ndarray) -> list[Run]:
    """All places, in some order, in as few runs as one pass an axis finds."""
    counts = np.empty((0, len(places)), np.int64)
    steps: list[tuple[int, int]] = []
    while len(places) > 1 and len(steps) < DEPTH:
        if steps:  # runs that are alike lie side by side
            order = np.lexsort(counts)
            places, addresses, counts = places[order], addresses[order], counts[:, order]
        place, address = np.diff(places), np.diff(addresses)
        alike = (counts[:, 1:] == counts[:, :-1]).all(0)
        step, joined = _commonest(place, address, alike)
        if not joined.any():
            break
        first = np.flatnonzero(np.append(True, ~joined))
        counts = np.vstack([counts[:, first], np.diff(np.append(first, len(places)))])
        places, addresses = places[first], addresses[first]
        steps.append(step)
    found = []
    for p, a, lengths in zip(places.tolist(), addresses.tolist(), counts.T.tolist(), strict=True):
        inner, *outer = [(n, *step) for n, step in zip(lengths, steps, strict=True) if n > 1] or [(1, 0, 0)]
        if inner[0] > SHORT or not outer or outer[0][0] <= inner[0]:
            found.append(Run(p, a, (inner, *outer) if inner[0] > 1 else ()))
        else:
            found += [Run(p + i * inner[1], a + i * inner[2], tuple(outer)) for i in range(inner[0])]
    return found


def _commonest(place: np.ndarray, address: np.ndarray, alike: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
    """The step that most of a few samples take, and where it is taken between items that are alike."""
    found = np.flatnonzero(alike)
    best, joined = (0, 0), np.zeros(len(alike), bool)
    samples = {min(i, len(found) - 1) for i in (0, 1, len(found) // 3, len(found) // 2)} if len(found) else ()
    for step in {(int(place[found[i]]), int(address[found[i]])) for i in samples}:
        taken = alike & (place == step[0]) & (address == step[1])
        if np.count_nonzero(taken) > np.count_nonzero(joined):
            best, joined = step, taken
    return best, joined


def boxes(rows: list[Run], columns: list[Run], address: int, shape: tuple[int, int], itemsize: int) -> list[Box]:
    """Every run of rows with every run of columns, from the address that theirs are counted from."""
    found = []
    for row in rows:
        for column in columns:
            axes = [(n, step, 0, by) for n, step, by in row.axes[::-1]]
            axes += [(n, 0, step, by) for n, step, by in column.axes[::-1]]
            by_rows = [(m * shape[1] + k) * itemsize for _, m, k, _ in axes]
            by_columns = [(m + k * shape[0]) * itemsize for _, m, k, _ in axes]
            found.append(
                Box(
                    tuple(n for n, *_ in axes),
                    address + row.address + column.address,
                    tuple(by for *_, by in axes),
                    ((row.place * shape[1] + column.place) * itemsize, tuple(by_rows)),
                    ((row.place + column.place * shape[0]) * itemsize, tuple(by_columns)),
                )
            )
    return found
