"""Products of signed bytes on blocks of pixels x channels, K innermost, in vectors of 16 bytes.

- ``smlal``: SMULL, SMLAL2 into eight 16-bit lanes, reduced over lanes and added to 32-bit sums every ``every`` steps, so
  that a lane never holds more than ``2 every`` products; or never reduced (``every`` 0), where the sum of all is known to
  fit 16 bits (sums wrap on the way, which is harmless: addition modulo 2**16).
- ``sdot``: SDOT with four bytes of a pixel against four channels, into 32-bit lanes, one a channel: nothing to reduce.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.intrinsics import const
from schedules.registers import Registers
from schedules.vectors import Vectors, part, transpose_sums

STEP = 16
CHANNELS = 4

LoadA = Callable[[int, Any], Any]
LoadW = Callable[[int, Any, int], Any]


def pack_rows(form: str, rows: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Weights ``(..., channels, K)``, of whole blocks and steps, to ``(..., blocks of 4, steps, 4, 16)``."""
    blocks = rows.reshape(*rows.shape[:-2], -1, CHANNELS, rows.shape[-1] // STEP, STEP)
    if form == "smlal":
        return np.ascontiguousarray(np.moveaxis(blocks, -3, -2))
    quarters = blocks.reshape(*blocks.shape[:-1], 4, 4)
    # (..., blocks, channel, step, quarter, byte) to (..., blocks, step, quarter, channel, byte)
    quarters = np.moveaxis(quarters, -4, -2)
    return np.ascontiguousarray(quarters.reshape(*quarters.shape[:-2], STEP))


def unpack_rows(form: str, packed: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
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
    """

    v: Vectors
    form: str
    steps: int
    nr: int
    every: int = 0

    @property
    def dtype(self) -> str:
        """Type of the sums."""
        return "int16" if self.form == "smlal" and not self.every else "int32"

    @property
    def lanes(self) -> int:
        """Sums to a result vector."""
        return 8 if self.dtype == "int16" else 4

    def multiply(self, load_a: LoadA, load_w: LoadW, pixels: int) -> list[Any]:
        """Emit a block's products; returns vectors of sums, channels innermost.

        ``load_a(pixel, byte)`` gives 16 bytes of a pixel; ``load_w(block of four channels, step, part)`` 16 bytes of
        weights: for ``smlal`` those of channel ``part``, for ``sdot`` the part's four bytes of each channel.
        """
        if self.form == "sdot":
            return self._sdot(load_a, load_w, pixels)
        outputs = [(i, j) for i in range(pixels) for j in range(self.nr)]
        if not self.every:
            return transpose_sums(self.v, self._smlal(load_a, load_w, outputs, 0, self.steps), "int16", 8)
        total = Registers([(r, 0) for r in range(-(-len(outputs) // 4))], "int32", 4)
        for first in range(0, self.steps, self.every):
            sums = self._smlal(load_a, load_w, outputs, first, min(self.every, self.steps - first))
            wide = [self.v.widen_pairs(value, "int32", 4) for value in sums]
            for r, vector in enumerate(transpose_sums(self.v, wide, "int32", 4)):
                total[r, 0] = total[r, 0] + vector
        return total.vectors()

    def _smlal(self, load_a: LoadA, load_w: LoadW, outputs: list[tuple[int, int]], first: int, steps: int) -> list[Any]:
        sums = Registers(outputs, "int16", 8)
        pixels = len(outputs) // self.nr
        with T.serial(0, steps) as index:
            step = first + index
            a = [load_a(i, step * STEP) for i in range(pixels)]
            for j in range(self.nr):
                w = load_w(j // CHANNELS, step, j % CHANNELS)
                for half in (0, 8):
                    wide = part(w, half, 8).astype("int16x8")
                    for i in range(pixels):
                        sums[i, j] = sums[i, j] + part(a[i], half, 8).astype("int16x8") * wide
        return sums.vectors()

    def _sdot(self, load_a: LoadA, load_w: LoadW, pixels: int) -> list[Any]:
        blocks = self.nr // CHANNELS
        sums = Registers([(i, b) for i in range(pixels) for b in range(blocks)], "int32", 4)
        with T.serial(0, self.steps) as step:
            a = [load_a(i, step * STEP) for i in range(pixels)]
            for quarter in range(4):
                w = [load_w(b, step, quarter) for b in range(blocks)]
                for i in range(pixels):
                    four = tirx.Shuffle([tirx.reinterpret("int32x4", a[i])], [quarter] * 4)
                    four = tirx.reinterpret("int8x16", four)
                    for b in range(blocks):
                        sums[i, b] = tirx.call_llvm_pure_intrin(
                            "int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", sums[i, b], w[b], four
                        )
        return sums.vectors()


