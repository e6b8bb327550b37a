"""The few instructions and vector accesses that kernels are written with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx


def const(value: int, dtype: str = "int32") -> Any:
    """An immediate, broadcast when ``dtype`` is a vector."""
    return tirx.const(value, dtype)


def vload(buffer: Any, indices: Sequence[Any], lanes: int) -> Any:
    """``lanes`` consecutive elements from the given position; one is a scalar."""
    if lanes == 1:
        return tirx.BufferLoad(buffer, list(indices))
    return tirx.BufferLoad(buffer, [*indices[:-1], tirx.Ramp(indices[-1], 1, lanes)])


def vstore(builder: Any, buffer: Any, value: Any, indices: Sequence[Any], lanes: int) -> None:
    """Store ``lanes`` consecutive elements; ``builder`` is TVM's TIR builder module."""
    last = tirx.Ramp(indices[-1], 1, lanes) if lanes > 1 else indices[-1]
    builder.buffer_store(buffer, value, [*indices[:-1], last])


def splat(value: Any, lanes: int) -> Any:
    """A scalar in every lane."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def of_lanes(dtype: str, lanes: int) -> str:
    """The type of a vector, or of a scalar if there is one lane."""
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def arithmetic_fence(value: Any) -> Any:
    """The value itself, with a promise that no multiply-add is fused across it (LLVM's ``llvm.arithmetic.fence``)."""
    kind = str(value.ty.dtype)
    return tirx.call_llvm_pure_intrin(kind, f"llvm.arithmetic.fence.f{kind[5:7]}", value)
