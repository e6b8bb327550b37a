"""Between the logical shape of codes in the graph, NCHW, NCW or (M, K), and the physical layouts that kernels read."""

from __future__ import annotations

from typing import Any

from tvm import relax, te, tirx

from relay_passes.dataflow import Scope
from relay_passes.ops import shape_of
from schedules.layout import Layout, plane_bytes

# Opaque to fusion: a packed byte would else compute what it is fused with once per bit and plane.
_OPAQUE = {"op_pattern": 8}


def nhwc_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The ``(N, H, W, C)`` that a logical ``(N, C, H, W)``, ``(N, C, W)`` or ``(M, K)`` shape stands for in kernels."""
    if len(shape) == 2:
        return (1, 1, shape[0], shape[1])
    return (shape[0], 1 if len(shape) == 3 else shape[2], shape[-1], shape[1])


def _logical(rank: int, n: Any, h: Any, w: Any, c: Any) -> tuple[Any, ...]:
    return {2: (w, c), 3: (n, c, w), 4: (n, c, h, w)}[rank]


def _physical(*i: Any) -> tuple[Any, Any, Any, Any]:
    """Batch, row, column and channel of a logical position."""
    if len(i) == 2:
        return (0, 0, i[0], i[1])
    return (i[0], 0 if len(i) == 3 else i[2], i[-1], i[1])


def pack(scope: Scope, codes: Any, layout: Layout, name: str) -> Any:
    """Emit the physical form of logical uint8 codes."""
    shape = shape_of(codes)
    n, h, w, c = nhwc_shape(shape)
    per_group = c // layout.groups

    def compute(x: Any) -> Any:
        def plain(*i: Any) -> Any:
            return x(*_logical(len(shape), i[0], i[1], i[2], i[3]))

        def byte(*i: Any) -> Any:
            batch, y, x_ = i[:3]
            group, plane, index = i[3:]
            value: Any = tirx.const(0, "uint8")
            for bit in range(8):
                channel = index * 8 + bit
                inside = channel < per_group
                code = x(*_logical(len(shape), batch, y, x_, group * per_group + tirx.min(channel, per_group - 1)))
                one = (code >> plane.astype("uint8")) & tirx.const(1, "uint8")
                value = value | (tirx.Select(inside, one, tirx.const(0, "uint8")) << tirx.const(bit, "uint8"))
            return value

        return te.compute(layout.shape(n, h, w, c), plain if layout.kind == "nhwc" else byte, name="pack")

    assert layout.kind == "nhwc" or plane_bytes(per_group) == layout.shape(n, h, w, c)[-1]
    call = scope.builder.call_te(compute, codes, primfunc_name_hint="pack", primfunc_attrs=_OPAQUE)
    return scope.emit(call, name)


def unpack(scope: Scope, packed: Any, layout: Layout, shape: tuple[int, ...], dtype: str, name: str) -> Any:
    """Emit the logical tensor of a physical one (codes, or int32 accumulators in NHWC)."""
    channels = nhwc_shape(shape)[3]

    def compute(x: Any) -> Any:
        def element(*i: Any) -> Any:
            return layout.load(lambda *at: x(*at), *_physical(*i), channels)

        return te.compute(shape, element, name="unpack")

    call = scope.builder.call_te(compute, packed, primfunc_name_hint="unpack")
    result = scope.emit(call, name)
    assert isinstance(result, relax.Var) and result.ty.dtype == dtype
    return result
