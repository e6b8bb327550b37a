"""Tiles of ``depthwise`` whose sums and codes a loop written for a core in order makes (`ordered_depthwise`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.compact import LANES
from schedules.cores import CoreSpec
from schedules.depthwise_codes import ByteCodes
from schedules.dot_problem import DotProblem, Thresholds
from schedules.intrinsics import vload, vstore
from schedules.ordered_depthwise import OrderedDepthwise
from schedules.padding import runs
from schedules.vectors import call_loop, in_order

# In taller images the rows at the border take little of the time: they are left to LLVM, for the sake of code size.
MOST_BORDERED = 28
MOST_TAPS = 9


@dataclass(frozen=True)
class WrittenTiles:
    """Calls of written loops.

    Attributes
    ----------
    problem : DotProblem
        The convolution.
    codes : ByteCodes
        Its thresholds, and where codes go.
    table : Buffer
        int8 ``(blocks, taps + levels + 2, 16)``: of each 16 channels the weights and `ByteCodes.tables`.
    """

    problem: DotProblem
    codes: ByteCodes
    table: Any
    defined: set[str] = field(default_factory=set)

    @staticmethod
    def prepare(problem: DotProblem, weights: Any, codes: ByteCodes | None, core: CoreSpec) -> WrittenTiles | None:
        """Emit, once a call, the table; None where no loop would be written."""
        p = problem
        if codes is None or not in_order(core) or not _possible(p, codes.spec):
            return None
        blocks, rows = p.channels // LANES, codes.spec.levels + 2
        table = T.alloc_buffer((blocks, p.k + rows, LANES), "int8")
        with T.serial(0, blocks) as block:
            for tap in range(p.k):
                value = vload(weights, [tap * blocks + block, 0], LANES).astype(f"int8x{LANES}")
                vstore(T, table, value, [block, tap, 0], LANES)
            for row in range(rows):
                value = vload(codes.tables, [row, block * LANES], LANES)
                vstore(T, table, value, [block, p.k + row, 0], LANES)
        return WrittenTiles(p, codes, table)

    def loop(self, columns: Sequence[Sequence[int] | None], rows: range) -> OrderedDepthwise | None:
        """The loop for neighbouring pixels by their columns of taps inside, and those rows; None if there is none."""
        p = self.problem
        if not rows or not all(columns):
            return None
        met = [i * p.stride[1] + kx for i, inside in enumerate(columns) for kx in inside or ()]
        loop = OrderedDepthwise(
            pixels=len(columns),
            rows=len(rows),
            taps=p.kernel[1],
            stride=p.stride[1],
            begin=min(met),
            end=max(met) + 1,
            channels=p.channels,
            row=p.dilation[0] * p.width * p.channels,
            tap=rows.start * p.kernel[1],
            tables=p.k,
            levels=self.codes.spec.levels,
        )
        return loop if loop.possible() else None

    def border(self, columns: Sequence[Sequence[int] | None]) -> list[tuple[range, range, OrderedDepthwise]]:
        """Output rows that miss some rows of taps, the rows of taps inside, and their loops; none if one has none."""
        p = self.problem
        if p.out_height > MOST_BORDERED:
            return []
        along = runs(p, skipped=True)[0]
        found = []
        for start, stop, inside in zip(along.starts, (*along.starts[1:], p.out_height), along.inside, strict=True):
            if all(inside):
                continue
            taps = [ky for ky, is_inside in enumerate(inside) if is_inside]
            rows = range(taps[0], taps[-1] + 1) if taps else range(0)
            loop = self.loop(columns, rows)
            if loop is None:
                return []
            found.append((range(start, stop), rows, loop))
        return found

    def call(self, loop: OrderedDepthwise, rows: range, x: Any, where: Any) -> None:
        """Emit the codes of all channels of a tile; ``where`` is its first pixel."""
        p = self.problem
        n, oy, ox = where
        y = oy * p.stride[0] - p.padding[0] + rows.start * p.dilation[0]
        column = ox * p.stride[1] - p.padding[1] + loop.begin
        places = x[n, y, column, 0], self.table[0, 0, 0], self.codes.epilogue.out[n, oy, ox, 0]
        call_loop(loop, self.defined, [tirx.address_of(place) for place in places], "uint8", LANES)

    def call_border(self, columns: Sequence[Sequence[int] | None], x: Any, where: Any) -> bool:
        """The same in rows at the border; False if there is no loop for all of them."""
        found = self.border(columns)
        for outputs, rows, loop in found:
            with T.If(tirx.all(where[1] >= outputs.start, where[1] < outputs.stop)), T.Then():
                self.call(loop, rows, x, where)
        return bool(found)


def _possible(p: DotProblem, spec: Thresholds) -> bool:
    """Whether tiles may have loops, as far as they do not differ."""
    return spec.out.kind == "nhwc" and p.dilation[1] == 1 and p.channels % LANES == 0 and p.k <= MOST_TAPS
