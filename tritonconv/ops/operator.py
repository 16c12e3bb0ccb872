"""What an operator is, and its registration: schema, implementation, fake, derivatives, batching, autocast.

`operators.NAME` calls one. A plain eager call that was made before, on tensors and arguments like these, goes straight
to its plan (plan.py) and past torch's dispatcher; any other goes to torch.ops.tritonconv.NAME.

Every backward is built from operators that are themselves differentiable, so that double backward needs no kernel of
its own, and computes only the gradients asked for; so are tangents, of forward mode. torch.vmap merges its batch into
an axis that the operator has already, and runs it once. Schemas have no rank: images have one to three axes, and lists
an entry for each, in elements. `padding` of a convolution or a patch is flat, before and after each axis: [top, bottom,
left, right]. An argmax is what backward needs to know of a pooled output (kernels/pooling.py).
"""

import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch._C import _is_any_autocast_enabled
from torch._functorch.pyfunctorch import FunctionalizeInterpreter, retrieve_current_functorch_interpreter
from torch._subclasses.functional_tensor import FunctorchFunctionalizeAPI
from torch.autograd import forward_ad
from torch.utils.flop_counter import flop_registry

from tritonconv.layouts import is_channels_last, memory_format
from tritonconv.ops import plan
from tritonconv.ops.plan import Plan, Tensors
from tritonconv.ops.shortcuts import PLAIN, Known, is_plain, keep, seen, several

Grads = tuple[torch.Tensor | None, ...]

operators: Any = SimpleNamespace()
_registered = torch.ops.tritonconv
# Kept by torch.ops, which outlives this module: where the package is imported anew (dropped from sys.modules by a test
# runner or a reloader), the operators of the earlier import give way.
_libraries: list[torch.library.Library] = vars(_registered).setdefault("_libraries", [])
for _library in _libraries[-1:]:
    _library._destroy()
_library = torch.library.Library("tritonconv", "DEF")
_libraries.append(_library)


class Operator:
    """A call of an operator: the arguments by the names of its schema, as attributes.

    Tensor arguments come first in a schema, and its results have names. In `backward` and `tangents` there are the
    tensors that `saved` names, every argument that is no tensor, and the `shapes` of all tensor arguments; in
    `backward` also `needs`, whether the gradient of each is wanted.
    """

    schema: ClassVar[str]
    name: ClassVar[str]  # the schema's
    op: ClassVar[Any]  # torch.ops.tritonconv.NAME.default; below, names in the order of the schema
    arguments: ClassVar[tuple[str, ...]]
    tensors: ClassVar[tuple[str, ...]]
    results: ClassVar[tuple[str, ...]]
    sizes: ClassVar[int | None]  # the place of the list of sizes among the arguments
    keeps_3d: bool = True  # whether it answers channels_last_3d with channels_last_3d: torch's averages do not
    is_elementwise: ClassVar[bool] = False  # a batch is another axis

    def __init__(self, **values: Any) -> None:
        self.__dict__ = values
        if "channels_last" in values and values["channels_last"] is None:
            del self.channels_last

    def __getattr__(self, name: str) -> Any:
        if name == "channels_last":  # where it is no argument, or None
            return is_channels_last(*(value for value in vars(self).values() if isinstance(value, torch.Tensor)))
        raise AttributeError(f"{type(self).__name__} has no argument {name!r}")

    @property
    def window(self) -> tuple[Any, Any, Any, Any]:
        """What slides over the image, as a pooling or a patch has it."""
        return self.kernel, self.stride, self.padding, self.dilation

    def call(self, values: dict[str, Any]) -> Any:
        """The results for other values."""
        return self.op(*map(values.__getitem__, self.arguments))

    def empty(
        self, like: torch.Tensor, shape: Sequence[int], dtype: torch.dtype | None = None, may_be_last: bool = True
    ) -> torch.Tensor:
        """An uninitialised tensor, channels_last where that is an argument and true, or where a tensor argument is."""
        is_last = may_be_last and self.channels_last and (len(shape) < 5 or self.keeps_3d)
        layout = memory_format(is_last, len(shape))
        return torch.empty(tuple(shape), dtype=dtype or like.dtype, device=like.device, memory_format=layout)

    def problem(self) -> Any:
        """The checked sizes; raises for arguments that do not go together."""

    def outputs(self, problem: Any) -> Tensors:
        """The results, uninitialised. On tensors without data this is all there is to the operator.

        Unless said otherwise one, the first tensor's images in another size: the one asked for, or the problem's.
        """
        image, asked = getattr(self, self.tensors[0]), vars(self)
        size = asked.get("input_size") or asked.get("output_size") or problem.output_size
        return (self.empty(image, (*image.shape[:2], *size)),)

    def run(self, problem: Any, *outputs: torch.Tensor) -> None:
        """Launch the kernels that fill the outputs."""
        raise NotImplementedError

    def saved(self) -> tuple[str, ...]:
        """The arguments and results that backward reads."""
        return ()

    def backward(self, *gradients: torch.Tensor) -> Grads:
        """The gradients of the tensor arguments, in their order."""
        raise NotImplementedError

    def is_linked(self) -> bool:
        """Whether the gradient, though it reads no value of the arguments, has gradients by them: zeros, as in torch.

        Else it has none, and a gradient penalty's gradient by the bias before it is "unused".
        """
        return False

    def tangents(self, **given: torch.Tensor | None) -> Grads:
        """The tangents of the results from those of the tensor arguments; of a linear operator it is the operator.

        What has none is given as zeros, and None where the argument is None or counts.
        """
        return (self.call(vars(self) | {name: t for name, t in given.items() if t is not None}),)

    def batch_axis(self, name: str, batched: Sequence[str]) -> int | None:
        """The axis of a tensor, an argument or a result, that a batch is merged into; None where it takes no part.

        `batched` names the arguments that have the batch. 1 is channels: each of the batch is groups of its own.
        """
        return 0

    def autocast(self, device: str) -> torch.dtype | None:
        """The dtype that torch's operator runs in inside an autocast region on such a device; None for its input's."""
        return None

    def flops(self) -> int | None:
        """What torch.utils.flop_counter counts for torch's own operator; None for one that it does not count."""
        return None


def _answer(outputs: Any) -> Any:
    return outputs if len(outputs) > 1 else outputs[0]


def _call(kind: type[Operator], values: Sequence[Any]) -> Operator:
    return kind(**dict(zip(kind.arguments, map(_hashable, values), strict=True)))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _links(kind: type[Operator]) -> tuple[str, ...]:
    """An empty result, which autograd alone sees: what the gradient of a linked operator is linked to."""
    return ("link",) if kind.is_linked is not Operator.is_linked else ()


def _remembered(asked: Operator) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a call, and what backward is told beside those that are saved."""
    tensors = {key: value for key, value in vars(asked).items() if isinstance(value, torch.Tensor)}
    values = {key: value for key, value in vars(asked).items() if key not in tensors}
    shapes = {key: t.shape for key, t in tensors.items()}
    return tensors, values | {"channels_last": asked.channels_last, "shapes": shapes}


def _gradients(asked: Operator, gradients: Sequence[Any]) -> Grads:
    grads = asked.backward(*gradients)
    if asked.is_linked() and torch.is_grad_enabled():
        grads = tuple(None if g is None else g + asked.link.sum() for g in grads)
    return grads


def _known(kind: type[Operator], eager: Callable[..., Tensors], values: Sequence[Any]) -> Known | None:
    """None if it has no plan."""
    count = len(kind.tensors)
    found = plan.make(values[:count], lambda *tensors: _run(_call(kind, (*tensors, *values[count:]))))
    if found is None:
        return None
    asked = _call(kind, values)
    names = (*asked.saved(), *_links(kind))
    places = map((*kind.tensors, *kind.results, *_links(kind)).index, names)
    is_wanted = any(t is not None and t.requires_grad for t in values[:count])
    return Known(eager, found, _remembered(asked)[1], names, tuple(places), is_wanted)


def _eager_function(kind: type[Operator]) -> Any:
    """The operator for autograd alone, from the known call and its tensors."""
    count, results, is_linked = len(kind.tensors), len(kind.results), bool(_links(kind))

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, known: Known, *tensors: torch.Tensor | None) -> Any:
            outputs: Any = known.plan.run(tensors)
            if is_linked:
                outputs += (known.plan.link(),)
            everything: Any = tensors + outputs
            ctx.known = known
            ctx.save_for_backward(*[everything[place] for place in known.places])
            ctx.set_materialize_grads(False)  # of an argmax there is none: nothing is filled for it
            return outputs

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor | None) -> Grads:
            known = ctx.known
            asked = kind(**known.values, **dict(zip(known.names, ctx.saved_tensors, strict=True)))
            vars(asked)["needs"] = dict(zip(kind.tensors, ctx.needs_input_grad[1:], strict=True))
            given = [known.plan.gradient(i) if g is None else g for i, g in enumerate(gradients[:results])]
            grads = _gradients(asked, given)
            return None, *grads, *(None,) * (count - len(grads))

    made = type(kind.__name__, (Function,), {"__module__": kind.__module__})
    # as Function.apply, which looks for torch.func's transforms first
    return super(torch.autograd.Function, made).apply  # type: ignore[misc]


def _is_dual(t: torch.Tensor) -> bool:
    """Whether it has a tangent. In a compiled graph Python does not know that forward mode is on."""
    return forward_ad.unpack_dual(t, level=0).tangent is not None


def _below_autograd(op: Any, *values: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op(*values)


def _autograd_function(kind: type[Operator]) -> Any:
    """The operator for autograd and torch.func. What torch.library.register_autograd makes takes twice as long."""
    links = _links(kind)

    def recalled(ctx: Any, saved: Sequence[torch.Tensor], **more: Any) -> Operator:
        return kind(**ctx.values, **dict(zip(ctx.names, saved, strict=True)), **more)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(*values: Any) -> Any:
            outputs = several(_below_autograd(kind.op, *values))
            return _answer((*outputs, *(outputs[0].new_empty(0) for _ in links)))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
            asked = _call(kind, inputs)
            tensors, ctx.values = _remembered(asked)
            ctx.names = (*asked.saved(), *links)
            tensors |= zip((*kind.results, *links), several(output), strict=True)
            kept = [tensors[key] for key in ctx.names]
            ctx.save_for_backward(*kept)
            ctx.save_for_forward(*kept)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Grads:
            asked = recalled(ctx, ctx.saved_tensors, needs=dict(zip(kind.arguments, ctx.needs_input_grad, strict=True)))
            grads = _gradients(asked, gradients[: len(kind.results)])
            return *grads, *(None,) * (len(kind.arguments) - len(grads))

        @staticmethod
        def jvp(ctx: Any, *tangents: torch.Tensor | None) -> Any:
            # torch turns forward mode off in here, whose outer level would take the tangents for constants
            with forward_ad._set_fwd_grad_enabled(True):
                saved = [forward_ad.unpack_dual(t, level=0).primal for t in ctx.saved_tensors]
                asked = recalled(ctx, saved)
                found = asked.tangents(**dict(zip(kind.tensors, tangents, strict=False)))
            rest = (None,) * (len(kind.results) - len(found))
            return _answer((*found, *rest, *(asked.link.detach() for _ in links)))

        @staticmethod
        def vmap(info: Any, in_dims: tuple, *values: Any) -> Any:
            asked, size = _call(kind, values), info.batch_size
            merged = size or 1  # no axis tells what an empty batch was merged into: one example goes through, for none
            inputs, dims = (dict(zip(kind.arguments, each, strict=True)) for each in (values, in_dims))
            batched = [key for key in kind.tensors if dims[key] is not None]
            axes = {key: asked.batch_axis(key, batched) for key in (*kind.tensors, *kind.results)}
            for key in kind.tensors:
                t, dim, axis = inputs[key], dims[key], axes[key]
                if t is not None and axis is not None:
                    t = t.expand(merged, *t.shape) if dim is None else t.movedim(dim, 0)
                    t = t if size else t.new_zeros(merged, *t.shape[1:])
                    inputs[key] = t if kind.is_elementwise else t.movedim(0, axis).flatten(axis, axis + 1)
            if 1 in axes.values():
                inputs["groups"] *= merged
            outputs, out_dims = several(asked.call(inputs)), [axes[key] or 0 for key in kind.results]
            if not kind.is_elementwise:
                places = zip(out_dims, outputs, strict=True)
                outputs = tuple(t.unflatten(axis, (merged, t.shape[axis] // merged)) for axis, t in places)
            if not size:
                outputs = tuple(t.narrow(axis, 0, 0) for axis, t in zip(out_dims, outputs, strict=True))
            return _answer((*outputs, *(outputs[0].new_empty(0) for _ in links))), _answer(
                (*out_dims, *(None for _ in links))
            )

    return type(kind.__name__, (Function,), {"__module__": kind.__module__})


def register(kind: type[Operator]) -> type[Operator]:
    """Make `kind` torch.ops.tritonconv.NAME, on CPU and GPU, on tensors without data, for autograd and torch.func."""
    name = kind.name = kind.schema[: kind.schema.index("(")]
    _library.define(kind.schema, tags=(torch.Tag.pt2_compliant_tag,))
    if sizes := re.search(r"SymInt\[\] (\w+)", kind.schema):  # at most one list in a schema
        _library.define(kind.schema.replace("(", "_traced(", 1).replace("SymInt[]", "Tensor"))
        _library.impl(f"{name}_traced", lambda *values: _of_sizes(kind, values), "CompositeImplicitAutograd")
    kind.op = getattr(_registered, name).default
    schema = kind.op._schema
    kind.arguments = tuple(argument.name for argument in schema.arguments)
    kind.sizes = kind.arguments.index(sizes[1]) if sizes else None
    kind.tensors = tuple(argument.name for argument in schema.arguments if "Tensor" in str(argument.type))
    kind.results = tuple(result.name for result in schema.returns)
    function, eager, count = _autograd_function(kind), _eager_function(kind), len(kind.tensors)
    is_cast = kind.autocast is not Operator.autocast

    plans: dict[Any, Plan | None] = {}

    def run(*values: Any) -> Any:
        tensors, others = values[:count], tuple(map(_hashable, values[count:]))
        if (key := plan.key(tensors, others)) is None:
            return _answer(_run(_call(kind, values)))
        if key not in plans:
            made = plan.make(tensors, lambda *t: _run(_call(kind, (*t, *others))))
            keep(plans, key, made)
        found = plans[key]
        return _answer(_run(_call(kind, values)) if found is None else found.whole(found.run(tensors)))

    def fake(*values: Any) -> Any:
        asked = _call(kind, values)
        return _answer(asked.outputs(asked.problem()))

    def apply(*values: Any) -> Any:
        return _answer(several(function.apply(*values))[: len(kind.results)])

    def differentiable(*values: Any) -> Any:
        tensors = [t for t in values[:count] if t is not None]
        is_wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        return apply(*values) if is_wanted or any(map(_is_dual, tensors)) else _below_autograd(kind.op, *values)

    def transformed(*values: Any) -> Any:
        interpreter = retrieve_current_functorch_interpreter()
        if isinstance(interpreter, FunctionalizeInterpreter):  # torch has no rule for a Function there
            functional = FunctorchFunctionalizeAPI(interpreter)
            with functional.redispatch_to_next():
                outputs = kind.op(*functional.unwrap_tensors(values))
            return functional.wrap_tensors(outputs)
        return apply(*(_cast(kind, values) if is_cast else values))

    for device in ("CPU", "CUDA"):
        _library.impl(name, run, device)
        if is_cast:
            _register_autocast(kind, device)
    _library.impl(name, differentiable, "Autograd")
    _library.impl(name, transformed, "FuncTorchDynamicLayerFrontMode")  # torch.func
    if kind.flops is not Operator.flops:
        flop_registry[getattr(_registered, name)] = lambda *values, out_val: _call(kind, values).flops()
    torch.library.register_fake(f"tritonconv::{name}", fake, lib=_library)
    setattr(operators, name, _shortcut(kind, eager))
    return kind


def _shortcut(kind: type[Operator], eager: Callable[..., Any]) -> Callable[..., Any]:
    """A call of the operator. What was not called before with such arguments is checked by torch's dispatcher."""
    calls: dict[Any, Known | None] = {}
    count, results, is_cast = len(kind.tensors), len(kind.results), kind.autocast is not Operator.autocast

    def call(*values: Any) -> Any:
        if not is_plain():
            if torch.jit.is_tracing():
                return _trace(kind, values)
            return getattr(_registered, kind.name)(*values)
        if is_cast and _is_any_autocast_enabled():
            values = _cast(kind, values)
        types = tuple(map(type, values))
        if list in types:
            values = tuple(map(_hashable, values))
        tensors = values[:count]
        key = plan.key(tensors, (types, *values[count:])) if PLAIN.issuperset(types[:count]) else None
        if key is None:
            return getattr(_registered, kind.name)(*values)
        if (known := calls.get(key)) is None:
            outputs = several(getattr(_registered, kind.name)(*values))
            if key not in calls:
                keep(calls, key, known := _known(kind, eager, values))
        else:
            outputs = known.run(tensors)
        if (calls_seen := seen.get()) is not None:
            calls_seen.append((known, tensors, outputs))
        return outputs[:results] if results > 1 else outputs[0]

    return call


def _of_sizes(kind: type[Operator], values: Sequence[Any]) -> Any:
    """The operator, whose sizes are a tensor."""
    return kind.op(*(value.tolist() if place == kind.sizes else value for place, value in enumerate(values)))


def _trace(kind: type[Operator], values: Sequence[Any]) -> Any:
    """In torch.jit.trace sizes that follow from a tensor's are tensors too, which it records as such alone."""
    if kind.sizes is None or not any(isinstance(size, torch.Tensor) for size in values[kind.sizes]):
        return getattr(_registered, kind.name)(*values)
    sizes = torch.stack([torch.as_tensor(size) for size in values[kind.sizes]])
    return getattr(_registered, f"{kind.name}_traced")(*values[: kind.sizes], sizes, *values[kind.sizes + 1 :])


def _run(asked: Operator) -> Tensors:
    problem = asked.problem()
    outputs = asked.outputs(problem)
    asked.run(problem, *outputs)
    return outputs


def _cast(kind: type[Operator], values: tuple) -> tuple:
    """In an autocast region, in the operator's dtype there."""
    device = values[0].device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):  # there is none on meta
        return values
    if (dtype := _call(kind, values).autocast(device)) is None:
        return values

    def cast(t: Any) -> Any:
        eligible = isinstance(t, torch.Tensor) and t.is_floating_point() and t.dtype != torch.float64
        return t.to(dtype) if eligible else t

    return tuple(map(cast, values))


def _register_autocast(kind: type[Operator], device: str) -> None:
    name, key = kind.name, f"Autocast{device}"

    def run(*values: Any) -> Any:
        values = _cast(kind, values)  # the guard is how a region is left
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))):
            return getattr(_registered, name)(*values)

    _library.impl(name, run, key)
