"""Patches of an image as columns, and back; pixels as channels, and back."""

import torch

from tritonconv.nn.ours import Calls


class Unfold(Calls, torch.nn.Unfold, function="unfold"):
    """The patches of an image, (N, C, H, W) or (C, H, W), as columns (N, C · R · S, L) or (C · R · S, L).

    Source: torch.nn.Unfold.

    Example:
        >>> tritonconv.nn.Unfold(3, padding=1)(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 27, 64])
    """


class Fold(Calls, torch.nn.Fold, function="fold"):
    """Unfold's adjoint: columns (N, C · R · S, L) or (C · R · S, L) added up to an image of `output_size`.

    Source: torch.nn.Fold.

    Example:
        >>> tritonconv.nn.Fold((8, 8), 3, padding=1)(torch.ones(2, 27, 64)).shape
        torch.Size([2, 3, 8, 8])
    """


class PixelShuffle(Calls, torch.nn.PixelShuffle, function="pixel_shuffle"):
    """(*, C · r², H, W) → (*, C, H · r, W · r), r = `upscale_factor`.

    Source: torch.nn.PixelShuffle.

    Example:
        >>> tritonconv.nn.PixelShuffle(2)(torch.ones(1, 8, 4, 4)).shape
        torch.Size([1, 2, 8, 8])
    """


class PixelUnshuffle(Calls, torch.nn.PixelUnshuffle, function="pixel_unshuffle"):
    """(*, C, H · r, W · r) → (*, C · r², H, W), r = `downscale_factor`.

    Source: torch.nn.PixelUnshuffle.

    Example:
        >>> tritonconv.nn.PixelUnshuffle(2)(torch.ones(1, 2, 8, 8)).shape
        torch.Size([1, 8, 4, 4])
    """
