"""Functions of their own: what an explanation computes many times over is compiled once and called.

A step is the model's forward program with further parameters and an explanation instead of its outputs. It goes through
the same phases as the model, so its quantised layers are the same integer kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax
from tvm.relax.utils import copy_with_new_vars

from relay_passes import dataflow, notes
from relay_passes.attribution.model import Forward, Model


@dataclass(frozen=True)
class Extra:
    """A parameter of a step beyond the model's inputs."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Step:
    """A function that was compiled apart, ``var``: the model's inputs and the extras to several tensors."""

    var: Any

    def call(self, forward: Forward, arguments: Sequence[Any]) -> list[Any]:
        """Call it from ``main``; its results."""
        name = str(self.var.name_hint)
        found = forward.emit(tvm.ir.Call(self.var, list(arguments)), f"{name}/call")
        return [forward.emit(relax.TupleGetItem(found, i), f"{name}/result") for i in range(len(found.ty.fields))]


def make_step(model: Model, name: str, extras: Sequence[Extra], write: Callable[[Forward], Sequence[Any]]) -> Step:
    """Compile a step.

    Parameters
    ----------
    model : Model
        What is explained.
    name : str
        Of the function; unique among explanations.
    extras : sequence of Extra
        Its parameters after the model's inputs; ``forward.extra`` in ``write``.
    write : callable
        ``write(forward)`` returns the expressions that the step gives.
    """
    extra = [relax.Var(e.name, relax.TensorType(list(e.shape), e.dtype)) for e in extras]
    bound: list[Any] = []
    values: list[tuple[Any, Any]] = []
    mine: set[str] = set()

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        result = dataflow.keep(var, value, scope)
        bound.append(result)
        if result is not value:
            values.append((result, value))
            mine.add(dataflow.name_of(result))
        return result

    def end(body: Any, scope: dataflow.Scope) -> Any:
        outputs = list(body.fields) if isinstance(body, relax.Tuple) else [body]
        forward = Forward(scope, model.params, values, bound, outputs, model.output_names, extra, mine)
        return relax.Tuple(list(write(forward)))

    written = dataflow.rebuild(attach(model.mod, model.functions), visit, end, extra)
    after = [dataflow.name_of(b.var) for b in dataflow.bindings(written["main"])]
    written = notes.add(written, "explanation", {n: True for n in after if n not in mine})
    lowered = model.lower(written)
    # Notes are the model's; the step's own would hide them. Variables are new: no two functions may share one.
    whole = copy_with_new_vars(lowered["main"])
    plain = relax.Function(whole.params, whole.body, whole.ret_ty, whole.is_pure)
    builder = relax.BlockBuilder(tvm.IRModule({gv: f for gv, f in lowered.functions.items() if gv.name_hint != "main"}))
    step = Step(builder.add_func(plain, name))
    # Kernels that the steps before have in common with this one are here already: the builder finds them.
    model.functions.clear()
    model.functions.update(builder.get().functions)
    return step


def attach(mod: Any, functions: Mapping[Any, Any]) -> Any:
    """The module with the steps' functions."""
    return tvm.IRModule({**mod.functions, **functions}, attrs=mod.attrs)


def again(forward: Forward, params: Sequence[Any]) -> dict[Any, Any]:
    """The forward program once more on other inputs; what each variable is there.

    It is no explanation: its quantised layers become integer kernels like the model's own.
    """
    env = dict(zip(forward.params, params, strict=True))
    for var, value in forward.values:
        if var in forward.active:
            name = f"{dataflow.name_of(var)}/reference"
            env[var] = dataflow.bind(dataflow.remap(value, env), name, forward.scope)
            if isinstance(env[var], relax.Var):
                forward.computed.add(dataflow.name_of(env[var]))
    return env
