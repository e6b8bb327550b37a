"""The transforms of ``winograd_mla``, in vectors: of weights and of the image's tiles, and of their products back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.compact import centred_value, expand
from schedules.dot_problem import DotProblem
from schedules.element_dot import DTYPE, LANES
from schedules.intrinsics import const, splat, vload, vstore
from schedules.ordered_back import OrderedBack
from schedules.ordered_elements import CHANNELS, WIDTH
from schedules.registers import held
from schedules.tile_copy import STEP, copied_tile
from schedules.vectors import call_loop, keep_rolled, part
from schedules.winograd_points import FOUR, SCALE, TAPS, Points, input_along, output_along, taps_along, times

# Channels of a block of packed weights.
PACKED = 4


class Transforms:
    """Emits the transforms of one layer; ``rolled``: see `vectors.keep_rolled`."""

    def __init__(self, problem: DotProblem, points: Points, rolled: bool) -> None:
        self.p, self.points, self.rolled = problem, points, rolled
        self.defined: set[str] = set()
        self.steps = -(-problem.channels // STEP)

    def weights(self, packed: Any, weights: Any, at: Any, block: Any) -> None:
        """Emit the weights' transforms of 16 output channels from their compact codes."""
        w, points = self.p.w, self.points
        count, side = points.count, points.side
        # Transformed along columns, few bits fit a byte.
        narrow = points.tap_bound(*w.values) < 128
        kind, width = ("int8", CHANNELS) if narrow else (DTYPE, LANES)
        with T.serial(0, self.steps * STEP // PACKED) as group:
            columns = T.alloc_buffer((count, TAPS, CHANNELS), kind)
            for channel in range(PACKED):
                keep_rolled(self.rolled)
                codes = expand(lambda v: vload(packed, [group, block, v, 0], STEP), w.bits, TAPS**2, channel)
                taps = [centred_value(code, w.multiplier, w.offset).astype("int8x16") for code in codes]
                hold, twice = _operations(kind, width)
                for start in range(0, CHANNELS, width):
                    g = [hold(_some(tap, start, width, kind)) for tap in taps]
                    for x in range(TAPS):
                        for i, value in enumerate(taps_along(side, g[x::TAPS], hold, twice)):
                            vstore(T, columns, value, [i, x, start], width)
                hold, twice = _operations(DTYPE, LANES)
                with T.serial(0, count) as i:
                    keep_rolled(self.rolled)
                    for start in range(0, CHANNELS, LANES):
                        row = [
                            hold(vload(columns, [i, x, start], LANES).astype(f"{DTYPE}x{LANES}")) for x in range(TAPS)
                        ]
                        for j, value in enumerate(taps_along(side, row, hold, twice)):
                            where = [i * count + j, at, group * PACKED + channel, start]
                            vstore(T, weights, value, where, LANES)

    def image(self, image: Any, values: Any, index: Any, n: Any, y: Any, x: Any) -> None:
        """Emit the transform of the tile whose first row and column, maybe outside of the image, are given."""
        p, count = self.p, self.points.count
        inside = tirx.all(y >= 0, y + count <= p.height, x >= 0, x + count <= p.width)
        if p.channels % STEP:
            self._from_copy(image, values, index, n, y, x)
        else:
            with T.If(inside):
                with T.Then():
                    self._transform(values, index, lambda dy, dx, c, k: vload(image, [n, y + dy, x + dx, c], k))
                with T.Else():
                    self._from_copy(image, values, index, n, y, x)

    def _from_copy(self, image: Any, values: Any, index: Any, n: Any, y0: Any, x0: Any) -> None:
        copy = copied_tile(self.p, image, self.points.count, self.centre, n, y0, x0)
        self._transform(values, index, lambda dy, dx, c, k: vload(copy, [dy, dx, c], k))

    @property
    def centre(self) -> int:
        """What is taken off an activation's code, so that the sums' range is small."""
        return 1 << (self.p.a.bits - 1)

    def _transform(self, values: Any, index: Any, read: Callable[..., Any]) -> None:
        points = self.points
        count, side = points.count, points.side
        # Of codes, the transform along columns fits a byte where they are few bits.
        kind, width = ("int8", STEP) if points.input_bound(0, self.p.a.max_code) < 128 else (DTYPE, LANES)
        with T.serial(0, self.steps * STEP // width) as step:
            c = step * width
            middle = T.alloc_buffer((count, count, width), kind)
            with T.serial(0, count) as dx:
                keep_rolled(self.rolled)
                hold, twice = _operations(kind, width)
                column = [hold(read(dy, dx, c, width).astype(f"{kind}x{width}")) for dy in range(count)]
                for i, value in enumerate(input_along(side, column, hold, twice)):
                    vstore(T, middle, value, [i, dx, 0], width)
            hold, twice = _operations(DTYPE, LANES)
            with T.serial(0, count) as i:
                for half in range(0, width, LANES):
                    keep_rolled(self.rolled)
                    row = [hold(vload(middle, [i, x, half], LANES).astype(f"{DTYPE}x{LANES}")) for x in range(count)]
                    for j, value in enumerate(input_along(side, row, hold, twice)):
                        vstore(T, values, value, [i * count + j, index, c + half], LANES)
            # All other positions are differences, in which the centre cancels.
            for half in range(width // LANES):
                at = [count + 1, index, c + half * LANES]
                taken = splat(const(-4 * self.centre, DTYPE), LANES)
                vstore(T, values, vload(values, at, LANES) + taken, at, LANES)

    def back(self, products: Any, sums: Any, group: int, block: Any, tiles: int, middle: int, add: bool) -> None:
        """Emit the way back: 4 times the sums modulo 2**16, of which those less the middle are known."""
        points = self.points
        count, side = points.count, points.side
        bias = _wrapped(-SCALE * middle)
        loop = OrderedBack(tiles, tiles * CHANNELS * WIDTH, int(sums.shape[-1]) * WIDTH, bias, add)
        if self.rolled and side == FOUR.side and loop.possible():
            bases = tirx.address_of(products[0, 0, 0]), tirx.address_of(sums[group, 0, block * CHANNELS])
            end = tirx.address_of(sums[tuple(int(size) - 1 for size in sums.shape)])
            call_loop(loop, self.defined, (*bases, end), DTYPE, LANES)
            return
        hold, twice = _operations(DTYPE, LANES)
        with T.serial(0, tiles) as tile, T.serial(0, CHANNELS // LANES) as half:
            columns = T.alloc_buffer((side, count, LANES), DTYPE)
            with T.serial(0, count) as j:
                keep_rolled(self.rolled)
                column = [vload(products, [i * count + j, tile, half * LANES], LANES) for i in range(count)]
                # At point 1 a constant reaches every output once.
                at_one = tirx.Select(j == 1, const(bias, DTYPE), const(0, DTYPE))
                column[1] = column[1] + splat(at_one, LANES)
                for dy, value in enumerate(output_along(side, [hold(v) for v in column], hold, twice)):
                    vstore(T, columns, value, [dy, j, 0], LANES)
            with T.serial(0, side) as dy:
                keep_rolled(self.rolled)
                row = [hold(vload(columns, [dy, j, 0], LANES)) for j in range(count)]
                for dx, value in enumerate(output_along(side, row, hold, twice)):
                    quarter = value >> splat(const(2, DTYPE), LANES)
                    at = [group, tile * side * side + dy * side + dx, block * CHANNELS + half * LANES]
                    vstore(T, sums, vload(sums, at, LANES) + quarter if add else quarter, at, LANES)


def _wrapped(value: int) -> int:
    """A number as the signed one of 16 bits that is the same modulo 2**16."""
    return (value + (1 << 15)) % (1 << 16) - (1 << 15)


def _operations(kind: str, lanes: int) -> tuple[Callable[[Any], Any], Callable[[Any, int], Any]]:
    """What keeps a vector for more than one use, and what multiplies it with a constant."""
    return lambda value: held(value, kind, lanes), lambda value, factor: times(value, factor, kind, lanes)


def _some(vector: Any, start: int, lanes: int, kind: str) -> Any:
    """Lanes of a vector of 16 as another type."""
    return (vector if lanes == CHANNELS else part(vector, start, lanes)).astype(f"{kind}x{lanes}")
