"""What the rewriter knows of a tensor beyond its float value: that it is codes, or a function of an accumulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes import ops
from relay_passes.moved import Moved
from relay_passes.quant_spec import NoMatch, QuantSpec
from relay_passes.requantize import CodeOf, find_thresholds

Float32 = npt.NDArray[np.float32]
# (float32 values (..., C), code of the second operand) -> float32 values (..., C)
Step = Callable[[Float32, int], Float32]

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
    """A tensor that is, channel by channel, a monotone float32 function of an integer accumulator.

    Attributes
    ----------
    acc : Var
        The accumulator, int32 (or uint8 codes), in the tensor's logical shape.
    axis : int
        The channel axis.
    bound : int
        Largest magnitude of the accumulator.
    start : callable
        Accumulators int64 ``(..., C)`` to the first float32 value.
    steps : tuple of callables
        What follows, in the graph's own order and rounding.
    side : Quantised or None
        A second operand that some step adds.
    scale : float64 ``(C,)`` or ``(1,)``, or None
        If ``start`` is a multiplication by it, rounded once.
    """

    acc: Any
    axis: int
    bound: int
    start: Callable[[npt.NDArray[np.int64]], Float32]
    steps: tuple[Step, ...] = ()
    side: Quantised | None = None
    scale: npt.NDArray[np.float64] | None = None

    def then(self, step: Step, side: Quantised | None = None) -> Accumulated:
        """The same accumulator, one step further."""
        return replace(self, steps=(*self.steps, step), side=side or self.side)

    @property
    def channels(self) -> int:
        """Extent of the channel axis."""
        return ops.shape_of(self.acc)[self.axis]

    def code_of(self, spec: QuantSpec) -> CodeOf:
        """The chain's codes under a quantiser that follows it."""
        spec = spec if spec.axis is None else spec.moved(-1)

        def codes(accumulators: npt.NDArray[np.int64], row: int) -> npt.NDArray[Any]:
            values = self.start(accumulators)
            for step in self.steps:
                values = step(values, row)
            return spec.codes(values)

        return codes

    def requantized(self, spec: QuantSpec) -> Any | NoMatch:
        """The call that gives the codes of ``spec`` from the accumulator, by thresholds."""
        side_bits = self.side.spec.bits if self.side else 0
        rows = 1 << side_bits
        if rows * spec.levels > MAX_THRESHOLDS:
            return NoMatch(
                f"a {side_bits}-bit residual into {spec.bits} bits takes {rows * spec.levels} thresholds a channel"
            )
        if spec.axis is not None and spec.axis != self.axis:
            return NoMatch("its quantiser's scale does not run along the channels")
        found = find_thresholds(self.code_of(spec), self.bound, spec.levels, self.channels, rows)
        side = self.side.codes if self.side else None
        return ops.requantize(self.acc, *found, side, axis=self.axis, bits=spec.bits, side_bits=side_bits)


def as_accumulated(value: Quantised) -> Accumulated | None:
    """Codes taken as the accumulator of what follows; None if their scale runs along another axis than the channels."""
    spec, axis = value.spec, min(1, len(value.shape) - 1)
    if spec.axis not in (None, axis):
        return None
    along = spec if spec.axis is None else spec.moved(-1)
    return Accumulated(value.codes, axis, 255, lambda acc: along.values(np.clip(acc, 0, (1 << spec.bits) - 1)))


def channel_vector(array: npt.NDArray[Any], shape: tuple[int, ...], axis: int) -> Float32 | None:
    """A constant operand as ``()`` or ``(C,)`` if it varies along the channel axis only, else None."""
    if array.size == 1:
        return array.astype(np.float32).reshape(())
    aligned = (1,) * (len(shape) - array.ndim) + array.shape
    if len(aligned) != len(shape) or any(e != 1 for i, e in enumerate(aligned) if i != axis):
        return None
    return array.astype(np.float32).reshape(-1)


Known = Quantised | Accumulated | Moved
