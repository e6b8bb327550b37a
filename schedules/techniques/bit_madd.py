"""``bit_madd``: dense layers of two bits on in-order cores, by both halves of the core at once.

Most of K is counted in the vector unit, the rest meanwhile multiplied in general registers, where one multiplication
sums eight products: `select_column`, `ordered_products`.

Worst cases: a byte takes 32 counts for each step, of seven at the most; a byte of a product 24 products of 9; 16 bits
hold twice a sum, ``18 K``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.bit_dot import BitDot
from schedules.blocked import CHANNEL_BLOCK, Dots, blocked, padded_channels
from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.intrinsics import const
from schedules.layout import Layout, pack_planes
from schedules.ordered_products import BITS, CHANNELS, CODES, FACTORS, FIELDS, WORD
from schedules.panel import Panel
from schedules.select_column import ACTIVATIONS, BY_CODE, MOST_STEPS, PLANES, STEP, SelectColumn
from schedules.techniques.base import Array, Knobs, Technique, correction_shapes, corrections, frame, rows
from schedules.techniques.bit_serial import row_bytes, source
from schedules.vectors import Vectors, assembly, call_loop, in_order, keep_rolled, transpose_sums, vectors


class BitMadd(Technique):
    """All channels of a pixel at once, eight by eight."""

    name = "bit_madd"
    needs = frozenset({"asimd"})

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """All but dense layers of two bits whose planes of activations fit the registers, on cores that gain by it."""
        p, reason = problem, super().declines(problem, core)
        if reason is not None:
            return reason
        if not in_order(core):
            return f"{core.name} starts instructions of both kinds by itself"
        if (p.a.bits, p.w.bits) != (BITS, BITS):
            return f"both sides must have {BITS} bits, not {p.name}"
        if p.groups * p.height * p.width != 1 or p.kernel != (1, 1) or any(p.padding):
            return "only dense layers have but one pixel"
        if not (loop(p).possible()):
            return f"{p.k} products are too few or too many to divide between registers"
        return None

    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """Blocks of eight channels, by what bounds them; activations once; an epilogue."""
        p, each = problem, loop(problem)
        return p.batch * (each.blocks * each.cycles + 3.5 * p.out_channels + 40 * each.words + 200)

    def in_layout(self, problem: DotProblem) -> Layout:
        """Bit planes."""
        return Layout("planes", problem.a.bits)

    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """Blocks of eight channels ``(blocks, bytes)``, as `SelectColumn` reads them, and corrections."""
        p, each = problem, loop(problem)
        codes = np.zeros((each.blocks * CHANNELS, each.steps * 8 * STEP + each.words * CODES), np.uint8)
        codes[: p.out_channels, : p.k] = weights[:, :, 0, 0]
        counted, multiplied = np.split(codes, [each.steps * 8 * STEP], axis=1)
        low, high = counted & 1, counted >> 1
        # (channels, 2, steps, 16) to (channels, steps, 2, 16): `pack_planes` takes the first bit for the first plane.
        planes = pack_planes((high | (1 - (low ^ high)) << 1).astype(np.uint8), PLANES).reshape(
            -1, PLANES, each.steps, STEP
        )
        fields = multiplied.reshape(each.blocks, CHANNELS, each.words, FIELDS, WORD)
        words = (fields << (BITS * np.arange(FIELDS, dtype=np.uint8)[:, None])).sum(axis=3, dtype=np.uint8)
        added = np.array(BY_CODE)[counted].sum(axis=1).astype("<u2").view(np.uint8)
        parts = planes.transpose(0, 2, 1, 3), words.transpose(0, 2, 1, 3), added
        packed = np.concatenate([part.reshape(each.blocks, -1) for part in parts], axis=1)
        return [np.ascontiguousarray(packed), *corrections(p, weights, weight_offset)]

    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The codes again."""
        p = problem
        o, c = np.meshgrid(np.arange(p.out_channels), np.arange(p.k), indexing="ij")
        return decoded(p, lambda byte: constant[o // CHANNELS, byte], o, c, np.where)[:, :, None, None]

    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """Two bits."""
        return decoded(problem, lambda byte: at(o // CHANNELS, byte), o, c, tirx.Select)

    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """See `Technique.build`."""
        p, each, row = problem, loop(problem), row_bytes(problem)

        def body(x: Any, constants: list[Any], epilogue: Epilogue) -> None:
            weights, beta, gamma = constants
            plain = BitDot(vectors(core), BITS, BITS, row, CHANNEL_BLOCK, "bytes", STEP, weights)

            def column(panel: Panel, sums: Any) -> bool:
                assert panel.stride() == BITS * each.stride
                factors = T.alloc_buffer((max(1, each.words), FACTORS), "int64")
                make_factors(panel, each, factors)
                T.buffer_store(factors, added(vectors(core), panel, each), [0, FIELDS])
                operands = panel.address(const(0), 0, 0), tirx.address_of(weights[0, 0])
                places = sums[0, 0], factors[0, 0], sums[0, each.blocks * CHANNELS - 1]
                call_loop(each, set(), (*operands, *(tirx.address_of(place) for place in places)), "uint16", 8)
                return True

            def multiply(*_: Any) -> list[Any]:
                raise AssertionError("a column is all there is")

            needed = plain.sum_codes if p.needs_code_sum else None
            dots = Dots("uint16", 8, multiply, needed, p.a.multiplier * p.w.multiplier, column=column)
            emit = blocked(p, 1, CHANNELS, 1, source(p, x), dots, (beta, gamma), epilogue, WORD, True)
            with assembly(True), rows(p, knobs) as index:
                emit(index // p.out_height, index % p.out_height)

        return frame(p, self.in_layout(p), [((each.blocks, each.size), "uint8"), *correction_shapes(p)], body)


def loop(problem: DotProblem) -> SelectColumn:
    """How K is divided: as is fastest."""
    row, blocks = row_bytes(problem), padded_channels(problem, CHANNELS) // CHANNELS

    def divided(steps: int) -> SelectColumn:
        return SelectColumn(steps, row, blocks, max(0, -(-(row - steps * STEP) // FIELDS)))

    ways = [divided(steps) for steps in range(1, MOST_STEPS + 1)]
    return min([way for way in ways if way.possible()] or ways, key=lambda way: way.cycles)


def decoded(problem: DotProblem, read: Callable[[Any], Any], o: Any, c: Any, choose: Callable[..., Any]) -> Any:
    """A channel's code ``c``, of NumPy arrays or in TIR; ``read`` gets bytes of its block."""
    each = loop(problem)
    j, rest = o % CHANNELS, c - each.steps * 8 * STEP
    counted = rest < 0
    word = each.planes_size + (rest // CODES * CHANNELS + j) * WORD + rest % WORD
    bits = []
    for plane in range(PLANES):
        byte = ((j * each.steps + c // (8 * STEP)) * PLANES + plane) * STEP + c // 8 % STEP
        shift = choose(counted, c % 8, rest % CODES // WORD * BITS + plane).astype("uint8")
        bits.append((read(choose(counted, byte, word)) >> shift) & 1)
    first, second = bits
    # What is counted has the upper bit first, then whether both are alike.
    return choose(counted, (first << 1) | (first ^ second ^ 1), first | (second << 1))


def make_factors(panel: Panel, each: SelectColumn, factors: Any) -> None:
    """Emit what `ordered_products` multiplies with, from the rest of the planes: bytes of codes in reverse."""
    # Bit 7 - i to byte i; a byte that is not zero carries into its own highest bit.
    ones, chosen, carry = 0x0101010101010101, 0x0102040810204080, 0x7F7F7F7F7F7F7F7F

    def spread(plane: int, byte: Any) -> Any:
        inside = byte < const(panel.row_bytes)
        bits = tirx.if_then_else(inside, panel.load(const(0), plane, byte, 1), const(0, "uint8")).astype("uint64")
        bits = (bits * const(ones, "uint64")) & const(chosen, "uint64")
        return ((bits + const(carry, "uint64")) >> const(7, "uint64")) & const(ones, "uint64")

    with T.serial(0, each.words) as word:
        keep_rolled(True)
        for field in range(FIELDS):
            byte = const(each.steps * STEP) + word * FIELDS + field
            code = (spread(0, byte) + (spread(1, byte) << const(1, "uint64"))).astype("int64")
            if field:
                # Signed, as TVM takes it for granted that sums of unsigned numbers do not wrap.
                code = code - factors[word, 0] * const(1 << (BITS * field), "int64")
            T.buffer_store(factors, code, [word, field])


def added(v: Vectors, panel: Panel, each: SelectColumn) -> Any:
    """What comes of the activations that are counted, four times 16 bits: emitted as an expression."""
    # A byte of a step takes up to 8 (1 + 2 + 1) ones, so seven steps fit.
    total: Any = None
    for step in range(each.steps):
        low, high = (panel.load(const(0), plane, const(step * STEP), STEP) for plane in range(BITS))
        one = tirx.popcount(low) + tirx.popcount(high) + tirx.popcount(high) + tirx.popcount(low ^ high)
        total = one if total is None else total + one
    (sums,) = transpose_sums(v, [v.widen_pairs(total, "uint16", 8)], "uint16", 8)
    number = tirx.Shuffle([sums], [0]).astype("int64")
    return number * const(ACTIVATIONS * 0x0001000100010001, "int64")
