"""What a row of `QUANT_PATTERNS` is, and the words that rows share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.coverage import Coverage
from relay_passes.ops import constant
from relay_passes.quant_spec import NoMatch, QuantSpec

Match = Any  # tvm's map from pattern to matched expression


@dataclass(frozen=True)
class Found:
    """A recognised quantiser: what it quantises (an expression or a float32 array) and how."""

    x: Any
    spec: QuantSpec


@dataclass(frozen=True)
class QuantPattern:
    """One way of writing a quantiser.

    Attributes
    ----------
    name, help : str
        For tables and messages; ``help`` is one line.
    make : callable
        Returns a dataflow pattern that ends at the quantiser's last operator, and ``to_spec(match)``, which reads the
        matched expressions and returns `Found` or `NoMatch`.
    covers : Coverage, optional
        What the spelling can say, for the docs and for the matrix of tests.
    of_inputs : bool
        Whether the row is only for what depends on an input of the network, not for constants alone.
    """

    name: str
    help: str
    make: Callable[[], tuple[Any, Callable[[Match], Found | NoMatch]]]
    covers: Coverage | None = None
    of_inputs: bool = False


def same(a: Any, b: Any) -> bool:
    """Whether two constant expressions are equal; NaNs are, so that a NaN scale is reported as what it is."""
    x, y = constant(a), constant(b)
    return bool(np.array_equal(x, y, equal_nan=x.dtype.kind == "f" and y.dtype.kind == "f"))


def collapsed(array: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """A constant in the smallest shape that broadcasts to the same numbers."""
    numbers = np.asarray(array, np.float32)
    for axis in range(numbers.ndim):
        first = numbers.take([0], axis) if numbers.shape[axis] > 1 else numbers
        if np.array_equal(np.broadcast_to(first, numbers.shape), numbers, equal_nan=True):
            numbers = first
    while numbers.ndim and numbers.shape[0] == 1:
        numbers = numbers.reshape(numbers.shape[1:])
    return numbers


def per_axis(array: npt.NDArray[Any], rank: int) -> tuple[npt.NDArray[np.float32], int | None] | NoMatch:
    """A scale or zero point of any broadcastable shape as ``()`` or ``(channels,)`` and its axis in a rank-d tensor."""
    array = collapsed(array)
    long = [i for i, extent in enumerate(array.shape) if extent > 1]
    if not long:
        return array.reshape(()), None
    if len(long) > 1:
        return NoMatch("its scale varies along more than one axis")
    return array.reshape(-1), long[0] + rank - array.ndim


def scale_and_zero(
    scale: Any, zero: Any | None, shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], int | None] | NoMatch:
    """Constant scale and zero point expressions, brought to one axis."""
    values = constant(scale), np.float32(0) if zero is None else constant(zero)
    if values[0] is None or values[1] is None:
        return NoMatch("its scale or zero point is not constant")
    try:
        if any(np.broadcast_shapes(np.shape(v), shape) != shape for v in values):
            return NoMatch("its scale or zero point broadcasts the tensor")
    except ValueError:
        return NoMatch("its scale or zero point does not fit the tensor")
    axes = [per_axis(np.asarray(v), len(shape)) for v in values]
    found: list[tuple[npt.NDArray[np.float32], int | None]] = []
    for entry in axes:
        if isinstance(entry, NoMatch):
            return entry
        found.append(entry)
    (s, s_axis), (z, z_axis) = found
    if s_axis is not None and z_axis is not None and s_axis != z_axis:
        return NoMatch("its scale and its zero point run along different axes")
    axis = z_axis if s_axis is None else s_axis
    if axis is not None:
        length = max(s.size, z.size)
        s, z = np.broadcast_to(s, (length,)).copy(), np.broadcast_to(z, (length,)).copy()
    return s, z, axis


def bounds(clip: Any) -> tuple[float, float]:
    """The constant bounds of a ``relax.clip`` call."""
    return float(clip.args[1].value), float(clip.args[2].value)


def whole(lo: float, hi: float) -> tuple[int, int] | NoMatch:
    """Clip bounds as integers."""
    if not (np.isfinite(lo) and np.isfinite(hi)) or lo != round(lo) or hi != round(hi):
        return NoMatch(f"its clip bounds {lo:g}..{hi:g} are no integers")
    return int(lo), int(hi)
