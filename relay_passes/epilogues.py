"""What a ``requantize`` says of the epilogue that computes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.ops import constant, literal, shape_of
from schedules.counting import LINEAR_LEVELS
from schedules.dot_problem import DotProblem, Thresholds
from schedules.layout import Layout
from schedules.slants import fit_slants, narrowed, reach
from schedules.threshold_lines import fit_lines


def thresholds_of(call: Any, layout: Layout) -> Thresholds:
    """The epilogue, writing in a layout; its second operand has none yet."""
    counts = [shape_of(table)[1] for table in tables_of(call)[::2]]  # rises and, if there are any, falls
    return Thresholds(int(call.attrs["bits"]), counts[0], int(call.attrs["side_bits"]), layout, falls=sum(counts[1:]))


def fitted(
    epilogue: Thresholds, call: Any, problem: DotProblem, weights: npt.NDArray[Any], offset: npt.NDArray[Any]
) -> tuple[Thresholds, list[Any], str]:
    """What these weights and thresholds make easier to count.

    Returns
    -------
    Thresholds
        The epilogue with what was found.
    list of Constant
        Its tables, in the order that kernels take them.
    str
        Why codes have to be searched, or thresholds selected; empty otherwise.
    """
    tables, why = tables_of(call), ""
    if epilogue.levels > LINEAR_LEVELS and not epilogue.falls and not epilogue.side_bits:
        lines = fit_lines(constant(tables[0]), problem.accumulator_bound())
        if not isinstance(lines, str):
            return replace(epilogue, lines=True), [*tables, literal(lines)], ""
        why = f"; each code is searched among {epilogue.levels} thresholds: {lines}"
    ends = reach(problem, weights, offset)
    wide = [constant(table) for table in tables[::2]]
    short = narrowed(wide, *ends)
    joined = _joined(epilogue, tables, *ends, problem.threshold_dtype)
    if not isinstance(joined, str):
        return *joined, ""
    why += joined
    if short is None:
        return epilogue, tables, why
    first, *falls = map(literal, short)
    return replace(epilogue, dtype="int16"), [first, tables[1], *falls], why


def fitted_to_codes(epilogue: Thresholds, call: Any, bits: int | None) -> tuple[Thresholds, list[Any]]:
    """The same where what is counted are codes of so many bits; None if that is not known."""
    tables = tables_of(call)
    if bits is None:
        return epilogue, tables
    low = np.zeros(shape_of(tables[0])[2], np.int64)
    joined = _joined(epilogue, tables, low, low + (1 << bits) - 1, str(tables[0].ty.dtype))
    return (epilogue, tables) if isinstance(joined, str) else joined


def _joined(
    epilogue: Thresholds, tables: list[Any], low: npt.NDArray[Any], high: npt.NDArray[Any], own: str
) -> tuple[Thresholds, list[Any]] | str:
    """A residual join by steps, or why not; empty where it is none. ``own`` is the type it is counted in otherwise."""
    if epilogue.side is None or epilogue.falls:
        return ""
    for dtype in ("int16", "int32"):
        found = fit_slants(constant(tables[0]), low, high, dtype)
        if not isinstance(found, str):
            epilogue = replace(epilogue, shift=found.shift, dtype=None if dtype == own else dtype)
            return epilogue, [literal(found.thresholds), tables[1], literal(found.steps)]
    return f"; the residual's codes pick thresholds: {found}"


def tables_of(call: Any) -> list[Any]:
    """The constants: rises, flip and, if there are any, falls."""
    return list(call.args[1 : 1 + int(call.attrs["tables"])])
