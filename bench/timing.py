"""Times and bytes: medians and percentiles on either machine, graph capture, peak memory, and the GPU's two roofs."""

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import triton.testing

Call = Callable[[], Any]

COPY_BYTES = 2**30  # twenty times an H200's cache, so that what is measured is memory
MATRIX = 8192  # rows and columns of the matrix product: 1.1 TFLOP fill any GPU


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure: milliseconds of warm-up and of repeats on a GPU; repeats, and seconds they may take, on a
    CPU, where three run whatever they take."""

    warmup_ms: int = 25
    repeat_ms: int = 100
    repeats: int = 11
    seconds: float = 3.0


QUICK = Effort(warmup_ms=5, repeat_ms=20, repeats=3, seconds=0.5)


@dataclasses.dataclass(frozen=True)
class Times:
    """Milliseconds of one call."""

    median: float
    p20: float
    p80: float


@dataclasses.dataclass(frozen=True)
class Roofs:
    """What this GPU reached in this run: bytes read and written a second by a copy, FLOP a second by a product."""

    copy_bytes_per_s: float
    matrix_flops_per_s: float

    def floor_ms(self, flops: int, least_bytes: int) -> tuple[float, str]:
        """(milliseconds under which nothing runs, which of the two roofs sets them)."""
        arithmetic, memory = flops / self.matrix_flops_per_s * 1e3, least_bytes / self.copy_bytes_per_s * 1e3
        return (arithmetic, "arithmetic") if arithmetic >= memory else (memory, "memory")


def percentile(values: Sequence[float], share: float) -> float:
    """The value under which `share` (0 to 1) of the values lie, linear between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def measure(call: Call, device: torch.device, effort: Effort) -> Times:
    """Time a call that has run before. On a GPU by events, with the L2 cache flushed before each run."""
    if device.type == "cuda":
        median, p20, p80 = triton.testing.do_bench(
            call, warmup=effort.warmup_ms, rep=effort.repeat_ms, quantiles=[0.5, 0.2, 0.8]
        )
        return Times(median, p20, p80)
    milliseconds: list[float] = []
    while len(milliseconds) < effort.repeats and (len(milliseconds) < 3 or sum(milliseconds) < effort.seconds * 1e3):
        start = time.perf_counter()
        call()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return Times(statistics.median(milliseconds), percentile(milliseconds, 0.2), percentile(milliseconds, 0.8))


@contextlib.contextmanager
def beside() -> Iterator[None]:
    """On a stream beside the current one. No graph is captured on the default stream, and backward runs on its
    forward's: what is to be captured is set up here."""
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield
    current.wait_stream(side)


def capture(call: Call) -> Call:
    """The replay of a CUDA graph of one call, captured on the current stream after three calls on it."""
    for _ in range(3):
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        call()
    return graph.replay


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """Most bytes that a call holds at once beyond what was held before it; None on a CPU."""
    if device.type != "cuda":
        call()
        return None
    call()  # what is allocated once and kept, such as a library's workspace, is not the call's
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@functools.cache
def copy_roof() -> float:
    """Bytes read plus bytes written a second by a large copy on the device."""
    source = torch.randint(0, 256, (COPY_BYTES,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    milliseconds = triton.testing.do_bench(lambda: target.copy_(source), quantiles=[0.5])
    return 2 * COPY_BYTES / (milliseconds * 1e-3)


@functools.cache
def roofs(dtype: torch.dtype, tf32: str) -> Roofs:
    """Measured on the current GPU, once a dtype and TF32 setting; the caller has made that setting.

    For float32 without TF32 the roof is the library's plain float32 product: three TF32 products can be faster.
    """
    a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=dtype) for _ in range(2))
    milliseconds = triton.testing.do_bench(lambda: a @ b, quantiles=[0.5])
    return Roofs(copy_roof(), 2 * MATRIX**3 / (milliseconds * 1e-3))
