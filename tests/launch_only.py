"""A GPU that launches nothing: Triton's own path from a call to cuLaunchKernelEx, on a machine without one.

    import tests.launch_only  # before anything launches

Tensors on the CPU are taken for ones on a Hopper. Arguments are bound, specialised and packed by Triton; then a libcuda
of ours (launch_only.c) counts the launch, or refuses it where CUDA would. No code is generated (tests/test_codegen.py
does that) and nothing is computed. Needs a C compiler, as Triton itself does.
"""

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

_folder = Path(tempfile.mkdtemp(prefix="launch-only-"))
_source = Path(__file__).with_suffix(".c")
_library = _folder / "libcuda.so.1"
subprocess.run(["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", _library, _source], check=True)
(_folder / "libcuda.so").symlink_to(_library.name)
os.environ["TRITON_LIBCUDA_PATH"] = str(_folder)
libcuda = ctypes.CDLL(str(_library), mode=ctypes.RTLD_GLOBAL)
libcuda.launches.restype = ctypes.c_long

import triton.backends.nvidia.driver as nvidia  # noqa: E402  the stand-in is found first

from tritonconv import jit, tuning  # noqa: E402

GPU = torch.device("cuda", 0)
compiled: list[str] = []  # the kernel's name of each compilation that a GPU would have paid for
sources: list[tuple[ASTSource, Any]] = []  # and what was to be compiled, with its options


class _Driver(nvidia.CudaDriver):
    def __init__(self) -> None:
        self.utils = nvidia.CudaUtils()
        self.launcher_cls = nvidia.CudaLauncher

    get_device_capability = staticmethod(lambda device=0: (9, 0))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device=0: 0)
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))


class _Code:
    """What stands for machine code: what a launch needs of it."""

    function = 1
    launch_metadata = staticmethod(lambda *_: None)

    def __init__(self, source: ASTSource, options: Any, backend: Any) -> None:
        sizes = ("global_scratch_size", "global_scratch_align", "profile_scratch_size", "profile_scratch_align")
        metadata = SimpleNamespace(**dict.fromkeys(sizes, 0), **vars(options), shared=0, cluster_dims=(1, 1, 1))
        self.packed_metadata = backend.pack_metadata(metadata)
        self.run = driver.active.launcher_cls(source, metadata)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        raise AssertionError("no hook is set")


def _do_compile(self: JITFunction, key: str, signature: Any, device: Any, constexprs: Any, options: Any, *rest: Any):
    kernel_cache, _, _, backend, _ = self.device_caches[device]
    compiled.append(self.fn.__name__)
    source = ASTSource(self, signature, constexprs, rest[0])
    sources.append((source, options))
    kernel_cache[key] = code = _Code(source, options, backend)
    return code


driver.set_active(_Driver())
JITFunction._do_compile = _do_compile
torch.cuda._exchange_device = torch.cuda._maybe_exchange_device = lambda device: 0
_device_of = jit.common_device
jit.common_device = lambda values: GPU if (found := _device_of(values)).type == "cpu" else found
tuning.device.at = lambda device: "sm_90"


def launches() -> int:
    return libcuda.launches()


def last_grid() -> tuple[int, ...]:
    return tuple(map(libcuda.last_grid, range(3)))
