"""Faults that the tests must find, a file for each room of the library. `python -m tests.mutate` seeds them."""

from tests.faults import convert, examples, interpreter, kernels, operators, problems, tuning
from tests.faults.fault import Fault

ROOMS = (kernels, problems, operators, tuning, convert, interpreter, examples)
FAULTS: list[Fault] = [fault for room in ROOMS for fault in room.FAULTS]
