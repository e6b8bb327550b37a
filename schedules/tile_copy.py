"""A tile of the image that Winograd's transforms cannot read where it lies."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.dot_problem import DotProblem
from schedules.intrinsics import const, splat, vload, vstore

# Channels to a vector of codes.
STEP = 16


def copied_tile(p: DotProblem, image: Any, extent: int, centre: int, n: Any, y0: Any, x0: Any) -> Any:
    """Emit the copy of a tile that reaches out of the image, or whose channels are no whole vectors.

    Parameters
    ----------
    p : DotProblem
        The convolution.
    image : buffer
        Codes, uint8 ``(N, H, W, C)``.
    extent : int
        Rows and columns of the tile.
    centre : int
        The code that stands where there is no channel: every transform of it is zero.
    n, y0, x0 : expressions
        Item, first row and first column, which may lie outside.

    Returns
    -------
    buffer
        uint8 ``(extent, extent, C)``, C filled up to whole vectors of 16.
    """
    vectors, rest = divmod(p.channels, STEP)
    steps = vectors + bool(rest)
    copy = T.alloc_buffer((extent, extent, steps * STEP), "uint8")
    zero = const(p.a.zero_code or 0, "uint8")
    with T.grid(extent, extent) as (dy, dx):
        y, x = y0 + dy, x0 + dx
        with T.If(tirx.all(y >= 0, y < p.height, x >= 0, x < p.width)):
            with T.Then():
                if vectors:
                    with T.serial(0, vectors) as c:
                        vstore(T, copy, vload(image, [n, y, x, c * STEP], STEP), [dy, dx, c * STEP], STEP)
                if rest:
                    with T.serial(0, rest) as c:
                        T.buffer_store(copy, image[n, y, x, vectors * STEP + c], [dy, dx, vectors * STEP + c])
            with T.Else(), T.serial(0, steps) as c:
                vstore(T, copy, splat(zero, STEP), [dy, dx, c * STEP], STEP)
        if rest:
            with T.serial(0, STEP - rest) as c:
                T.buffer_store(copy, const(centre, "uint8"), [dy, dx, p.channels + c])
    return copy
