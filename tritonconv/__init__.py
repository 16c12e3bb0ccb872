"""tritonconv: convolution layers for PyTorch whose every kernel is written in Triton, in Python."""

from tritonconv import functional, nn
from tritonconv.convert import convert, restore
from tritonconv.explain import explain
from tritonconv.patching import patched
from tritonconv.tuning.measure import autotune
from tritonconv.version import __version__ as __version__

__all__ = ["autotune", "convert", "explain", "functional", "nn", "patched", "restore"]
