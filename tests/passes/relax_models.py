"""Small Relax modules with named layers, and what they compute without any pass of this project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from relay_passes import dataflow
from relay_passes.ops import constant, fake_quant, op_name
from relay_passes.quant_spec import QuantSpec

Array = npt.NDArray[Any]
Emit = Callable[..., Any]


def const(array: Any, dtype: str = "float32") -> Any:
    """A Relax constant."""
    return relax.const(np.asarray(array, dtype))


def spec(scale: Any, qmin: int, qmax: int, zero: Any = 0.0, axis: int | None = None, form: str = "divide") -> QuantSpec:
    """A quantiser; the zero point takes the scale's shape."""
    s = np.asarray(scale, np.float32)
    return QuantSpec(s, np.broadcast_to(np.asarray(zero, np.float32), s.shape).copy(), qmin, qmax, axis, form)


def module(body: Callable[..., Any], *shapes: Sequence[int], names: Sequence[str] = ("x", "y", "z")) -> Any:
    """``main`` of float32 parameters; ``body(emit, *params)``, where ``emit(expr, name)`` binds."""
    builder = relax.BlockBuilder()
    params = [relax.Var(name, relax.TensorType(list(s), "float32")) for name, s in zip(names, shapes, strict=False)]

    def emit(expr: Any, name: str = "") -> Any:
        return builder.emit(expr, name_hint=name)

    with builder.function("main", params):
        with builder.dataflow():
            output = builder.emit_output(body(emit, *params))
        builder.emit_func_output(output)
    return builder.get()


def quantised(emit: Emit, x: Any, name: str = "q", **numbers: Any) -> Any:
    """A bound ``fake_quant``; 4 unsigned codes by default."""
    defaults: dict[str, Any] = {"scale": 0.5, "qmin": 0, "qmax": 3}
    return emit(fake_quant(x, spec(**(defaults | numbers))), name)


def values(mod: Any) -> dict[str, Any]:
    """The bound values of ``main`` by name."""
    return {dataflow.name_of(b.var): b.value for b in dataflow.bindings(mod["main"])}


def operators(mod: Any) -> list[str]:
    """Names of the operators that ``main`` calls, in order."""
    return [name for b in dataflow.bindings(mod["main"]) if (name := op_name(b.value))]


def text(mod: Any) -> str:
    """The program as TVMScript without its metadata."""
    return str(mod.script(show_meta=False))


def constants(mod: Any) -> list[Array]:
    """Arrays of the constants that stand as arguments in ``main``."""
    calls = [b.value for b in dataflow.bindings(mod["main"]) if isinstance(b.value, tvm.ir.Call)]
    return [array for c in calls for a in c.args if (array := constant(a)) is not None]


def evaluate(mod: Any, *inputs: Array) -> list[Array]:
    """Run ``main`` by TVM's own pipeline."""
    machine = relax.VirtualMachine(relax.build(mod, tvm.target.Target("llvm")), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(x, np.float32)) for x in inputs])
    return [result.numpy()] if hasattr(result, "numpy") else [item.numpy() for item in result]
