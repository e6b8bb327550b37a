"""Estimated cycles of writing codes in a layout, and of making one layout from another: to weigh layouts by.

Counted as instructions of `CoreSpec.cycles` in the inner loops of `moving` and `pack_codes`. Against the emulated board
the estimates lie within a factor of 1.7 (a test holds them to it).
"""

from __future__ import annotations

from math import prod

from schedules.cores import CoreSpec
from schedules.layout import Layout
from schedules.pack_codes import loads_vectors

Shape = tuple[int, int, int, int]
# Instructions for one code of one plane where channels are no whole bytes; scalar.
_SCALAR = 4.0


def write_cycles(shape: Shape, layout: Layout, core: CoreSpec) -> float:
    """An epilogue's writing of ``(N, H, W, C)`` codes."""
    if layout.kind == "nhwc":
        return prod(shape) / 16 * core.cycles({"ldr": 1, "str": 1})
    if not loads_vectors(layout, shape[3]):
        return prod(shape) * layout.bits * _SCALAR / core.vector_issue
    # Pick the bit, compare, weigh, add neighbours three times: five instructions for 16 codes.
    return prod(shape) / 16 * layout.bits * core.cycles({"and": 5, "str": 0.25})


def read_cycles(shape: Shape, layout: Layout, core: CoreSpec) -> float:
    """An epilogue's reading of a second operand, eight channels at a time."""
    if layout.kind == "nhwc":
        return prod(shape) / 8 * core.cycles({"ldr": 1})
    if not loads_vectors(layout, shape[3]):
        return prod(shape) * layout.bits * _SCALAR / core.vector_issue
    # Spread the byte, pick bits, compare, put together.
    return prod(shape) / 8 * layout.bits * core.cycles({"and": 3})


def repack_cycles(shape: Shape, source: Layout, target: Layout, core: CoreSpec) -> float:
    """A kernel that makes one layout from another; one of the two is plain codes."""
    copy = prod(shape) / 16 * core.cycles({"ldr": 1, "str": 1})
    if source.kind == "nhwc":
        return copy + write_cycles(shape, target, core)
    return copy + read_cycles(shape, source, core)


def gather_cycles(shape: Shape, core: CoreSpec) -> float:
    """Plain codes from the graph's own order, channels outside: element by element."""
    return prod(shape) * 2.0 / core.vector_issue


def scatter_cycles(shape: Shape, core: CoreSpec) -> float:
    """The graph's own order from plain codes."""
    return prod(shape) * 1.5 / core.vector_issue


def pool_cycles(shape: Shape, taps: int, layout: Layout, core: CoreSpec) -> float:
    """A maximum over windows; ``shape`` is the result's. Planes of one bit hold eight codes a byte."""
    codes = prod(shape) * (1 if layout.kind == "nhwc" else layout.bits / 8)
    return codes / 16 * taps * core.cycles({"ldr": 1, "and": 1})
