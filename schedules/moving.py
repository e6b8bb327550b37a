"""Kernels that move codes between layouts, pool them, join them, and quantise them again; channels stay innermost.

Each emits one output row after the other. A pixel's codes are written at once where the output is plain codes, else
gathered in a scratch row and packed from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.dot_problem import DotProblem, Thresholds
from schedules.epilogue import Epilogue
from schedules.intrinsics import const, splat, vload, vstore
from schedules.layout import Layout
from schedules.pack_codes import load_vector, loads_vectors, pack_pixel

Shape = tuple[int, int, int, int]
# Fewer codes than this are moved sooner than other threads wake up.
PARALLEL_CODES = 250_000
_LANES = (16, 8, 1)


@dataclass(frozen=True)
class Window:
    """A pooling window; ``padding`` is (top, left, bottom, right)."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Pixels:
    """What an epilogue must know of what it finishes: ``(N, H, W, C)`` and the type of its thresholds."""

    shape: Shape
    threshold_dtype: str
    epilogue: Thresholds
    groups: int = 1

    @property
    def batch(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def out_height(self) -> int:
        """H."""
        return self.shape[1]

    @property
    def out_width(self) -> int:
        """W."""
        return self.shape[2]

    @property
    def out_channels(self) -> int:
        """C."""
        return self.shape[3]

    @property
    def group_out_channels(self) -> int:
        """C, in one group."""
        return self.shape[3]


def repack_kernel(shape: Shape, source: Layout, target: Layout) -> Any:
    """A PrimFunc of (codes in one layout, codes in another) for ``(N, H, W, C)``."""
    channels = shape[3]

    def body(x: Any, out: Any) -> Callable[[Any, Any, Any], None]:
        def pixel(n: Any, y: Any, column: Any) -> None:
            if source.kind == "nhwc":
                flat = T.decl_buffer((shape[0] * shape[1] * shape[2], channels), "uint8", data=x.data)
                number = (n * shape[1] + y) * shape[2] + column
                pack_pixel(target, out, flat, number, n, y, column, channels)
                return
            row = T.alloc_buffer((1, channels), "uint8")
            if loads_vectors(source, channels):
                with T.serial(0, channels // 8) as c:
                    vstore(T, row, load_vector(source, x, n, y, column, c * 8, channels), [0, c * 8], 8)
            else:
                at = lambda *i: tirx.BufferLoad(x, list(i))  # noqa: E731 - a view of one buffer
                with T.serial(0, channels) as c:
                    T.buffer_store(row, source.load(at, n, y, column, c, channels), [0, c])
            pack_pixel(target, out, row, const(0), n, y, column, channels)

        return pixel

    return _kernel([source.shape(*shape)], target.shape(*shape), shape, lambda xs, out: body(xs[0], out))


def max_pool_kernel(shape: Shape, window: Window, out_shape: Shape, source: Layout, target: Layout) -> Any:
    """A PrimFunc of (codes, the largest codes of each window); what lies outside the image counts as 0.

    Reads plain codes and writes any layout, or reads and writes planes of 1 bit.
    """
    planes = source.kind == "planes"
    if planes and (source.bits != 1 or target != source):
        raise ValueError(f"pooling reads plain codes, or planes of 1 bit into the same, not {source} into {target}")
    size = source.shape(*shape)[-1] * source.groups if planes else shape[3]

    def largest(a: Any, b: Any) -> Any:
        return a | b if planes else tirx.max(a, b)

    def body(x: Any, out: Any) -> Callable[[Any, Any, Any], None]:
        rows = T.decl_buffer((*shape[:3], size), "uint8", data=x.data)
        sink = T.decl_buffer((*out_shape[:3], size), "uint8", data=out.data) if planes else out
        direct = planes or target.kind == "nhwc"
        taps = [(y, x_) for y in range(window.size[0]) for x_ in range(window.size[1])]

        def pixel(n: Any, oy: Any, ox: Any) -> None:
            codes = sink if direct else T.alloc_buffer((1, size), "uint8")

            def into(c: Any) -> list[Any]:
                return [n, oy, ox, c] if direct else [0, c]

            y0, x0 = (o * s - p for o, s, p in zip((oy, ox), window.stride, window.padding[:2], strict=True))

            def at(tap: tuple[int, int]) -> tuple[Any, Any]:
                return y0 + tap[0] * window.dilation[0], x0 + tap[1] * window.dilation[1]

            def reads(tap: tuple[int, int], c: Any, lanes: int) -> Any:
                y, column = at(tap)
                return _load(rows, [n, y, column, c], lanes)

            def whole() -> None:
                for c, lanes in _channels(size):
                    found = reads(taps[0], c, lanes)
                    for tap in taps[1:]:
                        found = largest(found, reads(tap, c, lanes))
                    _store(codes, found, into(c), lanes)

            def clipped() -> None:
                for c, lanes in _channels(size):
                    _store(codes, _zero(lanes), into(c), lanes)
                for tap in taps:
                    y, column = at(tap)
                    with T.If(tirx.all(y >= 0, y < shape[1], column >= 0, column < shape[2])), T.Then():
                        for c, lanes in _channels(size):
                            _store(codes, largest(_load(codes, into(c), lanes), reads(tap, c, lanes)), into(c), lanes)

            (top, left), (bottom, right) = at(taps[0]), at(taps[-1])
            inside = tirx.all(top >= 0, bottom < shape[1], left >= 0, right < shape[2])
            with T.If(inside):
                with T.Then():
                    whole()
                with T.Else():
                    clipped()
            if not direct:
                pack_pixel(target, out, codes, const(0), n, oy, ox, size)

        return pixel

    return _kernel([source.shape(*shape)], target.shape(*out_shape), out_shape, lambda xs, out: body(xs[0], out))


def concat_kernel(shape: Shape, channels: Sequence[int], target: Layout) -> Any:
    """A PrimFunc of (plain codes of some channels each, all of them side by side); ``shape`` is the result's."""

    def body(xs: list[Any], out: Any) -> Callable[[Any, Any, Any], None]:
        def pixel(n: Any, y: Any, column: Any) -> None:
            direct = target.kind == "nhwc"
            codes = out if direct else T.alloc_buffer((1, shape[3]), "uint8")
            first = 0
            for x, count in zip(xs, channels, strict=True):
                for c, lanes in _channels(count):
                    where = [n, y, column, first + c] if direct else [0, first + c]
                    _store(codes, _load(x, [n, y, column, c], lanes), where, lanes)
                first += count
            if not direct:
                pack_pixel(target, out, codes, const(0), n, y, column, shape[3])

        return pixel

    return _kernel([(*shape[:3], c) for c in channels], target.shape(*shape), shape, body)


def take_kernel(shape: Shape, axis: int, out_shape: Shape, target: Layout) -> Any:
    """A PrimFunc of (plain codes ``(N, H, W, C)``, int32 indices of rows or columns, those rows or columns).

    ``axis`` is 1 (rows) or 2 (columns).
    """

    def body(xs: list[Any], out: Any) -> Callable[[Any, Any, Any], None]:
        x, indices = xs

        def pixel(n: Any, y: Any, column: Any) -> None:
            at = [n, indices[y], column] if axis == 1 else [n, y, indices[column]]
            direct = target.kind == "nhwc"
            codes = out if direct else T.alloc_buffer((1, shape[3]), "uint8")
            for c, lanes in _channels(shape[3]):
                _store(codes, _load(x, [*at, c], lanes), [n, y, column, c] if direct else [0, c], lanes)
            if not direct:
                pack_pixel(target, out, codes, const(0), n, y, column, shape[3])

        return pixel

    sources = [shape, (out_shape[axis],)]
    return _kernel(sources, target.shape(*out_shape), out_shape, body, ("uint8", "int32"))


def requantize_pixels(shape: Shape, dtype: str, spec: Thresholds, threshold_dtype: str) -> Any:
    """A PrimFunc of (codes or int32 accumulators ``(N, H, W, C)``, what `Epilogue` declares)."""
    with IRBuilder() as builder, T.prim_func():
        _head()
        x = T.arg("accumulators", T.buffer(shape, dtype))
        epilogue = Epilogue(cast(DotProblem, Pixels(shape, threshold_dtype, spec)))
        with _rows(shape) as row:
            n, y = row // shape[1], row % shape[1]

            def accumulators(i: Any, _group: Any, c: Any, lanes: int, wanted: str) -> Any:
                value = _load(x, [n, y, i, c], lanes)
                return value.astype(wanted if lanes == 1 else f"{wanted}x{lanes}")

            epilogue.write_tile(accumulators, lambda i: (n, y, i), shape[2])
    return builder.get()


def _head() -> None:
    T.func_name("main")
    # 8 is "opaque": fusion must leave a hand-scheduled kernel alone.
    T.func_attr({"global_symbol": "main", "tirx.noalias": True, "op_pattern": 8, "tirx.is_scheduled": True})


def _rows(shape: Shape) -> Any:
    codes = shape[0] * shape[1] * shape[2] * shape[3]
    return (T.parallel if codes >= PARALLEL_CODES else T.serial)(0, shape[0] * shape[1])


def _kernel(
    sources: Sequence[tuple[int, ...]],
    target: tuple[int, ...],
    shape: Shape,
    body: Callable[[list[Any], Any], Callable[[Any, Any, Any], None]],
    dtypes: Sequence[str] = (),
) -> Any:
    """``body(inputs, out)`` gives what emits one pixel ``(n, y, x)`` of the output; inputs are uint8 if not said."""
    with IRBuilder() as builder, T.prim_func():
        _head()
        kinds = dtypes or ["uint8"] * len(sources)
        xs = [T.arg(f"x{i}", T.buffer(*source)) for i, source in enumerate(zip(sources, kinds, strict=True))]
        out = T.arg("out", T.buffer(target, "uint8"))
        pixel = body(xs, out)
        with _rows(shape) as row, T.serial(0, shape[2]) as column:
            pixel(row // shape[1], row % shape[1], column)
    built = builder.get()
    # Relax asks of each kernel of one argument whether it only reshapes, and expects to find a block there.
    root = SBlockRealize([], True, SBlock([], [], [], "root", built.body))
    return built.with_body(root).with_attr("s_tir", True)


def _channels(count: int) -> Iterator[tuple[Any, int]]:
    """Emit loops over channels, in vectors where there are enough of them; yields where each begins, and its lanes."""
    done = 0
    for lanes in _LANES:
        vectors = (count - done) // lanes
        if vectors:
            with T.serial(0, vectors) as index:
                yield done + index * lanes, lanes
        done += vectors * lanes


def _load(buffer: Any, at: list[Any], lanes: int) -> Any:
    return tirx.BufferLoad(buffer, at) if lanes == 1 else vload(buffer, at, lanes)


def _store(buffer: Any, value: Any, at: list[Any], lanes: int) -> None:
    if lanes == 1:
        T.buffer_store(buffer, value, at)
    else:
        vstore(T, buffer, value, at, lanes)


def _zero(lanes: int) -> Any:
    zero = const(0, "uint8")
    return zero if lanes == 1 else splat(zero, lanes)
