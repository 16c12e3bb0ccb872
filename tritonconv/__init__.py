"""tritonconv: convolution layers for PyTorch whose every kernel is written in Triton, in Python."""

from tritonconv import functional, nn
from tritonconv.convert import convert
from tritonconv.explain import explain

__version__ = "0.1.0"
__all__ = ["convert", "explain", "functional", "nn"]
