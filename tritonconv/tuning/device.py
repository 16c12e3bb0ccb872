"""What tiles are chosen for: the device at hand, or an architecture that is not there; and how it multiplies."""

import contextlib
import functools
import platform
from collections.abc import Iterator

import torch

_target: str | None = None


@contextlib.contextmanager
def target(architecture: str) -> Iterator[None]:
    """Choose tiles for `architecture` ("interpreter", "sm_90", "gfx942", …) wherever the tensors lie."""
    global _target
    previous, _target = _target, architecture
    try:
        yield
    finally:
        _target = previous


def has_target() -> bool:
    """Whether tiles are chosen for a machine that need not be there, on which nothing is tuned."""
    return _target is not None


def architecture(device: torch.device) -> str:
    """ "interpreter" for a CPU, "sm_90" and the like for a GPU."""
    if _target is not None:
        return _target
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def dot_precision(x: torch.Tensor) -> str:
    """How fp32 operands are multiplied: torch's own switch for convolutions (torch.backends.cudnn.conv.fp32_precision).

    "tf32" where it allows TF32; else "tf32x3" (three TF32 products, relative error near 2⁻²²) on NVIDIA and "ieee"
    elsewhere.
    """
    if x.dtype != torch.float32 or architecture(x.device).startswith("gfx"):
        return "ieee"
    allowed = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if allowed == "tf32" else "tf32x3"


@functools.cache
def machine(device: torch.device) -> str:
    """The device's name and architecture. A CPU has no name torch knows: its vector instructions stand for it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {architecture(device)}"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {architecture(device)}"
