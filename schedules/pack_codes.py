"""Writing codes in the layout that the next layer reads: byte by byte, or bit planes gathered by vector operations."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.intrinsics import const, splat, vload, vstore
from schedules.layout import Layout
from schedules.vectors import part


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


def pack_pixel(layout: Layout, out: Any, codes: Any, i: Any, n: Any, y: Any, x: Any, channels: int) -> None:
    """Emit the writing of row ``i`` of codes ``(pixels, channels)`` in a physical layout."""
    if layout.kind == "nhwc":
        _copy(out, codes, n, y, x, i, channels)
    elif channels // layout.groups % 8:
        store_codes(layout, out, _Row(codes, i), n, y, x, channels)
    else:
        with T.serial(0, layout.groups) as group:
            _planes(layout, out, codes, n, y, x, i, group, channels // layout.groups)


def loads_vectors(layout: Layout, channels: int, lanes: int = 8) -> bool:
    """Whether so many neighbouring channels are as many bytes, or whole bytes of each plane."""
    return layout.kind == "nhwc" or (channels // layout.groups % 8 == 0 and lanes % 8 == 0)


def load_vector(layout: Layout, codes: Any, n: Any, y: Any, x: Any, channel: Any, channels: int, lanes: int = 8) -> Any:
    """The codes of neighbouring channels, the first a multiple of eight unless the layout is plain, as uint8."""
    if layout.kind == "nhwc":
        return vload(codes, [n, y, x, channel], lanes)
    eights = [_load_eight(layout, codes, n, y, x, channel + at, channels) for at in range(0, lanes, 8)]
    return eights[0] if lanes == 8 else tirx.Shuffle(eights, list(range(lanes)))


def _load_eight(layout: Layout, codes: Any, n: Any, y: Any, x: Any, channel: Any, channels: int) -> Any:
    per_group = channels // layout.groups
    total: Any = None
    for plane in range(layout.bits):
        byte = codes[n, y, x, channel // per_group, plane, channel % per_group // 8]
        hit = (splat(byte, 8) & _places(8)) != splat(const(0, "uint8"), 8)
        code = tirx.Select(hit, splat(const(1 << plane, "uint8"), 8), splat(const(0, "uint8"), 8))
        total = code if total is None else total | code
    return total


class _Row:
    """One pixel's codes."""

    def __init__(self, codes: Any, pixel: Any) -> None:
        self.codes, self.pixel = codes, pixel

    def __getitem__(self, channel: Any) -> Any:
        return self.codes[self.pixel, channel]


def _copy(out: Any, codes: Any, n: Any, y: Any, x: Any, i: Any, channels: int) -> None:
    done = 0
    for lanes in (16, 8, 1):
        count = (channels - done) // lanes
        if count:
            with T.serial(0, count) as index:
                c = done + index * lanes
                value = codes[i, c] if lanes == 1 else vload(codes, [i, c], lanes)
                if lanes == 1:
                    T.buffer_store(out, value, [n, y, x, c])
                else:
                    vstore(T, out, value, [n, y, x, c], lanes)
        done += count * lanes


def _planes(layout: Layout, out: Any, codes: Any, n: Any, y: Any, x: Any, i: Any, group: Any, channels: int) -> None:
    """A vector of codes to the bits of one plane: pick the bit, weigh it by its place, add neighbours three times."""
    done = 0
    for lanes in (64, 32, 16, 8):
        count = (channels - done) // lanes
        if count:
            with T.serial(0, count) as index:
                for plane in range(layout.bits):
                    first = done + index * lanes
                    value = _bits(codes, i, group * channels + first, plane, lanes)
                    where = [n, y, x, group, plane, (done // 8) + index * (lanes // 8)]
                    if lanes == 8:
                        T.buffer_store(out, value, where)
                    else:
                        vstore(T, out, value, where, lanes // 8)
        done += count * lanes


def _bits(codes: Any, i: Any, channel: Any, plane: int, lanes: int) -> Any:
    """``lanes / 8`` bytes of one plane."""
    width = min(lanes, 16)
    weight = _places(width)
    parts: list[Any] = []
    for start in range(0, lanes, width):
        vector = vload(codes, [i, channel + start], width) & splat(const(1 << plane, "uint8"), width)
        hit = vector != splat(const(0, "uint8"), width)
        parts.append(tirx.Select(hit, weight, splat(const(0, "uint8"), width)))
    for _ in range(3):
        even = parts[1::2] or parts
        parts = [_add_pairs(a, b, width) for a, b in zip(parts[::2], even, strict=True)]
    if lanes == 8:
        return tirx.Shuffle([parts[0]], [0])
    return part(parts[0], 0, lanes // 8)


def _places(width: int) -> Any:
    """1, 2, 4 to 128, and again: the bits of a byte in as many lanes."""
    place = tirx.Ramp(const(0, "int32"), const(1, "int32"), width).astype(f"uint8x{width}")
    return splat(const(1, "uint8"), width) << (place & splat(const(7, "uint8"), width))


def _add_pairs(a: Any, b: Any, width: int) -> Any:
    """LLVM makes ADDP of this where there is one."""
    even, odd = ([*range(start, 2 * width, 2)] for start in (0, 1))
    return tirx.Shuffle([a, b], even) + tirx.Shuffle([a, b], odd)
