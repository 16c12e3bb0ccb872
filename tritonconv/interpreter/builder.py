"""What an operation of Triton's language does to numpy arrays."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton._C.libtriton.ir import ATOMIC_OP
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from tritonconv.interpreter import memory, threads
from tritonconv.interpreter.arrays import (
    ALIGNMENT,
    Outer,
    allocate,
    bfloat16_to_float32,
    broadcast,
    collapse,
    expand,
    float32_to_bfloat16,
    lies_by_columns,
    shape_of,
    split,
)
from tritonconv.interpreter.recording import Loaded, plain, recorded, unrecorded

BITWISE = (np.bitwise_and, np.bitwise_or, np.bitwise_xor)
FLOATING = (np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum, np.fmax, np.fmin)


def elementwise(op: Callable, *operands: TensorHandle) -> TensorHandle:
    """A ufunc of one or two tiles of a floating dtype; written over the last of three."""
    args = operands[: op.nin]  # type: ignore[attr-defined]
    out = None if len(operands) == len(args) else operands[-1].data
    shape = functools.reduce(broadcast, (t.data.shape for t in args))
    values = op(*(collapse(t.data) for t in args), out=out)
    return TensorHandle(expand(values, shape), args[0].dtype.scalar)


elementwise.reused = (1, 2)  # type: ignore[attr-defined]


def multiply(a: TensorHandle, b: TensorHandle, d: TensorHandle, out: TensorHandle | None = None) -> TensorHandle:
    """a · b + d in d's dtype.

    By torch and not by numpy, whose BLAS brings threads of its own: two pools fight for the cores; but in full
    precision, whatever is set for the caller's own products.
    """
    left, right = _factor(a, d.data.dtype), _factor(b, d.data.dtype)
    adds = collapse(d.data).size > 1 or bool(d.data.any())
    product = None if out is None else out.data
    if product is None or torch.from_numpy(product).data_ptr() % ALIGNMENT:
        product = allocate(d.data.shape, d.data.dtype, left.stride(0) < left.stride(1))
        if adds:
            np.copyto(product, d.data)
    into = torch.from_numpy(product)
    if torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee"):  # type: ignore[attr-defined]
        act = functools.partial(torch.addmm, into) if adds else torch.mm
        # with `out=`, autocast leaves it alone; in a worker, torch has one thread
        threads.run(lambda factors: act(*factors, out=into), [(left, right)])
    else:
        np.add(np.matmul(left.numpy(), right.numpy()), d.data, out=product)
    return TensorHandle(product, d.dtype.scalar)


multiply.reused = (2,)  # type: ignore[attr-defined]
multiply.multiplies = True  # type: ignore[attr-defined]


def _factor(tile: TensorHandle, dtype: np.dtype) -> torch.Tensor:
    """It, or a copy, of this dtype, that may be written and begins at a multiple of ALIGNMENT."""
    data = bfloat16_to_float32(tile.data) if tile.dtype.scalar == tl.bfloat16 else tile.data
    if data.dtype == dtype and data.flags.writeable:
        factor = torch.from_numpy(data)
        if factor.data_ptr() % ALIGNMENT == 0:
            return factor
    copy = allocate(data.shape, dtype, lies_by_columns(data))
    np.copyto(copy, data)
    return torch.from_numpy(copy)


class Builder(InterpreterBuilder):
    """Triton's interpreter with right bf16 arithmetic, cheap broadcasts, numpy's loads and stores, and a recorder."""

    grid_idx = grid_dim = None  # of the running program, once there is one

    def cast_impl(self, src: TensorHandle, dst_type: Any) -> TensorHandle:
        source, target, data = src.dtype.scalar, dst_type.scalar, collapse(src.data)
        if source == tl.bfloat16 and target != tl.bfloat16:
            data = bfloat16_to_float32(data)
        if target == tl.bfloat16 and source != tl.bfloat16:
            data = float32_to_bfloat16(data.astype(np.float32))
        return TensorHandle(expand(data.astype(memory.dtype_of(target)), src.data.shape), target)

    def get_bf16(self, value: float) -> TensorHandle:
        return self.cast_impl(self.get_fp32(value), tl.bfloat16)

    def create_dot(self, a: TensorHandle, b: TensorHandle, d: TensorHandle, *precision: Any) -> TensorHandle:
        return plain(multiply(a, b, d), multiply, a, b, d)

    def create_splat(self, ret_ty: Any, arg: TensorHandle) -> TensorHandle:
        return TensorHandle(expand(arg.data, tuple(ret_ty.shape)), arg.dtype.scalar)

    def create_addptr(self, ptr: TensorHandle, offset: TensorHandle) -> TensorHandle:
        step = np.uint64(max(1, ptr.get_element_ty().primitive_bitwidth // 8))
        shape = broadcast(shape_of(ptr), shape_of(offset))
        if len(shape) == 2 and not isinstance(ptr, Loaded) and not isinstance(offset, Loaded):
            parts, steps = split(ptr), split(offset)
            if parts and steps:
                sums = (part + by.astype(np.uint64) * step for part, by in zip(parts, steps, strict=True))
                return Outer(next(sums), next(sums), shape, ptr.dtype)
        address = collapse(ptr.data) + collapse(offset.data).astype(np.uint64) * step
        return TensorHandle(expand(address, shape), ptr.dtype)

    def binary_op(self, lhs: TensorHandle, rhs: TensorHandle, op: Callable) -> TensorHandle:
        outer = self._outer(lhs, rhs, op)
        if outer is not None:
            return outer
        if op in FLOATING and lhs.data.dtype == rhs.data.dtype and lhs.data.dtype.kind == "f":
            return plain(elementwise(op, lhs, rhs), elementwise, op, lhs, rhs)
        shape = broadcast(lhs.data.shape, rhs.data.shape)
        left, right = collapse(lhs.data), collapse(rhs.data)
        if left.dtype != right.dtype or (left.dtype == np.bool_ and op not in BITWISE):
            out = super().binary_op(TensorHandle(left, lhs.dtype), TensorHandle(right, rhs.dtype), op)
            return TensorHandle(expand(out.data, shape), out.dtype)
        return TensorHandle(expand(op(left, right), shape), lhs.dtype.scalar)

    def unary_op(self, arg: TensorHandle, op: Callable) -> TensorHandle:
        return plain(elementwise(op, arg), elementwise, op, arg)

    @staticmethod
    def _outer(lhs: TensorHandle, rhs: TensorHandle, op: Callable) -> Outer | None:
        """The sum of rows and columns, if both operands are such, and it neither overflows nor comes from memory."""
        kind = lhs.dtype.scalar
        if op is not np.add or kind != rhs.dtype.scalar or not kind.is_int():
            return None
        shape = broadcast(shape_of(lhs), shape_of(rhs))
        if len(shape) != 2 or isinstance(lhs, Loaded) or isinstance(rhs, Loaded):
            return None
        left, right = split(lhs), split(rhs)
        if left is None or right is None:
            return None
        rows, columns = (op(a, b) for a, b in zip(left, right, strict=True))
        if rows.dtype == np.bool_:  # masks
            return None
        limits, smallest, largest = np.iinfo(rows.dtype), (rows.min(), columns.min()), (rows.max(), columns.max())
        if sum(map(int, smallest)) < limits.min or sum(map(int, largest)) > limits.max:
            return None
        return Outer(rows, columns, shape, kind)

    def create_select(self, condition: TensorHandle, a: TensorHandle, b: TensorHandle) -> TensorHandle:
        # by bits: numpy's `where` takes a branch for each element, up to ten times as long
        shape = functools.reduce(broadcast, (t.data.shape for t in (condition, a, b)))
        if condition.data.dtype != np.bool_ or a.data.dtype != b.data.dtype:
            return super().create_select(condition, a, b)
        bits = np.dtype(f"i{a.data.itemsize}")
        take, x, y = collapse(condition.data), collapse(a.data).view(bits), collapse(b.data).view(bits)
        known = not isinstance(condition, Loaded) and (isinstance(a, Loaded) or not isinstance(b, Loaded))
        if known and a.data.shape == shape and take.all():
            return a
        if y.size == 1 and not y.any():
            out = x * take.view(np.int8)
        elif x.size == 1 and not x.any():
            out = y * (~take).view(np.int8)
        else:
            out = _over(np.bitwise_xor, _over(np.multiply, x ^ y, take.view(np.int8)), y)
        return TensorHandle(expand(out.view(a.data.dtype), shape), a.dtype.scalar)

    def create_reduce(self, value: TensorHandle, fold: Callable, axis: int, keep_dims: bool) -> TensorHandle:
        data = fold(value.data, axis=axis, keepdims=keep_dims)
        return TensorHandle(np.atleast_1d(data).astype(value.data.dtype, copy=False), value.dtype.scalar)

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


def _over(op: Callable, values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The operation's result in the memory of `values`, if it fits there."""
    return op(values, other, out=values if broadcast(values.shape, other.shape) == values.shape else None)


def _everywhere(ptr: TensorHandle) -> TensorHandle:
    return TensorHandle(np.broadcast_to(np.True_, shape_of(ptr)), tl.int1)


def _wrap_builder() -> None:
    """Record every operation but loads and stores, which do it themselves, and give up on what acts otherwise."""
    for name in dir(Builder):
        if any(word in name for word in ("atomic_cas", "descriptor", "print")):
            setattr(Builder, name, unrecorded(getattr(Builder, name)))
        elif name.startswith("create_") and not name.endswith(("_load", "_store", "_rmw")):
            setattr(Builder, name, recorded(getattr(Builder, name)))


_wrap_builder()
numpy_builder = Builder()
