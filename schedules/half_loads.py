"""``HalfLoads``: a written loop's vectors come in by halves beside its operations, as Cortex-A53 takes them soonest.

Of each, the upper half is loaded to a general register beside one operation; the lower half follows beside another,
together with the move of the upper half of the vector before (`ordered_rows`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

# A vector to load: its register, its base, and the offset there.
Load = tuple[int, str, int]


class HalfLoads:
    """The instructions so far, and loads that wait for their turn; the first's upper half may be on its way.

    Parameters
    ----------
    high : sequence of str
        General registers for upper halves, used in turns.
    """

    def __init__(self, high: Sequence[str]) -> None:
        self.registers = high
        self.lines: list[str] = []
        self.loads: deque[Load] = deque()
        self.high: str | None = None
        self.pending: tuple[int, str] | None = None
        self.turn = 0

    def advance(self) -> None:
        """Load beside an operation: an upper half to a general register, then after another one the lower half."""
        if not self.loads:
            return
        register, base, at = self.loads[0]
        if self.high is None:
            self.high = self.registers[self.turn]
            self.turn = (self.turn + 1) % len(self.registers)
            self.lines.append(f"ldr {self.high}, [{base}, #{at + 8}]")
            return
        self.loads.popleft()
        self.lines.append(f"ldr d{register}, [{base}, #{at}]")
        self.join()
        self.pending, self.high = (register, self.high), None

    def join(self) -> None:
        """Complete the vector that was loaded last."""
        if self.pending is not None:
            self.lines.append(f"ins v{self.pending[0]}.d[1], {self.pending[1]}")
        self.pending = None

    def need(self, *registers: int) -> None:
        """See that what was to be loaded is there."""
        while any(load[0] in registers for load in self.loads):
            self.advance()
        if self.pending is not None and self.pending[0] in registers:
            self.join()

    def write(self, instruction: str, *registers: int) -> None:
        """An operation on registers, and what stands beside it."""
        self.need(*registers)
        self.lines.append(instruction)
        self.advance()
