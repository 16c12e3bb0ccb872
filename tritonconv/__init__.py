"""tritonconv: convolution layers for PyTorch whose every kernel is written in Triton, in Python."""

from tritonconv import functional, nn
from tritonconv.convert import convert

__version__ = "0.1.0"
__all__ = ["convert", "functional", "nn"]
