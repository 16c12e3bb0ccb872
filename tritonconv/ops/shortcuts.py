"""The short way of a public function's call: made before with such arguments, it goes straight to an operator's plan.

Past the function's own checks, and past torch's dispatcher, as a plain eager call of an operator does (operator.py).
"""

import functools
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from operator import itemgetter
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch._C import (
    _get_tracing_state,
    _is_any_autocast_enabled,
    _is_torch_function_mode_enabled,
    _len_torch_dispatch_stack,
)
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import _profiler_enabled, forward_ad
from torch.compiler import is_dynamo_compiling

from tritonconv.ops import plan
from tritonconv.ops.plan import Plan, Tensors

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")

PLAIN = frozenset((torch.Tensor, torch.nn.Parameter, type(None)))
SCALARS = frozenset((bool, int, float, str, type(None)))


class Known(NamedTuple):
    """A call that can be made again without torch's dispatcher, and what its backward is told."""

    eager: Callable[..., Tensors]
    plan: Plan
    values: dict[str, Any]
    names: tuple[str, ...]  # of what is saved
    places: tuple[int, ...]  # of those among arguments and results
    is_wanted: bool  # whether a tensor has a gradient

    def run(self, tensors: Sequence[torch.Tensor | None]) -> Any:
        return self.eager(self, *tensors) if self.is_wanted and torch.is_grad_enabled() else self.plan.run(tensors)


# What a function calls of the operators: each call's plan, tensors and results.
seen: "ContextVar[list[tuple[Known | None, Any, Any]] | None]" = ContextVar("calls that are seen", default=None)


def shortcut(function: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """`function` of tensors, past its checks too where it was called before with such arguments.

    That is: where all it did was to call one operator with tensors that it was given, and to answer with its results.
    """
    calls: dict[Any, _Traced | None] = {}

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
        if not is_plain() or _is_any_autocast_enabled():
            return function(*args, **kwargs)
        tensors: list[torch.Tensor | None] = []
        others: list[Any] = [*kwargs]
        value: Any
        for value in (*args, *kwargs.values()) if kwargs else args:
            kind = type(value)
            others.append(kind)
            if kind in SCALARS:
                others.append(value)
            elif kind in PLAIN:
                tensors.append(value)
            elif kind is tuple and SCALARS.issuperset(map(type, value)):
                others += value, *map(type, value)
            else:
                return function(*args, **kwargs)
        if (key := plan.key(tensors, others)) is None:
            return function(*args, **kwargs)
        if (found := calls.get(key)) is not None:
            run, places, answer_of = found
            return answer_of(run(tuple(map([*tensors, None].__getitem__, places)) if places else tensors))
        if key in calls:
            return function(*args, **kwargs)
        calls_seen: list[Any] = []
        token = seen.set(calls_seen)
        try:
            answer = function(*args, **kwargs)
        finally:
            seen.reset(token)
        if len(set(map(id, tensors))) == len(tensors):  # else another time they may be two
            keep(calls, key, _traced(calls_seen, tensors, answer))
        return answer

    return call


class _Traced(NamedTuple):
    """What a function does: an operator's call."""

    run: Callable[[Sequence[torch.Tensor | None]], Any]
    places: list[int] | None  # of the operator's tensors among the function's, the last for None, unless they are those
    answer_of: Callable[[Tensors], Any]


def _traced(calls_seen: Sequence[Any], tensors: Sequence[torch.Tensor | None], answer: Any) -> _Traced | None:
    """None if it did something else, too."""
    if not calls_seen or calls_seen[0][0] is None:
        return None
    known, given, outputs = calls_seen[0]
    own, results = [*map(id, tensors), id(None)], [*map(id, outputs)]
    try:
        places = [own.index(id(t)) for t in given]
        answers = [results.index(id(t)) for t in several(answer)]
    except ValueError:
        return None
    run = known.run if known.is_wanted else known.plan.run
    return _Traced(run, None if places == [*range(len(tensors))] else places, itemgetter(*answers))


def several(outputs: Any) -> Tensors:
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def is_plain() -> bool:
    """Whether nothing but autograd and autocast has a say in what a call of an operator does."""
    return not (
        is_dynamo_compiling()
        or _len_torch_dispatch_stack()
        or _is_torch_function_mode_enabled()
        or peek_interpreter_stack() is not None
        or _get_tracing_state() is not None
        or _profiler_enabled()
        or forward_ad._current_level >= 0
    )


def keep(table: dict[Any, Any], key: Any, value: Any) -> None:
    if len(table) >= plan.MOST:
        table.clear()
    table[key] = value
