"""Random distortions of images, drawn anew for each batch, on the images' own device."""

import math

import torch
from torch.nn.functional import affine_grid, grid_sample

import tritonconv.functional as F
from examples.recipes import Recipe

ELASTIC_RADIUS = 4.0  # pixels: standard deviation of the Gaussian that smooths a distortion (Simard et al. 2003)


def augment(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """`images` (N, C, H, W), each shifted, rotated, scaled and distorted by amounts of its own, up to the recipe's.

    Sampled bilinearly; what comes from outside the image is 0. A recipe without augmentation returns its argument.
    """
    if not (recipe.shift or recipe.rotation or recipe.scaling or recipe.elastic):
        return images
    N, _, H, W = images.shape
    angle, scale, down, right = (2 * torch.rand(4, N, device=images.device) - 1).unbind()
    angle, scale = angle * math.radians(recipe.rotation), 1 + scale * recipe.scaling
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    # affine_grid's coordinates: -1 and 1 are the image's edges, so a pixel is 2 / W of them
    rows = (cosine, -sine * H / W, right * 2 * recipe.shift / W, sine * W / H, cosine, down * 2 * recipe.shift / H)
    grid = affine_grid(torch.stack(rows, 1).view(N, 2, 3), [N, 1, H, W], align_corners=False)
    if recipe.elastic:
        pixels = torch.tensor([2 / W, 2 / H], device=images.device)
        grid = grid + recipe.elastic * pixels * _smooth(torch.randn(N, 2, H, W, device=images.device)).movedim(1, 3)
    return grid_sample(images.float(), grid.float(), align_corners=False).to(images.dtype)


def _smooth(noise: torch.Tensor) -> torch.Tensor:
    """White `noise` (N, C, H, W) through a Gaussian, of variance 1 again; at the border it is mirrored."""
    reach = min(int(2 * ELASTIC_RADIUS), *(side - 1 for side in noise.shape[2:]))
    weight = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=noise.device) / ELASTIC_RADIUS) ** 2)
    weight = weight / weight.norm()
    channels = noise.shape[1]
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        kernel = weight.view(shape).expand(channels, -1, -1, -1)
        padding = [size // 2 for size in kernel.shape[2:]]
        noise = F.conv2d(noise, kernel, padding=padding, padding_mode="reflect", groups=channels)
    return noise
