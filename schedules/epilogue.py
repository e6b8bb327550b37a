"""What happens to the accumulators of one output pixel: written as they are, or turned into packed codes."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.dot_problem import DotProblem, Thresholds
from schedules.intrinsics import const
from schedules.layout import Layout

# Up to here one comparison per threshold, which vectorises over channels, beats a binary search, which does not.
LINEAR_LEVELS = 15


class Epilogue:
    """Declares the epilogue's kernel parameters (thresholds, flip, side operand, output) and writes pixels.

    Parameters come in the order thresholds ``(rows, levels, O)``, flip ``(O,)`` uint8, falling thresholds
    ``(rows, falls, O)`` if there are any, side codes, out; without thresholds there is only out, int32
    ``(N, OH, OW, O)``.
    """

    def __init__(self, problem: DotProblem) -> None:
        self.problem = problem
        self.spec = problem.epilogue
        p = problem
        shape = (p.batch, p.out_height, p.out_width, p.out_channels)
        if self.spec is None:
            self.out = T.arg("out", T.buffer(shape, "int32"))
            return
        if (self.spec.side is None) != (self.spec.side_bits == 0):
            raise ValueError(f"a side operand needs both bits and a layout: {self.spec}")
        self.tables = declare_tables(self.spec, p.out_channels, p.threshold_dtype)
        if self.spec.side is not None:
            self.side = T.arg("side", T.buffer(self.spec.side.shape(*shape), "uint8"))
        self.out = T.arg("out", T.buffer(self.spec.out.shape(*shape), "uint8"))

    def scratch(self) -> Any:
        """A row for the codes of one pixel, allocated where it is called; None if no codes are made."""
        return None if self.spec is None else T.alloc_buffer((self.problem.out_channels,), "uint8")

    def write(self, accumulators: Any, codes: Any, n: Any, y: Any, x: Any) -> None:
        """Emit the writing of one pixel.

        Parameters
        ----------
        accumulators : callable
            Channel index to the int32 accumulator expression.
        codes : Buffer or None
            What `scratch` gave.
        n, y, x : expressions
            Batch, row and column of the pixel.
        """
        channels = self.problem.out_channels
        if self.spec is None:
            with T.serial(0, channels) as c:
                T.buffer_store(self.out, accumulators(c), [n, y, x, c])
            return
        with T.serial(0, channels) as c:
            row: Any = const(0)
            if self.spec.side is not None:
                at = lambda *i: tirx.BufferLoad(self.side, list(i))  # noqa: E731 - a view of one buffer
                row = self.spec.side.load(at, n, y, x, c, channels).astype("int32")
            count_reached(self.spec, self.tables, accumulators(c), row, c, codes, [c])
        store_codes(self.spec.out, self.out, codes, n, y, x, channels)


def declare_tables(spec: Thresholds, channels: int, dtype: str) -> list[Any]:
    """Declare the parameters thresholds, flip and, if there are any, falling thresholds."""
    tables = [T.arg("thresholds", T.buffer((spec.rows, spec.levels, channels), dtype))]
    tables.append(T.arg("flip", T.buffer((channels,), "uint8")))
    if spec.falls:
        tables.append(T.arg("falls", T.buffer((spec.rows, spec.falls, channels), dtype)))
    return tables


def count_reached(
    spec: Thresholds, tables: list[Any], accumulator: Any, row: Any, channel: Any, codes: Any, at: list[Any]
) -> None:
    """Emit ``codes[at] = number of thresholds reached`` less that of falls (counted downwards where ``flip``)."""
    thresholds, flip = tables[:2]
    value = T.alloc_buffer((1,), "int32")
    T.buffer_store(value, accumulator, [0])
    reached = _reached(thresholds, spec.levels, value[0], row, channel)
    if spec.falls:
        reached = reached - _reached(tables[2], spec.falls, value[0], row, channel)
    levels = const(spec.levels, "int32")
    result = tirx.Select(flip[channel] != const(0, "uint8"), levels - reached, reached)
    T.buffer_store(codes, result.astype("uint8"), at)


def _reached(table: Any, count: int, accumulator: Any, row: Any, channel: Any) -> Any:
    """How many of a row's thresholds, sorted, lie at or below the accumulator."""
    if count <= LINEAR_LEVELS:
        reached: Any = const(0)
        for level in range(count):
            reached = reached + (accumulator >= table[row, level, channel].astype("int32")).astype("int32")
        return reached
    position = T.alloc_buffer((1,), "int32")
    T.buffer_store(position, const(0), [0])
    step = 1 << (count.bit_length() - 1)
    while step:
        # Positions past the last threshold count as not reached.
        probe = position[0] + step - 1
        threshold = table[row, tirx.min(probe, const(count - 1)), channel]
        hit = tirx.all(probe < const(count), accumulator >= threshold.astype("int32"))
        T.buffer_store(position, position[0] + tirx.Select(hit, const(step), const(0)), [0])
        step >>= 1
    return position[0]


def store_codes(layout: Layout, out: Any, codes: Any, n: Any, y: Any, x: Any, channels: int) -> None:
    """Emit the writing of one pixel's codes ``(channels,)`` in a physical layout."""
    if layout.kind == "nhwc":
        with T.serial(0, channels) as c:
            T.buffer_store(out, codes[c], [n, y, x, c])
        return
    per_group = channels // layout.groups
    whole, rest = divmod(per_group, 8)

    def byte(group: Any, plane: int, index: Any, bits: int) -> None:
        value: Any = const(0, "uint8")
        for bit in range(bits):
            code = codes[group * per_group + index * 8 + bit]
            value = value | (((code >> const(plane, "uint8")) & const(1, "uint8")) << const(bit, "uint8"))
        T.buffer_store(out, value, [n, y, x, group, plane, index])

    with T.serial(0, layout.groups) as group:
        for plane in range(layout.bits):
            if whole:
                with T.serial(0, whole) as index:
                    byte(group, plane, index, 8)
            if rest:
                byte(group, plane, whole, rest)
