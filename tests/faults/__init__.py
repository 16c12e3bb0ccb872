"""Faults that the tests must find, a file for each room of the library. `python -m tests.mutate` seeds them."""

from tests.faults import convert, examples, interpreter, kernels
from tests.faults.fault import Fault

FAULTS: list[Fault] = [*kernels.FAULTS, *convert.FAULTS, *interpreter.FAULTS, *examples.FAULTS]
