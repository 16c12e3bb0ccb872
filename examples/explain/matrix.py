"""A convolution is a product with a sparse matrix.

The matrix's entries repeat, and the transposed convolution is the product with its transpose. Column j is what the
convolution makes of an image in which pixel j alone is 1: a batch of all such images gives the matrix. Another product,
im2col's, writes each patch of the image as a column and multiplies by the filter as one row.
"""

import torch
from matplotlib.figure import Figure

from examples.explain.lesson import Drawing, Lesson, draw, require_equal
from tritonconv import functional as F

WEIGHT = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 5.0, -6.0], [7.0, 8.0, 9.0]], dtype=torch.float64).view(1, 1, 3, 3)


def matrix(weight: torch.Tensor, side: int) -> torch.Tensor:
    """(P * Q, side * side): that of conv2d with `weight` (1, 1, R, S), without padding, on images side x side."""
    units = torch.eye(side * side, dtype=weight.dtype).view(-1, 1, side, side)
    return F.conv2d(units, weight).flatten(1).T.contiguous()


def check(weight: torch.Tensor, side: int) -> None:
    """Raise unless the products are the convolution, its transpose and im2col's, exactly: whole numbers in float64."""
    M = matrix(weight, side)
    x = torch.arange(side * side, dtype=weight.dtype).view(1, 1, side, side)
    y = F.conv2d(x, weight)
    require_equal("matrix times image", (M @ x.flatten()).view_as(y), y)
    back = F.conv_transpose2d(y, weight)
    require_equal("transpose times output", (M.T @ y.flatten()).view_as(back), back)
    patches = F.unfold(x, tuple(weight.shape[2:]))
    require_equal("filter times patches", (weight.flatten() @ patches[0]).view_as(y), y)


def lesson() -> Lesson:
    small, large = matrix(WEIGHT, 4), matrix(WEIGHT, 8)
    for side in (4, 8):
        check(WEIGHT, side)
    lines = [
        f"{side}x{side} image: matrix {M.shape[0]}x{M.shape[1]}, {M.count_nonzero()} of {M.numel()} entries are not 0"
        f" ({M.count_nonzero() / M.numel():.0%}), {len(M[M != 0].unique())} different ones"
        for side, M in ((4, small), (8, large))
    ]
    image = torch.arange(1, 17, dtype=torch.float64).view(1, 1, 4, 4)
    patches = F.unfold(image, 3)[0]
    lines += [
        "matrix times image = conv2d, transpose times output = conv_transpose2d: equal, bit for bit",
        f"im2col: filter 1x{WEIGHT.numel()} times patches {patches.shape[0]}x{patches.shape[1]} = conv2d: equal;"
        f" the {image.numel()} pixels are stored {patches.numel()} times",
    ]
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle("A convolution as a matrix: each row holds the filter's weights, moved on by one position")
    axes = figure.subplot_mosaic(
        [["filter", "matrix", "matrix", "transpose"], ["patches", "large", "large", "transpose"]],
        width_ratios=[1, 1.5, 1.5, 1],
    )
    draw(axes["filter"], WEIGHT[0, 0], "filter 3x3", signed=True, numbers=True)
    draw(axes["matrix"], small, "conv2d on a 4x4 image: 4 outputs, 16 pixels", signed=True, numbers=True)
    axes["matrix"].set(xlabel="pixel", ylabel="output", xticks=range(16), yticks=range(4))
    draw(axes["transpose"], small.T, "conv_transpose2d:\nfrom 4 values to 16", signed=True, numbers=True)
    axes["transpose"].set(xlabel="value", ylabel="pixel", xticks=range(4), yticks=range(16))
    draw(axes["large"], large, "on an 8x8 image: 36 outputs, 64 pixels", signed=True)
    axes["large"].set(xlabel="pixel", ylabel="output", xticks=range(0, 64, 8), yticks=range(0, 36, 6))
    draw(axes["patches"], patches, "im2col: a column for each\npatch of the image 1 to 16", numbers=True)
    axes["patches"].set(xlabel="output", ylabel="weight", xticks=range(4), yticks=range(9))
    alt = "The matrix of a 3x3 convolution on a 4x4 image and on an 8x8 image, its transpose, and im2col's patches"
    return Lesson("matrix", "A convolution is a matrix product", "\n".join(lines), (Drawing("matrix", alt, figure),))
