"""Between the logical shape of codes in the graph, NCHW, NCW or (M, K), and the physical layouts that kernels read."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, s_tir, te, tirx

from relay_passes.dataflow import Scope
from relay_passes.early import EARLY
from relay_passes.ops import shape_of

# Opaque to fusion: what it is fused with would else be computed in the order of what is written here, which is right
# for what reads tensors in that order too.
_OPAQUE = {"op_pattern": 8}
# Channels of a pixel that `kept` reads one after another: a line of the cache has as many int32.
TOGETHER = 16


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


def pack(scope: Scope, codes: Any, name: str, fused: bool = False) -> Any:
    """Emit plain codes ``(N, H, W, C)`` of logical ones, ``fused`` with what computes these or as a kernel."""
    shape = shape_of(codes)

    def compute(x: Any) -> Any:
        return te.compute(nhwc_shape(shape), lambda *i: x(*_logical(len(shape), *i)), name="pack")

    attributes = None if fused else _OPAQUE
    call = scope.builder.call_te(compute, codes, primfunc_name_hint="pack", primfunc_attrs=attributes)
    return scope.emit(call, name)


def kept(scope: Scope, plain: Any, shape: tuple[int, ...], name: str, bits: int) -> Any:
    """Emit the logical tensor of a plain one from a copy that takes fewer bytes, which is all that is kept until then.

    Parameters
    ----------
    plain : expression
        Codes of 1, 2 or 4 ``bits``, of which neighbouring channels share a byte; or int32 accumulators that int16
        holds: ``bits`` is 16.
    """
    per, channel = 8 // min(bits, 8), 1
    packed = tuple(-(-extent // per) if axis == channel else extent for axis, extent in enumerate(shape))

    def narrow(x: Any) -> Any:
        def element(*i: Any) -> Any:
            if bits == 16:
                return x(*_physical(*i)).astype("int16")
            result: Any = tirx.const(0, "uint8")
            for k in range(per):
                c = i[channel] * per + k
                code = x(*_physical(i[0], tirx.min(c, shape[channel] - 1), *i[2:]))
                result = result | (code << tirx.const(bits * k, "uint8"))
            return result

        return te.compute(packed, element, name="keep")

    def widen(x: Any) -> Any:
        def element(*i: Any) -> Any:
            if bits == 16:
                return x(*i).astype("int32")
            shift = (i[channel] % per * bits).astype("uint8")
            return (x(i[0], i[channel] // per, *i[2:]) >> shift) & tirx.const(2**bits - 1, "uint8")

        return te.compute(shape, element, name="widen")

    given = te.placeholder(shape_of(plain), str(plain.ty.dtype), "plain")
    less = narrow(given)
    kernel = _by_pixel(te.create_prim_func([given, less])).with_attrs({**_OPAQUE, EARLY: True})
    gv = scope.builder.add_func(kernel.without_attr("global_symbol"), "keep")
    call = relax.call_tir(gv, [plain], relax.TensorType(list(packed), str(less.dtype)))
    result = scope.builder.call_te(widen, scope.emit(call, f"{name}/kept"), primfunc_name_hint="widen")
    return scope.emit(result, name)


def _by_pixel(function: Any) -> Any:
    """`kept` in blocks of channels, pixel by pixel: what lies side by side in a plain tensor is read together."""
    sch = s_tir.Schedule(tvm.IRModule({"main": function}))
    n, channel, *pixel = sch.get_loops(sch.get_sblock("keep"))
    blocks, within = sch.split(channel, [None, TOGETHER])
    sch.reorder(n, blocks, *pixel, within)
    return sch.mod["main"].with_attr("tirx.is_scheduled", True)


def unpack(scope: Scope, plain: Any, shape: tuple[int, ...], name: str) -> Any:
    """Emit the logical tensor of a plain one (codes, or int32 accumulators)."""

    def compute(x: Any) -> Any:
        return te.compute(shape, lambda *i: x(*_physical(*i)), name="unpack")

    result = scope.emit(scope.builder.call_te(compute, plain, primfunc_name_hint="unpack"), name)
    assert isinstance(result, relax.Var)
    return result
