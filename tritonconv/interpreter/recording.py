"""A launch as a list of calls: what depends on memory is noted and done again, all else is a constant."""

import dataclasses
import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from triton.runtime.interpreter import TensorHandle

from tritonconv.interpreter import threads
from tritonconv.interpreter.arrays import collapse
from tritonconv.interpreter.boxes import Places

INSTRUCTION_BYTES = 1000  # about what an instruction holds beside the arrays
LOADS = 32  # that a program keeps to be asked for again: a pooled 3x3 convolution has 25 in its turn
TENSORS, NOTHING, FIRST = 0, 1, 2  # registers: of the launch's tensors, of what stores give, of a program's first value


@dataclasses.dataclass
class Instruction:
    """One call again: `args` with the registers of `inputs`, as (place, register), put in; its result, if any, kept in
    `output`; the registers in `last` are not needed after it."""

    function: Callable
    args: list
    inputs: list[tuple[int, int]]
    output: int
    alike: list[int]  # places whose arrays the result may be written over, once they are not needed
    last: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Program:
    """A program of the grid: what it did, and whose memory each register's is: a number for each, None a constant's."""

    instructions: list[Instruction] = dataclasses.field(default_factory=list)
    owners: list[int | None] = dataclasses.field(default_factory=lambda: [None] * FIRST)

    def finish(self) -> None:
        """Find out where registers end, and where a result may take the memory of an operand that ends there."""
        end: dict[int | None, int] = {}
        seen = {TENSORS, NOTHING}
        for number, step in reversed([*enumerate(self.instructions)]):
            read = [register for _, register in step.inputs]
            for register in (*read, step.output):
                end.setdefault(self.owners[register], number)
            for register in (r for place, r in step.inputs if place in step.alike):
                owner = self.owners[register]
                if owner is not None and end[owner] == number and [self.owners[r] for r in read].count(owner) == 1:
                    step.inputs.append((len(step.args), register))
                    step.args.append(None)
                    break
            step.last = [r for r in {*read, step.output} if r not in seen]
            seen.update(step.last)

    def replay(self, tensors: list[np.ndarray]) -> None:
        registers: list = [None] * len(self.owners)
        registers[TENSORS] = tensors
        for step in self.instructions:
            args = step.args.copy()
            for place, register in step.inputs:
                args[place] = registers[register]
            registers[step.output] = step.function(*args)
            for register in step.last:
                registers[register] = None


@dataclasses.dataclass
class Record:
    programs: list[Program]
    size: int  # bytes of its constants
    apart: bool  # no program reads what another writes
    multiplies: bool  # by torch, which has one thread in a worker

    def replay(self, tensors: list[np.ndarray]) -> None:
        """Do it again, on this memory."""
        shares = [[program] for program in self.programs] if self.apart else [self.programs]
        if self.multiplies or len(shares) != 1:
            threads.run(lambda share: _replay(share, tensors), shares)
        else:
            _replay(shares[0], tensors)


def _replay(programs: list[Program], tensors: list[np.ndarray]) -> None:
    for program in programs:
        program.replay(tensors)


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
        self.programs: list[Program] = []
        self.constants: dict[int, np.ndarray | Places] = {}
        self.owners: dict[int, tuple[weakref.ref, int]] = {}  # of arrays that others are views of
        self.numbers = itertools.count()
        self.fixed: set[int] = set()  # those of constants
        self.size = 0
        self.apart = True
        self.loaded: dict[tuple, TensorHandle] = {}  # what the program holds of memory: not to be loaded again
        self.plain: tuple[Callable, tuple, Any] | None = None

    def begin(self) -> None:
        """A program."""
        self.programs.append(Program())
        self.loaded.clear()

    def keep(self, key: tuple, loaded: TensorHandle) -> None:
        """The latest loads: all of a long loop's would be as much memory as im2col's."""
        self.loaded[key] = loaded
        if len(self.loaded) > LOADS:
            del self.loaded[next(iter(self.loaded))]

    def give_up(self) -> None:
        """What follows cannot be replayed."""
        self.possible = False
        self.programs.clear()
        self.constants.clear()

    def call(self, function: Callable, args: tuple, act: Callable | None = None) -> Any:
        """The function's result; noted if it comes from memory or if the function is an `act` upon it."""
        self.busy, self.plain = True, None
        try:
            result = function(*args)
        finally:
            self.busy = False
        if self.possible and (act or any(isinstance(a, Loaded) for a in args)):
            if self.plain is not None and self.plain[2] is result:
                function, args, _ = self.plain
            self._note(function, args, result, act)
        return result

    def _note(self, function: Callable, args: tuple, result: Any, act: Callable | None) -> None:
        if isinstance(result, Loaded):  # an argument, handed through
            return
        if not isinstance(result, TensorHandle | None):
            return self.give_up()
        program = self.programs[-1]
        inputs = [(i, a.register) for i, a in enumerate(args) if isinstance(a, Loaded)]
        constants = [None if isinstance(a, Loaded) else a for a in args]
        if act:
            inputs.append((0, TENSORS))
            constants[0] = None
        self.size += INSTRUCTION_BYTES
        for array in (a.data if isinstance(a, TensorHandle) else a for a in constants):
            if isinstance(array, np.ndarray | Places) and id(array) not in self.constants:
                self.constants[id(array)] = array
                self.size += array.nbytes if isinstance(array, Places) else collapse(array).nbytes
                if isinstance(array, np.ndarray):
                    self.fixed.add(self._owner(array))
        step = Instruction(function, constants, inputs, NOTHING, [])
        program.instructions.append(step)
        if result is not None:
            data = result.__dict__["data"]
            if reused := getattr(function, "reused", None):
                step.alike = [i for i, _ in inputs if i in reused and _lies_as(vars(args[i])["data"], data)]
            result.__class__, step.output = Loaded, len(program.owners)
            result.register = step.output  # type: ignore[attr-defined]
            owner = self._owner(data)
            program.owners.append(None if owner in self.fixed else owner)
        if self.size > self.limit:
            self.give_up()

    def _owner(self, array: np.ndarray) -> int:
        while isinstance(array.base, np.ndarray):
            array = array.base
        known, number = self.owners.get(id(array), (None, 0))
        if known is None or known() is not array:
            number = next(self.numbers)
            self.owners[id(array)] = weakref.ref(array), number
        return number

    def record(self) -> Record | None:
        """What was noted, or None if it cannot be replayed."""
        if not self.possible:
            return None
        for program in self.programs:
            program.finish()
        functions = {step.function for program in self.programs for step in program.instructions}
        multiplies = any(hasattr(function, "multiplies") for function in functions)
        return Record([p for p in self.programs if p.instructions], self.size, self.apart, multiplies)


def _lies_as(array: np.ndarray, other: np.ndarray) -> bool:
    return (array.dtype, array.shape, array.strides) == (other.dtype, other.shape, other.strides) and (
        0 not in other.strides
    )


def plain(result: Any, function: Callable, *args: Any) -> Any:
    """The result, which the function gives for these arguments: where a call gives it too, that is noted instead. A
    function with `reused` takes a handle more, whose memory it may write over: an argument's at one of these places."""
    if active is not None:
        active.plain = (function, args, result)
    return result


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
