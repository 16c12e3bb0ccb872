"""What several functions take, and how it becomes what the operators take; a function along each number of axes."""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from tritonconv.checks import Sizes, as_sizes
from tritonconv.ops import shortcut

IntOrInts = int | Sequence[int]
Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def each_rank(
    function: Callable[Concatenate[int, Arguments], Answer],
) -> tuple[Callable[Arguments, Answer], Callable[Arguments, Answer], Callable[Arguments, Answer]]:
    """pool(rank, input, …) as pool1d(input, …), pool2d and pool3d; the example in its docstring has two axes."""
    _, *parameters = inspect.signature(function).parameters.values()

    def along(rank: int) -> Callable[Arguments, Answer]:
        call = functools.update_wrapper(shortcut(functools.partial(function, rank)), function)
        call.__name__ = call.__qualname__ = f"{function.__name__}{rank}d"
        call.__doc__ = example_along(rank, function.__doc__ or "")
        call.__signature__ = inspect.signature(function).replace(parameters=parameters)  # type: ignore[attr-defined]
        return call

    return along(1), along(2), along(3)


def example_along(rank: int, doc: str) -> str:
    """The docstring with its example for `rank` axes in place of two: equal numbers side by side are the two axes'."""
    text, heading, example = doc.partition("Example:")
    example = re.sub(r"\b(\d+), \1\b", lambda equal: ", ".join([equal[1]] * rank), example)
    return text + heading + re.sub(r"2d\b", f"{rank}d", example)


def window(
    rank: int, kernel_size: IntOrInts, stride: IntOrInts | None, padding: IntOrInts, dilation: IntOrInts = 1
) -> tuple[Sizes, Sizes, Sizes, Sizes]:
    """Kernel, stride, padding and dilation with an entry an axis; a stride that is not given is the kernel's size."""
    kernel = as_sizes("kernel_size", kernel_size, rank)
    is_given = stride is not None and not (isinstance(stride, Sequence) and not stride)
    steps = as_sizes("stride", stride, rank) if is_given else kernel  # type: ignore[arg-type]
    return kernel, steps, as_sizes("padding", padding, rank), as_sizes("dilation", dilation, rank)
