"""For a forward that calls torch.nn.functional: run those calls on our kernels, and find them in a model's code."""

import contextlib
import dis
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tritonconv import functional

__all__ = ["calls_of", "patched"]

_relu_ = functools.partial(functional.relu, inplace=True)


def _with_indices(pool: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: pool(*args, **kwargs | {"return_indices": True})


def _named(*names: str) -> dict[str, Callable[..., Any]]:
    return {name: getattr(functional, name) for name in names}


_CONVS = [f"{name}{rank}d" for name in ("conv", "conv_transpose") for rank in (1, 2, 3)]
_MAX_POOLS = [f"{name}{rank}d" for name in ("max_pool", "adaptive_max_pool") for rank in (1, 2, 3)]
_POOLS = [f"{name}{rank}d" for name in ("avg_pool", "lp_pool", "adaptive_avg_pool", "max_unpool") for rank in (1, 2, 3)]
_SHUFFLES = ("pixel_shuffle", "pixel_unshuffle")
_SIZES = ("interpolate", "upsample", "upsample_nearest", "upsample_bilinear")
# Each name that torch has for a function of ours. As text, for nothing here calls torch's.
_NAMES: dict[Any, dict[str, Callable[..., Any]]] = {
    torch.nn.functional: {
        **_named(*_CONVS, *_MAX_POOLS, *_POOLS, *_SIZES, "relu", "unfold", "fold", *_SHUFFLES),
        **{f"{name}_with_indices": _with_indices(getattr(functional, name)) for name in _MAX_POOLS},
    },
    torch: {
        **_named(*_CONVS, *_MAX_POOLS[:3], "avg_pool1d", "adaptive_avg_pool1d", "relu", *_SHUFFLES),
        **{"relu_": _relu_, "adaptive_max_pool1d": _with_indices(functional.adaptive_max_pool1d)},
    },
    torch.Tensor: {"relu": functional.relu, "relu_": _relu_},
}
OURS = {getattr(holder, name): ours for holder, names in _NAMES.items() for name, ours in names.items()}


class _ToOurs(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        return OURS.get(func, func)(*args, **kwargs or {})


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Run on our kernels what the block calls of torch.nn.functional, of what we have: conv2d, max_pool2d, relu, ...

    A context manager and a decorator, for models whose forward calls functions, where `convert` finds no layer to swap.
    torch's own names for them count too (torch.relu, a tensor's relu_, ...), and so do torch.nn's layers, which call
    them. Only this thread is affected, and only inside the block; the backward of what was computed in it is ours too.

    Raises, in the block: what tritonconv.functional raises, also for a call that torch would take.

    Source: torch.overrides.TorchFunctionMode.

    Example:
        >>> with tritonconv.patched():
        ...     torch.nn.functional.max_pool2d(torch.ones(1, 3, 8, 8), 2).shape
        torch.Size([1, 3, 4, 4])
    """
    with _ToOurs():
        yield


def calls_of(function: Callable[..., Any]) -> list[str]:
    """The functions that `patched` replaces, as the code of `function` names them through its globals."""
    function = getattr(function, "__func__", function)
    codes = [function.__code__] if isinstance(function, types.FunctionType) else []
    names: dict[str, None] = {}
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        value: Any = None
        path = ""
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_GLOBAL":
                value, path = function.__globals__.get(step.argval), step.argval
            elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, types.ModuleType):
                value, path = getattr(value, step.argval, None), f"{path}.{step.argval}"
            else:
                value = None
            if any(value is theirs for theirs in OURS):
                names[path] = None
    return [*names]
