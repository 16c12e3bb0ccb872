"""What was chosen and why, collected while it is: the choices that `explain` shows and `autotune` measures."""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch

from tritonconv.problems import ConvProblem, PoolProblem

Tile = dict[str, Any]  # block sizes, warps and stages; or {"algorithm": name}, the choice that "auto" leaves open
T = TypeVar("T")


class Key(NamedTuple):
    """What one choice holds for. Pixels and elements count to the next power of two: no exact batch is in a key."""

    machine: str
    operator: str
    dtype: torch.dtype
    channels_last: bool
    precision: str  # of fp32 products
    window: tuple  # of the filter or the pooling: size, stride, padding, dilation, mode, and a filter's groups
    sizes: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        """The key as a report and a cache file have it: without the machine."""
        names = ("window", "stride", "padding", "dilation", "padding_mode", "groups")
        layout = "channels_last" if self.channels_last else "contiguous"
        pairs = (*self.sizes, *zip(names, self.window, strict=False))
        words = [f"{name}={value}".replace(" ", "") for name, value in pairs]
        return " ".join([self.operator, str(self.dtype).removeprefix("torch."), layout, self.precision, *words])


class Asked(NamedTuple):
    """What a launcher asked a choice for: its key, a tensor, the problem, and the sizes as the key has them."""

    key: Key
    x: torch.Tensor
    problem: ConvProblem | PoolProblem | None
    sizes: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A decision about "algorithm", "tile", "taps" or "splits": what was chosen, why, and what may be tuned of it."""

    about: str
    chosen: Any
    reason: str
    asked: Asked | None = None


_choices: ContextVar[list[Choice] | None] = ContextVar("choices recorded", default=None)


def is_recording() -> bool:
    return _choices.get() is not None


@contextlib.contextmanager
def record_choices() -> Iterator[list[Choice]]:
    """Collect every decision of this context with its reason, in order."""
    choices: list[Choice] = []
    token = _choices.set(choices)
    try:
        yield choices
    finally:
        _choices.reset(token)


def because(about: str, chosen: T, reason: str, asked: Asked | None = None) -> T:
    """`chosen`; the reason is stated where the choice is made, so that the two cannot drift apart."""
    if (choices := _choices.get()) is not None:
        choices.append(Choice(about, chosen, reason, asked))
    return chosen
