"""tritonconv: convolution layers for PyTorch whose every kernel is written in Triton, in Python."""

from tritonconv import functional, nn
from tritonconv.conversion import ConvertReport, convert, restore
from tritonconv.explanation import ExplainReport, explain
from tritonconv.patching import patched
from tritonconv.tuning.measure import AutotuneReport, autotune
from tritonconv.version import __version__ as __version__

__all__ = ["AutotuneReport", "ConvertReport", "ExplainReport", "autotune", "convert", "explain", "functional", "nn"]
__all__ += ["patched", "restore"]
