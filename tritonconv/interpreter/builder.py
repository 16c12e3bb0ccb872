"""What an operation of Triton's language does to numpy arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton._C.libtriton.ir import ATOMIC_OP
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps, TensorHandle

from tritonconv.interpreter import memory
from tritonconv.interpreter.arrays import bfloat16_to_float32, collapse, expand, float32_to_bfloat16
from tritonconv.interpreter.recording import recorded, unrecorded


class Builder(InterpreterBuilder):
    """Triton's interpreter with right bf16 arithmetic, cheap broadcasts, numpy's loads and stores, and a recorder."""

    grid_idx = grid_dim = None  # of the running program, once there is one

    def cast_impl(self, src: TensorHandle, dst_type: Any) -> TensorHandle:
        source, target = src.dtype.scalar, dst_type.scalar
        if tl.bfloat16 not in (source, target) or source == target:
            return super().cast_impl(src, dst_type)
        data = bfloat16_to_float32(src.data) if source == tl.bfloat16 else src.data
        if target == tl.bfloat16:
            return TensorHandle(float32_to_bfloat16(data.astype(np.float32)), tl.bfloat16)
        return TensorHandle(data.astype(memory.dtype_of(target)), target)

    def get_bf16(self, value: float) -> TensorHandle:
        return self.cast_impl(self.get_fp32(value), tl.bfloat16)

    def create_dot(self, a: TensorHandle, b: TensorHandle, d: TensorHandle, *precision: Any) -> TensorHandle:
        # by torch and not by numpy, whose BLAS brings threads of its own: two pools fight for the cores; but in full
        # precision, whatever is set for the caller's own products
        a, b = (self.cast_impl(t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b))
        x, y = (np.require(t.data, d.data.dtype, "W") for t in (a, b))
        product = np.empty(d.data.shape, d.data.dtype)
        if torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee"):  # type: ignore[attr-defined]
            # with `out=`, autocast leaves it alone
            torch.matmul(*map(torch.from_numpy, (x, y)), out=torch.from_numpy(product))
        else:
            np.matmul(x, y, out=product)
        if collapse(d.data).size > 1 or d.data.any():
            product += d.data
        return TensorHandle(product, d.dtype.scalar)

    def create_splat(self, ret_ty: Any, arg: TensorHandle) -> TensorHandle:
        return TensorHandle(expand(arg.data, tuple(ret_ty.shape)), arg.dtype.scalar)

    def create_addptr(self, ptr: TensorHandle, offset: TensorHandle) -> TensorHandle:
        step = max(1, ptr.get_element_ty().primitive_bitwidth // 8)
        address = collapse(ptr.data) + collapse(offset.data).astype(np.uint64) * np.uint64(step)
        return TensorHandle(expand(address, ptr.data.shape), ptr.dtype)

    def binary_op(self, lhs: TensorHandle, rhs: TensorHandle, op: Callable) -> TensorHandle:
        shape = np.broadcast_shapes(lhs.data.shape, rhs.data.shape)
        lhs, rhs = (TensorHandle(collapse(t.data), t.dtype) for t in (lhs, rhs))
        out = super().binary_op(lhs, rhs, op)
        return TensorHandle(expand(out.data, shape), out.dtype)

    def create_select(self, condition: TensorHandle, a: TensorHandle, b: TensorHandle) -> TensorHandle:
        # by bits: numpy's `where` takes a branch for each element, up to ten times as long
        shape = np.broadcast_shapes(condition.data.shape, a.data.shape, b.data.shape)
        if condition.data.dtype != np.bool_ or a.data.dtype != b.data.dtype:
            return super().create_select(condition, a, b)
        bits = np.dtype(f"i{a.data.itemsize}")
        take, x, y = collapse(condition.data).view(np.int8), collapse(a.data).view(bits), collapse(b.data).view(bits)
        out = ((x ^ y) & np.negative(take, dtype=bits)) ^ y
        return TensorHandle(expand(out.view(a.data.dtype), shape), a.dtype.scalar)

    def create_reduce(self, value: TensorHandle, kind: Any, reduce: ReduceOps) -> TensorHandle:
        return reduce.apply(tl.tensor(value, kind)).handle

    def create_load(self, ptr: TensorHandle, *_: Any) -> TensorHandle:
        return self.create_masked_load(ptr, _everywhere(ptr), None)

    def create_store(self, ptr: TensorHandle, value: TensorHandle, *_: Any) -> None:
        self.create_masked_store(ptr, value, _everywhere(ptr))

    def create_masked_load(self, ptrs: TensorHandle, mask: TensorHandle, other: TensorHandle | None, *_: Any) -> Any:
        element = ptrs.get_element_ty()
        if other is None:
            other = TensorHandle(np.zeros(1, memory.dtype_of(element)), element)
        return memory.access(memory.load, ptrs, mask, other)

    def create_masked_store(self, ptrs: TensorHandle, value: TensorHandle, mask: TensorHandle, *_: Any) -> None:
        memory.access(memory.store, ptrs, mask, value)

    def create_atomic_rmw(self, op: Any, ptrs: TensorHandle, value: TensorHandle, mask: TensorHandle, *_: Any) -> Any:
        if op != ATOMIC_OP.MAX:
            raise NotImplementedError(f"{op} in the interpreter")
        memory.access(memory.maximum, ptrs, mask, value)
        return value  # what was there before is not kept


def _everywhere(ptr: TensorHandle) -> TensorHandle:
    return TensorHandle(np.broadcast_to(np.True_, ptr.data.shape), tl.int1)


def _wrap_builder() -> None:
    """Record every operation but loads and stores, which do it themselves, and give up on what acts otherwise."""
    for name in dir(Builder):
        if any(word in name for word in ("atomic_cas", "descriptor", "print")):
            setattr(Builder, name, unrecorded(getattr(Builder, name)))
        elif name.startswith("create_") and not name.endswith(("_load", "_store", "_rmw")):
            setattr(Builder, name, recorded(getattr(Builder, name)))


_wrap_builder()
numpy_builder = Builder()
