"""Products of signed bytes on blocks of pixels x channels, K innermost, in vectors of 16 bytes.

- ``smlal``: SMULL, SMLAL2 into eight 16-bit lanes, reduced over lanes and added to 32-bit sums every ``every`` steps,
  so that a lane never holds more than ``2 every`` products; or never (``every`` 0), where the sum of all is known
  to fit 16 bits (sums wrap on the way, which is harmless: addition modulo 2**16). Where that is needed often, each step
  is widened into 32-bit lanes (SADALP); where even a step's two products may not fit, ``every`` being negative, each.
- ``sdot``: SDOT with four bytes of a pixel against four channels, into 32-bit lanes, one a channel: nothing to reduce.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.intrinsics import const
from schedules.ordered_rows import OrderedRows
from schedules.registers import MOST_UNROLLED, Registers, held, round_of
from schedules.vectors import Vectors, call_loop, part, through_general, transpose_sums, transpose_widening

STEP = 16
CHANNELS = 4
# Up to here the steps are written out, so that the reduction after them runs beside the multiplications.
UNROLL = 8
# Steps that a sum begins with the first of.
FEW = 12
# Lanes that would have to be reduced within fewer steps than this are widened each step.
OFTEN = 4

LoadA = Callable[[int, Any, int], Any]
LoadW = Callable[[int, Any, int, int, int], Any]
# Of a step: the address of its bytes of pixel 0, from there to the next pixel, and the address of its weights.
Place = Callable[[Any], tuple[Any, int, Any]]


def pack_rows(form: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Weights ``(..., channels, K)``, of whole blocks and steps, to ``(..., blocks of 4, steps, 4, 16)``."""
    blocks = rows.reshape(*rows.shape[:-2], -1, CHANNELS, rows.shape[-1] // STEP, STEP)
    if form == "smlal":
        return np.ascontiguousarray(np.moveaxis(blocks, -3, -2))
    quarters = blocks.reshape(*blocks.shape[:-1], 4, 4)
    # (..., blocks, channel, step, quarter, byte) to (..., blocks, step, quarter, channel, byte)
    quarters = np.moveaxis(quarters, -4, -2)
    return np.ascontiguousarray(quarters.reshape(*quarters.shape[:-2], STEP))


def unpack_rows(form: str, packed: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The inverse of `pack_rows`."""
    blocks = np.moveaxis(packed, -2, -3)
    if form == "sdot":
        quarters = packed.reshape(*packed.shape[:-1], CHANNELS, 4)
        quarters = np.moveaxis(quarters, -2, -4)
        blocks = quarters.reshape(*quarters.shape[:-2], STEP)
    return blocks.reshape(*blocks.shape[:-4], -1, blocks.shape[-2] * STEP)


def row_place(form: str, o: Any, k: Any) -> tuple[Any, ...]:
    """The last four indices of `pack_rows` for a channel and a K."""
    if form == "smlal":
        return o // CHANNELS, k // STEP, o % CHANNELS, k % STEP
    return o // CHANNELS, k // STEP, k % STEP // 4, o % CHANNELS * 4 + k % 4


def for_quarters(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``(O, C, ...)``, whole blocks and steps, with rows as ``sdot`` reads them: a quarter step of four channels each.

    It is its own inverse: channels of a block and quarters of a step trade places.
    """
    o, c, *rest = codes.shape
    blocks = codes.reshape(o // CHANNELS, CHANNELS, c // STEP, 4, 4, *rest)
    return np.ascontiguousarray(np.swapaxes(blocks, 1, 3)).reshape(codes.shape)


@dataclass(frozen=True)
class ByteDot:
    """A block's inner loops.

    Attributes
    ----------
    v : Vectors
        Operations of the core.
    form : str
        ``smlal`` or ``sdot``.
    steps : int
        Steps of 16 bytes.
    nr : int
        Channels of a block, a multiple of 4.
    every : int
        See the module.
    split : bool
        For in-order cores: loops are written out by `ordered_rows` where they fit, else loads are split.
    half : bool
        Whether the last step has no more than 8 products.
    """

    v: Vectors
    form: str
    steps: int
    nr: int
    every: int = 0
    split: bool = False
    half: bool = False
    defined: set[str] = field(default_factory=set)

    @property
    def dtype(self) -> str:
        """Type of the sums."""
        return "int16" if self.form == "smlal" and not self.every else "int32"

    @property
    def lanes(self) -> int:
        """Sums to a result vector."""
        return 8 if self.dtype == "int16" else 4

    def multiply(self, load_a: LoadA, load_w: LoadW, pixels: int, place: Place | None = None) -> list[Any]:
        """Emit a block's products; returns vectors of sums, channels innermost.

        ``load_a(pixel, byte, count)`` gives bytes of a pixel, ``load_w(block of four, step, part, byte,
        count)`` some of 16 bytes of weights: for ``smlal`` those of channel ``part``, for ``sdot`` its four bytes of
        each channel.
        """
        if self.form == "sdot":
            return self._sdot(load_a, load_w, pixels)
        outputs = [(i, j) for i in range(pixels) for j in range(self.nr)]
        if not self.every:
            sums = self._smlal(load_a, load_w, outputs, const(0), self.steps, place)
            return transpose_sums(self.v, sums, "int16", 8)
        if self.every < OFTEN:
            wide = self._ordered(place, pixels, const(0), self.steps, widened=True) if self.every > 0 else None
            return transpose_sums(self.v, wide or self._each(load_a, load_w, outputs), "int32", 4)
        total = Registers([(r, 0) for r in range(-(-len(outputs) // 4))], "int32", 4)

        def chunk(first: Any, steps: int) -> None:
            sums = self._smlal(load_a, load_w, outputs, first, steps, place)
            # What a lane may hold after `every` steps fits; after fewer, sums of two or four lanes do as well.
            levels = min(2, (self.every // steps).bit_length() - 1)
            for r, vector in enumerate(transpose_widening(self.v, sums, levels)):
                total[r, 0] = total[r, 0] + vector

        # Chunks of like length: the multiplications of one hide the reduction of another.
        length = -(-self.steps // -(-self.steps // self.every))
        whole, rest = divmod(self.steps, length)
        with T.serial(0, whole) as index:
            chunk(index * length, length)
        if rest:
            chunk(const(whole * length), rest)
        return total.vectors()

    def _smlal(
        self, load_a: LoadA, load_w: LoadW, outputs: list[tuple[int, int]], first: Any, steps: int, place: Place | None
    ) -> list[Any]:
        pixels = len(outputs) // self.nr
        ordered = self._ordered(place, pixels, first, steps)
        if ordered is not None:
            return ordered
        sums = Registers(outputs, "int16", 8)

        def emit(step: Any, fresh: bool) -> None:
            a = [self._halves(lambda b, n: load_a(i, step * STEP + b, n)) for i in range(pixels)]  # noqa: B023 - called at once
            for j in range(self.nr):
                w = self._halves(lambda b, n: load_w(j // CHANNELS, step, j % CHANNELS, b, n))  # noqa: B023 - called at once
                for half in (0, 1):
                    for i in range(pixels):
                        product = a[i][half].astype("int16x8") * w[half].astype("int16x8")
                        sums[i, j] = product if fresh and not half else sums[i, j] + product

        if not self.split:
            with (T.unroll if steps <= UNROLL else T.serial)(0, steps) as index:
                emit(first + index, False)
            return sums.vectors()
        # Where all instructions take their turn, the first step saves the zeroing of the sums.
        emit(first, True)
        if steps > 1:
            with T.serial(0, steps - 1) as index:
                emit(first + 1 + index, False)
        return sums.vectors()

    def _ordered(
        self, place: Place | None, pixels: int, first: Any, steps: int, widened: bool = False
    ) -> list[Any] | None:
        """Emit the steps as `ordered_rows` writes them, where it can."""
        if not self.split or place is None or self.nr != CHANNELS:
            return None
        codes, stride, weights = place(first)
        loop = OrderedRows("smlal_wide" if widened else "smlal", pixels, stride, steps)
        if not loop.possible():
            return None
        dtype, lanes = ("int32", 4) if widened else ("int16", 8)
        return call_loop(loop, self.defined, (codes, weights), dtype, lanes)

    def _each(self, load_a: LoadA, load_w: LoadW, outputs: list[tuple[int, int]]) -> list[Any]:
        sums = Registers(outputs, "int32", 4, clear=False)
        pixels = len(outputs) // self.nr

        def emit(step: Any, fresh: bool = False, halves: int = 2) -> None:
            a = [self._halves(lambda b, n: load_a(i, step * STEP + b, n)) for i in range(pixels)]  # noqa: B023 - called at once
            for j in range(self.nr):
                w = self._halves(lambda b, n: load_w(j // CHANNELS, step, j % CHANNELS, b, n))  # noqa: B023 - called at once
                for i in range(pixels):
                    parts = [a[i][half].astype("int16x8") * w[half].astype("int16x8") for half in range(halves)]
                    parts = parts if self.every < 0 else [sum(parts[1:], parts[0])]
                    terms = [self.v.widen_pairs(part, "int32", 4) for part in parts]
                    sums[i, j] = sum(terms[1:], terms[0]) if fresh else sum(terms, sums[i, j])

        whole = self.steps - self.half
        # In few steps the first one saves the zeroing of the sums; of many, rounds divide all more often than the rest.
        first = int(self.steps <= FEW)
        if first:
            emit(const(0), True, 2 if whole else 1)
        else:
            sums.clear()
        if whole > first:
            times = round_of(whole - first) if len(outputs) <= MOST_UNROLLED else 1
            with T.serial(0, (whole - first) // times) as index:
                for part in range(times):
                    emit(index * times + (first + part))
        if whole and self.half:
            emit(const(whole), halves=1)
        return sums.vectors()

    def sum_bytes(self, load_a: LoadA) -> Any:
        """Emit the sum of all bytes of pixel 0 as int32."""
        total = Registers([(0, 0)], "int32", 4)
        with T.serial(0, self.steps) as step:
            pairs = self.v.widen_pairs(load_a(0, step * STEP, STEP), "int16", 8)
            total[0, 0] = total[0, 0] + self.v.widen_pairs(pairs, "int32", 4)
        (sums,) = transpose_sums(self.v, [total[0, 0]], "int32", 4)
        return tirx.Shuffle([sums], [0])

    def _halves(self, load: Callable[[int, int], Any]) -> tuple[Any, Any]:
        """Both halves of 16 bytes."""
        if self.split:
            # Held, not written twice: LLVM would move it over at each use.
            return load(0, 8), held(through_general(load(8, 8), "int8x8"), "int8", 8)
        whole = load(0, STEP)
        return part(whole, 0, 8), part(whole, 8, 8)

    def _sdot(self, load_a: LoadA, load_w: LoadW, pixels: int) -> list[Any]:
        blocks = self.nr // CHANNELS
        sums = Registers([(i, b) for i in range(pixels) for b in range(blocks)], "int32", 4)
        # With one pixel a step is little more than its loads, so that starting instructions is the limit.
        times = round_of(self.steps) if pixels == 1 else 1
        with T.serial(0, self.steps // times) as index:
            for part in range(times):
                step = index * times + part
                a = [load_a(i, step * STEP, STEP) for i in range(pixels)]
                for quarter in range(4):
                    w = [load_w(b, step, quarter, 0, STEP) for b in range(blocks)]
                    for i in range(pixels):
                        four = tirx.Shuffle([tirx.reinterpret("int32x4", a[i])], [quarter] * 4)
                        four = tirx.reinterpret("int8x16", four)
                        for b in range(blocks):
                            sums[i, b] = tirx.call_llvm_pure_intrin(
                                "int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", sums[i, b], w[b], four
                            )
        return sums.vectors()
