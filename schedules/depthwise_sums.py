"""Sums of neighbouring pixels of ``depthwise``, in registers: of bytes, or of products that may wait in 16 bits."""

from __future__ import annotations

from typing import Any

from schedules.dot_problem import DotProblem
from schedules.intrinsics import of_lanes
from schedules.registers import Registers

_INT16_MAX = 32767


def together(problem: DotProblem, dtype: str, centre: int) -> int:
    """How many products are added up in 16 bits before they join a sum of 32: as many as fit whatever the codes are."""
    p = problem
    low, high = p.w.values
    largest = max(abs(low), abs(high)) * (centre or p.a.max_code)
    return min(p.k, _INT16_MAX // max(largest, 1)) if dtype == "int32" else 1


class Sums:
    """A sum for each pixel, zero at first.

    ``together`` products (1: none waits) of bytes are added up in 16 bits; `settle` must be called before what is added
    may be left out, and at the end.
    """

    def __init__(self, count: int, dtype: str, lanes: int, together: int) -> None:
        self.dtype, self.lanes, self.together = dtype, lanes, together
        pixels = [(i, 0) for i in range(count)]
        self.registers = Registers(pixels, dtype, lanes)
        self.short = Registers(pixels if together > 1 else [], "int16", lanes, clear=False)
        self.waiting = [0] * count

    def add(self, i: int, value: Any, weight: Any) -> None:
        """Emit the adding of a product: in 16 bits, which hold it, or in 8 where all sums fit them."""
        wide = of_lanes("int8" if self.dtype == "int8" else "int16", self.lanes)
        product = value.astype(wide) * weight.astype(wide)
        if self.together == 1:
            self.registers[i, 0] = self.registers[i, 0] + product.astype(of_lanes(self.dtype, self.lanes))
            return
        self.short[i, 0] = self.short[i, 0] + product if self.waiting[i] else product
        self.waiting[i] += 1
        if self.waiting[i] == self.together:
            self._widen(i)

    def settle(self) -> None:
        """Emit the adding of all that waits."""
        for i, waiting in enumerate(self.waiting):
            if waiting:
                self._widen(i)

    def vectors(self) -> list[Any]:
        """All sums."""
        return self.registers.vectors()

    def _widen(self, i: int) -> None:
        self.waiting[i] = 0
        self.registers[i, 0] = self.registers[i, 0] + self.short[i, 0].astype(of_lanes(self.dtype, self.lanes))
