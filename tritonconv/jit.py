"""One kernel, two lives: compiled for tensors on a GPU, interpreted for tensors on the CPU, in one process.

`triton.jit` decides at decoration time which of the two a kernel gets. `jit` below keeps both: a `Kernel` is a
`JITFunction` (compiler, cache, launcher) whose launches on CPU tensors go to Triton's own interpreter instead.
TRITON_INTERPRET=1 still sends every launch there.
"""

import contextlib
import copy
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.interpreter import GridExecutor
from triton.runtime.jit import JITFunction, create_function_from_signature

from tritonconv.interpreter import interpret

# Arguments that vary with the batch, by the names that kernels give them: that one is 1, or a multiple of 16, makes no
# case of its own, so that the last batch of an epoch, or one image, compiles nothing.
VARYING = ("N", "dy_N", "elements", "splits", "steps")

_lock = threading.RLock()  # interpreting patches triton.language, which compiling reads
# Nobody else is in a launch while the process forks: a child has one thread, which would wait for the others' lock.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_recorded: "ContextVar[list[Launch] | None]" = ContextVar("launches recorded instead of run", default=None)


class Launch(NamedTuple):
    """One launch as a launcher asked for it: the kernel, its grid, its arguments by name, its compiler options."""

    kernel: "Kernel"
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]

    def run(self, warmup: bool = False) -> CompiledKernel | None:
        """Launch on the device that holds the tensors. Returns the machine code; None if it was interpreted.

        Raises:
            RuntimeError: the tensors lie on two devices.
            NotImplementedError: they lie on a device that is neither a CPU nor a GPU.
        """
        device = common_device(self.arguments.values())
        with _lock:
            if triton.knobs.runtime.interpret or device.type == "cpu":
                if not warmup:
                    _interpret(self, device)
                return None
            if device.type != "cuda":
                raise NotImplementedError(
                    f"Could not run '{self.kernel.fn.__name__}' on device '{device}': expected tensors on 'cpu' or "
                    "'cuda'"
                )
            with torch.cuda.device(device):
                options = {"grid": self.grid, "warmup": warmup, **self.options}
                return JITFunction.run(self.kernel, **self.arguments, **options)


class Kernel(JITFunction):
    """A Triton kernel or device helper that runs compiled on a GPU and interpreted on a CPU. Made by `jit`."""

    def run(self, *args: Any, grid: tuple[int, ...], warmup: bool, **kwargs: Any) -> CompiledKernel | None:
        """Launch, or where launches are recorded note it."""
        kwargs.setdefault("enable_fp_fusion", True)  # Triton 3.9 warns where neither this nor its variable is set
        launch = _bind(self, grid, args, kwargs)
        if (recorded := _recorded.get()) is not None:
            recorded.append(launch)
            return None
        return launch.run(warmup)


class Again:
    """A launch of machine code that was compiled for it, on other tensors each time: their addresses are what changes.

    `addressed` has the number of each such argument, of its tensor, and bytes from where that begins.
    """

    def __init__(
        self,
        compiled: CompiledKernel,
        device: torch.device,
        launch: Launch,
        addressed: Sequence[tuple[int, int, int]],
    ) -> None:
        self.compiled, self.index, self.addressed = compiled, device.index, addressed
        self.arguments = [launch.arguments[p.name] for p in launch.kernel.params]  # constants too
        self.grid = (*launch.grid, 1, 1)[:3]
        self.driver = triton.runtime.driver.active
        self.onto: dict[int, Callable[[list[Any]], Any]] = {}  # a stream

    def run(self, tensors: Sequence[torch.Tensor]) -> None:
        driver, index = self.driver, self.index
        if driver.get_current_device() != index:
            with torch.cuda.device(index):
                return self.run(tensors)
        arguments = self.arguments.copy()
        for i, number, offset in self.addressed:
            arguments[i] = tensors[number].data_ptr() + offset
        runtime = triton.knobs.runtime
        if runtime.launch_enter_hook.calls or runtime.launch_exit_hook.calls:
            self.compiled[self.grid](*arguments)
        else:  # as there, without the description that hooks read
            stream = driver.get_current_stream(index)
            launch = self.onto.get(stream)
            if launch is None:
                launch = self.onto[stream] = self._onto(stream, arguments)
            launch(arguments)

    def _onto(self, stream: int, arguments: list[Any]) -> Callable[[list[Any]], Any]:
        """What Triton's launcher calls, which takes half of its time, if that gets what it may get again."""
        code, launcher, passed = self.compiled, copy.copy(self.compiled.run), []
        launcher.launch = lambda *given: passed.extend(given)
        before = (*self.grid, stream, code.function, code.packed_metadata, None, None, None)
        if not (launcher.global_scratch_size or launcher.profile_scratch_size):
            launcher(*before, *arguments)
            if passed[-1] == tuple(arguments):  # before Triton 3.7 one by one
                return functools.partial(code.run.launch, *passed[:-1])
        return lambda arguments: code.run(*before, *arguments)


def jit(fn: Callable) -> Kernel:
    """Make a Triton kernel, or a helper called inside one, that runs on GPU tensors and on CPU tensors."""
    return Kernel(fn, do_not_specialize=[name for name in VARYING if name in inspect.signature(fn).parameters])


# This context's recorded launches; None where none are recorded.
recorded = _recorded.get


@contextlib.contextmanager
def record_launches() -> Iterator[list[Launch]]:
    """Collect this context's launches of our kernels instead of running them; the operators' results are uninitialised.

    Other threads' launches run, those of autograd's backward threads too.
    """
    launches: list[Launch] = []
    token = _recorded.set(launches)
    try:
        yield launches
    finally:
        _recorded.reset(token)


def compile_launch(launch: Launch, target: GPUTarget) -> CompiledKernel:
    """Compile a recorded launch for `target` with the specialisation that a real one would get; needs no GPU.

    Triton's cache folder then holds what a launch like it on such a GPU looks for, with the same Triton and ptxas.
    """
    kernel, backend = launch.kernel, make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(**launch.arguments, **launch.options)
    options, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialization, options)
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=vars(options))


def _bind(kernel: Kernel, grid: tuple[int, ...], args: tuple, kwargs: dict[str, Any]) -> Launch:
    arguments = {p.name: p.default for p in kernel.params if p.has_default}
    arguments.update(zip(kernel.arg_names, args, strict=False))
    arguments.update((k, v) for k, v in kwargs.items() if k in kernel.arg_names)
    options = {k: v for k, v in kwargs.items() if k not in kernel.arg_names}
    return Launch(kernel, tuple(grid), arguments, options)


def common_device(values: Iterable[Any]) -> torch.device:
    """Of the tensors among the values."""
    devices = list(dict.fromkeys(v.device for v in values if isinstance(v, torch.Tensor)))
    if len(devices) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{devices[0]} and {devices[1]}!"
        )
    return devices[0]


def _interpret(launch: Launch, device: torch.device) -> None:
    kernel, arguments = launch.kernel, launch.arguments
    if device.type != "cpu":  # TRITON_INTERPRET=1 with tensors on a GPU: work on copies, then copy them back
        executor = GridExecutor(kernel.fn, kernel.arg_names, launch.grid)
        _, arguments = executor._init_args_hst((), arguments)
    interpret(kernel.fn, {p.name for p in kernel.params if p.is_constexpr}, arguments, launch.grid)
    if device.type != "cpu":
        executor._restore_args_dev((), (), launch.arguments, arguments)
