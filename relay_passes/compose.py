"""``ComposeRequantize``: codes that only another quantiser reads are never written; thresholds stand for both.

A residual join reads the codes of a convolution's quantiser and quantises their sum with a second operand. As a
function of the accumulator the second code is a step function whose steps lie at the first quantiser's thresholds, so
one row of thresholds for each code of the second operand says it exactly, and the convolution's own epilogue counts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes import dataflow, ops
from relay_passes.ops import constant, op_name, quant_spec
from schedules.epilogue import SIDE_THRESHOLDS
from schedules.slants import Slants, fit_slants

Codes = npt.NDArray[np.int64]
Table = npt.NDArray[Any]


@dataclass(frozen=True)
class Counts:
    """The tables of a ``requantize``: ``rises`` ``(rows, levels, C)``, ``flip`` ``(C,)``, ``falls`` or None."""

    rises: Table
    flip: Table
    falls: Table | None = None

    @classmethod
    def of(cls, call: Any) -> Counts:
        """Those of a call."""
        tables = [constant(t) for t in call.args[1 : 1 + int(call.attrs["tables"])]]
        return cls(tables[0], tables[1], tables[2] if len(tables) > 2 else None)

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return int(self.rises.nbytes + self.flip.nbytes + (0 if self.falls is None else self.falls.nbytes))

    def codes(self, accumulators: Codes, rows: Codes) -> Codes:
        """The codes of accumulators ``(..., C)``; ``rows``, of the same shape, picks rows of thresholds."""
        channel = np.arange(accumulators.shape[-1])
        reached = np.zeros(accumulators.shape, np.int64)
        for table, sign in ((self.rises, 1), (self.falls, -1)):
            for level in range(0 if table is None else table.shape[1]):
                assert table is not None
                reached += sign * (accumulators >= table[rows, level, channel])
        return np.where(self.flip.astype(bool), self.rises.shape[1] - reached, reached)


def composed(first: Counts, second: Counts, rows: int, top: int, as_row: bool) -> Counts | None:
    """Tables that give ``second``'s codes from ``first``'s accumulators, or None where none do.

    Parameters
    ----------
    first : Counts
        One row of thresholds.
    second : Counts
        What reads the codes of ``first``.
    rows : int
        Codes that the other operand of ``second`` may have, 1 without one.
    top : int
        The largest code that ``second`` gives.
    as_row : bool
        Whether ``first``'s codes pick ``second``'s rows, and the other operand is what it counts.
    """
    dtype = first.rises.dtype
    least, never = np.iinfo(dtype).min, np.iinfo(dtype).max
    tables = [first.rises[0]] if first.falls is None else [first.rises[0], first.falls[0]]
    steps = np.sort(np.concatenate(tables).astype(np.int64), axis=0)
    channels = steps.shape[1]
    zeros = np.zeros((1, channels), np.int64)
    before = np.where(first.flip.astype(bool), first.rises.shape[1], 0).astype(np.int64)
    codes = [before, *first.codes(steps, np.zeros_like(steps))]
    for i, step in enumerate(steps):
        codes[i + 1] = np.where(step == never, codes[i], codes[i + 1])
    inner = np.stack(codes)

    def second_of(row: int) -> Codes:
        other = zeros + row + np.zeros_like(inner)
        return second.codes(other, inner) if as_row else second.codes(inner, other)

    values = np.stack([second_of(row) for row in range(rows)])  # (rows, steps + 1, C)
    jumps = np.diff(values, axis=1)
    # A channel counts downwards where its codes fall, and rise for no row.
    flip = np.any(jumps < 0, axis=(0, 1)) & ~np.any(jumps > 0, axis=(0, 1))
    up, down = np.where(flip, -jumps, jumps).clip(0), np.where(flip, -jumps, jumps).clip(None, 0)
    first_codes = values[:, 0]
    levels = int(np.where(flip, first_codes, first_codes + up.sum(axis=1)).max())
    falls = int(-down.sum(axis=1).min())
    levels = max(levels, 1)
    if levels > top + min(falls, top) or falls > top:
        return None
    start = np.where(flip, levels - first_codes, first_codes)
    places = np.concatenate([zeros + least, steps, zeros + never])

    def table(begin: Codes, change: Codes, count: int) -> Table:
        reached = np.cumsum(np.concatenate([begin[:, None], change], axis=1), axis=1)
        wanted = [np.take_along_axis(places, (reached < n).sum(axis=1), axis=0) for n in range(1, count + 1)]
        return np.stack(wanted, axis=1).astype(dtype)

    down_table = table(np.zeros_like(start), -down, falls) if falls else None
    return Counts(table(start, up, levels), flip.astype(np.uint8), down_table)


def compose_requantize(mod: Any) -> Any:
    """Apply the pass.

    Parameters
    ----------
    mod : IRModule
        After `rewrite.rewrite_lowbit`.

    Returns
    -------
    IRModule
        A ``requantize`` of codes that a ``dot``'s ``requantize`` gave and that nothing else reads counts the ``dot``'s
        accumulators itself, unless its tables would become larger than both were.
    """
    values = {b.var: b.value for b in dataflow.bindings(mod["main"])}
    readers = dataflow.readers(mod["main"])

    def inner(codes: Any) -> Any:
        """The ``requantize`` of a dot's accumulators that gave these codes for one reader, or None."""
        value: Any = values.get(codes)
        if op_name(value) != ops.REQUANTIZE or len(readers[codes]) != 1 or int(value.attrs["side_bits"]):
            return None
        dot = value.args[0]
        return value if op_name(values.get(dot)) == ops.DOT and len(readers[dot]) == 1 else None

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        old = values[var]
        if op_name(old) != ops.REQUANTIZE or str(old.args[0].ty.dtype) != "uint8":
            return dataflow.keep(var, value, scope)
        codes, side = old.args[0], old.args[-1] if int(old.attrs["side_bits"]) else None
        for joined, other in ((codes, side), (side, codes)):
            first = None if joined is None else inner(joined)
            bits = int(old.attrs["side_bits"]) if joined is codes else code_bits(values, other)
            if first is None or bits is None or int(first.attrs["axis"]) != int(old.attrs["axis"]):
                continue
            found = _composed(first, old, bits, joined is side)
            if found is not None:
                beside = None if other is None else scope.new(other)
                tables, acc = (found.rises, found.flip, found.falls), scope.new(first.args[0])
                widths = int(old.attrs["bits"]), bits
                return scope.emit(
                    ops.requantize(acc, *tables, beside, int(old.attrs["axis"]), *widths), dataflow.name_of(var)
                )
        return dataflow.keep(var, value, scope)

    return dataflow.rebuild(mod, visit)


def _composed(first: Any, second: Any, bits: int, as_row: bool) -> Counts | None:
    both = Counts.of(first), Counts.of(second)
    found = composed(*both, rows=1 << bits if bits else 1, top=(1 << int(second.attrs["bits"])) - 1, as_row=as_row)
    if found is None:
        return None
    few = found.rises.shape[0] * max(found.rises.shape[1], 0 if found.falls is None else found.falls.shape[1])
    if few <= SIDE_THRESHOLDS:
        return found
    counted = bits if as_row else int(first.attrs["bits"])
    low = np.zeros(both[1].rises.shape[2], np.int64)
    if bits and both[1].falls is None and isinstance(fit_slants(both[1].rises, low, low + (1 << counted) - 1), Slants):
        # By steps codes are joined in less time than accumulators by rows of thresholds.
        return None
    return found if found.nbytes <= both[0].nbytes + both[1].nbytes else None


def code_bits(values: dict[Any, Any], codes: Any) -> int | None:
    """The width of codes, where it is known."""
    value: Any = values.get(codes)
    while op_name(value) == "relax.nn.max_pool2d":
        value = values.get(value.args[0])
    if op_name(value) == ops.QUANTIZE:
        return quant_spec(value).bits
    return int(value.attrs["bits"]) if op_name(value) == ops.REQUANTIZE else None
