"""``reference``: the definition as a loop nest, without packing or corrections. Slow; for bisecting a wrong result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const
from schedules.layout import Layout
from schedules.techniques.base import Array, Knobs, Technique, frame, rows


class Reference(Technique):
    """Multiplies the values themselves, one by one."""

    name = "reference"

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """Infinite: never taken unless asked for."""
        return float("inf")

    def in_layout(self, problem: DotProblem) -> Layout:
        """Plain codes."""
        return Layout()

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """The codes as they are, and their offsets."""
        return [weights, weight_offset.astype(np.int32)]

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The constant itself."""
        return constant

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """Element ``[o, c, y, x]``."""
        return at(o, c, y, x)

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p = problem

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            weights, offset = constants
            with rows(p, knobs) as row:
                sums = T.alloc_buffer((p.out_channels,), "int32")
                codes = epilogue.scratch()
                n, oy = row // p.out_height, row % p.out_height
                with T.serial(0, p.out_width) as ox:
                    with T.grid(p.out_channels, p.group_channels, *p.kernel) as (o, c, ky, kx):
                        with T.If(tirx.all(c == 0, ky == 0, kx == 0)), T.Then():
                            T.buffer_store(sums, const(0), [o])
                        iy = oy * p.stride[0] - p.padding[0] + ky * p.dilation[0]
                        ix = ox * p.stride[1] - p.padding[1] + kx * p.dilation[1]
                        with T.If(tirx.all(iy >= 0, iy < p.height, ix >= 0, ix < p.width)), T.Then():
                            a = x[n, iy, ix, o // p.group_out_channels * p.group_channels + c].astype("int32")
                            w = weights[o, c, ky, kx].astype("int32")
                            a = a * p.a.multiplier + p.a.offset
                            w = w * p.w.multiplier + offset[o]
                            T.buffer_store(sums, sums[o] + a * w, [o])
                    epilogue.write(lambda o: sums[o], codes, n, oy, ox)

        shapes = [((p.out_channels, p.group_channels, *p.kernel), "uint8"), ((p.out_channels,), "int32")]
        return frame(p, self.in_layout(p), shapes, body)
