"""The inner loop of ``u8_mla``: two products of codes a 16-bit lane, by MLA with one element for all lanes.

A lane takes ``(a0 + 256 a1)(w1 + 256 w0)``: its upper byte gains ``a0 w0 + a1 w1``, its lower ``a0 w1``, and what lies
above is lost (ULPPACK: Won et al., MLSys 2022). So a register of activations is just eight pairs of codes as they
stand in memory, each of which one instruction multiplies with a pair of eight channels; sums need no reduction over
lanes. Before a byte can overflow, the upper ones are added to 16-bit sums (USRA) and the lanes begin anew.

Worst cases: after ``chunk`` pairs a lane's upper byte holds ``2 chunk max(a) max(w)``, at most 255, its lower one half
of that, so nothing is carried; a 16-bit sum is flushed to 32 bits every ``span`` chunks where it cannot hold all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules import code_sum
from schedules.intrinsics import const, splat, vload
from schedules.ordered_pairs import MOST_PIXELS, UNIT, OrderedPairs, body
from schedules.panel import Panel
from schedules.registers import Registers, held
from schedules.vectors import Vectors, call_loop, part, transpose_sums

LANES, BYTES = 8, 16

# Of a block of eight channels and a pair: a buffer, and where in it its 16 bytes begin.
Weights = Callable[[int, Any], tuple[Any, list[Any]]]


@dataclass(frozen=True)
class PairDot:
    """A block's inner loops.

    Attributes
    ----------
    v : Vectors
        Operations of the core.
    pairs : int
        Pairs of codes of a patch, a multiple of 4.
    nr : int
        Channels of a block, a multiple of 8.
    chunk : int
        Pairs between flushes.
    span : int
        Chunks whose sums fit 16 bits.
    most_code : int
        The largest code of an activation.
    bias : int
        What lanes begin with: 0, or 128 and in the upper byte what keeps it from becoming negative. Then codes are
        centred, as 16-bit numbers ``a0 + 256 a1``, and all sums are too large by ``bias >> 8`` a flush.
    ordered : bool
        Whether to write the loop out for an in-order core: see `ordered_pairs`.
    """

    v: Vectors
    pairs: int
    nr: int
    chunk: int
    span: int
    most_code: int
    bias: int = 0
    ordered: bool = False
    defined: set[str] = field(default_factory=set)

    @property
    def large(self) -> bool:
        """Whether sums take 32 bits."""
        return self.pairs > self.span * self.chunk

    @property
    def dtype(self) -> str:
        """Type of the sums."""
        return "uint32" if self.large else "uint16"

    @property
    def lanes(self) -> int:
        """Sums to a result vector."""
        return LANES // 2 if self.large else LANES

    def multiply(self, panel: Panel, weights: Weights, pixel: Any, pixels: int) -> list[Any]:
        """Emit a block's products; returns vectors of sums, channels innermost.

        ``weights(block of eight, pair)`` gives a buffer and where in it the 16 bytes of a pair of codes begin.
        """
        outputs = [(i, b) for i in range(pixels) for b in range(self.nr // LANES)]
        if not self.large:
            return self._sums(panel, weights, pixel, outputs, const(0), self.pairs)
        halves = [(i, 2 * b + half) for i, b in outputs for half in (0, 1)]
        totals = Registers(halves, "uint32", LANES // 2)

        def run(first: Any, pairs: int) -> None:
            sums = self._sums(panel, weights, pixel, outputs, first, pairs)
            for (i, b), value in zip(outputs, sums, strict=True):
                for half in (0, 1):
                    wide = part(value, half * LANES // 2, LANES // 2).astype("uint32x4")
                    totals[i, 2 * b + half] = totals[i, 2 * b + half] + wide

        first = 0
        for length, count in self._runs():
            with T.serial(0, count) as index:
                run(first + index * length, length)
            first += length * count
        return totals.vectors()

    def _sums(self, panel: Panel, weights: Weights, pixel: Any, outputs: Any, first: Any, pairs: int) -> list[Any]:
        """Emit the products of some pairs from ``first`` on; 16-bit sums."""
        pixels, blocks = len(outputs) * LANES // self.nr, self.nr // LANES
        loop = OrderedPairs(pixels, panel.stride(), pairs, self.chunk, self.bias)
        if self.ordered and pixels <= MOST_PIXELS and loop.reaches():
            found = [self._call(loop, panel, weights, pixel, first, b) for b in range(blocks)]
            return [found[b][i] for i, b in outputs]
        sums = Registers(outputs, "uint16", LANES)
        whole, rest = divmod(pairs, body(self.chunk))
        if whole:
            with T.serial(0, whole) as index:
                self._run(panel, weights, pixel, sums, first + index * body(self.chunk), body(self.chunk))
        if rest:
            self._run(panel, weights, pixel, sums, first + whole * body(self.chunk), rest)
        return sums.vectors()

    def _call(
        self, loop: OrderedPairs, panel: Panel, weights: Weights, pixel: Any, first: Any, block: int
    ) -> list[Any]:
        buffer, at = weights(block, first)
        codes, held_weights = panel.address(pixel, 0, 2 * first), tirx.address_of(buffer[tuple(at)])
        return call_loop(loop, self.defined, (codes, held_weights), "uint16", LANES)

    def _run(self, panel: Panel, weights: Weights, pixel: Any, sums: Registers, first: Any, pairs: int) -> None:
        blocks = self.nr // LANES
        pixels = len(sums.buffers) // blocks
        lanes = Registers(list(sums.buffers), "uint16", LANES)
        begin = splat(const(self.bias, "uint16"), LANES)
        a: list[Any] = []
        for pair in range(pairs):
            if pair % UNIT == 0:
                codes = [panel.load(pixel + i, 0, 2 * (first + pair), 2 * UNIT) for i in range(pixels)]
                a = [tirx.reinterpret("uint16x4", held(eight, "uint8", 2 * UNIT)) for eight in codes]
            w = [tirx.reinterpret("uint16x8", self._weights(weights, b, first + pair)) for b in range(blocks)]
            for i in range(pixels):
                one = splat(tirx.Shuffle([a[i]], [pair % UNIT]), LANES)
                for b in range(blocks):
                    product = one * w[b]
                    if pair % self.chunk:
                        lanes[i, b] = lanes[i, b] + product
                    else:
                        lanes[i, b] = begin + product if self.bias else product
            if (pair + 1) % self.chunk == 0 or pair + 1 == pairs:
                for ij in sums.buffers:
                    sums[ij] = sums[ij] + (lanes[ij] >> splat(const(8, "uint16"), LANES))

    def flushes(self) -> int:
        """How often lanes are added to the sums of a patch."""

        def of(pairs: int) -> int:
            whole, rest = divmod(pairs, body(self.chunk))
            return whole * (body(self.chunk) // self.chunk) + -(-rest // self.chunk)

        return sum(of(length) * count for length, count in self._runs())

    def _runs(self) -> list[tuple[int, int]]:
        """Pairs whose sums fit 16 bits, and how many such runs follow each other: of like length, in whole loads."""
        if not self.large:
            return [(self.pairs, 1)]
        most = self.span * self.chunk // UNIT * UNIT
        count = -(-self.pairs // most)
        length = -(-self.pairs // count // UNIT) * UNIT
        whole, rest = divmod(self.pairs, length)
        return [(length, whole), (rest, 1)] if rest else [(length, whole)]

    @staticmethod
    def _weights(weights: Weights, block: int, pair: Any) -> Any:
        buffer, at = weights(block, pair)
        return vload(buffer, at, BYTES)

    def sum_codes(self, panel: Panel, pixel: Any) -> Any:
        """See `blocked.Dots`."""
        row, most = 2 * self.pairs, 255 // self.most_code
        # An in-order core loads eight bytes in the cycle in which it adds eight others.
        size = UNIT * 2 if self.ordered else BYTES
        total = Registers([(0, 0)], "uint32", 4)
        whole, rest = divmod(row, size)
        for first in range(0, whole, most):
            codes = Registers([(0, 0)], "uint8", size)
            with T.serial(0, min(most, whole - first)) as index:
                codes[0, 0] = codes[0, 0] + panel.load(pixel, 0, (first + index) * size, size)
            total[0, 0] = total[0, 0] + self._widened(codes[0, 0], size)
        found = code_sum.total(self.v, total[0, 0])
        if rest:
            eight = self.v.widen_pairs(panel.load(pixel, 0, whole * size, rest), "uint16", 4)
            (sums,) = transpose_sums(self.v, [eight], "uint16", 4)
            found = found + tirx.Shuffle([sums], [0]).astype("uint32")
        return found.astype("int32")

    def _widened(self, codes: Any, size: int) -> Any:
        """The sum of eight or sixteen bytes in four 32-bit lanes."""
        pairs = self.v.widen_pairs(codes, "uint16", size // 2)
        return self.v.widen_pairs(pairs, "uint32", 4) if size == BYTES else pairs.astype("uint32x4")
