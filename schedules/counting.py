"""Counting the thresholds that accumulators reach: of one channel, or of neighbouring ones in vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.dot_problem import Thresholds
from schedules.intrinsics import const, of_lanes, splat, vload, vstore
from schedules.registers import held
from schedules.vectors import assembly, bits_of, keep_rolled, part

# Up to here one comparison per threshold, which vectorises over channels, beats a binary search, which does not.
LINEAR_LEVELS = 15
# From here on a vector searches by halves, selecting the next threshold, instead of comparing with all.
SEARCH_LEVELS = 7
# Beyond LINEAR_LEVELS, vectors find the group of so many thresholds, and each lane searches its own group.
GROUP = LINEAR_LEVELS + 1


def count_vector(
    spec: Thresholds, tables: list[Any], accumulators: Sequence[Any], side: Any, channel: Any, lanes: int
) -> Any:
    """Codes of neighbouring channels from vectors of accumulators in the type of the thresholds.

    ``accumulators`` are the channels' in order, the same number in each. ``side`` are the codes that pick a row of
    thresholds for each channel; None if there is but one row. Accumulators may be bytes, from -127 to 126: what
    thresholds beyond them say is the same at either end of a byte.
    """
    few = max(spec.levels, spec.falls) < SEARCH_LEVELS and not (side is not None and spec.rows > 1)
    count = _count_masks if few else _count_rows
    width = lanes // len(accumulators)
    sides = [side if side is None or width == lanes else part(side, at, width) for at in range(0, lanes, width)]
    parts = [
        count(spec, tables, value, code, channel + i * width, width)
        for i, (value, code) in enumerate(zip(accumulators, sides, strict=True))
    ]
    code = _bytes(parts)
    if few:
        code = splat(const(0, "uint8"), lanes) - code
    flip = vload(tables[1], [channel], lanes) != splat(const(0, "uint8"), lanes)
    levels = splat(const(spec.levels, "uint8"), lanes)
    if spec.falls or spec.levels & (spec.levels + 1):
        return tirx.Select(flip, levels - code, code)
    # All ones: counted from the other end is inverted.
    return code ^ tirx.Select(flip, levels, splat(const(0, "uint8"), lanes))


def _count_masks(spec: Thresholds, tables: list[Any], value: Any, _side: Any, channel: Any, lanes: int) -> Any:
    """Less the codes: a lane that compares true is -1 as it is, and lanes stay as wide as they are to the end."""
    wide = str(value.ty.dtype)
    kind = wide.partition("x")[0]
    value = held(value, kind, lanes)

    def reached(table: Any, count: int) -> Any:
        rows = [_at_most(vload(table, [0, level, channel], lanes), kind, lanes) for level in range(count)]
        one, none = (splat(const(n, kind), lanes) for n in (-1, 0))
        hits = [tirx.Select(value >= row, one, none) for row in rows]
        return sum(hits[1:], hits[0])

    total = reached(tables[0], spec.levels)
    return total - reached(tables[2], spec.falls) if spec.falls else total


def _bytes(parts: list[Any]) -> Any:
    """The low bytes of all lanes, of two vectors at once: narrowed one by one, LLVM would narrow each comparison."""
    while True:
        kind, _, lanes = str(parts[0].ty.dtype).partition("x")
        if len(parts) == 1:
            return parts[0].astype(f"uint8x{lanes}")
        narrow, twice = f"int{bits_of(kind) // 2}x{2 * int(lanes)}", list(range(0, 4 * int(lanes), 2))
        halves = [tirx.reinterpret(narrow, vector) for vector in parts]
        parts = [tirx.Shuffle([a, b], twice) for a, b in zip(halves[::2], halves[1::2], strict=True)]


def _count_rows(spec: Thresholds, tables: list[Any], accumulators: Any, side: Any, channel: Any, lanes: int) -> Any:
    """Codes by thresholds that each lane selects among rows, or by a search."""
    wide = str(accumulators.ty.dtype)
    kind = wide.partition("x")[0]
    value = held(accumulators, kind, lanes)
    picks = (
        []
        if side is None
        else [held(side.astype(wide) & splat(const(1 << b, kind), lanes), kind, lanes) for b in range(spec.side_bits)]
    )

    def threshold(table: Any, level: int) -> Any:
        rows = [_at_most(vload(table, [row, level, channel], lanes), kind, lanes) for row in range(spec.rows)]
        for pick in picks:
            odd = pick != splat(const(0, kind), lanes)
            rows = [held(tirx.Select(odd, b, a), kind, lanes) for a, b in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    def reached(table: Any, count: int) -> Any:
        rows = [threshold(table, level) for level in range(count)]
        if count >= SEARCH_LEVELS:
            return _search(value, rows, wide, lanes)
        hits = [(value >= row).astype(wide) for row in rows]
        return sum(hits[1:], hits[0])

    total = reached(tables[0], spec.levels)
    return total - reached(tables[2], spec.falls) if spec.falls else total


def _at_most(thresholds: Any, kind: str, lanes: int) -> Any:
    """Thresholds in the type of the accumulators."""
    if kind != "int8":
        return thresholds
    low, high = (splat(const(end, str(thresholds.ty.dtype).partition("x")[0]), lanes) for end in (-128, 127))
    return tirx.max(tirx.min(thresholds, high), low).astype(of_lanes(kind, lanes))


def count_grouped(
    spec: Thresholds, tables: list[Any], accumulators: Any, channel: Any, lanes: int, codes: Any, pixel: Any
) -> None:
    """Emit ``codes[pixel, channel + lane]`` of neighbours: a vector finds groups, then each lane its code."""
    thresholds, kind = tables[0], str(tables[0].dtype)
    values, groups = T.alloc_buffer((lanes,), kind), T.alloc_buffer((lanes,), kind)
    vstore(T, values, accumulators, [0], lanes)
    value = vload(values, [0], lanes)
    rows = [vload(thresholds, [0, last, channel], lanes) for last in range(GROUP - 1, spec.levels, GROUP)]
    vstore(T, groups, _search(value, rows, f"{kind}x{lanes}", lanes), [0], lanes)
    with assembly(True), T.serial(0, lanes) as lane:
        # Unrolled, LLVM would make vectors of the lanes again, gathered one by one.
        keep_rolled(True)
        one, column = values[lane].astype("int32"), channel + lane
        if (spec.levels + 1) % GROUP:
            table = lambda level: thresholds[0, level, column].astype("int32")  # noqa: E731 - a view of one column
            reached = _bisect(table, GROUP - 1, one, groups[lane].astype("int32") * const(GROUP), spec.levels)
        else:
            # All probes are thresholds: positions may count elements, which saves a multiplication each.
            width = thresholds.shape[-1]
            place = T.alloc_buffer((1,), "int32")
            T.buffer_store(place, groups[lane].astype("int32") * (GROUP * width) + column, [0])
            for step in (8, 4, 2, 1):
                hit = one >= thresholds[0, step - 1, place[0]].astype("int32")
                T.buffer_store(place, tirx.Select(hit, place[0] + step * width, place[0]), [0])
            reached = ((place[0] - column).astype("uint32") // width.astype("uint32")).astype("int32")
        flipped = tirx.Select(tables[1][channel + lane] != const(0, "uint8"), const(spec.levels) - reached, reached)
        T.buffer_store(codes, flipped.astype("uint8"), [pixel, channel + lane])


def count_by_line(
    spec: Thresholds, tables: list[Any], accumulators: Any, channel: Any, lanes: int, codes: Any, pixel: Any
) -> None:
    """Emit ``codes[pixel, channel + lane]`` of neighbours: guessed by lines, then compared with one threshold each."""
    thresholds, flip, lines = tables
    wide = f"int32x{lanes}"
    value = held(accumulators, "int32", lanes)
    slope, start = (vload(lines, [row, channel], lanes) for row in (0, 1))
    # Towards zero is as good as down: what is below 0 becomes 0 anyway.
    guess = (value.astype(f"float32x{lanes}") * slope + start).astype(wide)
    guess = tirx.max(tirx.min(guess, splat(const(spec.levels - 1), lanes)), splat(const(0), lanes))
    guesses, nearest = T.alloc_buffer((lanes,), "int32"), T.alloc_buffer((lanes,), "int32")
    vstore(T, guesses, guess, [0], lanes)
    for lane in range(lanes):
        threshold = thresholds[0, guesses[lane], channel + lane]
        T.buffer_store(nearest, threshold.astype("int32"), [lane])
    hit = (value >= vload(nearest, [0], lanes)).astype(wide)
    code = held((vload(guesses, [0], lanes) + hit).astype(f"uint8x{lanes}"), "uint8", lanes)
    flipped = vload(flip, [channel], lanes) != splat(const(0, "uint8"), lanes)
    code = tirx.Select(flipped, splat(const(spec.levels, "uint8"), lanes) - code, code)
    vstore(T, codes, code, [pixel, channel], lanes)


def _search(value: Any, rows: list[Any], kind: str, lanes: int) -> Any:
    """How many sorted thresholds a vector reaches: one comparison a bit, each picking the thresholds of the next."""
    depth, element = len(rows).bit_length(), kind.partition("x")[0]
    # Missing ones repeat the last, and what they count too much is taken back by the minimum.
    table: list[Any] = [*rows, *[rows[-1]] * ((1 << depth) - 1 - len(rows))]

    total: Any = None
    while table:
        middle = len(table) // 2
        hit = value >= table[middle]
        bit = hit.astype(kind)
        total = held(bit if total is None else total + total + bit, element, lanes)
        halves = zip(table[:middle], table[middle + 1 :], strict=True)
        table = [held(tirx.Select(hit, above, below), element, lanes) for below, above in halves]
    if len(rows) + 1 < 1 << depth:
        total = tirx.min(total, splat(const(len(rows), element), lanes))
    return total


def declare_tables(spec: Thresholds, channels: int, dtype: str) -> list[Any]:
    """Declare the parameters thresholds, flip and, if there are any, falling thresholds, lines or steps."""
    tables = [T.arg("thresholds", T.buffer((spec.rows, spec.levels, channels), dtype))]
    tables.append(T.arg("flip", T.buffer((channels,), "uint8")))
    if spec.falls:
        tables.append(T.arg("falls", T.buffer((spec.rows, spec.falls, channels), dtype)))
    if spec.lines:
        tables.append(T.arg("lines", T.buffer((2, channels), "float32")))
    if spec.shift is not None:
        tables.append(T.arg("steps", T.buffer((channels,), dtype)))
    return tables


def slanted(spec: Thresholds, tables: list[Any], value: Any, code: Any, channel: Any, lanes: int) -> Any:
    """Accumulators moved by the codes of a second operand, in a type that holds them."""
    kind = str(value.ty.dtype)
    steps, shift = vload(tables[-1], [channel], lanes).astype(kind), const(spec.shift or 0, kind.partition("x")[0])
    return (value << splat(shift, lanes) if spec.shift else value) + code.astype(kind) * steps


def count_reached(
    spec: Thresholds, tables: list[Any], accumulator: Any, row: Any, channel: Any, codes: Any, at: list[Any]
) -> None:
    """Emit ``codes[at] = number of thresholds reached`` less that of falls (counted downwards where ``flip``)."""
    thresholds, flip = tables[:2]
    if spec.shift is not None:
        accumulator, row = slanted(spec, tables, accumulator, row, channel, 1), const(0)
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
    return _bisect(lambda level: table[row, level, channel].astype("int32"), count, accumulator, const(0), count)


def _bisect(table: Any, count: int, accumulator: Any, first: Any, end: int) -> Any:
    """``first`` and how many of the ``count`` thresholds from there on, of ``end`` in all, the accumulator reaches."""
    position = T.alloc_buffer((1,), "int32")
    T.buffer_store(position, first, [0])
    step = 1 << (count.bit_length() - 1)
    # With 2**n - 1 thresholds to each group every probe is one of them; else those past the last are not reached.
    whole = count + 1 == 2 * step and (end + 1) % (count + 1) == 0
    while step:
        probe = position[0] + (step - 1)
        hit = accumulator >= table(probe if whole else tirx.min(probe, const(end - 1)))
        hit = hit if whole else tirx.all(probe < const(end), hit)
        T.buffer_store(position, tirx.Select(hit, position[0] + step, position[0]), [0])
        step >>= 1
    return position[0]
