"""``portable``: byte codes, multiply-add over output channels; LLVM vectorises it on any core. Takes everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.compact import per_byte
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const
from schedules.layout import Layout
from schedules.padding import runs
from schedules.techniques.base import Array, Knobs, Technique, correction_shapes, corrections, frame, rows


class Portable(Technique):
    """Sums products of codes in int32 and corrects for offsets at the end."""

    name = "portable"

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """16 products: widen the weights (6), 4 multiply-adds, load weights and sums (5), store sums (4).

        LLVM makes vectors as wide as the core has them, other techniques some of 128 bits. Narrow weights take a byte
        each here: on such cores they are left to techniques that keep them at their bits and are about as fast.
        """
        steps = problem.macs / problem.group_out_channels * -(-problem.group_out_channels // 16)
        wider = core.vector_bits / 128 if per_byte(problem.w.bits) == 1 else 1
        return steps * core.cycles({"widen": 6, "mla": 4, "ldr": 5, "str": 4}) / wider

    def in_layout(self, problem: DotProblem) -> Layout:
        """Plain codes."""
        return Layout()

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Weights as ``(groups, kh, kw, C / groups, O / groups)``: output channels innermost; then corrections."""
        p = problem
        grouped = weights.reshape(p.groups, p.group_out_channels, p.group_channels, *p.kernel)
        packed = np.ascontiguousarray(grouped.transpose(0, 3, 4, 2, 1))
        return [packed, *corrections(p, weights, weight_offset)]

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """Undo the transposition."""
        p = problem
        return constant.transpose(0, 4, 3, 1, 2).reshape(p.out_channels, p.group_channels, *p.kernel)

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """See `Technique.weight_at`."""
        return at(o // problem.group_out_channels, y, x, c, o % problem.group_out_channels)

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p = problem
        zero = p.a.zero_code or 0

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            weights, beta, gamma = constants
            row_runs, column_runs = runs(p)
            with rows(p, knobs) as row:
                sums = T.alloc_buffer((p.out_channels,), "int32")
                code_sum = T.alloc_buffer((p.groups,), "int32")
                codes = epilogue.scratch()
                n, oy = row // p.out_height, row % p.out_height
                with T.serial(0, p.out_width) as ox:
                    with T.serial(0, p.groups) as g:
                        T.buffer_store(code_sum, const(0), [g])
                        first = g * p.group_out_channels
                        with T.serial(0, p.group_out_channels) as o:
                            T.buffer_store(sums, const(0), [first + o])
                        with T.grid(*p.kernel, p.group_channels) as (ky, kx, c):
                            iy = oy * p.stride[0] - p.padding[0] + ky * p.dilation[0]
                            ix = ox * p.stride[1] - p.padding[1] + kx * p.dilation[1]
                            inside = tirx.all(iy >= 0, iy < p.height, ix >= 0, ix < p.width)
                            code = T.alloc_buffer((1,), "int32")
                            read = x[n, iy, ix, g * p.group_channels + c].astype("int32")
                            T.buffer_store(code, tirx.if_then_else(inside, read, const(zero)), [0])
                            T.buffer_store(code_sum, code_sum[g] + code[0], [g])
                            with T.serial(0, p.group_out_channels) as o:
                                product = code[0] * weights[g, ky, kx, c, o].astype("int32")
                                T.buffer_store(sums, sums[first + o] + product, [first + o])
                    scale = p.a.multiplier * p.w.multiplier
                    at = T.alloc_buffer((2,), "int32")
                    for axis, run in enumerate((row_runs.at(oy), column_runs.at(ox))):
                        T.buffer_store(at, run, [axis])

                    def accumulator(c: Any) -> Any:
                        group = c // p.group_out_channels
                        wide = beta[c].astype("int32"), gamma[at[0], at[1], c].astype("int32")
                        return sums[c] * scale + wide[0] * code_sum[group] + wide[1]

                    epilogue.write(accumulator, codes, n, oy, ox)

        shape = (p.groups, *p.kernel, p.group_channels, p.group_out_channels)
        return frame(p, self.in_layout(p), [(shape, "uint8"), *correction_shapes(p)], body)
