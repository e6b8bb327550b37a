"""``ternary``: weights of -1, 0 and +1 as a sign and a mask, one pass for each plane of activations.

``popcount((a XOR sign) AND mask)`` counts the ones of ``a`` where the weight is +1, its zeros where it is -1: that is
``sum(a w)`` and the number of negative weights, a constant per channel, ``2**bits - 1`` times over all planes. The sums
stay below those of `bit_serial` with one weight plane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.intrinsics import const
from schedules.techniques.base import Array, corrections
from schedules.techniques.bit_serial import BitSerial


class Ternary(BitSerial):
    """`BitSerial` with EOR, AND, CNT, UADALP as its step."""

    name = "ternary"
    signs = True

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """Other weights than -1, 0 and +1, or ones that are not known to be."""
        reason = super().declines(problem, core)
        if reason is not None:
            return reason
        w = problem.w
        if w.bits != 2 or not w.one_offset or w.multiplier != 1 or w.values[0] < -1 or w.values[1] > 1:
            return "weights other than -1, 0 and +1 may occur"
        return None

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Two planes: signs, and where there is a weight."""
        p = problem
        values = weights.astype(np.int64) + p.w.offset
        beta, gamma = corrections(p, weights, weight_offset)
        negative = (values < 0).sum(axis=(1, 2, 3)) * p.a.max_code * p.a.multiplier
        planes = (values < 0) + 2 * (values != 0)
        return [self.pack(p, planes.astype(np.uint8)), beta, (gamma - negative).astype(gamma.dtype)]

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """0, 2 and 3 are the weights 0, +1 and -1."""
        values = np.array([0, 0, 1, -1])[super().unpack_weights(problem, constant)]
        return (values - problem.w.offset).astype(np.uint8)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """The same of one weight."""
        code = super().weight_at(problem, at, o, c, y, x).astype("int32")
        value = tirx.Select(code == 0, const(0), const(5) - code * 2)
        return (value - const(problem.w.offset)).astype("uint8")
