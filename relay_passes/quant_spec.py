"""``QuantSpec``: what a quantiser does, in the words that all passes share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.quant_forms import FORMS, NUMPY
from schedules.dot_problem import Operand
from schedules.errors import LowbitError

Float32 = npt.NDArray[np.float32]
# Distance in steps between zero point and codes up to which the integers that codes stand for are certainly exact in
# float32, and their sums over large pooling windows in int32.
FARTHEST = 1 << 15


@dataclass(frozen=True)
class NoMatch:
    """Why something that looks like a quantiser, or like a low-bit operator, is not taken as one."""

    reason: str


@dataclass(frozen=True, eq=False)
class QuantSpec:
    """``value = (clip(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale`` in float32.

    Attributes
    ----------
    scale, zero_point : float32, shape ``()`` or ``(channels,)``
        Step and zero point; a zero point may be an odd multiple of 1/2 (bipolar codes), and may lie outside the range
        of the codes (then no code stands for 0.0).
    qmin, qmax : int
        Range of the integer codes.
    axis : int or None
        The axis that ``scale`` and ``zero_point`` run along; None if they are per tensor.
    form : str
        A key of `quant_forms.FORMS`: how the unclipped code is computed.
    """

    scale: Float32
    zero_point: Float32
    qmin: int
    qmax: int
    axis: int | None = None
    form: str = "divide"

    def checked(self, where: str) -> QuantSpec | NoMatch:
        """Self, or why this is no quantiser of 1 to 8 bits.

        Raises
        ------
        LowbitError
            If the numbers make no sense at all: a scale that is not finite and above 0, a zero point not finite.
        """
        good = np.isfinite(self.scale) & (self.scale > 0)
        if not np.all(good):
            got = repr(float(self.scale[~good].flat[0]))
            raise LowbitError(f"scale of quantiser {where}", "a finite number above 0", got, "recalibrate the model")
        if not np.all(np.isfinite(self.zero_point)):
            raise LowbitError(f"zero point of quantiser {where}", "a finite number", "NaN or infinity")
        if self.qmax <= self.qmin:
            return NoMatch(f"its range {self.qmin}..{self.qmax} holds fewer than two codes")
        if self.bits > 8:
            return NoMatch(f"its range {self.qmin}..{self.qmax} takes {self.bits} bits; 1 to 8 are supported")
        if np.any(self.zero_point * 2 != np.rint(self.zero_point * 2)):
            return NoMatch("its zero point is no multiple of 1/2")
        if np.any(np.abs(self.zero_point - self.qmin) > FARTHEST):
            return NoMatch(f"its zero point lies more than {FARTHEST} steps from its codes {self.qmin}..{self.qmax}")
        if self.axis is None and (self.scale.size > 1 or self.zero_point.size > 1):
            return NoMatch("its scale varies along more than one axis")
        return self

    @property
    def bits(self) -> int:
        """Bits that the codes take."""
        return (self.qmax - self.qmin).bit_length()

    @property
    def levels(self) -> int:
        """Thresholds between the codes: their number less one."""
        return self.qmax - self.qmin

    @property
    def multiplier(self) -> int:
        """2 where a zero point is an odd multiple of 1/2, so that values become integers; else 1."""
        return 2 if np.any(self.zero_point != np.rint(self.zero_point)) else 1

    @property
    def step(self) -> npt.NDArray[np.float64]:
        """What one unit of the integer values stands for: scale / multiplier, exactly."""
        step: npt.NDArray[np.float64] = self.scale.astype(np.float64) / self.multiplier
        return step

    @property
    def offset(self) -> npt.NDArray[np.int32]:
        """Integer value of code 0, ``multiplier * (qmin - zero_point)``; shape as the zero point's."""
        return np.rint(self.multiplier * (self.qmin - self.zero_point.astype(np.float64))).astype(np.int32)

    @property
    def operand(self) -> Operand:
        """The codes as the kernels see them."""
        offset = self.offset
        return Operand(
            self.bits, self.multiplier, int(offset.flat[0]) if offset.size == 1 else 0, int(np.abs(offset).max())
        )

    def _shaped(self, array: Float32, rank: int) -> Float32:
        if self.axis is None or array.size == 1:
            return array.reshape(())
        shape = [1] * rank
        shape[self.axis] = -1
        return array.reshape(shape)

    def applied(self, x: npt.NDArray[Any]) -> Float32:
        """The quantiser of a float32 array in the graph's float32 steps: of any width, and NaN of NaN."""
        scale, zero = self._shaped(self.scale, x.ndim), self._shaped(self.zero_point, x.ndim)
        with np.errstate(over="ignore", invalid="ignore"):
            unclipped = FORMS[self.form](NUMPY, x.astype(np.float32), scale, zero)
            codes = np.clip(unclipped, np.float32(self.qmin), np.float32(self.qmax))
            result: Float32 = (codes - zero) * scale
        return result

    def codes(self, x: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Unsigned codes ``q - qmin`` of a float32 array, by the graph's own float32 steps; of NaN the last one."""
        scale, zero = self._shaped(self.scale, x.ndim), self._shaped(self.zero_point, x.ndim)
        with np.errstate(over="ignore", invalid="ignore"):
            unclipped = FORMS[self.form](NUMPY, x.astype(np.float32), scale, zero)
        lo, hi = np.float32(self.qmin), np.float32(self.qmax)
        # Of NaN and a number, fmin gives the number: what a cast makes of NaN depends on the machine.
        return (np.maximum(np.fmin(unclipped, hi), lo) - lo).astype(np.uint8)

    def values(self, codes: npt.NDArray[Any]) -> Float32:
        """Dequantised float32 values of unsigned codes."""
        zero = self._shaped(self.zero_point, codes.ndim)
        integers = codes.astype(np.float32) + (np.float32(self.qmin) - zero)
        result: Float32 = integers * self._shaped(self.scale, codes.ndim)
        return result

    def moved(self, axis: int | None) -> QuantSpec:
        """The same quantiser along another axis (after a transposition)."""
        return replace(self, axis=axis)

    def __str__(self) -> str:
        grain = "per tensor" if self.axis is None else f"per channel (axis {self.axis})"
        return f"{self.bits} bits {self.qmin}..{self.qmax} {grain}"
