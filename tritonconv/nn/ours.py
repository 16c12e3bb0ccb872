"""What all modules here share."""

import inspect
from typing import Any, ClassVar

import torch

from tritonconv import functional


class Ours(torch.nn.Module):
    """Its repr tells it from torch's."""

    def _get_name(self) -> str:
        kind = type(self)
        return f"tritonconv.nn.{kind.__name__}" if is_ours(kind) else kind.__name__


class Calls(Ours):
    """A layer that is a call of a function in tritonconv.functional.

    Behind the input, its arguments are what the layer has under their names.
    """

    function: ClassVar[str]  # found anew in each call: torch.fx puts another one there while it traces
    arguments: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, function: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if function:
            cls.function = function
            cls.arguments = tuple(inspect.signature(getattr(functional, function)).parameters)[1:]

    def forward(self, input: torch.Tensor) -> Any:
        return getattr(functional, self.function)(input, **{name: getattr(self, name) for name in self.arguments})


def is_ours(kind: type) -> bool:
    """Whether this package has the class, and not a user a subclass of it."""
    return kind.__module__.startswith("tritonconv.nn.")
