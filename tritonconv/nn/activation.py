"""Activations."""

import torch

from tritonconv.nn.ours import Calls


class ReLU(Calls, torch.nn.ReLU, function="relu"):
    """y = max(0, x), of any shape; NaN stays NaN.

    Source: torch.nn.ReLU.

    Example:
        >>> tritonconv.nn.ReLU()(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
