"""What tiles are chosen for: the device at hand, or an architecture that is not there; and how it multiplies."""

import contextlib
import functools
import platform
import re
from collections.abc import Iterator
from contextvars import ContextVar

import torch

# Of an A100, an H100 SXM, a B200 and an MI300X.
MULTIPROCESSORS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx942": 304}
_target: ContextVar[str | None] = ContextVar("architecture that tiles are chosen for", default=None)


@contextlib.contextmanager
def target(architecture: str | None) -> Iterator[None]:
    """Choose this context's tiles for `architecture` ("interpreter", "sm_90", "gfx942", …) wherever the tensors lie.

    Raises:
        ValueError: it is none of these.
    """
    if architecture is not None and not re.fullmatch(r"interpreter|sm_\d+a?|gfx\w+", str(architecture)):
        raise ValueError(f"target must be 'interpreter' or a GPU such as 'sm_90' or 'gfx942', but got {architecture!r}")
    token = _target.set(architecture)
    try:
        yield
    finally:
        _target.reset(token)


# The machine that tiles are chosen for, which need not be there; on it nothing is tuned.
current_target = _target.get


def architecture(device: torch.device) -> str:
    """ "interpreter" for a CPU, "sm_90" and the like for a GPU; or the target."""
    return current_target() or at(device)


def at(device: torch.device) -> str:
    """The architecture of a device that is there."""
    if device.type != "cuda":
        return "interpreter"
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def multiprocessors(device: torch.device) -> int:
    """Of the device; for a target of its usual machine."""
    if current_target() is None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return MULTIPROCESSORS.get(architecture(device), 132)


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
