"""What a basic block costs on a core: limits of its execution units, and latencies where the core cannot hide them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from schedules.errors import LowbitError
from schedules.pipelines import PIPELINES, Pipeline
from tvm_lowbit.metering.decode import decode
from tvm_lowbit.metering.instruction import Instruction

Words = tuple[int, ...]
# A loop is followed until what it takes per round has settled.
_WARM_UP, _ROUNDS = 2, 8


@dataclass(frozen=True)
class Price:
    """Cycles of one execution of a block.

    Attributes
    ----------
    cycles : float
        The estimate.
    throughput : float
        What the units alone would allow, were all latencies hidden.
    """

    cycles: float
    throughput: float


def pipeline_of(core: str) -> Pipeline:
    """The pipeline of a core.

    Raises
    ------
    LowbitError
        If its execution units are not known.
    """
    if core not in PIPELINES:
        raise LowbitError("estimate", f"one of {', '.join(PIPELINES)}", repr(core), "add it to schedules/pipelines")
    return PIPELINES[core]


@lru_cache(maxsize=1 << 16)
def price(words: Words, core: str) -> Price:
    """Price a block.

    Parameters
    ----------
    words : tuple of int
        Its instructions.
    core : str
        A row of `schedules.pipelines.PIPELINES`.

    Returns
    -------
    Price
        An in-order core pays for the order of the instructions and for latencies; the others for the latencies that
        one round of a loop hands to the next.

    Raises
    ------
    LowbitError
        For a core whose pipeline is not known.
    """
    pipeline, block = pipeline_of(core), [decode(word) for word in words]
    throughput = throughput_cycles(words, core)
    if pipeline.in_order:
        cycles = _in_order(block, pipeline, is_loop(block))
    else:
        cycles = _recurrence(block, pipeline) if is_loop(block) else 0.0
    return Price(max(cycles, throughput), throughput)


def is_loop(block: Sequence[Instruction]) -> bool:
    """Whether a block ends with a branch to its own beginning."""
    return bool(block) and block[-1].displacement == -4 * (len(block) - 1)


@lru_cache(maxsize=1 << 16)
def throughput_cycles(words: Words, core: str) -> float:
    """Cycles in which the busiest unit, or the dispatcher, gets through a block."""
    pipeline = pipeline_of(core)
    slots, busy = 0, dict.fromkeys(pipeline.units, 0.0)
    for word in words:
        instruction = decode(word)
        slots += pipeline.slots(instruction.kind, instruction.wide) * instruction.count
        for unit, amount in _uses(instruction, pipeline):
            busy[unit] += amount
    return max([slots / pipeline.issue, *(amount / pipeline.units[unit] for unit, amount in busy.items())])


def _uses(instruction: Instruction, pipeline: Pipeline) -> list[tuple[str, float]]:
    cost = pipeline.costs[instruction.kind]
    units = cost.wide if instruction.wide else cost.narrow
    uses = [(unit, amount * instruction.count) for unit, amount in units.items()]
    if instruction.updates is not None and not pipeline.in_order:
        uses.append(("I", 1.0))  # the new address is an operation of its own
    return uses


class _Registers:
    """When each register can be read, and by which class of instructions it was made."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._ready: dict[int, float] = {}
        self._maker: dict[int, str] = {}

    def earliest(self, instruction: Instruction) -> float:
        """When all that the instruction reads is there."""
        time = max((self._ready.get(register, 0.0) for register in instruction.reads), default=0.0)
        if instruction.accumulates is None:
            return time
        ready = self._ready.get(instruction.accumulates, 0.0)
        if self._maker.get(instruction.accumulates) == instruction.kind:
            cost = self._pipeline.costs[instruction.kind]
            ready -= cost.latency - (cost.chain or cost.latency)
        return max(time, ready)

    def write(self, instruction: Instruction, time: float) -> None:
        """The instruction starts at this time."""
        cost = self._pipeline.costs[instruction.kind]
        units = cost.wide if instruction.wide else cost.narrow
        # Registers of one load arrive one after another.
        gap = max(units.values(), default=0.0) if instruction.count > 1 else 0.0
        for i, register in enumerate(instruction.writes):
            self._ready[register] = time + cost.latency_of(instruction.wide) + gap * i
            self._maker[register] = instruction.kind
        if instruction.updates is not None:
            self._ready[instruction.updates] = time + 1


def _in_order(block: Sequence[Instruction], pipeline: Pipeline, loop: bool) -> float:
    """Cycles a round takes when instructions start in order, each once its operands and units are free."""
    registers = _Registers(pipeline)
    free = {unit: [0.0] * number for unit, number in pipeline.units.items()}
    now, issued = 0.0, 0
    marks = []
    plans = [(instruction, _reservations(instruction, pipeline)) for instruction in block]
    for _ in range(_ROUNDS if loop else 1):
        for instruction, reservations in plans:
            time = max(now, math.ceil(registers.earliest(instruction)))
            for unit, number, _duration in reservations:
                time = max(time, math.ceil(sorted(free[unit])[number - 1]))
            if time == now and issued == pipeline.issue:
                time = now + 1
            issued = issued + 1 if time == now else 1
            now = time
            for unit, number, duration in reservations:
                left = sorted(free[unit])
                free[unit] = [now + duration] * number + left[number:]
            registers.write(instruction, now)
        marks.append(now)
    return (marks[-1] - marks[_WARM_UP - 1]) / (_ROUNDS - _WARM_UP) if loop else now + 1


def _reservations(instruction: Instruction, pipeline: Pipeline) -> list[tuple[str, int, float]]:
    """Unit, how many of it, and for how long."""
    reservations = []
    for unit, amount in _uses(instruction, pipeline):
        number = min(pipeline.units[unit], max(1, math.ceil(amount)))
        reservations.append((unit, number, amount / number))
    return reservations


def _recurrence(block: Sequence[Instruction], pipeline: Pipeline) -> float:
    """Cycles from round to round of a loop whose only limit is that operands must be there."""
    registers = _Registers(pipeline)
    marks = []
    for _ in range(_ROUNDS):
        last = 0.0
        for instruction in block:
            time = registers.earliest(instruction)
            registers.write(instruction, time)
            last = max(last, time)
        marks.append(last)
    return (marks[-1] - marks[_WARM_UP - 1]) / (_ROUNDS - _WARM_UP)
