"""Tensors put together position by position: what the phases of a transposed convolution leave to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from relay_passes.ops import call, register

INTERLEAVE = "tvm_lowbit.interleave"


def interleave(parts: Sequence[Any | None], stride: Sequence[int], out_shape: Sequence[int]) -> Any:
    """An int32 tensor ``(N, C, *spatial)`` whose position p is that of a part at ``p // stride``.

    Which part is said by ``p % stride``, the last axis fastest; a part None is zero everywhere. Parts are
    ``(N, C, *spatial)`` as well, each as long as there are positions of its own.
    """
    present = [part for part in parts if part is not None]
    which = [-1 if part is None else sum(p is not None for p in parts[:i]) for i, part in enumerate(parts)]
    return call(INTERLEAVE, *present, which=which, stride=list(stride), out_shape=list(out_shape))


def _legalize(bb: Any, call_: Any) -> Any:
    which, stride, shape = ([int(v) for v in call_.attrs[key]] for key in ("which", "stride", "out_shape"))

    def compute(*parts: Any) -> Any:
        def element(n: Any, c: Any, *position: Any) -> Any:
            phase: Any = tirx.const(0, "int32")
            for p, s in zip(position, stride, strict=True):
                phase = phase * s + p % s
            at = [p // s for p, s in zip(position, stride, strict=True)]
            value: Any = tirx.const(0, "int32")
            for i, part in enumerate(which):
                if part >= 0:
                    value = tirx.if_then_else(phase == i, parts[part](n, c, *at), value)
            return value

        return te.compute(shape, element, name="interleave")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="interleave")


register(INTERLEAVE, -1, lambda c, ctx: relax.TensorType([int(d) for d in c.attrs["out_shape"]], "int32"), _legalize)
