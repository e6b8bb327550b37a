"""What a ``requantize`` says of the epilogue that computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.ops import constant, shape_of
from schedules.counting import LINEAR_LEVELS
from schedules.dot_problem import DotProblem, Thresholds
from schedules.layout import Layout
from schedules.slants import Slants, fit_slants, reach
from schedules.threshold_lines import fit_lines


def thresholds_of(call: Any, layout: Layout) -> Thresholds:
    """The epilogue, writing in a layout; its second operand has none yet."""
    counts = [shape_of(table)[1] for table in tables_of(call)[::2]]  # rises and, if there are any, falls
    return Thresholds(int(call.attrs["bits"]), counts[0], int(call.attrs["side_bits"]), layout, falls=sum(counts[1:]))


def lines_of(epilogue: Thresholds, tables: list[Any], problem: DotProblem) -> npt.NDArray[np.float32] | str | None:
    """Lines by which codes are guessed where a search would take long, or why not; None where it would not."""
    if epilogue.levels <= LINEAR_LEVELS or epilogue.falls or epilogue.side_bits:
        return None
    return fit_lines(constant(tables[0]), problem.accumulator_bound())


def slants_of(
    epilogue: Thresholds, tables: list[Any], problem: DotProblem, weights: npt.NDArray[Any], offset: npt.NDArray[Any]
) -> Slants | str | None:
    """What a second operand's codes move accumulators by, or why they pick thresholds; None where there is none."""
    if epilogue.falls or epilogue.side is None:
        return None
    return fit_slants(constant(tables[0]), *reach(problem, weights, offset))


def tables_of(call: Any) -> list[Any]:
    """The constants: rises, flip and, if there are any, falls."""
    return list(call.args[1 : 1 + int(call.attrs["tables"])])
