"""The loops of ``winograd_mla``: transform a run of tiles, then for each 16 channels multiply and transform back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.dot_problem import DotProblem
from schedules.element_dot import DTYPE, LANES, ElementDot
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, splat, vload, vstore
from schedules.ordered_elements import CHANNELS
from schedules.padding import runs
from schedules.tile_copy import STEP
from schedules.winograd_mla_transforms import Transforms
from schedules.winograd_points import Points

# Tiles whose pixels the epilogue takes at a time, at most.
TOGETHER = 8


@dataclass(frozen=True)
class Chunks:
    """Channels, ``length`` at a time, and how many chunks of them are ``together`` added modulo 2**16."""

    channels: int
    length: int
    together: int

    @property
    def count(self) -> int:
        """All chunks."""
        return -(-self.channels // self.length)

    @property
    def last(self) -> int:
        """Channels of the last one."""
        return self.channels - (self.count - 1) * self.length

    @property
    def groups(self) -> int:
        """Sums that are kept apart."""
        return -(-self.count // self.together)


class WinogradMla:
    """Emits all runs of ``tile`` tiles, counted along the rows of the image; the last may overlap the one before.

    The sums of a chunk, less ``middle``, are known to fit what is left of 16 bits, those of a group 16.
    """

    def __init__(
        self,
        problem: DotProblem,
        points: Points,
        dot: ElementDot,
        operands: tuple[Any, Any, Any],
        epilogue: Epilogue,
        blocks: tuple[int, int],
        chunks: Chunks,
        middle: int,
        loop: Any,
    ) -> None:
        self.p, self.points, self.dot, self.epilogue, self.loop = problem, points, dot, epilogue, loop
        self.x, self.packed, self.gamma = operands
        self.mr, self.tile = blocks
        self.chunks, self.middle = chunks, middle
        self.rolled = dot.ordered
        self.transforms = Transforms(problem, points, dot.ordered)
        side = points.side
        self.columns = -(-problem.out_width // side)
        self.total = -(-problem.out_height // side) * self.columns
        self.runs = -(-self.total // self.tile)
        self.blocks = -(-problem.out_channels // CHANNELS)
        self.steps = -(-problem.channels // STEP)
        self.positions = points.count**2

    def emit(self) -> None:
        """Emit all runs."""
        # With a single run each block's weights are used once: then they need not all be there at a time.
        count = self.p.batch * self.runs
        ahead = self._weights(self.blocks) if count > 1 else None
        if ahead is not None:
            with self.loop(0, self.blocks) as block:
                self.transforms.weights(self.packed, ahead, block, block)
        with T.serial(0, count) as index:
            self._run(index // self.runs, index % self.runs, ahead)

    def _weights(self, blocks: int) -> Any:
        return T.alloc_buffer((self.positions, blocks, self.steps * STEP, CHANNELS), DTYPE)

    def _run(self, n: Any, run: Any, ahead: Any) -> None:
        tile, side = self.tile, self.points.side
        first = tirx.min(run * tile, const(self.total - tile)) if self.total % tile else run * tile
        values = T.alloc_buffer((self.positions, tile, self.steps * STEP), DTYPE)
        sums = T.alloc_buffer((self.chunks.groups, tile * side * side, self.blocks * CHANNELS), DTYPE)
        with self.loop(0, tile) as index:
            number = first + index
            y = number // self.columns * side - self.p.padding[0]
            x = number % self.columns * side - self.p.padding[1]
            self.transforms.image(self.x, values, index, n, y, x)
        with self.loop(0, self.blocks) as block:
            self._block(values, sums, block, ahead)

        together = max(n for n in range(1, TOGETHER + 1) if tile % n == 0)
        with self.loop(0, tile // together) as index:
            self._write(sums, n, first, index * together, together)

    def _block(self, values: Any, sums: Any, block: Any, ahead: Any) -> None:
        weights, at = (ahead, block) if ahead is not None else (self._weights(1), const(0))
        if ahead is None:
            self.transforms.weights(self.packed, weights, const(0), block)
        products = T.alloc_buffer((self.positions, self.tile, CHANNELS), DTYPE)
        whole, rest = divmod(self.tile, self.mr)

        def chunk(number: Any, channels: int, group: Any, add: bool) -> None:
            begin = number * self.chunks.length
            with T.serial(0, self.positions) as position:
                where = (values, weights, products, position, at)
                if whole:
                    with T.serial(0, whole) as index:
                        self._products(*where, index * self.mr, self.mr, begin, channels)
                if rest:
                    self._products(*where, const(whole * self.mr), rest, begin, channels)
            self.transforms.back(products, sums, group, block, self.tile, self.middle, add)

        def group_of(group: Any, count: int, last: int) -> None:
            """Emit the chunks of a group, of which the last may be shorter."""
            first, length = group * self.chunks.together, self.chunks.length
            even = count if last == length else count - 1
            if even:
                chunk(first, length, group, False)
            if even > 1:
                with T.serial(0, even - 1) as index:
                    chunk(first + 1 + index, length, group, True)
            if even < count:
                chunk(first + even, last, group, even > 0)

        c = self.chunks
        full = (c.count - (c.last < c.length)) // c.together
        if full:
            with T.serial(0, full) as group:
                group_of(group, c.together, c.length)
        if c.count > full * c.together:
            group_of(const(full), c.count - full * c.together, c.last)

    def _products(
        self,
        values: Any,
        weights: Any,
        products: Any,
        position: Any,
        block: Any,
        tile: Any,
        tiles: int,
        begin: Any,
        channels: int,
    ) -> None:
        vectors = self.dot.multiply(
            values,
            lambda i, c: [position, tile + i, begin + c],
            weights,
            lambda c: [position, block, begin + c, 0],
            tiles,
            channels,
        )
        for r, vector in enumerate(vectors):
            vstore(T, products, vector, [position, tile + r // 2, r % 2 * LANES], LANES)

    def _write(self, sums: Any, n: Any, first: Any, tile: Any, tiles: int) -> None:
        """Emit the epilogue of some tiles of the run."""
        p, side = self.p, self.points.side

        def place(i: Any) -> tuple[Any, Any, Any]:
            number = first + tile + i // side**2
            return (
                n,
                number // self.columns * side + i % side**2 // side,
                number % self.columns * side + i % side,
            )

        odd = p.out_height % side or p.out_width % side
        exists = (lambda i: tirx.all(place(i)[1] < p.out_height, place(i)[2] < p.out_width)) if odd else None
        row_runs, column_runs = runs(p)

        def accumulators(pixel: Any, group: Any, channel: Any, lanes: int, dtype: str) -> Any:
            _, y, x = place(pixel)
            where = [row_runs.at(y), column_runs.at(x), channel]
            # Modulo 2**16 where the accumulator fits 16 bits: the terms need not.
            narrow = p.threshold_dtype if lanes == 1 else f"{p.threshold_dtype}x{lanes}"
            *parts, rest = (
                (b[tuple(at)] if lanes == 1 else vload(b, at, lanes)).astype(narrow)
                for b, at in [
                    *((sums, [part, tile * side**2 + pixel, channel]) for part in range(self.chunks.groups)),
                    (self.gamma, where),
                ]
            )
            read = sum(parts[1:], parts[0])
            if p.a.multiplier != 1:
                two = const(2, p.threshold_dtype)
                read = read * (two if lanes == 1 else splat(two, lanes))
            return (read + rest).astype(dtype if lanes == 1 else f"{dtype}x{lanes}")

        self.epilogue.write_tile(accumulators, place, tiles * side**2, exists, self.rolled)
