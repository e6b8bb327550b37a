"""The inner loops of ``bit_serial``: AND, CNT and an accumulation, on blocks of pixels x channels.

Three ways to accumulate, each with its worst case:

- ``uint16``, pairs of planes in Horner order (double between classes of equal ``p + q``): a lane takes the bits of two
  bytes a step, so it ends at most at ``16 steps (2**A - 1) (2**W - 1)``. Taken where that fits 16 bits.
- ``bytes``, the same in byte lanes, widened once or every 31 steps (8 bits a step, 248): cheaper where UADALP is slow.
- ``uint32``, any number of planes: each pair is summed in 16-bit lanes (``16 steps``), then shifted and added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.blocked import CHANNEL_BLOCK
from schedules.intrinsics import const, splat, vload
from schedules.ordered_column import OrderedColumn
from schedules.ordered_rows import OrderedRows
from schedules.panel import Panel
from schedules.registers import MOST_UNROLLED, Registers, held, round_of
from schedules.vectors import Vectors, call_loop, load_through_general, transpose_sums

STEP = 16
MAX_BYTE_STEPS = 255 // 8


@dataclass(frozen=True)
class BitDot:
    """Sums of ``2**(p + q) popcount(a_p AND w_q)``.

    Attributes
    ----------
    v : Vectors
        Operations of the core.
    a_bits, w_bits : int
        Planes.
    row_bytes : int
        Bytes of a plane of a patch: whole steps of 16 and perhaps 8 more.
    nr : int
        Channels of a block.
    form : str
        ``uint16``, ``bytes`` or ``uint32``.
    width : int
        Bytes to a vector in the form ``bytes``: 16, or 8.
    large : bool
        Whether a whole sum may not fit 16 bits, though its lanes do.
    signs : bool
        Weights are two planes, signs and a mask, of one weight: what is counted is ``(a XOR sign) AND mask``.
    differ : bool
        What is counted is ``a XOR w``.
    split : bool
        For in-order cores: loops are written out by `ordered_rows` where they fit, else loads are split.
    """

    v: Vectors
    a_bits: int
    w_bits: int
    row_bytes: int
    nr: int
    form: str
    width: int
    weights: Any
    large: bool = False
    signs: bool = False
    differ: bool = False
    split: bool = False
    defined: set[str] = field(default_factory=set)

    @property
    def w_planes(self) -> int:
        """Planes that a plane of activations is combined with in turn."""
        return 1 if self.signs else self.w_bits

    @property
    def steps(self) -> int:
        """Steps of 16 bytes, the last one perhaps half empty."""
        return -(-self.row_bytes // STEP)

    def dtype(self) -> str:
        """Type of the sums."""
        return "uint32" if self.form == "uint32" or self.large else "uint16"

    def lanes(self) -> int:
        """Sums to a result vector."""
        narrow = {"uint32": 8, "uint16": 8, "bytes": self.width // 2}[self.form]
        return narrow if self.dtype() == "uint16" else narrow // 2

    def reduce(self, sums: list[Any], lanes: int) -> list[Any]:
        """Sums over the ``lanes`` 16-bit lanes of each vector, in 32 bits where all of them together need that."""
        if not self.large:
            return transpose_sums(self.v, sums, "uint16", lanes)
        wide = [self.v.widen_pairs(value, "uint32", lanes // 2) for value in sums]
        return transpose_sums(self.v, wide, "uint32", lanes // 2)

    def multiply(self, panel: Panel, g: Any, channel: Any, pixel: Any, pixels: int) -> list[Any]:
        """See `blocked.Dots`."""
        block = _Block(self, panel, g, channel, pixel, pixels)
        return {"uint32": block.wide, "uint16": block.narrow, "bytes": block.bytewise}[self.form]()

    def column(self, panel: Panel, sums: Any) -> bool:
        """See `blocked.Dots`: as `ordered_column` writes it."""
        channels = int(sums.shape[1])
        stride, rest = divmod(panel.stride(), self.a_bits)
        loop = OrderedColumn(self.a_bits, self.w_planes, self.steps, stride, channels // 8)
        plain = self.split and not (self.signs or self.differ or self.large) and self.form != "uint32"
        whole = self.row_bytes % STEP == 0 and channels % 8 == 0 and rest == 0 and int(sums.shape[0]) == 1
        if not (plain and whole and loop.possible()):
            return False
        codes, weights = panel.address(const(0), 0, 0), tirx.address_of(self.weights[0, 0, 0, 0, 0, 0])
        operands = codes, weights, tirx.address_of(sums[0, 0]), tirx.address_of(sums[0, channels - 1])
        call_loop(loop, self.defined, operands, "uint16", 8)
        return True

    def sum_codes(self, panel: Panel, pixel: Any) -> Any:
        """See `blocked.Dots`."""
        total = Registers([(0, 0)], "uint32", 4)
        for plane in reversed(range(self.a_bits)):
            ones = Registers([(0, 0)], "uint16", 8)
            for at, size in _steps(self.row_bytes):
                counts = tirx.popcount(panel.load(pixel, plane, at, size))
                counts = counts if size == STEP else _filled(counts, size)
                ones[0, 0] = ones[0, 0] + self.v.widen_pairs(counts, "uint16", 8)
            total[0, 0] = total[0, 0] + total[0, 0] + self.v.widen_pairs(ones[0, 0], "uint32", 4)
        (sums,) = transpose_sums(self.v, [total[0, 0]], "uint32", 4)
        return tirx.Shuffle([sums], [0]).astype("int32")


def _steps(row_bytes: int, unroll: bool = False) -> Iterator[tuple[Any, int]]:
    """Emit a loop over whole steps, then perhaps half a one; yields where each begins and its bytes."""
    whole, rest = divmod(row_bytes, STEP)
    if whole:
        times = round_of(whole) if unroll else 1
        with T.serial(0, whole // times) as step:
            for part in range(times):
                yield (step * times + part) * STEP, STEP
    if rest:
        yield const(whole * STEP), rest


def _filled(vector: Any, size: int) -> Any:
    """Vectors of half a step with a zero upper half."""
    return tirx.Shuffle([vector, splat(const(0, "uint8"), size)], list(range(STEP)))


class _Block:
    """The emission of one block's products."""

    def __init__(self, dot: BitDot, panel: Panel, g: Any, channel: Any, pixel: Any, pixels: int) -> None:
        self.dot, self.panel, self.g, self.channel, self.pixel = dot, panel, g, channel, pixel
        self.pixels = pixels
        self.outputs = [(i, j) for i in range(pixels) for j in range(dot.nr)]
        self.unroll = not dot.split and len(self.outputs) <= MOST_UNROLLED

    def counts(self, plane: Any, q: Any, at: Any, size: int, half: int = 0, width: int = STEP) -> Iterator[Any]:
        """Yield each output with its counted bits; one weight vector is live at a time, all activations are."""
        step = at // STEP if not isinstance(at, int) else const(at // STEP)

        def weight(j: int, q: Any) -> Any:
            def load(byte: Any, lanes: int) -> Any:
                block = self.channel // CHANNEL_BLOCK + j // CHANNEL_BLOCK
                where = [self.g, block, q, step, j % CHANNEL_BLOCK, half + (byte - at)]
                return vload(self.dot.weights, where, lanes)

            return load

        def patch(i: int) -> Any:
            return lambda byte, lanes: self.panel.load(self.pixel + i, plane, byte + half, lanes)

        def read(load: Any) -> Any:
            if self.dot.split and size == width == STEP:
                return held(load_through_general(lambda byte, lanes: load(at + byte, lanes)), "uint8", STEP)
            return load(at, min(width, size))

        def count(bits: Any) -> Any:
            # Of half a step the upper 8 are zero: counted as 64 bits, which take half as much of what starts them.
            return _filled(tirx.popcount(bits), size) if size < width else tirx.popcount(bits)

        a = [read(patch(i)) for i in range(self.pixels)]
        w = [read(weight(j, q)) for j in range(self.dot.nr)]
        if self.dot.signs:
            mask = [read(weight(j, const(1))) for j in range(self.dot.nr)]
            for i, j in self.outputs:
                yield (i, j), count((a[i] ^ w[j]) & mask[j])
            return
        for i, j in self.outputs:
            yield (i, j), count(a[i] ^ w[j] if self.dot.differ else a[i] & w[j])

    def classes(self) -> Iterator[list[tuple[int, int]]]:
        """Pairs of planes of equal weight, the heaviest first."""
        a, w = self.dot.a_bits, self.dot.w_planes
        for total in reversed(range(a + w - 1)):
            yield [(p, total - p) for p in range(a) if 0 <= total - p < w]

    def narrow(self) -> list[Any]:
        """Horner order in 16-bit lanes."""
        sums = Registers(self.outputs, "uint16", 8)
        for number, pairs in enumerate(self.classes()):
            if number:
                sums.double()
            for plane, q in pairs:
                for at, size in _steps(self.dot.row_bytes, self.unroll):
                    for ij, ones in self.counts(plane, q, at, size):
                        sums[ij] = sums[ij] + self.dot.v.widen_pairs(ones, "uint16", 8)
        return self.dot.reduce(sums.vectors(), 8)

    def bytewise(self) -> list[Any]:
        """Byte lanes; Horner order in them where the sums fit, else in 16-bit lanes."""
        dot, width = self.dot, self.dot.width
        halves = range(0, STEP, width)
        full = 8 * dot.steps * len(halves) * ((1 << dot.a_bits) - 1) * ((1 << dot.w_planes) - 1)
        bytes_ = Registers(self.outputs, "uint8", width)
        sums = None if full <= 255 else Registers(self.outputs, "uint16", width // 2)

        def flush() -> None:
            assert sums is not None
            for ij in self.outputs:
                sums[ij] = sums[ij] + dot.v.widen_pairs(bytes_[ij], "uint16", width // 2)
            bytes_.clear()

        chunk = MAX_BYTE_STEPS // len(halves)
        for number, pairs in enumerate(self.classes()):
            if number:
                (bytes_ if sums is None else sums).double()
            for plane, q in pairs:
                for first in range(0, dot.row_bytes, chunk * STEP):
                    rest = min(dot.row_bytes - first, chunk * STEP)
                    written = self.written(plane, q, first, rest // STEP)
                    if written is not None:
                        for ij, ones in zip(self.outputs, written, strict=True):
                            bytes_[ij] = bytes_[ij] + ones
                    done = rest // STEP * STEP if written is not None else 0
                    first, rest = first + done, rest - done
                    for at, size in _steps(rest, self.unroll):
                        for half in halves:
                            if half >= size and not isinstance(at, int) and size < STEP:
                                continue
                            for ij, ones in self.counts(plane, q, first + at, size, half, width):
                                bytes_[ij] = bytes_[ij] + ones
                    if sums is not None:
                        flush()
        if sums is not None:
            return dot.reduce(sums.vectors(), width // 2)
        widened = [dot.v.widen_pairs(value, "uint16", width // 2) for value in bytes_.vectors()]
        return dot.reduce(widened, width // 2)

    def written(self, plane: int, q: int, first: int, steps: int) -> list[Any] | None:
        """Counts of some steps in the order that `ordered_rows` writes, where it can."""
        dot = self.dot
        operation = "ternary" if dot.signs else "eor" if dot.differ else "and"
        mask = dot.steps * CHANNEL_BLOCK * STEP if dot.signs else 0
        loop = OrderedRows(operation, self.pixels, self.panel.stride(), steps, mask)
        if not (dot.split and dot.width == STEP and dot.nr == CHANNEL_BLOCK and loop.possible()):
            return None
        codes = self.panel.address(self.pixel, plane, first)
        weights = dot.weights[self.g, self.channel // CHANNEL_BLOCK, q, first // STEP, 0, 0]
        return call_loop(loop, dot.defined, (codes, tirx.address_of(weights)), "uint8", STEP)

    def wide(self) -> list[Any]:
        """A loop over all pairs of planes, each flushed to 32-bit lanes."""
        dot = self.dot
        sums = Registers(self.outputs, "uint32", 4)
        with T.grid(dot.a_bits, dot.w_planes) as (plane, q):
            shift = splat((plane + q).astype("uint32"), 4)
            pair = Registers(self.outputs, "uint16", 8)
            for at, size in _steps(dot.row_bytes, self.unroll):
                for ij, ones in self.counts(plane, q, at, size):
                    pair[ij] = pair[ij] + dot.v.widen_pairs(ones, "uint16", 8)
            for ij in self.outputs:
                sums[ij] = sums[ij] + (dot.v.widen_pairs(pair[ij], "uint32", 4) << shift)
        return transpose_sums(dot.v, sums.vectors(), "uint32", 4)
