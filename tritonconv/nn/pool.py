"""Pooling."""

from typing import ClassVar

import torch

from tritonconv import functional
from tritonconv.nn.ours import Ours


class _MaxPool(Ours, torch.nn.modules.pooling._MaxPoolNd):
    """What MaxPool1d, MaxPool2d and MaxPool3d share."""

    rank: ClassVar[int]

    def forward(self, input: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return getattr(functional, f"max_pool{self.rank}d")(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxPool1d(_MaxPool, torch.nn.MaxPool1d):
    """MaxPool2d along one axis: input (N, C, W) or (C, W), indices in W.

    Source: torch.nn.MaxPool1d.
    """

    rank = 1


class MaxPool2d(_MaxPool, torch.nn.MaxPool2d):
    """y[n, c, p, q] = the largest x[n, c, p·stride + r·dilation − padding, ...] over the window; NaN wins.

    input: (N, C, H, W) or (C, H, W); fp16, bf16, fp32 or fp64; any strides.
    Returns (N, C, P, Q) or (C, P, Q), and with `return_indices` the int64 indices in the plane (H, W).

    Raises:
        RuntimeError: in forward, as in torch: the window does not fit.

    Source: torch.nn.MaxPool2d.
    """

    rank = 2


class MaxPool3d(_MaxPool, torch.nn.MaxPool3d):
    """MaxPool2d along three axes: input (N, C, D, H, W) or (C, D, H, W), indices in the volume (D, H, W).

    Source: torch.nn.MaxPool3d.
    """

    rank = 3


class AvgPool1d(Ours, torch.nn.AvgPool1d):
    """The average of each window of (N, C, W) or (C, W).

    Source: torch.nn.AvgPool1d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        sliding = (self.kernel_size, self.stride, self.padding)
        return functional.avg_pool1d(input, *sliding, self.ceil_mode, self.count_include_pad)


class AvgPool2d(Ours, torch.nn.AvgPool2d):
    """The average of each window of (N, C, H, W) or (C, H, W).

    Source: torch.nn.AvgPool2d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        sliding = (self.kernel_size, self.stride, self.padding)
        return functional.avg_pool2d(input, *sliding, self.ceil_mode, self.count_include_pad, self.divisor_override)


class AvgPool3d(Ours, torch.nn.AvgPool3d):
    """The average of each window of (N, C, D, H, W) or (C, D, H, W).

    Source: torch.nn.AvgPool3d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        sliding = (self.kernel_size, self.stride, self.padding)
        return functional.avg_pool3d(input, *sliding, self.ceil_mode, self.count_include_pad, self.divisor_override)


class LPPool1d(Ours, torch.nn.LPPool1d):
    """The Lp norm of each window of (N, C, W) or (C, W).

    Source: torch.nn.LPPool1d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.lp_pool1d(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


class LPPool2d(Ours, torch.nn.LPPool2d):
    """The Lp norm of each window of (N, C, H, W) or (C, H, W).

    Source: torch.nn.LPPool2d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.lp_pool2d(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


class LPPool3d(Ours, torch.nn.LPPool3d):
    """The Lp norm of each window of (N, C, D, H, W) or (C, D, H, W).

    Source: torch.nn.LPPool3d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.lp_pool3d(input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode)


class AdaptiveAvgPool1d(Ours, torch.nn.AdaptiveAvgPool1d):
    """Averages of as many windows as the output has pixels, of (N, C, W) or (C, W).

    Source: torch.nn.AdaptiveAvgPool1d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(Ours, torch.nn.AdaptiveAvgPool2d):
    """Averages of as many windows as the output has pixels, of (N, C, H, W) or (C, H, W).

    Source: torch.nn.AdaptiveAvgPool2d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveAvgPool3d(Ours, torch.nn.AdaptiveAvgPool3d):
    """Averages of as many windows as the output has pixels, of (N, C, D, H, W) or (C, D, H, W).

    Source: torch.nn.AdaptiveAvgPool3d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_avg_pool3d(input, self.output_size)


class AdaptiveMaxPool1d(Ours, torch.nn.AdaptiveMaxPool1d):
    """Maxima of as many windows as the output has pixels, of (N, C, W) or (C, W).

    Source: torch.nn.AdaptiveMaxPool1d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return functional.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(Ours, torch.nn.AdaptiveMaxPool2d):
    """Maxima of as many windows as the output has pixels, of (N, C, H, W) or (C, H, W).

    Source: torch.nn.AdaptiveMaxPool2d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return functional.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool3d(Ours, torch.nn.AdaptiveMaxPool3d):
    """Maxima of as many windows as the output has pixels, of (N, C, D, H, W) or (C, D, H, W).

    Source: torch.nn.AdaptiveMaxPool3d.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return functional.adaptive_max_pool3d(input, self.output_size, self.return_indices)
