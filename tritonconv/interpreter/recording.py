"""A launch as a list of calls: what depends on memory is noted and done again, all else is a constant."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from triton.runtime.interpreter import TensorHandle

from tritonconv.interpreter.arrays import collapse

INSTRUCTION_BYTES = 1000  # about what an instruction holds beside the arrays


@dataclasses.dataclass
class Instruction:
    """One call again: `args` with the registers of `inputs`, as (place, register), put in; its result, if any, kept in
    `output`; the registers in `last` are not needed after it."""

    function: Callable
    args: list
    inputs: list[tuple[int, int]]
    output: int
    last: list[int]


@dataclasses.dataclass
class Record:
    instructions: list[Instruction]
    registers: int
    size: int  # bytes of its constants

    def replay(self) -> None:
        """Do it again, on the memory of the running launch."""
        registers: list = [None] * self.registers
        for step in self.instructions:
            args = step.args
            if step.inputs:
                args = args.copy()
                for place, register in step.inputs:
                    args[place] = registers[register]
            registers[step.output] = step.function(*args)
            for register in step.last:
                registers[register] = None


class Loaded(TensorHandle):
    """A value that depends on memory. Only the builder may look at its data: what else does cannot be replayed."""

    register: int

    @property  # type: ignore[override]
    def data(self) -> np.ndarray:
        if active is not None and not active.busy:
            active.give_up()
        return self.__dict__["data"]

    @data.setter
    def data(self, value: np.ndarray) -> None:
        self.__dict__["data"] = value


class Recorder:
    """Notes each call of the builder that depends on memory; what depends on constants alone is a constant."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # bytes that the record may hold
        self.possible = True
        self.busy = False  # inside a call of the builder, which may call itself
        self.instructions: list[Instruction] = []
        self.registers = 1  # 0 takes the results of stores
        self.constants: dict[int, np.ndarray] = {}
        self.size = 0

    def give_up(self) -> None:
        """What follows cannot be replayed."""
        self.possible = False
        self.instructions.clear()
        self.constants.clear()

    def call(self, function: Callable, args: tuple, act: Callable | None = None) -> Any:
        """The function's result; noted if it comes from memory or if the function is an `act` upon it."""
        self.busy = True
        try:
            result = function(*args)
        finally:
            self.busy = False
        if self.possible and (act or any(isinstance(a, Loaded) for a in args)):
            self._note(function, args, result)
        return result

    def _note(self, function: Callable, args: tuple, result: Any) -> None:
        if isinstance(result, Loaded):  # an argument, handed through
            return
        if not isinstance(result, TensorHandle | None):
            return self.give_up()
        inputs = [(i, a.register) for i, a in enumerate(args) if isinstance(a, Loaded)]
        constants = [None if isinstance(a, Loaded) else a for a in args]
        output = 0
        if result is not None:
            result.__class__, output = Loaded, self.registers
            result.register = output  # type: ignore[attr-defined]
            self.registers += 1
        self.instructions.append(Instruction(function, constants, inputs, output, []))
        self.size += INSTRUCTION_BYTES
        for array in (a.data if isinstance(a, TensorHandle) else a for a in constants):
            if isinstance(array, np.ndarray) and id(array) not in self.constants:
                self.constants[id(array)] = array
                self.size += collapse(array).nbytes
        if self.size > self.limit:
            self.give_up()

    def record(self) -> Record | None:
        """What was noted, or None if it cannot be replayed."""
        if not self.possible:
            return None
        seen: set[int] = set()
        for step in reversed(self.instructions):
            step.last = [r for r in {step.output, *(r for _, r in step.inputs)} if r not in seen]
            seen.update(step.last)
        return Record(self.instructions, self.registers, self.size)


active: Recorder | None = None  # while a kernel is interpreted


def recorded(operation: Callable) -> Callable:
    @functools.wraps(operation)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if active is None or active.busy:
            return operation(self, *args, **kwargs)
        return active.call(functools.partial(operation, self, **kwargs), args)

    return call


def unrecorded(operation: Callable) -> Callable:
    @functools.wraps(operation)
    def call(*args: Any, **kwargs: Any) -> Any:
        if active is not None:
            active.give_up()
        return operation(*args, **kwargs)

    return call
