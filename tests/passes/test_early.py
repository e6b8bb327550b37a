"""Kernels that make something smaller run right behind what gives their operand, one behind another."""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.script.ir_builder import tirx as T

from relay_passes.dataflow import name_of
from relay_passes.early import EARLY, call_early
from relay_passes.forms import call_kernel
from schedules.float_block import frame
from schedules.intrinsics import const


def kernel(*attributes: str) -> Any:
    """A kernel that copies nothing much."""

    def body(x: Any, out: Any) -> None:
        T.buffer_store(out, x[const(0)], [0])

    found = frame([("x", (1,)), ("out", (1,))], body)
    for attribute in attributes:
        found = found.with_attr(attribute, True)
    return found


def test_order() -> None:
    """Operands first, in a chain as well; what reads a parameter comes first of all; others stay in their order."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([1], "float32"))

    class _Scope:
        def __init__(self) -> None:
            self.builder = builder

        def emit(self, value: Any, name: str) -> Any:
            return builder.emit(value, name)

    def called(operand: Any, name: str, *attributes: str) -> Any:
        return call_kernel(_Scope(), kernel(*attributes), name, [operand], (1,), "float32", f"of_{name}")

    with builder.function("main", [x]):
        with builder.dataflow():
            a = called(x, "a")
            b = called(a, "b")
            c = called(b, "c")
            small = called(a, "small", EARLY)
            smaller = called(small, "smaller", EARLY)
            first = called(x, "first", EARLY)
            sums = builder.emit(relax.op.add(relax.op.add(c, smaller), first), "sums")
            result = builder.emit_output(sums)
        builder.emit_func_output(result)
    mod = builder.get()
    (block,) = call_early(mod)["main"].body.blocks
    names = [name_of(binding.var) for binding in block.bindings]
    assert names[:6] == [f"of_{name}" for name in ("first", "a", "small", "smaller", "b", "c")]
    assert len(names) == len(mod["main"].body.blocks[0].bindings)
