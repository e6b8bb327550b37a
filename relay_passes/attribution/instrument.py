"""``InstrumentExplanations``: the program also returns, for each method asked for, its explanation of the output."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax

from relay_passes import dataflow, notes
from relay_passes.attribution.methods import Method
from relay_passes.attribution.model import Forward, Model, Part
from relay_passes.attribution.rules import RULES_VERSION
from relay_passes.attribution.steps import Extra, attach
from schedules.errors import LowbitError

ATTRIBUTE = "tvm_lowbit.explanations"
DECOMPOSITION = "per operator in program order; no product of three factors is merged"


def instrument(mod: Any, methods: Sequence[Method], lower: Callable[[Any], Any]) -> Any:
    """Apply the pass.

    Parameters
    ----------
    mod : IRModule
        After detection, before rewriting: the reverse walk sees every quantiser as one unary operator.
    methods : sequence of Method
        Names must differ. The first output of the model is explained, ``(N, classes)``, by its first input, unless a
        method says otherwise.
    lower : callable
        ``lower(mod)``: the phases from here to kernels, for functions that are compiled apart.

    Returns
    -------
    IRModule
        ``main`` returns a tuple: its own outputs, then the parts of each method. The attribute ``ATTRIBUTE`` describes
        the methods and their parts in JSON.

    Raises
    ------
    LowbitError
        For operators without a rule, or targets, layers or references that do not fit the model.
    """
    names = [method.key for method in methods]
    if len(set(names)) != len(names):
        raise LowbitError("explain", "explanations of different names", ", ".join(names), "pass name=...")
    model = Model(mod, lower)
    prepared = [method.prepare(model) for method in methods]
    described: list[dict[str, Any]] = []

    def finish(forward: Forward) -> list[Any]:
        results = []
        for method, known in zip(methods, prepared, strict=True):
            parts = method.explain(forward, known)
            described.append(_described(method, parts))
            results += [part.value for part in parts]
        return results

    extras = [extra for method in methods for extra in method.extras(model)]
    result = append(model, attach(mod, model.functions), finish, extras)
    main = result["main"].with_attr(ATTRIBUTE, json.dumps(described))
    result.update_func(result.get_global_var("main"), main)
    return result


def append(model: Model, mod: Any, finish: Callable[[Forward], list[Any]], extras: Sequence[Extra] = ()) -> Any:
    """``main`` with further results, which ``finish`` writes after the forward program.

    What is written goes to the notes (topic ``explanation``), so that later passes leave it in float; all but
    `Forward.computed`.
    """
    bound: list[Any] = []
    values: list[tuple[Any, Any]] = []
    computed: set[str] = set()
    extra = [relax.Var(dataflow.hint(e.name), relax.TensorType(list(e.shape), e.dtype)) for e in extras]

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        result = dataflow.keep(var, value, scope)
        bound.append(result)
        if result is not value:
            values.append((result, value))
        return result

    def end(body: Any, scope: dataflow.Scope) -> Any:
        outputs = list(body.fields) if isinstance(body, relax.Tuple) else [body]
        forward = Forward(scope, model.params, values, bound, outputs, model.output_names, extra, computed)
        return relax.Tuple(outputs + finish(forward))

    own = {dataflow.name_of(b.var) for b in dataflow.bindings(mod["main"])}
    result = dataflow.rebuild(mod, visit, end, extra)
    after = [dataflow.name_of(b.var) for b in dataflow.bindings(result["main"])]
    return notes.add(result, "explanation", {name: True for name in after if name not in own | computed})


def _described(method: Method, parts: Sequence[Part]) -> dict[str, Any]:
    return {
        "name": method.key,
        **method.describe(),
        "results": [{"field": part.field, "layer": part.layer, "columns": list(part.columns)} for part in parts],
        "rules_version": RULES_VERSION,
        "decomposition": DECOMPOSITION,
    }
