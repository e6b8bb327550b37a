"""The sum of a patch's codes, which corrects for offsets of the weights, added up as the patch is copied.

A vector of bytes takes ``255 // max(a)`` vectors of codes; its bytes are added in pairs to 16-bit lanes, which take 128
such additions. On an in-order core a load stops the vector unit for two cycles, so what is copied is added at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx

from schedules.dot_problem import DotProblem
from schedules.intrinsics import const, splat
from schedules.registers import Registers
from schedules.vectors import Vectors, transpose_sums

BYTES, LANES = 16, 8
# Additions of two bytes that 16 bits take.
FLUSHES = 65535 // (2 * 255)


@dataclass
class RunningSum:
    """The sum of the codes that a panel copies.

    Attributes
    ----------
    v : Vectors
        Operations of the core.
    store : callable
        ``(pixel, uint32 expression)``: emits the storing of a patch's sum.
    after : callable
        ``(pixel)``: emits the sum of a patch that was not copied in vectors.
    often : bool
        Whether bytes are to be added up after each position of the kernel, or only in the end.
    """

    v: Vectors
    store: Callable[[Any, Any], None]
    after: Callable[[Any], None]
    often: bool
    bytes: Registers = field(init=False)
    pairs: Registers = field(init=False)

    def begin(self) -> None:
        """Emit the zeroing of what a patch is added to."""
        self.bytes = Registers([(0, 0)], "uint8", BYTES)
        self.pairs = Registers([(0, 0)], "uint16", LANES)

    def add(self, value: Any) -> None:
        """Emit the addition of sixteen codes."""
        self.bytes[0, 0] = self.bytes[0, 0] + value

    def position(self) -> None:
        """Emit what follows a position of the kernel."""
        if self.often:
            self._widen()
            self.bytes[0, 0] = splat(const(0, "uint8"), BYTES)

    def end(self, pixel: Any) -> None:
        """Emit the storing of the sum."""
        if not self.often:
            self._widen()
        self.store(pixel, total(self.v, self.v.widen_pairs(self.pairs[0, 0], "uint32", LANES // 2)))

    def _widen(self) -> None:
        self.pairs[0, 0] = self.pairs[0, 0] + self.v.widen_pairs(self.bytes[0, 0], "uint16", LANES)


def total(v: Vectors, lanes: Any) -> Any:
    """The sum over four 32-bit lanes."""
    (sums,) = transpose_sums(v, [lanes], "uint32", 4)
    return tirx.Shuffle([sums], [0])


def when(problem: DotProblem, size: int) -> bool | None:
    """Whether bytes must be added up after each position of ``size`` bytes (`RunningSum.often`); None: cannot be."""
    positions, most = problem.kernel[0] * problem.kernel[1], 255 // problem.a.max_code
    vectors, rest = divmod(size, BYTES)
    if rest or vectors > most or positions > FLUSHES:
        return None
    return positions * vectors > most
