"""The operators, torch.ops.tritonconv: one file a family, each operator declared once (operator.py)."""

from tritonconv.ops import conv, elementwise, patches, pool, resample
from tritonconv.ops.operator import operators
from tritonconv.ops.shortcuts import shortcut

__all__ = ["conv", "elementwise", "operators", "patches", "pool", "resample", "shortcut"]
