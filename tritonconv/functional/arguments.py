"""What several functions take, and how it becomes what the operators take."""

from collections.abc import Sequence

from tritonconv.checks import Sizes, as_sizes

IntOrInts = int | Sequence[int]


def window(
    rank: int, kernel_size: IntOrInts, stride: IntOrInts | None, padding: IntOrInts, dilation: IntOrInts = 1
) -> tuple[Sizes, Sizes, Sizes, Sizes]:
    """Kernel, stride, padding and dilation with an entry an axis; a stride that is not given is the kernel's size."""
    kernel = as_sizes("kernel_size", kernel_size, rank)
    is_given = stride is not None and not (isinstance(stride, Sequence) and not stride)
    steps = as_sizes("stride", stride, rank) if is_given else kernel  # type: ignore[arg-type]
    return kernel, steps, as_sizes("padding", padding, rank), as_sizes("dilation", dilation, rank)
