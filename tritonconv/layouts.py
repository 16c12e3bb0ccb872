"""How a tensor lies in memory: its memory format by torch's rules, and whether offsets into it leave 32 bits."""

import itertools
from collections.abc import Iterable

import torch

# A kernel counts on to the end of its last tile, of at most 2**20 elements.
MAX_OFFSET_32 = 2**31 - 2**20 - 1


def memory_format(channels_last: bool, dim: int) -> torch.memory_format:
    """The memory format of a tensor with `dim` axes; three have but one."""
    if not channels_last or dim not in (4, 5):
        return torch.contiguous_format
    return torch.channels_last if dim == 4 else torch.channels_last_3d


def is_channels_last(*tensors: torch.Tensor) -> bool:
    """Whether the strides of any tensor say so, torch's rule for convolution and pooling alike."""
    return any(map(_has_channels_last_strides, tensors))


def _has_channels_last_strides(t: torch.Tensor) -> bool:
    """Source: is_channels_last_strides_2d in torch's c10/core/MemoryFormat.h; ambiguous strides count as contiguous."""
    if t.dim() not in (4, 5) or t.stride(1) == 0:
        return False
    least = 0
    for axis in (1, *range(t.dim() - 1, 1, -1), 0):
        size, stride = t.shape[axis], t.stride(axis)
        if size == 0 or stride < least or (axis == 0 and least == t.stride(1)):
            return False
        least = stride * max(size, 1)
    return True


def empty_elementwise(t: torch.Tensor) -> torch.Tensor:
    """Uninitialised, as torch's elementwise operators answer `t`: contiguous where it is that too."""
    return torch.empty_like(t, memory_format=torch.contiguous_format if t.is_contiguous() else torch.preserve_format)


def step_over(t: torch.Tensor, axes: Iterable[int]) -> int | None:
    """Elements from one to the next along these axes, as if they were one; None where they are not evenly apart."""
    # a batch of one too goes by its stride: it would otherwise be a case of its own, in NCHW
    axes = [axis for axis in axes if axis == 0 or t.shape[axis] != 1]
    if any(t.stride(a) != t.stride(b) * t.shape[b] for a, b in itertools.pairwise(axes)):
        return None
    return t.stride(axes[-1]) if axes else 1


def flat(t: torch.Tensor) -> torch.Tensor:
    """The pixels of images as images of one, where they lie evenly: to find one then takes no division. Else `t`."""
    step = step_over(t, (0, *range(2, t.dim())))
    if step is None:
        return t
    pixels, ones, zeros = t.numel() // max(t.shape[1], 1), (1,) * (t.dim() - 2), (0,) * (t.dim() - 2)
    return t.as_strided((pixels, t.shape[1], *ones), (step, t.stride(1), *zeros))


def storage(t: torch.Tensor) -> int:
    """The number of the memory that a tensor lies in, the same for all its views, while one of them is there."""
    return t.untyped_storage()._cdata


def needs_int64(*tensors: torch.Tensor | None) -> bool:
    """Whether an offset into a tensor, or a count of its elements, leaves 32 bits."""
    for t in tensors:
        if t is not None:
            reach = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
            if max(reach, t.numel()) > MAX_OFFSET_32:
                return True
    return False
