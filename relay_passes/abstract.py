"""What the rewriter knows of a tensor beyond its float value: that it is codes, or a function of an accumulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes import ops
from relay_passes.moved import Moved
from relay_passes.quant_spec import NoMatch, QuantSpec
from relay_passes.requantize import find_thresholds
from relay_passes.turning import find_turning_thresholds

Float32 = npt.NDArray[np.float32]
# (float32 values (..., C), code of the second operand) -> float32 values (..., C)
Step = Callable[[Float32, int], Float32]
# (accumulators int64 (..., C), code of the second operand) -> float32 values (..., C)
Value = Callable[[npt.NDArray[np.int64], int], Float32]

NOT_A_NUMBER = NoMatch("its input is NaN where its accumulator takes some values")
# Accumulators at which functions are looked at for NaN, beside 0 and thresholds.
SAMPLES = 257
# Above this many thresholds a channel, a table for every code of the second operand outweighs what it saves.
MAX_THRESHOLDS = 4096


@dataclass(frozen=True)
class Quantised:
    """A tensor that is ``spec.values(codes)``; ``codes`` is a uint8 variable of the same logical shape."""

    codes: Any
    spec: QuantSpec

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape."""
        return ops.shape_of(self.codes)


@dataclass(frozen=True)
class Accumulated:
    """A tensor that is, channel by channel, a float32 function of an integer accumulator.

    Attributes
    ----------
    acc : Var
        The accumulator, int32 (or uint8 codes), in the tensor's logical shape.
    axis : int
        The channel axis.
    bound : int
        Largest magnitude of the accumulator.
    value : callable
        Accumulators int64 ``(..., C)`` and a code of ``side`` to float32, in the graph's own order and rounding.
    side : Quantised or None
        A second operand that the function adds.
    monotone : bool
        Whether the function only rises or only falls, channel by channel.
    scale : float64 ``(C,)`` or ``(1,)``, or None
        If the function is a multiplication by it, rounded once.
    """

    acc: Any
    axis: int
    bound: int
    value: Value
    side: Quantised | None = None
    monotone: bool = True
    scale: npt.NDArray[np.float64] | None = None

    def then(self, step: Step, side: Quantised | None = None, monotone: bool = True) -> Accumulated:
        """The same accumulator, one step further; ``monotone`` says whether the step is."""
        value = self.value
        both = self.monotone and monotone
        return Accumulated(
            self.acc, self.axis, self.bound, lambda acc, row: step(value(acc, row), row), side or self.side, both
        )

    def joined(self, operation: Callable[[Any, Any], Any], other: Accumulated) -> Accumulated | None:
        """``operation`` of two functions of the same accumulator; None where they are not that."""
        one, two = self.value, other.value
        sides = [known.side for known in (self, other) if known.side is not None]
        if not self.acc.same_as(other.acc) or any(side is not sides[0] for side in sides):
            return None
        side = sides[0] if sides else None
        return Accumulated(
            self.acc, self.axis, self.bound, lambda acc, row: operation(one(acc, row), two(acc, row)), side, False
        )

    @property
    def channels(self) -> int:
        """Extent of the channel axis."""
        return ops.shape_of(self.acc)[self.axis]

    def requantized(self, spec: QuantSpec) -> Any | NoMatch:
        """The call that gives the codes of ``spec`` from the accumulator, by thresholds; no code stands for NaN."""
        side_bits = self.side.spec.bits if self.side else 0
        rows = 1 << side_bits
        if rows * spec.levels > MAX_THRESHOLDS:
            return NoMatch(
                f"a {side_bits}-bit residual into {spec.bits} bits takes {rows * spec.levels} thresholds a channel"
            )
        if spec.axis is not None and spec.axis != self.axis:
            return NoMatch("its quantiser's scale does not run along the channels")
        with np.errstate(all="ignore"):
            return self._thresholds(spec if spec.axis is None else spec.moved(-1), side_bits)

    def _thresholds(self, along: QuantSpec, side_bits: int) -> Any | NoMatch:
        spec, rows, falls = along, 1 << side_bits, None
        even = np.rint(np.linspace(-self.bound, self.bound, SAMPLES)).astype(np.int64)
        if self._nan_at(np.concatenate([even, [-1, 0, 1]])[:, None].repeat(self.channels, axis=1)[None], rows):
            return NOT_A_NUMBER
        if self.monotone:
            rises, flip = find_thresholds(
                lambda acc, row: along.codes(self.value(acc, row)), self.bound, spec.levels, self.channels, rows
            )
        else:
            turning = find_turning_thresholds(self.value, along.codes, self.bound, spec.levels, self.channels, rows)
            if isinstance(turning, NoMatch):
                return turning
            rises, falls = turning
            flip = np.zeros(self.channels, np.uint8)
        # A jump hides what is NaN at one accumulator only.
        if self._nan_at(
            np.concatenate([t + i for t in (rises, falls) if t is not None for i in (-1, 0)], axis=1), rows
        ):
            return NOT_A_NUMBER
        side = self.side.codes if self.side else None
        return ops.requantize(self.acc, rises, flip, falls, side, axis=self.axis, bits=spec.bits, side_bits=side_bits)

    def _nan_at(self, accumulators: npt.NDArray[np.integer[Any]], rows: int) -> bool:
        """Whether the function is NaN at accumulators ``(rows or 1, ..., C)``, as far as they are reachable."""
        reachable = np.clip(accumulators.astype(np.int64), -self.bound, self.bound)
        return any(
            bool(np.isnan(self.value(reachable[min(row, len(reachable) - 1)], row)).any()) for row in range(rows)
        )


@dataclass(frozen=True)
class InRegisters:
    """A float32 tensor that is computed elementwise from codes and accumulators and need never be written.

    What thresholds cannot say: two accumulators joined, or too many thresholds. TVM fuses such operators, from the
    integers to the codes of the quantiser that follows, into one kernel.
    """

    reason: str


def as_accumulated(value: Quantised) -> Accumulated | None:
    """Codes taken as the accumulator of what follows; None if their scale runs along another axis than the channels."""
    spec, axis = value.spec, min(1, len(value.shape) - 1)
    if spec.axis not in (None, axis):
        return None
    along = spec if spec.axis is None else spec.moved(-1)
    return Accumulated(value.codes, axis, 255, lambda acc, row: along.values(np.clip(acc, 0, (1 << spec.bits) - 1)))


def channel_vector(array: npt.NDArray[Any], shape: tuple[int, ...], axis: int) -> Float32 | None:
    """A constant operand as ``()`` or ``(C,)`` if it varies along the channel axis only, else None."""
    if array.size == 1:
        return array.astype(np.float32).reshape(())
    aligned = (1,) * (len(shape) - array.ndim) + array.shape
    if len(aligned) != len(shape) or any(e != 1 for i, e in enumerate(aligned) if i != axis):
        return None
    return array.astype(np.float32).reshape(-1)


Known = Quantised | Accumulated | InRegisters | Moved
