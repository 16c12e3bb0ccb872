"""The judge: float64 references, a comparison that scales with what torch itself loses, and the table of named cases.

The oracle is torch in float64 on the CPU, over a picture whose padding is written out (F.pad), because torch's own
padding is unsafe for windows that lie wholly in it. The peer is torch in the dtype and on the device under test.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

ALGORITHMS = ("direct", "im2col", "implicit_gemm")

# Our error may be FACTOR times the peer's plus FLOOR units: both sum in another order, and a peer that is right by luck
# must not make the bound zero.
FACTOR, FLOOR = 2.0, 3.0
# Units that three TF32 products in place of one of float32 may cost, on a GPU. An operand x is h + l + d: TF32 keeps 11
# bits, so |l| ≤ 2⁻¹¹|x|, and where l is cut to as many, |d| ≤ 2⁻¹⁰|l| ≤ 2⁻²¹|x|. Left out are d of both operands and
# l · l, at most (2 · 2⁻²¹ + 2⁻²²)|x · w|: of the terms' absolute values 5 · 2⁻²², ten units in float32's last place.
TRIPLE_TF32 = 10.0


def axes(value, rank: int) -> tuple[int, ...]:
    """One entry an axis."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def along(value, rank: int):
    """What is given for two axes, for `rank` of them: the last one, or another like it before both."""
    if not isinstance(value, tuple) or len(value) != 2:
        return value
    return {1: value[-1:], 2: value, 3: value[-1:] + value}[rank]


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution with the reason why it is in the table. N = None is an unbatched input.

    It is written down for two axes; `along` has it for one and three.
    """

    name: str
    reason: str
    N: int | None = 2
    C_in: int = 3
    H: int = 7
    W: int = 6
    C_out: int = 4
    R: int = 3
    S: int = 3
    stride: int | tuple[int, ...] = 1
    padding: int | tuple[int, ...] | str = 0
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    bias: bool = True
    rank: int = 2

    def __str__(self) -> str:
        return self.name if self.rank == 2 else f"{self.name}, {self.rank}d"

    def along(self, rank: int) -> "Case":
        sliding = {name: along(getattr(self, name), rank) for name in ("stride", "padding", "dilation")}
        return dataclasses.replace(self, rank=rank, **sliding)

    @property
    def size(self) -> tuple[int, ...]:
        """(D, H, W) of the picture, as many as there are axes; D is another number than W."""
        return (self.W + (self.W > 1), self.H, self.W)[3 - self.rank :]

    @property
    def filter(self) -> tuple[int, ...]:
        return along((self.R, self.S), self.rank)

    @property
    def arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}

    def tensors(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> list:
        """[x, w, b]: values are uniform around 0, the same for every dtype up to rounding."""
        batch = () if self.N is None else (self.N,)
        x = torch.rand(*batch, self.C_in, *self.size, dtype=torch.float64) - 0.5
        w = torch.rand(self.C_out, self.C_in // self.groups, *self.filter, dtype=torch.float64) - 0.5
        b = torch.rand(self.C_out, dtype=torch.float64) - 0.5 if self.bias else None
        return [None if t is None else t.to(device, dtype) for t in (x, w, b)]


CASES = (
    Case("plain", "ragged picture, nothing special: what the others vary"),
    Case("no bias", "the bias pointer is None", bias=False),
    Case("prime", "prime sizes divide no tile", N=3, C_in=5, H=11, W=13, C_out=7, padding=1),
    Case("33 to 17 channels", "channels just past a power of two", C_in=33, C_out=17, R=2, S=1),
    Case("N=0", "an empty batch: empty y and dx, dw and db of zeros", N=0),
    Case("N=1", "strides of an axis of length 1 are free", N=1),
    Case("unbatched", "(C, H, W)", N=None, padding=1),
    Case("C_in=1", "a first layer: the product runs over taps alone", C_in=1, padding=1),
    Case("C_out=1", "one filter", C_out=1),
    Case("1x1", "pointwise: a plain matrix product", R=1, S=1),
    Case("1x1 stride 2", "pixels no window reads get gradient 0", R=1, S=1, stride=2),
    Case("1x1 picture", "every axis but the channels has length 1", N=1, H=1, W=1, R=1, S=1),
    Case("5x3", "R ≠ S finds swapped axes", R=5, S=3, padding=(2, 1)),
    Case("1x4", "one row, even width", R=1, S=4, padding=(0, 2)),
    Case("2x2", "an even filter has no centre", R=2, S=2, padding=1),
    Case("filter as large as the picture", "one output pixel", H=4, W=3, R=4, S=3),
    Case("filter larger than the picture", "it fits the padded picture only", H=2, W=3, R=4, S=3, padding=(1, 0)),
    Case("stride (2,1)", "the two steps differ", stride=(2, 1), padding=1),
    Case("stride 2, last row unread", "(H - R) is not a multiple of the stride", H=8, W=7, stride=2),
    Case("stride 3 over 2x2", "gaps between windows: dx has zeros inside", R=2, S=2, stride=3),
    Case("dilation 2", "taps apart", dilation=2, padding=2),
    Case("dilation 3 of two taps", "the fewest taps that lie apart", R=2, S=2, dilation=3),
    Case("dilation (1,3)", "the two dilations differ", W=9, dilation=(1, 3)),
    Case("dilation 2, stride 2", "a common factor: half of dx's rows are reached by no tap", H=9, dilation=2, stride=2),
    Case("dilation 4, stride 6", "a common factor that is neither", H=15, W=14, dilation=4, stride=6, padding=1),
    Case(
        "dilation 3, stride 2", "coprime: every row is reached by some taps", H=9, W=8, dilation=3, stride=2, padding=1
    ),
    Case("dilation 2, stride 5", "2 is not its own inverse modulo 5", H=16, W=13, dilation=2, stride=5, padding=1),
    Case("padding (2,0)", "the two paddings differ", padding=(2, 0)),
    Case("same", "'same' with a 3×3 filter", padding="same"),
    Case("same 2x2", "'same' pads by 1 behind and by 0 before", R=2, S=2, padding="same"),
    Case("same 4x2", "'same' with an even filter pads one more behind than before", R=4, S=2, padding="same"),
    Case("same 4x3, dilation (1,2)", "'same' counts the dilated filter", R=4, padding="same", dilation=(1, 2)),
    Case("valid", "'valid' is no padding", padding="valid"),
    Case("groups 2", "groups with several channels in and out", C_in=4, C_out=6, groups=2, padding=1),
    Case("groups 3, one channel out each", "C_out / groups = 1", C_in=6, C_out=3, groups=3),
    Case("depthwise", "one channel in and out of each group", C_in=5, C_out=5, groups=5, padding=1),
    Case("depthwise, multiplier 2", "two filters a channel", C_in=3, C_out=6, groups=3, stride=2),
)


def case(name: str) -> Case:
    return next(c for c in CASES if c.name == name)


def pad_of(weight: torch.Tensor, padding, dilation) -> list[int]:
    """F.pad's list (left, right, top, bottom, ...) for a convolution's padding."""
    rank = weight.dim() - 2
    if padding == "valid":
        return [0] * 2 * rank
    if padding == "same":
        total = [d * (r - 1) for d, r in zip(axes(dilation, rank), weight.shape[2:], strict=True)]
        return [pad for t in reversed(total) for pad in (t // 2, t - t // 2)]
    return [pad for p in reversed(axes(padding, rank)) for pad in (p, p)]


def reference_conv(x, w, b=None, stride=1, padding=0, dilation=1, groups=1) -> torch.Tensor:
    """torch's convolution over a picture padded beforehand."""
    function = getattr(F, f"conv{w.dim() - 2}d")
    return function(F.pad(x, pad_of(w, padding, dilation)), w, b, stride, 0, dilation, groups)


def peer_conv(x: torch.Tensor, w: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    with warnings.catch_warnings():  # torch remarks that 'same' with an even filter makes it copy the input
        warnings.filterwarnings("ignore", "Using padding='same'")
        return getattr(F, f"conv{w.dim() - 2}d")(x, w, *args, **kwargs)


def double(tensors: list) -> list:
    return [None if t is None else t.detach().to("cpu", torch.float64) for t in tensors]


def magnitudes(tensors: list) -> list:
    """In float64, the absolute values: a convolution of these sums the absolute values of its terms."""
    return [None if t is None else t.abs() for t in double(tensors)]


def value_and_gradients(function: Callable, tensors: list, dy: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """y = function(*tensors), and the gradient of ⟨y, dy⟩ (dy: ones where None) for every tensor, by name."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    y = function(*leaves)
    wanted = [t for t in leaves if t is not None]
    gradients = torch.autograd.grad(y, wanted, torch.ones_like(y) if dy is None else dy)
    names = [name for name, t in zip(("dx", "dw", "db"), leaves, strict=False) if t is not None]
    return {"y": y.detach(), **dict(zip(names, gradients, strict=True))}


def assert_close_to_oracle(
    ours: torch.Tensor,
    peer: torch.Tensor,
    oracle: torch.Tensor,
    scale: torch.Tensor | None = None,
    what: str = "",
    products: bool = False,
) -> None:
    """Our error against `oracle`, in units of what is unavoidable, is at most FACTOR times the peer's plus FLOOR.

    Float32 that is made of matrix `products` on a GPU may cost TRIPLE_TF32 units more. Unavoidable, element by element:
    to round the answer to the dtype once, and a unit in the last place of the accumulator (fp32, or fp64 for fp64) for
    the sum of the terms' absolute values, `scale`; where that is not known, four times the largest answer. Looked at
    over all elements, and for pictures and filters over the border alone.
    """
    assert ours.dtype == peer.dtype, f"{what}: {ours.dtype} instead of {peer.dtype}"
    assert ours.shape == peer.shape == oracle.shape, f"{what}: {ours.shape} instead of {oracle.shape}"
    if oracle.numel() == 0:
        return
    info = torch.finfo(ours.dtype)
    accumulator_eps = min(info.eps, torch.finfo(torch.float32).eps)
    floor = FLOOR + (TRIPLE_TF32 if products and ours.is_cuda and ours.dtype == torch.float32 else 0)
    ours, peer = (t.detach().to("cpu", torch.float64) for t in (ours, peer))
    scale = oracle.abs().max() * 4 if scale is None else scale
    unit = info.eps / 2 * (oracle.abs() + info.smallest_normal) + accumulator_eps * scale + 1e-300
    ours_off, peer_off = ((t - oracle).abs() / unit for t in (ours, peer))
    for region, mask in (("everywhere", torch.ones_like(oracle, dtype=torch.bool)), ("border", border(oracle))):
        if mask.any():
            off, allowed = ours_off[mask].max(), FACTOR * peer_off[mask].max() + floor
            assert off <= allowed, f"{what} ({region}): off by {off:.3g} units, allowed {allowed:.3g}"


def assert_all_close_to_oracle(algorithm: str, ours: dict, peer: dict, oracle: dict, scale: dict | None = None) -> None:
    """Of a convolution by that algorithm; all but the bias gradient is made of products, unless it is "direct"."""
    assert ours.keys() == oracle.keys()
    for name in oracle:
        products = algorithm != "direct" and name != "db"
        assert_close_to_oracle(ours[name], peer[name], oracle[name], scale and scale[name], name, products)


def border(t: torch.Tensor) -> torch.Tensor:
    """True in the first and last row and column of the last two axes of a picture."""
    mask = torch.zeros_like(t, dtype=torch.bool)
    if t.dim() >= 3:
        for edge in (slice(None, 1), slice(-1, None)):
            mask[..., edge, :] = True
            mask[..., edge] = True
    return mask
