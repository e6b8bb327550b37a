"""The loops of ``winograd`` for a run of tiles: transform the input, 16 products a block, transform back, epilogue."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.blocked import store_block
from schedules.byte_dot import CHANNELS, STEP, ByteDot
from schedules.compact import centred_value, expand
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, splat, vload, vstore
from schedules.padding import runs
from schedules.registers import held
from schedules.tile_copy import copied_tile
from schedules.vectors import keep_rolled
from schedules.winograd_transform import POSITIONS, TAPS, TILE, transform_input, transform_output, transform_taps


class Winograd:
    """Emits runs of ``tile`` tiles, counted along the rows of the image; the last run may overlap the one before."""

    def __init__(
        self,
        problem: DotProblem,
        dot: ByteDot,
        x: Any,
        weights: Any,
        gamma: Any,
        epilogue: Epilogue,
        mr: int,
        tile: int,
        channels: int,
        centre: int,
    ) -> None:
        self.p, self.dot, self.x, self.weights, self.gamma = problem, dot, x, weights, gamma
        self.epilogue, self.mr, self.tile, self.channels, self.centre = epilogue, mr, tile, channels, centre
        self.rolled = dot.split
        self.wide_weights: Any = None
        self.columns = -(-problem.out_width // 2)
        self.total = -(-problem.out_height // 2) * self.columns
        self.runs = -(-self.total // tile)
        self.padded = -(-problem.out_channels // channels) * channels

    def expand_weights(self, loop: Any) -> None:
        """Emit, once a call, the weights' transforms ``(16, blocks of 4, steps, 4, 16)`` from their compact codes."""
        w = self.p.w
        blocks, steps = self.padded // CHANNELS, self.dot.steps
        wide = T.alloc_buffer((POSITIONS, blocks, steps, CHANNELS, STEP), "uint8")
        with loop(0, blocks) as block, T.serial(0, steps) as step:
            for channel in range(CHANNELS):
                # Nor may the channels be interleaved, for the same reason.
                keep_rolled(self.rolled)
                codes = expand(lambda v: vload(self.weights, [block, step, v, 0], STEP), w.bits, TAPS * TAPS, channel)
                values = [held(centred_value(code, w.multiplier, w.offset), "uint8", STEP) for code in codes]
                rows = transform_taps([values[TAPS * y : TAPS * y + TAPS] for y in range(TAPS)])
                for position, value in enumerate(value for row in rows for value in row):
                    vstore(T, wide, value, [position, block, step, channel, 0], STEP)
        self.wide_weights = wide

    def emit(self, n: Any, run: Any) -> None:
        """Emit one run."""
        p, dot, tile = self.p, self.dot, self.tile
        first = tirx.min(run * tile, const(self.total - tile)) if self.total % tile else run * tile
        wide = T.alloc_buffer((POSITIONS, tile, dot.steps * STEP), "uint8")
        products = T.alloc_buffer((POSITIONS, tile, self.channels), dot.dtype)
        sums = T.alloc_buffer((tile * 4, self.padded), dot.dtype)
        self._transform_input(wide, n, first)
        with T.serial(0, self.padded // self.channels) as block:
            with T.serial(0, POSITIONS) as position, T.serial(0, self.channels // dot.nr) as part:
                whole, rest = divmod(tile, self.mr)
                at = (position, block * self.channels, part * dot.nr)
                if whole:
                    with T.serial(0, whole) as index:
                        self._product(wide, products, *at, index * self.mr, self.mr)
                if rest:
                    self._product(wide, products, *at, const(whole * self.mr), rest)
            self._transform_output(products, sums, block * self.channels)

        def place(i: Any) -> tuple[Any, Any, Any]:
            number = first + i // 4
            return n, number // self.columns * 2 + i % 4 // 2, number % self.columns * 2 + i % 2

        odd = p.out_height % 2 or p.out_width % 2
        exists = (lambda i: tirx.all(place(i)[1] < p.out_height, place(i)[2] < p.out_width)) if odd else None
        row_runs, column_runs = runs(p)

        def accumulators(pixel: Any, group: Any, channel: Any, lanes: int, dtype: str) -> Any:
            kind = dtype if lanes == 1 else f"{dtype}x{lanes}"
            _, y, x = place(pixel)
            where = [row_runs.at(y), column_runs.at(x), channel]
            read, rest = (
                (b[tuple(at)] if lanes == 1 else vload(b, at, lanes)).astype(kind)
                for b, at in ((sums, [pixel, channel]), (self.gamma, where))
            )
            if p.a.multiplier != 1:
                read = read * (const(2, dtype) if lanes == 1 else splat(const(2, dtype), lanes))
            return read + rest

        self.epilogue.write_tile(accumulators, place, tile * 4, exists, self.rolled)

    def _product(self, wide: Any, products: Any, position: Any, block: Any, part: Any, tile: Any, tiles: int) -> None:
        def load_a(i: int, byte: Any, count: int) -> Any:
            return vload(wide, [position, tile + i, byte], count).astype(f"int8x{count}")

        def load_w(j: int, step: Any, row: int, byte: int, count: int) -> Any:
            where = [position, (block + part) // CHANNELS + j, step, row, byte]
            return vload(self.wide_weights, where, count).astype(f"int8x{count}")

        def place(step: Any) -> tuple[Any, int, Any]:
            codes = tirx.address_of(wide[position, tile, step * STEP])
            weights = self.wide_weights[position, (block + part) // CHANNELS, step, 0, 0]
            return codes, self.dot.steps * STEP, tirx.address_of(weights)

        vectors = self.dot.multiply(load_a, load_w, tiles, place)
        store_block(products, lambda i, j: [position, tile + i, part + j], vectors, self.dot.lanes, tiles, self.dot.nr)

    def _transform_output(self, products: Any, sums: Any, block: Any) -> None:
        lanes = self.channels
        with T.serial(0, self.tile) as tile:
            keep_rolled(self.rolled)
            m = [[vload(products, [i * TILE + j, tile, 0], lanes) for j in range(TILE)] for i in range(TILE)]
            for dy, row in enumerate(transform_output(m)):
                for dx, value in enumerate(row):
                    quarter = value >> splat(const(2, self.dot.dtype), lanes)
                    vstore(T, sums, quarter, [tile * 4 + dy * 2 + dx, block], lanes)

    def _transform_input(self, wide: Any, n: Any, first: Any) -> None:
        p = self.p
        with T.serial(0, self.tile) as tile:
            number = first + tile
            y = number // self.columns * 2 - p.padding[0]
            x = number % self.columns * 2 - p.padding[1]
            inside = tirx.all(y >= 0, y + TILE <= p.height, x >= 0, x + TILE <= p.width)
            if p.channels % STEP:
                self._from_copy(wide, tile, n, y, x)
            else:
                with T.If(inside):
                    with T.Then():
                        self._transform(wide, tile, lambda dy, dx, c: vload(self.x, [n, y + dy, x + dx, c], STEP))
                    with T.Else():
                        self._from_copy(wide, tile, n, y, x)

    def _from_copy(self, wide: Any, tile: Any, n: Any, y0: Any, x0: Any) -> None:
        copy = copied_tile(self.p, self.x, TILE, self.centre, n, y0, x0)
        self._transform(wide, tile, lambda dy, dx, c: vload(copy, [dy, dx, c], STEP))

    def _transform(self, wide: Any, tile: Any, read: Any) -> None:
        with T.serial(0, self.dot.steps) as step:
            keep_rolled(self.rolled)
            c = step * STEP
            d = transform_input([[read(dy, dx, c) for dx in range(TILE)] for dy in range(TILE)])
            for i, row in enumerate(d):
                for j, value in enumerate(row):
                    # All other positions are differences, in which the centre cancels.
                    if (i, j) == (1, 1):
                        value = value + splat(const(-4 * self.centre % 256, "uint8"), STEP)
                    vstore(T, wide, value, [i * TILE + j, tile, c], STEP)
