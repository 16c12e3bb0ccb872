"""What is measured: named workloads with their origin, and the least work each of them must do.

A workload is a layer or a training step at a fixed size; a problem is a workload in one variant (what runs beside the
convolution), mode, dtype and TF32 setting. Sizes are in elements, pictures and filters are square.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Sequence

import torch

from tritonconv.problems import conv_problem, pool_problem

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
CONV = ("conv", "conv-bias", "conv-bias-relu")
POOLED = "conv-bias-relu-pool"
VARIANTS = (*CONV, POOLED, "pool", "step")
MODES = ("forward", "backward", "step")
PARAMETERS = 370_454  # of mnist-cnn3
ADAM_PASSES = 7  # reads of parameter, gradient and two moments; writes of parameter and two moments; float32


@dataclasses.dataclass(frozen=True)
class Workload:
    """A layer, or the training step of mnist-cnn3 (variant "step"). `pool` is (window, stride, padding).

    A `first` layer sees the picture itself, which needs no gradient: its backward is dw and db alone.
    """

    name: str
    origin: str
    N: int
    C_in: int
    size: int
    C_out: int = 0
    filter: int = 0
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    pool: tuple[int, int, int] | None = None
    first: bool = False
    variants: tuple[str, ...] = CONV

    @property
    def modes(self) -> tuple[str, ...]:
        return ("step",) if self.variants == ("step",) else ("forward", "backward")


@dataclasses.dataclass(frozen=True)
class Problem:
    """A workload to run: `tf32` is "on" or "off" for float32 on a GPU, "" where the question does not arise."""

    workload: Workload
    variant: str
    mode: str
    dtype: str
    tf32: str = ""

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return (self.workload.N, self.workload.C_in, self.workload.size, self.workload.size)

    @property
    def w_shape(self) -> tuple[int, int, int, int] | None:
        c = self.workload
        return (c.C_out, c.C_in // c.groups, c.filter, c.filter) if c.filter else None

    @property
    def b_shape(self) -> tuple[int] | None:
        return (self.workload.C_out,) if "bias" in self.variant else None

    @property
    def convolved_shape(self) -> tuple[int, ...]:
        """Of what the convolution gives, before any pooling; of x where there is no convolution."""
        c = self.workload
        if self.w_shape is None:
            return self.x_shape
        steps, spread = (c.stride, c.stride), (c.dilation, c.dilation)
        pads = (c.padding,) * 4
        return conv_problem(self.x_shape, self.w_shape, self.b_shape, steps, pads, spread, c.groups).output_shape

    @property
    def y_shape(self) -> tuple[int, ...]:
        shape = self.convolved_shape
        if "pool" not in self.variant or self.workload.pool is None:
            return shape
        window, step, pad = ((p, p) for p in self.workload.pool)
        return (*shape[:2], *pool_problem(shape, window, step, pad, (1, 1), False).output_size)

    @property
    def flops(self) -> int:
        """Multiplications and additions of the convolutions, taps in the padding counted, as everyone counts them."""
        if self.mode == "step":
            return sum(part.flops for part in step_parts(self.workload.N, self.dtype))
        if self.w_shape is None:
            return 0
        products = 1 if self.mode == "forward" or self.workload.first else 2
        return 2 * products * math.prod(self.convolved_shape) * math.prod(self.w_shape[1:])

    @property
    def bytes(self) -> int:
        """Least bytes through memory: each operand read once, each result written once.

        What backward must remember of ReLU's and pooling's decisions is under a byte an element and not counted.
        """
        if self.mode == "step":
            layers = sum(part.bytes for part in step_parts(self.workload.N, self.dtype))
            return layers + ADAM_PASSES * PARAMETERS * torch.float32.itemsize
        x, w, b, y = (math.prod(s) if s else 0 for s in (self.x_shape, self.w_shape, self.b_shape, self.y_shape))
        if self.mode == "forward":
            elements = x + w + b + y
        elif self.w_shape is None:
            elements = y + x  # dy, dx
        else:
            elements = y + x + w + b + (0 if self.workload.first else w + x)  # dy, x, dw, db; w, dx
        return elements * self.torch_dtype.itemsize


@functools.cache
def step_parts(N: int, dtype: str) -> tuple[Problem, ...]:
    """Forward and backward of every layer of mnist-cnn3, with ReLU and pooling inside the convolution that feeds them.

    Dense layers count as 1×1 convolutions of 1×1 pictures.
    """
    dense = (
        Workload("dense-1", "", N, 64 * 7 * 7, 1, 100, 1),
        Workload("dense-2", "", N, 100, 1, 10, 1),
    )
    layers = [(layer, layer.variants[-1]) for layer in _mnist(N)] + [(layer, "conv-bias") for layer in dense]
    return tuple(Problem(layer, variant, mode, dtype) for layer, variant in layers for mode in ("forward", "backward"))


def _mnist(N: int) -> tuple[Workload, ...]:
    origin, name = "examples/networks.py, mnist-cnn3", "mnist-cnn3-{}-b" + str(N)
    fused = (*CONV, POOLED)
    return (
        Workload(name.format(1), origin, N, 1, 28, 32, 3, padding=1, pool=(2, 2, 0), first=True, variants=fused),
        Workload(name.format(2), origin, N, 32, 14, 64, 3, padding=1, pool=(2, 2, 0), variants=fused),
        Workload(name.format(3), origin, N, 64, 7, 64, 3, padding=1),
    )


def _step(N: int) -> Workload:
    return Workload(f"mnist-cnn3-step-b{N}", "examples/networks.py with Adam", N, 1, 28, variants=("step",))


LENET = "LeCun et al. 1998, LeNet-5"
VGG = "Simonyan and Zisserman 2015, VGG16"
RESNET = "He et al. 2016, ResNet-50"
GPU_WORKLOADS = (
    *_mnist(64),
    *_mnist(512),
    *_mnist(4096),
    Workload("lenet-c1", LENET, 512, 1, 32, 6, 5, first=True),
    Workload("lenet-c2", LENET, 512, 6, 14, 16, 5),
    Workload("vgg16-1-1", VGG, 32, 3, 224, 64, 3, padding=1, first=True),
    Workload("vgg16-2-2", VGG, 32, 128, 112, 128, 3, padding=1),
    Workload("vgg16-4-2", VGG, 32, 512, 28, 512, 3, padding=1),
    Workload("resnet50-1x1-64-256", RESNET, 32, 64, 56, 256, 1),
    Workload("resnet50-1x1-1024-256", RESNET, 32, 1024, 14, 256, 1),
    Workload("resnet50-3x3-64", RESNET, 32, 64, 56, 64, 3, padding=1),
    Workload("resnet50-3x3-128-stride2", f"{RESNET} v1.5", 32, 128, 56, 128, 3, stride=2, padding=1),
    Workload("resnet50-stem-7x7", RESNET, 32, 3, 224, 64, 7, stride=2, padding=3, first=True),
    Workload("depthwise-3x3-128", "Howard et al. 2017, MobileNet", 32, 128, 56, 128, 3, padding=1, groups=128),
    Workload("resnext50-3x3-grouped", "Xie et al. 2017, ResNeXt-50 32x4d", 32, 128, 56, 128, 3, padding=1, groups=32),
    Workload("dilated-3x3-256", "Chen et al. 2017, DeepLabv3", 32, 256, 28, 256, 3, padding=2, dilation=2),
    Workload("maxpool-2x2", f"{VGG}, first pooling", 32, 64, 224, pool=(2, 2, 0), variants=("pool",)),
    Workload("maxpool-3x3-stride2", RESNET, 32, 64, 112, pool=(3, 2, 1), variants=("pool",)),
    _step(64),
    _step(512),
)
# Small enough for the interpreter; the first of them are what --quick runs.
CPU_QUICK = (
    *_mnist(8),
    Workload("depthwise-3x3-32-b1", "Howard et al. 2017, MobileNet", 1, 32, 28, 32, 3, padding=1, groups=32),
    Workload("maxpool-2x2-b1", f"{VGG}, a small pooling", 1, 64, 56, pool=(2, 2, 0), variants=("pool",)),
    _step(8),
)
CPU_WORKLOADS = (
    *CPU_QUICK,
    *_mnist(64),
    Workload("maxpool-3x3-stride2-b1", RESNET, 1, 64, 56, pool=(3, 2, 1), variants=("pool",)),
    _step(64),
)

# One axis grows at a time from (batch, channels, picture): on a GPU, on a CPU, and on a CPU with --quick.
GPU_SCALING = ((32, 64, 28), tuple(4**i for i in range(7)), tuple(4**i for i in range(6)), (7, 14, 28, 56, 112, 224))
CPU_SCALING = ((4, 8, 14), (1, 4, 16, 64), (1, 4, 16, 64), (7, 14, 28, 56))
CPU_QUICK_SCALING = ((2, 4, 7), (1, 4), (1, 4), (7, 14))


def scaling_workloads(
    base: tuple[int, int, int], batches: Sequence[int], channels: Sequence[int], sizes: Sequence[int]
) -> tuple[Workload, ...]:
    """A 3×3 convolution with one of batch, channels and picture varied; named scaling-AXIS-VALUE."""
    axes = (("batch", batches), ("channels", channels), ("picture", sizes))
    return tuple(
        Workload(f"scaling-{axis}-{v}", f"3x3, padding 1, from {base}", n, c, s, c, 3, padding=1, variants=("conv",))
        for i, (axis, values) in enumerate(axes)
        for v in values
        for n, c, s in [(*base[:i], v, *base[i + 1 :])]
    )


def problems(
    workloads: Iterable[Workload],
    pattern: str,
    dtypes: Sequence[str],
    modes: Sequence[str],
    gpu: bool,
) -> list[Problem]:
    """Every problem whose "workload variant" `pattern` finds; float32 on a GPU comes with TF32 on and off."""
    return [
        Problem(workload, variant, mode, dtype, tf32)
        for workload in workloads
        for variant in workload.variants
        if re.search(pattern, f"{workload.name} {variant}")
        for mode in workload.modes
        if mode in modes
        for dtype in dtypes
        for tf32 in (("on", "off") if gpu and dtype == "float32" else ("",))
    ]
