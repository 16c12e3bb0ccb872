"""Pooling, and max pooling's way back. tritonconv.functional tells each one's shapes, dtypes and errors."""

import torch

from tritonconv import functional
from tritonconv.functional.arguments import example_along
from tritonconv.nn.ours import Calls


class MaxPool1d(Calls, torch.nn.MaxPool1d, function="max_pool1d"):
    """The largest pixel of each window. Source: torch.nn.MaxPool1d."""


class MaxPool2d(Calls, torch.nn.MaxPool2d, function="max_pool2d"):
    """The largest pixel of each window. Source: torch.nn.MaxPool2d."""


class MaxPool3d(Calls, torch.nn.MaxPool3d, function="max_pool3d"):
    """The largest pixel of each window. Source: torch.nn.MaxPool3d."""


class AvgPool1d(Calls, torch.nn.AvgPool1d, function="avg_pool1d"):
    """The average of each window. Source: torch.nn.AvgPool1d."""


class AvgPool2d(Calls, torch.nn.AvgPool2d, function="avg_pool2d"):
    """The average of each window. Source: torch.nn.AvgPool2d."""


class AvgPool3d(Calls, torch.nn.AvgPool3d, function="avg_pool3d"):
    """The average of each window. Source: torch.nn.AvgPool3d."""


class LPPool1d(Calls, torch.nn.LPPool1d, function="lp_pool1d"):
    """The Lp norm of each window. Source: torch.nn.LPPool1d."""


class LPPool2d(Calls, torch.nn.LPPool2d, function="lp_pool2d"):
    """The Lp norm of each window. Source: torch.nn.LPPool2d."""


class LPPool3d(Calls, torch.nn.LPPool3d, function="lp_pool3d"):
    """The Lp norm of each window. Source: torch.nn.LPPool3d."""


class AdaptiveAvgPool1d(Calls, torch.nn.AdaptiveAvgPool1d, function="adaptive_avg_pool1d"):
    """The averages of as many windows as the output has pixels. Source: torch.nn.AdaptiveAvgPool1d."""


class AdaptiveAvgPool2d(Calls, torch.nn.AdaptiveAvgPool2d, function="adaptive_avg_pool2d"):
    """The averages of as many windows as the output has pixels. Source: torch.nn.AdaptiveAvgPool2d."""


class AdaptiveAvgPool3d(Calls, torch.nn.AdaptiveAvgPool3d, function="adaptive_avg_pool3d"):
    """The averages of as many windows as the output has pixels. Source: torch.nn.AdaptiveAvgPool3d."""


class AdaptiveMaxPool1d(Calls, torch.nn.AdaptiveMaxPool1d, function="adaptive_max_pool1d"):
    """The maxima of as many windows as the output has pixels. Source: torch.nn.AdaptiveMaxPool1d."""


class AdaptiveMaxPool2d(Calls, torch.nn.AdaptiveMaxPool2d, function="adaptive_max_pool2d"):
    """The maxima of as many windows as the output has pixels. Source: torch.nn.AdaptiveMaxPool2d."""


class AdaptiveMaxPool3d(Calls, torch.nn.AdaptiveMaxPool3d, function="adaptive_max_pool3d"):
    """The maxima of as many windows as the output has pixels. Source: torch.nn.AdaptiveMaxPool3d."""


class _MaxUnpool(Calls):
    """What MaxUnpool1d, MaxUnpool2d and MaxUnpool3d share."""

    def forward(  # type: ignore[override]
        self, input: torch.Tensor, indices: torch.Tensor, output_size: list[int] | None = None
    ) -> torch.Tensor:
        window = (self.kernel_size, self.stride, self.padding)
        return getattr(functional, self.function)(input, indices, *window, output_size)


class MaxUnpool1d(_MaxUnpool, torch.nn.MaxUnpool1d, function="max_unpool1d"):
    """The maxima of MaxPool1d at their indices, 0 elsewhere. Source: torch.nn.MaxUnpool1d."""


class MaxUnpool2d(_MaxUnpool, torch.nn.MaxUnpool2d, function="max_unpool2d"):
    """The maxima of MaxPool2d at their indices, 0 elsewhere. Source: torch.nn.MaxUnpool2d."""


class MaxUnpool3d(_MaxUnpool, torch.nn.MaxUnpool3d, function="max_unpool3d"):
    """The maxima of MaxPool3d at their indices, 0 elsewhere. Source: torch.nn.MaxUnpool3d."""


def _shows(call: str, size: int, *kinds: type) -> None:
    """Ends the docstrings of layers along one, two and three axes with an example, given for two."""
    example = f">>> tritonconv.nn.{call}.shape\n        torch.Size([2, 3, {size}, {size}])"
    for rank, kind in enumerate(kinds, start=1):
        kind.__doc__ = example_along(rank, f"{kind.__doc__}\n\n    Example:\n        {example}\n    ")


_shows("MaxPool2d(2)(torch.ones(2, 3, 8, 8))", 4, MaxPool1d, MaxPool2d, MaxPool3d)
_shows("AvgPool2d(3, stride=2, padding=1)(torch.ones(2, 3, 8, 8))", 4, AvgPool1d, AvgPool2d, AvgPool3d)
_shows("LPPool2d(2.0, kernel_size=4)(torch.ones(2, 3, 8, 8))", 2, LPPool1d, LPPool2d, LPPool3d)
_shows("AdaptiveAvgPool2d(5)(torch.ones(2, 3, 8, 8))", 5, AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d)
_shows("AdaptiveMaxPool2d(5)(torch.ones(2, 3, 8, 8))", 5, AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d)
_shows(
    "MaxUnpool2d(2)(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4).long())", 8, MaxUnpool1d, MaxUnpool2d, MaxUnpool3d
)
