"""What an operator is, and its registration with torch.library: schema, implementation, fake, derivative, autocast.

Every backward is built from operators that are themselves differentiable, so that double backward needs no kernel of
its own, and computes only the gradients asked for. Schemas have no rank: images have one to three axes, and lists an
entry for each, in elements. `padding` of a convolution or a patch is flat, before and after each axis: [top, bottom,
left, right]. An argmax is what backward needs to know of a pooled output (kernels/pooling.py).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch.utils.flop_counter import flop_registry

from tritonconv.layouts import is_channels_last, memory_format

Tensors = tuple[torch.Tensor, ...]
Grads = tuple[torch.Tensor | None, ...]

operators = torch.ops.tritonconv
# Kept by torch.ops, which outlives this module: where the package is imported anew (dropped from sys.modules by a test
# runner or a reloader), the operators of the earlier import give way.
_libraries: list[torch.library.Library] = vars(operators).setdefault("_libraries", [])
for _library in _libraries[-1:]:
    _library._destroy()
_library = torch.library.Library("tritonconv", "DEF")
_libraries.append(_library)


class Operator:
    """A call of an operator: the arguments by the names of its schema, as attributes.

    Tensor arguments come first in a schema, and its results have names. In `backward` there are the tensors that
    `saved` names, every argument that is no tensor, the `shapes` of all tensor arguments, and in `needs` whether the
    gradient of each is wanted.
    """

    schema: ClassVar[str]
    keeps_3d: bool = True  # whether it answers channels_last_3d with channels_last_3d: torch's averages do not
    autocast: ClassVar[bool] = False  # whether it runs in the dtype of an autocast region, as torch's convolutions do

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)
        if values.get("channels_last", 0) is None:
            del self.channels_last

    def __getattr__(self, name: str) -> Any:
        if name == "channels_last":  # where it is no argument, or None
            return is_channels_last(*(value for value in vars(self).values() if isinstance(value, torch.Tensor)))
        raise AttributeError(f"{type(self).__name__} has no argument {name!r}")

    @property
    def window(self) -> tuple[Any, Any, Any, Any]:
        """What slides over the image, as a pooling or a patch has it."""
        return self.kernel, self.stride, self.padding, self.dilation

    def empty(self, like: torch.Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """An uninitialised tensor, channels_last where that is an argument and true, or where a tensor argument is."""
        layout = memory_format(self.channels_last and (len(shape) < 5 or self.keeps_3d), len(shape))
        return torch.empty(tuple(shape), dtype=dtype or like.dtype, device=like.device, memory_format=layout)

    def problem(self) -> Any:
        """The checked sizes; raises for arguments that do not go together."""

    def outputs(self, problem: Any) -> Tensors:
        """The results, uninitialised. On tensors without data this is all there is to the operator."""
        raise NotImplementedError

    def run(self, problem: Any, *outputs: torch.Tensor) -> None:
        """Launch the kernels that fill the outputs."""
        raise NotImplementedError

    def saved(self) -> tuple[str, ...]:
        """The arguments and results that backward reads."""
        return ()

    def backward(self, *gradients: torch.Tensor) -> Grads:
        """The gradients of the tensor arguments, in their order."""
        raise NotImplementedError

    def flops(self) -> int | None:
        """What torch.utils.flop_counter counts for torch's own operator; None for one that it does not count."""
        return None


def register(kind: type[Operator]) -> type[Operator]:
    """Make `kind` torch.ops.tritonconv.NAME, on CPU and GPU, on tensors without data, and for autograd."""
    name = kind.schema[: kind.schema.index("(")]
    _library.define(kind.schema, tags=(torch.Tag.pt2_compliant_tag,))
    schema = getattr(operators, name).default._schema
    arguments = [argument.name for argument in schema.arguments]
    results = [result.name for result in schema.returns]

    def call(*values: Any) -> Operator:
        return kind(**dict(zip(arguments, values, strict=True)))

    def answer(outputs: Tensors) -> Any:
        return outputs if len(outputs) > 1 else outputs[0]

    def run(*values: Any) -> Any:
        asked = call(*values)
        problem = asked.problem()
        outputs = asked.outputs(problem)
        asked.run(problem, *outputs)
        return answer(outputs)

    def fake(*values: Any) -> Any:
        asked = call(*values)
        return answer(asked.outputs(asked.problem()))

    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        asked, outputs = call(*inputs), (output,) if isinstance(output, torch.Tensor) else output
        tensors = {key: value for key, value in vars(asked).items() if isinstance(value, torch.Tensor)}
        ctx.values = {key: value for key, value in vars(asked).items() if key not in tensors}
        ctx.values["channels_last"] = asked.channels_last
        ctx.values["shapes"] = {key: t.shape for key, t in tensors.items()}
        ctx.names = asked.saved()
        tensors |= zip(results, outputs, strict=True)
        ctx.save_for_backward(*map(tensors.__getitem__, ctx.names))

    def backward(ctx: Any, *gradients: torch.Tensor) -> Grads:
        needs = dict(zip(arguments, ctx.needs_input_grad, strict=True))
        asked = kind(**ctx.values, **dict(zip(ctx.names, ctx.saved_tensors, strict=True)), needs=needs)
        grads = asked.backward(*gradients)
        return *grads, *(None,) * (len(arguments) - len(grads))

    for device in ("CPU", "CUDA"):
        _library.impl(name, run, device)
        if kind.autocast:
            _register_autocast(name, device)
    if kind.flops is not Operator.flops:
        flop_registry[getattr(operators, name)] = lambda *values, out_val: call(*values).flops()
    torch.library.register_fake(f"tritonconv::{name}", fake, lib=_library)
    torch.library.register_autograd(f"tritonconv::{name}", backward, setup_context=setup_context, lib=_library)
    return kind


def _register_autocast(name: str, device: str) -> None:
    key, kind = f"Autocast{device}", device.lower()

    def cast(t: Any) -> Any:
        eligible = isinstance(t, torch.Tensor) and t.is_floating_point() and t.dtype != torch.float64
        return t.to(torch.get_autocast_dtype(kind)) if eligible and t.device.type == kind else t

    def run(*args: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))):
            return getattr(operators, name)(*map(cast, args))

    _library.impl(name, run, key)
