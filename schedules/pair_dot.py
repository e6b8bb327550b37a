"""The inner loop of ``u8_mla``: two products of codes a 16-bit lane, by MLA with one element for all lanes.

A lane takes ``(a0 + 256 a1)(w1 + 256 w0)``: its upper byte gains ``a0 w0 + a1 w1``, its lower ``a0 w1``, and what lies
above is lost (ULPPACK: Won et al., MLSys 2022). So a register of activations is just eight pairs of codes as they
stand in memory, each of which one instruction multiplies with a pair of eight channels; sums need no reduction over
lanes. Before a byte can overflow, the upper ones are added to 16-bit sums (USRA) and the lanes begin anew.

Worst cases: after ``chunk`` pairs a lane's upper byte holds ``2 chunk max(a) max(w)`` at most 255, its lower one half of
that, so nothing is carried; a 16-bit sum is flushed to 32 bits every ``span`` chunks, where all of them might not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.intrinsics import const, splat, vload
from schedules.panel import Panel
from schedules.registers import Registers, held
from schedules.vectors import Vectors, load_through_general, part, through_general, transpose_sums

LANES, BYTES = 8, 16
# Pairs of codes that eight bytes hold.
UNIT = 4


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
        Pairs between flushes: a multiple of 4, or a divisor of it.
    span : int
        Chunks whose sums fit 16 bits.
    split : bool
        See `vectors.through_general`.
    """

    v: Vectors
    pairs: int
    nr: int
    chunk: int
    span: int
    split: bool = False

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

    def multiply(self, panel: Panel, load_w: Callable[[int, Any, int, int], Any], pixel: Any, pixels: int) -> list[Any]:
        """Emit a block's products; returns vectors of sums, channels innermost.

        ``load_w(block of eight, pair, byte, count)`` gives some of the 16 bytes of a pair of codes of eight channels.
        """
        outputs = [(i, b) for i in range(pixels) for b in range(self.nr // LANES)]
        if not self.large:
            sums = Registers(outputs, "uint16", LANES)
            self._chunks(panel, load_w, pixel, sums, const(0), self.pairs)
            return sums.vectors()
        halves = [(i, 2 * b + half) for i, b in outputs for half in (0, 1)]
        totals = Registers(halves, "uint32", LANES // 2)

        def run(first: Any, pairs: int) -> None:
            sums = Registers(outputs, "uint16", LANES)
            self._chunks(panel, load_w, pixel, sums, first, pairs)
            for i, b in outputs:
                for half in (0, 1):
                    wide = part(sums[i, b], half * LANES // 2, LANES // 2).astype("uint32x4")
                    totals[i, 2 * b + half] = totals[i, 2 * b + half] + wide

        # Runs of a multiple of four pairs, so that each begins at whole bytes of eight.
        length = max(UNIT, self.span * self.chunk // UNIT * UNIT)
        whole, rest = divmod(self.pairs, length)
        with T.serial(0, whole) as index:
            run(index * length, length)
        if rest:
            run(const(whole * length), rest)
        return totals.vectors()

    def _chunks(self, panel: Panel, load_w: Any, pixel: Any, sums: Registers, first: Any, pairs: int) -> None:
        """Emit the products of some pairs from ``first`` on."""
        length = max(self.chunk, UNIT)
        whole, rest = divmod(pairs, length)
        if whole:
            with T.serial(0, whole) as index:
                self._run(panel, load_w, pixel, sums, first + index * length, length)
        if rest:
            self._run(panel, load_w, pixel, sums, first + whole * length, rest)

    def _run(self, panel: Panel, load_w: Any, pixel: Any, sums: Registers, first: Any, pairs: int) -> None:
        blocks = self.nr // LANES
        pixels = len(sums.buffers) // blocks
        lanes = Registers(list(sums.buffers), "uint16", LANES)
        a: list[Any] = []
        for pair in range(pairs):
            if pair % UNIT == 0:
                a = [self._codes(panel, pixel, i, 2 * (first + pair)) for i in range(pixels)]
            w = [self._weights(lambda byte, n, b=b: load_w(b, first + pair, byte, n)) for b in range(blocks)]  # noqa: B023 - called at once
            for i in range(pixels):
                one = splat(tirx.Shuffle([a[i]], [pair % UNIT]), LANES)
                for b in range(blocks):
                    product = one * w[b]
                    lanes[i, b] = product if pair % self.chunk == 0 else lanes[i, b] + product
            if (pair + 1) % self.chunk == 0 or pair + 1 == pairs:
                for ij in sums.buffers:
                    sums[ij] = sums[ij] + (lanes[ij] >> splat(const(8, "uint16"), LANES))

    def _codes(self, panel: Panel, pixel: Any, i: int, byte: Any) -> Any:
        """Four pairs of codes of a pixel, as 16-bit lanes."""
        eight = panel.load(pixel + i, 0, byte, 2 * UNIT)
        if self.split and i % 2:
            return tirx.reinterpret("uint16x4", held(through_general(eight, "uint8x8"), "uint8", 8))
        return tirx.reinterpret("uint16x4", held(eight, "uint8", 8))

    def _weights(self, load: Callable[[int, int], Any]) -> Any:
        value = load_through_general(load) if self.split else load(0, BYTES)
        return tirx.reinterpret("uint16x8", held(value, "uint8", BYTES))

    def sum_codes(self, panel: Panel, pixel: Any) -> Any:
        """See `blocked.Dots`."""
        total = Registers([(0, 0)], "uint32", 2)
        with T.serial(0, self.pairs // UNIT) as index:
            pairs = self.v.widen_pairs(panel.load(pixel, 0, index * 2 * UNIT, 2 * UNIT), "uint16", 4)
            total[0, 0] = total[0, 0] + self.v.widen_pairs(pairs, "uint32", 2)
        (sums,) = transpose_sums(self.v, [total[0, 0]], "uint32", 2)
        return tirx.Shuffle([sums], [0]).astype("int32")
