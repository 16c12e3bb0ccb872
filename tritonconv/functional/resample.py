"""Interpolation."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from tritonconv.checks import as_integer, require_flags, require_tensor
from tritonconv.functional.arguments import IntOrInts
from tritonconv.ops import operators, shortcut

# The modes by the number of axes, and what the tables call them.
MODES: dict[str, tuple[tuple[int, ...], str]] = {
    "nearest": ((1, 2, 3), "nearest"),
    "nearest-exact": ((1, 2, 3), "nearest-exact"),
    "area": ((1, 2, 3), "area"),
    "linear": ((1,), "linear"),
    "bilinear": ((2,), "linear"),
    "bicubic": ((2,), "cubic"),
    "trilinear": ((3,), "linear"),
    "lanczos": ((2,), "lanczos"),
}
ANTIALIASED = ("bilinear", "bicubic", "lanczos")
FloatOrFloats = float | Sequence[float]


@shortcut
def interpolate(
    input: torch.Tensor,
    size: IntOrInts | None = None,
    scale_factor: FloatOrFloats | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> torch.Tensor:
    """The image at another size: each output pixel a weighted sum of the input pixels around its place.

    Args:
        input: (N, C, W), (N, C, H, W) or (N, C, D, H, W); float16, bfloat16, float32 or float64; any strides; CPU or
            GPU.
        size: of the output, one for all axes or one an axis; or
        scale_factor: the output's size over the input's, likewise; the size is rounded down.
        mode: "nearest", "nearest-exact" or "area" along any axes; "linear" along one, "bilinear", "bicubic" and, with
            antialias, "lanczos" along two, "trilinear" along three.
        align_corners: put the centres of the corner pixels on one another, and not the images' edges.
        recompute_scale_factor: use the ratio of the sizes in place of `scale_factor`, which need not be it.
        antialias: widen the filter where the image shrinks; for "bilinear", "bicubic" and "lanczos".

    Returns:
        (N, C, *size) in the input's dtype and memory format. Sums in float32 (float64 for float64).

    Raises:
        ValueError: neither or both of size and scale_factor, one of the wrong length, or a mode that does not take the
            option.
        NotImplementedError: a mode that does not go with the number of axes, or a dtype other than the four.
        RuntimeError: an empty image, before or after.
        TypeError: an argument of the wrong type.

    Source: torch.nn.functional.interpolate.

    Example:
        >>> tritonconv.functional.interpolate(torch.ones(1, 3, 8, 8), scale_factor=1.5, mode="bilinear").shape
        torch.Size([1, 3, 12, 12])
    """
    require_tensor("interpolate", "input", input)
    rank = input.dim() - 2
    if align_corners is not None and mode in ("nearest", "area", "nearest-exact"):
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | "
            f"trilinear, but got align_corners={align_corners!r} and mode={mode!r}"
        )
    lengths, scales = _lengths(input, size, scale_factor, rank)
    if recompute_scale_factor and size is not None:
        raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
    if recompute_scale_factor or mode == "area":
        scales = (0.0,) * rank
    if mode == "lanczos" and (not antialias or align_corners):
        raise ValueError(
            "Lanczos mode requires antialias=True and does not support align_corners=True, but got "
            f"antialias={antialias!r} and align_corners={align_corners!r}"
        )
    if antialias and lengths == tuple(input.shape[2:]):
        scales = (0.0,) * rank  # torch copies
    if antialias and (mode not in ANTIALIASED or rank != 2):
        raise ValueError(
            "Anti-alias option is restricted to bilinear, bicubic, and lanczos modes and requires a 4-D tensor as "
            f"input, but got mode={mode!r} and an input of {input.dim()} dimensions"
        )
    axes, table = MODES.get(mode, ((), ""))
    if rank not in axes:
        raise NotImplementedError(
            "Input Error: Only 3D, 4D and 5D input Tensors supported "
            f"(got {input.dim()}D) for the modes: nearest | linear | bilinear | bicubic | trilinear | lanczos (with "
            f"antialias) (got {mode})"
        )
    if min(input.shape[1:]) == 0 or min(lengths) < (0 if mode == "area" else 1):
        raise RuntimeError(
            f"Input and output sizes should be greater than 0, but got input of size {list(input.shape)} and output "
            f"size {list(lengths)}"
        )
    if align_corners is not None:
        require_flags("interpolate", align_corners=align_corners)
    return operators.resample(input, lengths, table, scales, bool(align_corners), bool(antialias))


def upsample(
    input: torch.Tensor,
    size: IntOrInts | None = None,
    scale_factor: FloatOrFloats | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> torch.Tensor:
    """interpolate under its old name.

    Source: torch.nn.functional.upsample.

    Example:
        >>> tritonconv.functional.upsample(torch.ones(1, 3, 8, 8), size=12).shape
        torch.Size([1, 3, 12, 12])
    """
    warnings.warn("`upsample` is deprecated. Use `tritonconv.functional.interpolate` instead.", stacklevel=2)
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(
    input: torch.Tensor, size: IntOrInts | None = None, scale_factor: FloatOrFloats | None = None
) -> torch.Tensor:
    """interpolate with mode="nearest".

    Source: torch.nn.functional.upsample_nearest.

    Example:
        >>> tritonconv.functional.upsample_nearest(torch.ones(1, 3, 8, 8), scale_factor=2).shape
        torch.Size([1, 3, 16, 16])
    """
    warnings.warn("`upsample_nearest` is deprecated. Use `tritonconv.functional.interpolate` instead.", stacklevel=2)
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(
    input: torch.Tensor, size: IntOrInts | None = None, scale_factor: FloatOrFloats | None = None
) -> torch.Tensor:
    """interpolate with mode="bilinear" and align_corners=True.

    Source: torch.nn.functional.upsample_bilinear.

    Example:
        >>> tritonconv.functional.upsample_bilinear(torch.ones(1, 3, 8, 8), scale_factor=2).shape
        torch.Size([1, 3, 16, 16])
    """
    warnings.warn("`upsample_bilinear` is deprecated. Use `tritonconv.functional.interpolate` instead.", stacklevel=2)
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)


def _lengths(input: torch.Tensor, size: Any, scale_factor: Any, rank: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The output's size, and the scales that were given, 0 for none."""
    if size is not None and scale_factor is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is None and scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    name, given = ("size", size) if scale_factor is None else ("scale_factor", scale_factor)
    values = tuple(given) if isinstance(given, list | tuple | torch.Size) else (given,) * rank
    if len(values) != rank:
        raise ValueError(
            f"Input and {name} must have the same number of spatial dimensions, but got input with spatial dimensions "
            f"of {list(input.shape[2:])} and {name}={given!r}"
        )
    if scale_factor is None:
        try:
            return tuple(value if _is_traced(value) else as_integer(value) for value in values), (0.0,) * rank
        except TypeError as error:
            raise TypeError(f"expected size to be an integer or a tuple of {rank}, but got size={size!r}") from error
    if any(isinstance(value, str) for value in values):  # which float would take
        raise TypeError(f"expected scale_factor to be a number or a tuple of {rank}, but got {scale_factor=!r}")
    scales = tuple(map(float, values))
    try:
        return tuple(map(_scaled, input.shape[2:], scales)), scales
    except (ValueError, OverflowError) as error:
        raise RuntimeError(f"scale_factor must be finite, but got {scale_factor=!r}") from error


def _scaled(length: Any, scale: float) -> Any:
    return (length.double() * scale).long() if _is_traced(length) else torch.sym_int(length * scale)


def _is_traced(length: Any) -> bool:
    """Whether it is one of an image's sizes in torch.jit.trace: a tensor, and so are sizes that follow from it."""
    return isinstance(length, torch.Tensor) and torch.jit.is_tracing()
