"""Operands that a loop refills while an asynchronous matrix product (wgmma, sm_90) may still read them.

Triton's pipeliner gives an operand a ring of B buffers (`local_alloc`, then `memdesc_index`), copies into it d steps
ahead (`async_copy_global_to_local`), and goes on after a product as soon as no more than n are in flight
(`warp_group_dot_wait {pendings = n}`). Where a step multiplies, waits and then copies, the copy of step i fills buffer
(i + d) mod B while the products of steps i - n + 1 to i may read theirs: B must be at least d + n. An operand that is
also loaded from its ring inside the loop, for a sum, gets one buffer less than that (Triton 3.6 to 3.9).

`examine` does not rely on that order of a step: it computes the integers that select the buffers, step by step. It does
not follow the products of sm_100, which barriers wait for. Those of the other targets are not asynchronous.
"""

import dataclasses
import re
from typing import Any

STEPS = 16  # of each loop: more than a ring has buffers
LOOP = re.compile(r"^( *)(?:%\S+ = )?scf\.for (?P<head>.*)\n(?P<body>(?:.*\n)*?)\1}", re.MULTILINE)
INSTRUCTION = re.compile(r"^ *(?:(%[\w.-]*\w)\S* = )?(ttn?g\.\w+|arith\.(?:cmpi )?\w+),? (.*)", re.MULTILINE)
NAME = re.compile(r"%[\w.-]*\w")
FILLS = ("ttg.async_copy_global_to_local", "ttng.async_tma_copy_global_to_local", "ttg.local_store")


@dataclasses.dataclass
class Products:
    """The asynchronous products of a kernel."""

    buffers: dict[str, int] = dataclasses.field(default_factory=dict)  # of each operand in shared memory
    in_flight: int = 0  # products that may still run when an operand is refilled, at most
    races: list[str] = dataclasses.field(default_factory=list)  # operands that are refilled while a product reads them


def examine(ttgir: str) -> Products:
    """Follow the products, the waits and the copies of a kernel.

    Raises:
        ValueError: an operand's buffer is selected in a way that is not followed here.
    """
    trace = _Trace()
    trace.run(ttgir)
    return trace.products


class _Trace:
    """What is known at one point of a kernel."""

    def __init__(self) -> None:
        self.products = Products()
        self.values: dict[str, Any] = {}  # an integer, a buffer as (ring, place), or None: not known
        self.sizes: dict[str, int] = {}  # buffers of each ring
        self.flight: list[list[tuple]] = []  # the buffers that each product in flight reads

    def run(self, code: str) -> None:
        done = 0
        for loop in LOOP.finditer(code):
            self._straight(code[done : loop.start()])
            counter, *carried = re.findall(rf"({NAME.pattern}) = ({NAME.pattern})", loop["head"])
            self.values[counter[0]] = None
            sources = [initial for _, initial in carried]
            for _ in range(STEPS):
                known = [self.values.get(source) for source in sources]
                self.values |= zip((argument for argument, _ in carried), known, strict=True)
                self.run(loop["body"])
                if carried:
                    sources = NAME.findall(loop["body"].splitlines()[-1])  # of scf.yield
            done = loop.end()
        self._straight(code[done:])

    def _straight(self, code: str) -> None:
        for result, name, rest in INSTRUCTION.findall(code):
            operands = [self.values.get(operand) for operand in NAME.findall(rest.split(" : ")[0])]
            self.values[result] = self._value(result, name, rest, operands)

    def _value(self, result: str, name: str, rest: str, operands: list) -> Any:
        """What an instruction gives, where that is known; products, waits and copies are noted."""
        integers = operands if all(isinstance(operand, int) for operand in operands) else []
        buffers = [operand for operand in operands if isinstance(operand, tuple)]
        if name == "arith.constant" and (number := re.match(r"-?\d+ ", rest)):
            return int(number[0])
        if name == "arith.addi" and integers:
            return integers[0] + integers[1]
        if name == "arith.cmpi sge" and integers:
            return integers[0] >= integers[1]
        if name == "arith.select" and integers:
            return integers[1] if integers[0] else integers[2]
        if name == "ttg.memdesc_index" and buffers:
            return buffers[0][0], operands[1]
        if name.startswith("ttg.memdesc_") and buffers:
            return buffers[0]
        if name == "ttg.local_alloc":
            self.sizes[result] = 1 if operands else int(re.findall(r"memdesc<(\d+)", rest)[0])
            if operands:
                self._fill([(result, 0)], rest)
            return result, 0
        if name in FILLS:
            self._fill(buffers[:1], rest)
        elif name == "ttng.warp_group_dot":
            self._multiply(buffers, rest)
        elif name == "ttng.warp_group_dot_wait":
            self._wait(int(re.findall(r"pendings = (\d+)", rest)[0]))
        return None

    def _multiply(self, buffers: list[tuple], rest: str) -> None:
        if len(buffers) < rest.count("!ttg.memdesc<") or any(place is None for _, place in buffers):
            raise ValueError(f"a product reads a buffer that bench/pipeline.py cannot follow: {rest}")
        if "isAsync = true" not in rest:
            self._wait(0)
            return
        self.flight.append(buffers)
        for ring, _ in buffers:
            least = self.products.buffers.setdefault(_operand(ring), self.sizes[ring])
            self.products.buffers[_operand(ring)] = min(least, self.sizes[ring])

    def _wait(self, pending: int) -> None:
        self.flight = self.flight[-pending:] if pending else []

    def _fill(self, buffers: list[tuple], rest: str) -> None:
        if self.flight and any(place is None for _, place in buffers or [(None, None)]):
            raise ValueError(f"a buffer is filled that bench/pipeline.py cannot follow: {rest}")
        self.products.in_flight = max(self.products.in_flight, len(self.flight))
        for buffer in buffers:
            name = _operand(buffer[0])
            if any(buffer in read for read in self.flight) and name not in self.products.races:
                self.products.races.append(name)


def _operand(ring: str) -> str:
    """%dy_46 is called dy in the source."""
    return re.sub(r"_\d+$", "", ring[1:])
