"""``Registers``: a vector accumulator for each output of a block, in small buffers that LLVM keeps in registers.

Their scope is the default one: of any other scope TVM makes calls to the runtime's allocator.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from schedules.intrinsics import const, splat, vload, vstore

# A round's own instructions take some 5 % of a block of 4 pixels x 4 channels, so several steps make a round. With more
# sums than this LLVM then runs out of registers.
MOST_UNROLLED = 16


def round_of(steps: int) -> int:
    """How many of a loop's steps to write into a round, of which there are two at least.

    Of a single round LLVM would take the weights' loads out of the loop over pixels, and run out of registers.
    """
    return next(n for n in (6, 4, 3, 2, 1) if steps % n == 0 and n < max(steps, 2))


class Registers:
    """Accumulators by output ``(pixel, channel)``; ``r[ij]`` reads one, ``r[ij] = value`` emits a store."""

    def __init__(self, outputs: list[tuple[int, int]], dtype: str, lanes: int, clear: bool = True) -> None:
        self.dtype, self.lanes = dtype, lanes
        self.buffers = {ij: T.alloc_buffer((lanes,), dtype) for ij in outputs}
        if clear:
            self.clear()

    def clear(self) -> None:
        """Emit the zeroing of all."""
        for ij in self.buffers:
            self[ij] = splat(const(0, self.dtype), self.lanes)

    def __getitem__(self, ij: tuple[int, int]) -> Any:
        return vload(self.buffers[ij], [0], self.lanes)

    def __setitem__(self, ij: tuple[int, int], value: Any) -> None:
        vstore(T, self.buffers[ij], value, [0], self.lanes)

    def double(self) -> None:
        """Emit ``x += x`` for all."""
        for ij in self.buffers:
            self[ij] = self[ij] + self[ij]

    def vectors(self) -> list[Any]:
        """All values, in order."""
        return [self[ij] for ij in self.buffers]


def held(value: Any, dtype: str, lanes: int) -> Any:
    """A value computed once where this is called, for expressions that use it more than once."""
    buffer = T.alloc_buffer((lanes,), dtype)
    vstore(T, buffer, value, [0], lanes)
    return vload(buffer, [0], lanes)
