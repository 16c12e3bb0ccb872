"""The sizes of a problem, known in one place, and every error where they do not go together.

Sizes carry CUTLASS's and cuDNN's letters: an input (N, C_in, H, W), a filter (C_out, C_in / groups, R, S), an output
(N, C_out, P, Q). Spatial quantities are tuples with one entry an axis, so that nothing here counts on two of them.
Errors are torch's: RuntimeError.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch

from tritonconv.checks import PADDING_MODES, Sizes

Ints = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Window:
    """What slides over an image: a filter, a pooling window, a patch. In elements, one entry an axis."""

    size: Sizes
    stride: Sizes
    padding: tuple[tuple[int, int], ...]  # before and after
    dilation: Sizes
    mode: str = "zeros"  # what padding has: zeros, or what of the image it repeats; "zeros" if there is none

    @property
    def taps(self) -> int:
        return math.prod(self.size)

    @property
    def extent(self) -> Sizes:
        """From its first element to its last."""
        return tuple(d * (r - 1) + 1 for d, r in zip(self.dilation, self.size, strict=True))

    def effective(self, output_size: Sizes) -> "Window":
        """The same, with 1 for a stride that takes no step and a dilation that spreads nothing.

        What such a one is changes no result, but kernels count on it: 2³¹ + 5 would leave their 32 bits.
        """
        stride = tuple(s if p > 1 else 1 for s, p in zip(self.stride, output_size, strict=True))
        dilation = tuple(d if r > 1 else 1 for d, r in zip(self.dilation, self.size, strict=True))
        return dataclasses.replace(self, stride=stride, dilation=dilation)


@dataclasses.dataclass(frozen=True)
class ConvProblem:
    """A convolution's sizes."""

    N: int
    C_in: int
    C_out: int
    groups: int
    input_size: Sizes  # (H, W)
    output_size: Sizes  # (P, Q)
    window: Window

    @property
    def taps(self) -> int:
        return self.window.taps

    @property
    def input_shape(self) -> Sizes:
        return (self.N, self.C_in, *self.input_size)

    @property
    def filter_shape(self) -> Sizes:
        return (self.C_out, self.C_in // self.groups, *self.window.size)

    @property
    def output_shape(self) -> Sizes:
        return (self.N, self.C_out, *self.output_size)

    @property
    def columns_shape(self) -> Sizes:
        """The unfolded input as an image: (N, C_in · taps, P, Q)."""
        return (self.N, self.C_in * self.taps, *self.output_size)

    @property
    def multiply_adds(self) -> int:
        """Products of the sum, the same in forward, dgrad and wgrad; taps in the padding are none."""
        w = self.window
        axes = zip(self.input_size, self.output_size, w.size, w.stride, w.padding, w.dilation, strict=True)
        valid = [
            positions * taps
            if w.mode != "zeros"
            else sum(0 <= p * step - before + r * spread < size for p in range(positions) for r in range(taps))
            for size, positions, taps, step, (before, _), spread in axes
        ]
        return self.N * self.C_out * self.C_in // self.groups * math.prod(valid)

    def on_columns(self) -> "ConvProblem":
        """The same convolution as the product of the filter matrix with the unfolded input: a pointwise one."""
        ones = (1,) * len(self.input_size)
        pointwise = Window(ones, ones, ((0, 0),) * len(ones), ones)
        return dataclasses.replace(self, C_in=self.C_in * self.taps, input_size=self.output_size, window=pointwise)

    def on_padded(self) -> "ConvProblem":
        """The same convolution of the padded input."""
        pads = zip(self.input_size, self.window.padding, strict=True)
        bare = dataclasses.replace(self.window, padding=((0, 0),) * len(self.input_size), mode="zeros")
        return dataclasses.replace(self, input_size=tuple(n + sum(pad) for n, pad in pads), window=bare)


@dataclasses.dataclass(frozen=True)
class PoolProblem:
    """A pooling window over an image. An argmax is the number of an element of the window, row by row.

    An average divides by `divisor`: a number, or by how many elements of the window lie in the image ("image"), or in
    the image with its padding ("padded"). Then dilation is 1. "lp" is (taps · average of xᵖ)^(1/p), `norm` is p.
    """

    input_size: Sizes
    output_size: Sizes
    window: Window
    reduction: Literal["max", "average", "lp"] = "max"
    divisor: int | Literal["image", "padded"] = "padded"
    norm: float = 1.0

    @property
    def argmax_dtype(self) -> torch.dtype:
        """The dtype that can name every element, and one value more for "no gradient": see `no_argmax`."""
        return torch.uint8 if self.window.taps <= 255 else torch.int32

    @property
    def no_argmax(self) -> int:
        return 255 if self.window.taps <= 255 else self.window.taps


def _require_least(name: str, values: Sequence[int], least: int) -> None:
    if min(values) < least:
        word = "negative" if least == 0 else "non-positive"
        raise RuntimeError(f"{word} {name} is not supported, but got {name}={list(values)}")


def _require_groups(groups: int, w_shape: Ints) -> None:
    if groups <= 0:
        raise RuntimeError(f"non-positive groups is not supported, but got groups={groups}")
    for is_wrong, expected in ((w_shape[0] < groups, "at least"), (w_shape[0] % groups != 0, "divisible by")):
        if is_wrong:
            raise RuntimeError(
                f"Given groups={groups}, expected weight to be {expected} {groups} at dimension 0, "
                f"but got weight of size {list(w_shape)} instead"
            )


def _require_bias(b_shape: Ints | None, C_out: int, w_shape: Ints) -> None:
    if b_shape is not None and tuple(b_shape) != (C_out,):
        raise RuntimeError(
            f"Given weight of size {list(w_shape)}, expected bias to be 1-dimensional with {C_out} elements, "
            f"but got bias of size {list(b_shape)} instead"
        )


def _require_padding(mode: str, pads: Sequence[tuple[int, int]], x_shape: Ints) -> None:
    if mode not in PADDING_MODES:
        names = ", ".join(map(repr, PADDING_MODES))
        raise ValueError(f"padding_mode must be one of {names}, but got padding_mode={mode!r}")
    most = {"reflect": -1, "circular": 0}
    for axis, (size, pad) in enumerate(zip(x_shape[2:], pads, strict=True), 2):
        if mode in most and max(pad) > size + most[mode]:
            expected = "less than" if mode == "reflect" else "at most"
            raise RuntimeError(
                f"Padding size should be {expected} the corresponding input dimension for padding_mode={mode!r}, but "
                f"got: padding {pad} at dimension {axis} of input {list(x_shape)}"
            )
    if mode in ("reflect", "replicate") and x_shape[1] == 0:
        raise RuntimeError(f"Expected an input with channels for padding_mode={mode!r}, but got: {list(x_shape)}")


def conv_problem(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    b_shape: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str = "zeros",
) -> ConvProblem:
    """The problem of a convolution of a batched input; `padding` is flat, before and after each axis.

    Raises:
        RuntimeError: the sizes do not go together; the message names the argument, its value and what would be right.
        ValueError: an unknown padding mode.
    """
    _require_least("stride", stride, 1)
    _require_least("dilation", dilation, 1)
    _require_least("padding", padding[::2], 0)  # after an axis a transposed convolution may leave out what it added
    if len(x_shape) != len(w_shape):
        raise RuntimeError(
            f"Expected weight of {len(x_shape)} dimensions for an input of size {list(x_shape)}, "
            f"but got weight of size {list(w_shape)}"
        )
    _require_groups(groups, w_shape)
    N, C_in, *input_size = x_shape
    C_out, C_group, *filter_size = w_shape
    if C_in != C_group * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(w_shape)}, expected input{list(x_shape)} to have "
            f"{C_group * groups} channels, but got {C_in} channels instead"
        )
    if min(filter_size) == 0:
        raise RuntimeError(f"weight must have no empty filter, but got weight of size {list(w_shape)}")
    _require_bias(b_shape, C_out, w_shape)
    if min(input_size) == 0 and N > 0:
        raise RuntimeError(f"Only zero batch inputs are supported, but got input shape: {list(x_shape)}")
    pads = tuple(zip(padding[::2], padding[1::2], strict=True))
    _require_padding(padding_mode, pads, x_shape)
    mode = padding_mode if any(padding) else "zeros"
    window = Window(tuple(filter_size), tuple(stride), pads, tuple(dilation), mode)
    padded = [size + before + after for size, (before, after) in zip(input_size, pads, strict=True)]
    if any(p < r for p, r in zip(padded, window.extent, strict=True)):
        raise RuntimeError(
            f"Calculated padded input size per channel: ({_by(padded)}). Kernel size: ({_by(window.extent)}). "
            "Kernel size can't be greater than actual input size"
        )
    output_size = tuple((p - r) // s + 1 for p, r, s in zip(padded, window.extent, stride, strict=True))
    return ConvProblem(N, C_in, C_out, groups, tuple(input_size), output_size, window.effective(output_size))


def transposed_size(
    x_shape: Ints,
    w_shape: Ints,
    b_shape: Ints | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    dilation: Ints,
    groups: int,
) -> Sizes:
    """The output size of a transposed convolution of a batched input; `padding` has one entry an axis.

    Raises:
        RuntimeError: the sizes do not go together; the message names the argument, its value and what would be right.
    """
    _require_least("stride", stride, 1)
    _require_least("dilation", dilation, 1)
    _require_least("padding", padding, 0)
    _require_least("output_padding", output_padding, 0)
    for added, step, spread in zip(output_padding, stride, dilation, strict=True):
        if added >= max(step, spread):
            raise RuntimeError(
                "output padding must be smaller than either stride or dilation, but got "
                f"output_padding={list(output_padding)}, stride={list(stride)} and dilation={list(dilation)}"
            )
    _require_groups(groups, w_shape)
    _, C_in, *input_size = x_shape
    if C_in != w_shape[0]:
        raise RuntimeError(
            f"Given transposed=1, weight of size {list(w_shape)}, expected input{list(x_shape)} to have {w_shape[0]} "
            f"channels, but got {C_in} channels instead"
        )
    _require_bias(b_shape, w_shape[1] * groups, w_shape)
    axes = zip(input_size, w_shape[2:], stride, padding, output_padding, dilation, strict=True)
    output = tuple((size - 1) * s - 2 * p + d * (r - 1) + added + 1 for size, r, s, p, added, d in axes)
    if min(output) < 1:
        raise RuntimeError(
            f"Given input size per channel: ({_by(input_size)}). Calculated output size per channel: ({_by(output)}). "
            "Output size is too small"
        )
    return output


def unpooled_size(x_shape: Ints, kernel: Ints, stride: Ints, padding: Ints, output_size: Sequence[int] | None) -> Sizes:
    """The output size of a max unpooling, as given or by the window. The first dimension may be empty.

    Raises:
        RuntimeError: a stride or a size that is not positive.
        ValueError: an output size of the wrong length, negative, or a stride or more away from the window's.
    """
    _require_least("stride", stride, 1)
    rank = len(kernel)
    size = [(n - 1) * s + k - 2 * p for n, k, s, p in zip(x_shape[-rank:], kernel, stride, padding, strict=True)]
    if output_size is not None:
        given = list(output_size)[2:] if len(output_size) == rank + 2 else list(output_size)
        if len(given) != rank:
            raise ValueError(
                f"output_size should be a sequence containing {rank} or {rank + 2} elements, but it has a length of "
                f"'{len(given)}'"
            )
        for axis, (usual, step, length) in enumerate(zip(size, stride, given, strict=True)):
            if abs(length - usual) >= step:
                raise ValueError(
                    f'invalid output_size "{output_size}" (dim {axis} must be between {usual - step} and '
                    f"{usual + step})"
                )
        size = given
    if min(size) < 0:
        raise ValueError(f"output_size must contain non-negative spatial dimensions, but got output_size={size}")
    if min(x_shape[1:]) == 0:
        raise RuntimeError(f"Expected input to have non-zero size for non-batch dimensions, but got {list(x_shape)}")
    return tuple(size)


def unfold_problem(
    x_shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> ConvProblem:
    """Unfolding as a convolution whose C · R · S filters each pick one element of the patch.

    Raises:
        RuntimeError: the sizes do not go together.
    """
    _require_least("kernel_size", kernel, 1)
    if min(x_shape[1:]) == 0:
        raise RuntimeError(f"Expected an input with no empty dimension but the batch, but got: {list(x_shape)}")
    w_shape = (x_shape[1] * math.prod(kernel), x_shape[1], *kernel)
    return conv_problem(x_shape, w_shape, None, stride, padding, dilation, 1)


def fold_problem(
    columns_shape: Sequence[int],
    output_size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> ConvProblem:
    """The problem that unfolds to columns of (N, C · R · S, L) or (N, C · R · S, P, Q).

    Raises:
        RuntimeError: the sizes do not go together.
    """
    _require_least("kernel_size", kernel, 1)
    N, J, *places = columns_shape
    if J == 0 or J % math.prod(kernel) != 0:
        raise RuntimeError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, "
            f"but got input.size(1)={J} and kernel_size={tuple(kernel)}"
        )
    x_shape = (N, J // math.prod(kernel), *output_size)
    problem = unfold_problem(x_shape, kernel, stride, padding, dilation)
    blocks = math.prod(problem.output_size)
    if math.prod(places) != blocks:
        raise RuntimeError(
            f"Given output_size={tuple(output_size)}, kernel_size={tuple(kernel)}, dilation={tuple(dilation)}, "
            f"padding={tuple(padding[::2])}, stride={tuple(stride)}, expected size of input's dimension 2 to match the "
            f"calculated number of sliding blocks {' * '.join(map(str, problem.output_size))} = {blocks}, "
            f"but got input.size(2)={math.prod(places)}"
        )
    return problem


def pool_problem(
    x_shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> PoolProblem:
    """The problem of max pooling over a batched input, by torch's rules.

    Raises:
        RuntimeError: the sizes do not go together.
    """
    rank = len(x_shape) - 2
    _require_least("kernel_size", kernel, 1)
    _require_least("stride", stride, 1)
    _require_least("dilation", dilation, 1)
    _require_least("padding", padding, 0)
    input_size = tuple(x_shape[2:])
    if min(x_shape[1:]) == 0:
        raise RuntimeError(
            f"Expected {rank + 1}D or {rank + 2}D (batch mode) tensor with optional 0 dim batch size for input, "
            f"but got: {list(x_shape)}"
        )
    output = []
    for size, k, s, p, d in zip(input_size, kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        if p > k // 2:
            raise RuntimeError(
                f"pad should be at most half of kernel size, but got pad={p}, kernel_size={k} and dilation={d}"
            )
        span = size + 2 * p - reach
        length = (-(-span // s) if ceil_mode else span // s) + 1
        if ceil_mode and (length - 1) * s >= size + p:
            length -= 1  # the last window must start inside the image or the padding before it
        output.append(length)
    if min(output) < 1:
        raise RuntimeError(
            f"Given input size: ({_by(x_shape[1:])}). Calculated output size: ({_by([x_shape[1], *output])}). "
            "Output size is too small"
        )
    return covered_problem(input_size, output, kernel, stride, padding, dilation)


def covered_problem(
    input_size: Ints, output_size: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> PoolProblem:
    """The problem of a pooling whose output size is known, as its backward knows it."""
    window = Window(tuple(kernel), tuple(stride), tuple((p, p) for p in padding), tuple(dilation))
    return PoolProblem(tuple(input_size), tuple(output_size), window.effective(tuple(output_size)))


def _require_window_inside(x_shape: Ints, kernel: Ints) -> None:
    """Of averages along three axes torch wants it, whatever ceil_mode and padding."""
    if len(kernel) == 3 and any(size < k for size, k in zip(x_shape[2:], kernel, strict=True)):
        raise RuntimeError(
            f"input image ({_by(x_shape[2:])}) smaller than kernel size ({_by(kernel)}), but got kernel_size={kernel}"
        )


def average_problem(
    x_shape: Ints,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> PoolProblem:
    """The problem of average pooling over a batched input; a `divisor` takes the place of the elements' count.

    Raises:
        RuntimeError: the sizes do not go together, or a divisor of 0.
    """
    if divisor == 0:
        raise RuntimeError("divisor must be not zero, but got divisor_override=0")
    _require_window_inside(x_shape, kernel)
    problem = pool_problem(x_shape, kernel, stride, padding, (1,) * len(kernel), ceil_mode)
    counted: Literal["image", "padded"] = "padded" if count_include_pad else "image"
    return dataclasses.replace(problem, reduction="average", divisor=counted if divisor is None else divisor)


def lp_problem(x_shape: Ints, norm: float, kernel: Ints, stride: Ints, ceil_mode: bool) -> PoolProblem:
    """The problem of Lp pooling over a batched input.

    Raises:
        RuntimeError: the sizes do not go together.
        ZeroDivisionError: a norm of 0.
    """
    if norm == 0:
        raise ZeroDivisionError("norm_type must not be zero, but got norm_type=0")
    _require_window_inside(x_shape, kernel)
    problem = pool_problem(x_shape, kernel, stride, (0,) * len(kernel), (1,) * len(kernel), ceil_mode)
    return dataclasses.replace(problem, reduction="lp", norm=norm)


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(str(s) for s in sizes)
