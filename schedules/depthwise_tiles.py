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
from schedules.intrinsics import const, splat, vload, vstore
from schedules.ordered_depthwise import OrderedDepthwise
from schedules.padding import runs
from schedules.registers import held
from schedules.vectors import call_loop, in_order

# In taller images the rows at the border take little of the time: they are left to LLVM, for the sake of code size.
MOST_BORDERED = 28
MOST_TAPS = 9
# The largest sum, or minus the least.
MOST_SUM = 126


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
        int8 ``(blocks, taps + levels, 16)``: of each 16 channels weights and thresholds, so that codes count upwards.
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
        blocks, levels, kind = p.channels // LANES, codes.spec.levels, f"int8x{LANES}"
        table = T.alloc_buffer((blocks, p.k + levels, LANES), "int8")
        with T.serial(0, blocks) as block:
            # Where codes count downwards, x < t is -x >= 1 - t: then there is nothing to turn.
            turn = held(~vload(codes.tables, [levels + 1, block * LANES], LANES), "int8", LANES)
            for tap in range(p.k):
                value = held(vload(weights, [tap * blocks + block, 0], LANES).astype(kind), "int8", LANES)
                vstore(T, table, (value ^ turn) - turn, [block, tap, 0], LANES)
            for level in range(levels):
                # No sum is less; 1 - t is a byte then.
                least = splat(const(-MOST_SUM, "int8"), LANES)
                value = held(tirx.max(vload(codes.tables, [level, block * LANES], LANES), least), "int8", LANES)
                vstore(T, table, (value ^ turn) - turn - turn, [block, p.k + level, 0], LANES)
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
