"""One kernel, two lives: compiled for tensors on a GPU, interpreted for tensors on the CPU, in one process.

`triton.jit` decides at decoration time which of the two a kernel gets. `jit` below keeps both: a `Kernel` is a
`JITFunction` (compiler, cache, launcher) whose launches on CPU tensors go to Triton's own interpreter instead.
TRITON_INTERPRET=1 still sends every launch there.

What is put right about the interpreter while one of our kernels runs in it, on Triton 3.6 to 3.9 alike: bf16 values are
rounded to nearest even and multiplied as numbers (not as bit patterns); a run-time loop bound works with any numpy;
arithmetic on a broadcast tile is done once on what was broadcast; memory is read and written by numpy, four times as
fast, and a pointer outside the launch's tensors raises IndexError.
"""

import contextlib
import ctypes
import dataclasses
import functools
import operator
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.language import core  # noqa: F401  (the interpreter patches the language modules that it finds here)
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpretedFunction, InterpreterBuilder, TensorHandle
from triton.runtime.jit import JITFunction

# The interpreter can check every 32-bit integer operation for overflow, at 1.2 to 2.2 times a kernel's whole time. The
# tests turn it on; compiled code has no such check.
sanitize_overflow = False

_lock = threading.RLock()  # interpreting patches triton.language, which compiling reads
_recorded: "list[Launch] | None" = None


@dataclasses.dataclass(frozen=True)
class Launch:
    """One launch as a launcher asked for it: the kernel, its grid, its arguments by name, its compiler options."""

    kernel: "Kernel"
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]


class Kernel(JITFunction):
    """A Triton kernel or device helper that runs compiled on a GPU and interpreted on a CPU. Made by `jit`."""

    def run(self, *args: Any, grid: tuple[int, ...], warmup: bool, **kwargs: Any) -> Any:
        """Launch on the device that holds the tensors.

        Raises:
            RuntimeError: the tensors lie on two devices.
            NotImplementedError: they lie on a device that is neither a CPU nor a GPU.
        """
        kwargs.setdefault("enable_fp_fusion", True)  # Triton 3.9 warns where neither this nor its variable is set
        if _recorded is not None:
            _recorded.append(_bind(self, grid, args, kwargs))
            return None
        device = _common_device([*args, *kwargs.values()])
        with _lock:
            if triton.knobs.runtime.interpret or device.type == "cpu":
                return None if warmup else _interpret(_bind(self, grid, args, kwargs), device)
            if device.type != "cuda":
                raise NotImplementedError(
                    f"Could not run '{self.fn.__name__}' on device '{device}': expected tensors on 'cpu' or 'cuda'"
                )
            with torch.cuda.device(device):
                return super().run(*args, grid=grid, warmup=warmup, **kwargs)


def jit(fn: Callable) -> Kernel:
    """Make a Triton kernel, or a helper called inside one, that runs on GPU tensors and on CPU tensors."""
    return Kernel(fn)


@contextlib.contextmanager
def record_launches() -> Iterator[list[Launch]]:
    """Collect the launches of our kernels instead of running them; what the operators return is uninitialised."""
    global _recorded
    previous, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = previous


def compile_launch(launch: Launch, target: GPUTarget) -> CompiledKernel:
    """Compile a recorded launch for `target` with the specialisation that a real one would get; needs no GPU."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list] = {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
            continue
        signature[parameter.name] = triton.runtime.jit.mangle_type(value)
        address = value.data_ptr() if isinstance(value, torch.Tensor) else value
        if address % 16 == 0:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=launch.options)


def _bind(kernel: Kernel, grid: tuple[int, ...], args: tuple, kwargs: dict[str, Any]) -> Launch:
    arguments = {p.name: p.default for p in kernel.params if p.has_default}
    arguments.update(zip(kernel.arg_names, args, strict=False))
    arguments.update((k, v) for k, v in kwargs.items() if k in kernel.arg_names)
    options = {k: v for k, v in kwargs.items() if k not in kernel.arg_names}
    return Launch(kernel, tuple(grid), arguments, options)


def _common_device(values: list[Any]) -> torch.device:
    devices = list(dict.fromkeys(v.device for v in values if isinstance(v, torch.Tensor)))
    if len(devices) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{devices[0]} and {devices[1]}!"
        )
    return devices[0]


def _interpret(launch: Launch, device: torch.device) -> None:
    """Run every program of the grid in turn, on the host."""
    kernel, arguments = launch.kernel, launch.arguments
    if device.type != "cpu":  # TRITON_INTERPRET=1 with tensors on a GPU: work on copies, then copy them back
        executor = GridExecutor(kernel.fn, kernel.arg_names, launch.grid)
        _, arguments = executor._init_args_hst((), arguments)
    names = {p.name for p in kernel.params if p.is_constexpr}
    grid = (*launch.grid, 1, 1)[:3]
    builder = interpreter.interpreter_builder
    tensors = [v for v in arguments.values() if isinstance(v, torch.Tensor)]
    with _interpreting(tensors), np.errstate(all="ignore"):
        values = {k: v if k in names else interpreter._implicit_cvt(v) for k, v in arguments.items()}
        builder.set_grid_dim(*grid)
        for x, y, z in np.ndindex(*grid):
            builder.set_grid_idx(x, y, z)
            _rewritten(kernel.fn)(**values)
    if device.type != "cpu":
        executor._restore_args_dev((), (), launch.arguments, arguments)


@functools.cache
def _rewritten(fn: Callable) -> Callable:
    return InterpretedFunction(fn).rewrite()


def _call_interpreted(self: JITFunction, *args: Any, **kwargs: Any) -> Any:
    return _rewritten(self.fn)(*args, **kwargs)


@functools.cache
def _language_patches() -> list[tuple[Any, str, Any]]:
    """What must be replaced where, as (object, attribute, value), for Triton's language to run on numpy."""
    scope = interpreter._patch_lang(_call_interpreted)
    patches = {(id(owner), name): (owner, name, getattr(owner, name)) for owner, name, _ in scope._changes}
    scope.restore()
    return [
        *patches.values(),
        (tl.tensor, "__init__", _init_tensor),
        (tl.block_type, "__init__", _init_block_type),
        (tl.tensor, "__index__", lambda self: int(self.handle.data.item())),
        (JITFunction, "__call__", _call_interpreted),
        (interpreter.interpreter_builder, "__class__", _Builder),
        # torch.set_float32_matmul_precision is for torch's own products
        (torch.backends.mkldnn.matmul, "fp32_precision", "ieee"),  # type: ignore[attr-defined]
    ]


# The interpreter makes tens of thousands of short-lived tensors and types of a few kinds: what their constructors work
# out is kept, by the type's name or by element type and shape.
_tensor_attributes: dict[str, dict[str, Any]] = {}
_block_type_attributes: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
_tensor_init, _block_type_init = tl.tensor.__init__, tl.block_type.__init__


def _init_tensor(self: tl.tensor, handle: TensorHandle, type: tl.dtype) -> None:
    known = _tensor_attributes.get(type.name)
    if known is None:
        _tensor_init(self, handle, type)
        _tensor_attributes[type.name] = {name: value for name, value in vars(self).items() if name != "handle"}
    else:
        vars(self).update(known)
        self.handle = handle


def _init_block_type(self: tl.block_type, element_ty: tl.dtype, shape: list) -> None:
    key = (element_ty.name, tuple(map(operator.index, shape)))
    known = _block_type_attributes.get(key)
    if known is None:
        _block_type_init(self, element_ty, shape)
        _block_type_attributes[key] = dict(vars(self))
    else:
        vars(self).update(known)


_missing = object()
_memory: list[np.ndarray] = []  # the bytes of each storage that the running launch may touch


def _storage_bytes(t: torch.Tensor) -> np.ndarray:
    storage = t.untyped_storage()
    return np.ctypeslib.as_array((ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr()))


@contextlib.contextmanager
def _interpreting(tensors: list[torch.Tensor]) -> Iterator[None]:
    """Patch Triton's language for the interpreter, with `tensors` as its memory; on leaving, all is as it was."""
    patches = _language_patches()
    builder = interpreter.interpreter_builder
    # a failed check is a device_assert, which only speaks under `debug`
    options = dataclasses.replace(builder.options, sanitize_overflow=sanitize_overflow, debug=sanitize_overflow)
    originals = []
    _memory[:] = [_storage_bytes(t) for t in tensors if t.untyped_storage().nbytes() > 0]
    try:
        for owner, name, value in [*patches, (builder, "options", options)]:
            originals.append((owner, name, getattr(owner, name, _missing)))
            setattr(owner, name, value)
        yield
    finally:
        _memory.clear()
        for owner, name, original in reversed(originals):
            if original is _missing:
                delattr(owner, name)
            else:
                setattr(owner, name, original)


class _Builder(InterpreterBuilder):
    """Triton's interpreter with right bf16 arithmetic and cheap broadcasts."""

    def cast_impl(self, src: TensorHandle, dst_type: Any) -> TensorHandle:
        source, target = src.dtype.scalar, dst_type.scalar
        if tl.bfloat16 not in (source, target) or source == target:
            return super().cast_impl(src, dst_type)
        data = _bfloat16_to_float32(src.data) if source == tl.bfloat16 else src.data
        if target == tl.bfloat16:
            return TensorHandle(_float32_to_bfloat16(data.astype(np.float32)), tl.bfloat16)
        return TensorHandle(data.astype(interpreter._get_np_dtype(target)), target)

    def get_bf16(self, value: float) -> TensorHandle:
        return self.cast_impl(self.get_fp32(value), tl.bfloat16)

    def create_dot(self, a: TensorHandle, b: TensorHandle, d: TensorHandle, *precision: Any) -> TensorHandle:
        # by torch and not by numpy, whose BLAS brings threads of its own: two pools fight for the cores
        a, b = (self.cast_impl(t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b))
        x, y = (torch.from_numpy(np.require(t.data, d.data.dtype, "W")) for t in (a, b))
        product = np.empty(d.data.shape, d.data.dtype)
        torch.matmul(x, y, out=torch.from_numpy(product))  # with `out=`, autocast leaves it alone
        product += d.data
        return TensorHandle(product, d.dtype.scalar)

    def create_splat(self, ret_ty: Any, arg: TensorHandle) -> TensorHandle:
        return TensorHandle(_expand(arg.data, tuple(ret_ty.shape)), arg.dtype.scalar)

    def create_addptr(self, ptr: TensorHandle, offset: TensorHandle) -> TensorHandle:
        step = max(1, ptr.get_element_ty().primitive_bitwidth // 8)
        address = _collapse(ptr.data) + _collapse(offset.data).astype(np.uint64) * np.uint64(step)
        return TensorHandle(_expand(address, ptr.data.shape), ptr.dtype)

    def binary_op(self, lhs: TensorHandle, rhs: TensorHandle, op: Callable) -> TensorHandle:
        shape = np.broadcast_shapes(lhs.data.shape, rhs.data.shape)
        lhs, rhs = (TensorHandle(_collapse(t.data), t.dtype) for t in (lhs, rhs))
        out = super().binary_op(lhs, rhs, op)
        return TensorHandle(_expand(out.data, shape), out.dtype)

    def create_masked_load(self, ptrs: TensorHandle, mask: TensorHandle, other: TensorHandle | None, *_: Any) -> Any:
        element = ptrs.get_element_ty()
        dtype = interpreter._get_np_dtype(element)
        if not mask.data.any():
            return TensorHandle(np.zeros(ptrs.data.shape, dtype) if other is None else other.data, element)
        memory, index = _locate(ptrs.data, mask.data, dtype)
        values = memory.take(index)
        if other is not None and not mask.data.all():
            np.copyto(values, other.data, where=~mask.data)
        return TensorHandle(values, element)

    def create_masked_store(self, ptrs: TensorHandle, value: TensorHandle, mask: TensorHandle, *_: Any) -> None:
        if not mask.data.any():
            return
        memory, index = _locate(ptrs.data, mask.data, interpreter._get_np_dtype(ptrs.get_element_ty()))
        if mask.data.all():
            memory[index] = value.data
        else:
            memory[index[mask.data]] = value.data[mask.data]


def _locate(ptrs: np.ndarray, mask: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The storage that `ptrs` point into, as an array of `dtype`, and their indices; 0 where masked out.

    Raises:
        IndexError: an unmasked pointer lies outside the launch's tensors.
    """
    address = int(ptrs[np.unravel_index(mask.argmax(), mask.shape)])
    for storage in _memory:
        start = storage.ctypes.data
        if start <= address < start + storage.size:
            break
    else:
        raise IndexError(f"address {address:#x} lies in none of the launch's tensors")
    memory = storage[: storage.size // dtype.itemsize * dtype.itemsize].view(dtype)
    index = ptrs - np.uint64(start)
    index >>= np.uint64(dtype.itemsize.bit_length() - 1)
    if not mask.all():
        index *= mask
    if index.max() >= memory.size:
        raise IndexError("a pointer lies outside the tensor that the launch points into")
    return memory, index.view(np.int64)


def _collapse(data: np.ndarray) -> np.ndarray:
    """The part of a broadcast array that holds its values: every axis of stride 0 cut to length 1."""
    if 0 not in data.strides:
        return data
    return data[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in data.strides)]


def _expand(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return data if data.shape == shape else np.broadcast_to(data, shape)


def _bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round to nearest even, as a GPU and torch do; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))
