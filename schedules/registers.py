"""``Registers``: a vector accumulator for each output of a block, in local memory that LLVM keeps in registers."""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from schedules.intrinsics import const, splat, vload, vstore


class Registers:
    """Accumulators by output ``(pixel, channel)``; ``r[ij]`` reads one, ``r[ij] = value`` emits a store."""

    def __init__(self, outputs: list[tuple[int, int]], dtype: str, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        self.buffers = {ij: T.alloc_buffer((lanes,), dtype, scope="local") for ij in outputs}
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
