"""Arguments one by one: what a caller passes becomes integers and tuples, or an error that names it.

Errors are torch's for the same mistake: RuntimeError for sizes, TypeError for types, NotImplementedError for dtypes.
"""

import operator
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch

Sizes = tuple[int, ...]
Algorithm = Literal["auto", "direct", "im2col", "implicit_gemm"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES: tuple[PaddingMode, ...] = get_args(PaddingMode)
INTEGERS = frozenset((int,))
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_sizes(name: str, value: int | Sequence[int], rank: int) -> Sizes:
    """One entry an axis from an integer, a sequence of one, or a sequence of `rank`."""
    if type(value) is int:
        return (value,) * rank
    if type(value) is tuple and len(value) == rank and INTEGERS.issuperset(map(type, value)):
        return value
    is_array = getattr(value, "ndim", 0) > 0  # of numpy, or a tensor
    is_several = is_array or (isinstance(value, Sequence) and not isinstance(value, str))
    values: Any = value if is_several else (value,)
    try:
        values = tuple(map(as_integer, values))
    except TypeError as error:
        expected = f"an integer or a tuple of {rank} integers"
        raise TypeError(f"{name} must be {expected}, but got {name}={value!r}") from error
    if len(values) == 1:
        values = (values[0],) * rank
    if len(values) != rank:
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of {rank} values to match the convolution "
            f"dimensions, but got {name}={list(values)}"
        )
    return values


def as_integer(value: Any) -> int:
    """What Python can index with, as an int: numpy's integers and tensors of one are, booleans are not, as in torch.

    Raises:
        TypeError: anything else.
    """
    if type(value) is int or isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) == torch.bool:
        raise TypeError(f"expected an integer, but got {value!r}")
    return operator.index(value)


def as_padding(padding: int | str | Sequence[int], filter_size: Sizes, stride: Sizes, dilation: Sizes) -> Sizes:
    """Padding before and after each axis, flat; 'same' puts the odd element after, as torch does."""
    rank = len(filter_size)
    if type(padding) is int:
        return (padding,) * (2 * rank)
    if isinstance(padding, str) and padding == "valid":
        return (0,) * (2 * rank)
    if isinstance(padding, str) and padding == "same":
        if any(s != 1 for s in stride):
            raise RuntimeError(f"padding='same' is not supported for strided convolutions, but got stride={stride}")
        total = [d * (r - 1) for d, r in zip(dilation, filter_size, strict=True)]
        return tuple(pad for t in total for pad in (t // 2, t - t // 2))
    if isinstance(padding, str):
        raise RuntimeError(f"Invalid padding string: {padding!r}, expected 'valid' or 'same'")
    return tuple(pad for p in as_sizes("padding", padding, rank) for pad in (p, p))


def require_batch(operator: str, x: torch.Tensor, rank: int) -> tuple[torch.Tensor, bool]:
    """(N, C, ...) from an input that may lack N, and whether it lacked it."""
    require_tensor(operator, "input", x)
    if x.dim() not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to {operator}, "
            f"but got input of size: {list(x.shape)}"
        )
    unbatched = x.dim() == rank + 1
    return (x.unsqueeze(0) if unbatched else x), unbatched


def require_tensor(operator: str, name: str, value: object) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{operator}(): argument '{name}' must be Tensor, not {type(value).__name__}")
    if value.layout is not torch.strided or value.is_nested:
        kind = f"a nested one ({value.layout})" if value.is_nested else f"layout {value.layout}"
        raise NotImplementedError(f"{operator}(): argument '{name}' must be a dense tensor, but got {kind}")


def as_count(operator: str, name: str, value: object) -> int:
    try:
        return as_integer(value)
    except TypeError as error:
        raise TypeError(f"{operator}(): argument '{name}' must be int, but got {name}={value!r}") from error


def require_flags(operator: str, **flags: object) -> None:
    for name, value in flags.items():
        if type(value) is not bool and not isinstance(value, np.bool_ | torch.SymBool):
            raise TypeError(f"{operator}(): argument '{name}' must be bool, but got {name}={value!r}")


def require_filter(operator: str, w: torch.Tensor, rank: int) -> None:
    require_tensor(operator, "weight", w)
    if w.dim() != rank + 2:
        raise RuntimeError(f"Expected weight of {rank + 2} dimensions, but got weight of size {list(w.shape)}")


def require_algorithm(algorithm: str) -> None:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, but got algorithm={algorithm!r}")


def require_tensors(operator: str, **tensors: torch.Tensor | None) -> None:
    """One supported dtype and one device for all; the first names what the others must be."""
    given = [(name, t) for name, t in tensors.items() if t is not None]
    first_name, first = given[0]
    if first.dtype not in DTYPES:
        raise NotImplementedError(
            f'"{operator}" not implemented for {first.dtype}: expected {first_name} in float16, bfloat16, float32 or '
            "float64"
        )
    for name, t in given[1:]:
        if t.device != first.device:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{first.device} ({first_name}) and {t.device} ({name})!"
            )
        if t.dtype != first.dtype:
            raise RuntimeError(
                f"{first_name} type ({first.dtype}) and {name} type ({t.dtype}) should be the same in {operator}"
            )


def require_shape(name: str, t: torch.Tensor, shape: Sequence[int]) -> None:
    if tuple(t.shape) != tuple(shape):
        raise RuntimeError(f"expected {name} of size {list(shape)}, but got {name} of size {list(t.shape)}")
