"""Activations, elementwise."""

import torch

from tritonconv.checks import require_tensor
from tritonconv.ops import operators, shortcut


@shortcut
def relu(input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """max(input, 0), elementwise; NaN stays NaN.

    Args:
        input: any shape and strides; float16, bfloat16, float32 or float64; CPU or GPU.
        inplace: write the result into `input`, and return that.

    Raises:
        NotImplementedError: a dtype other than the four.
        TypeError: input is not a tensor.

    Source: torch.nn.functional.relu.

    Example:
        >>> tritonconv.functional.relu(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    require_tensor("relu", "input", input)
    y = operators.activate(input, "relu")
    return input.copy_(y) if inplace else y
