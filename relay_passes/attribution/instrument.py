"""``InstrumentExplanations``: the program also returns, for each method asked for, its explanation of the output."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes import dataflow, notes
from relay_passes.attribution.engine import active_variables, ancestors, multipliers, rule_of
from relay_passes.attribution.method import DeepLift
from relay_passes.attribution.reference_run import run_reference
from relay_passes.attribution.rules import RULES_VERSION, Context
from relay_passes.attribution.slopes import secant
from relay_passes.ops import literal, shape_of
from relay_passes.rewrite import EXPLANATION
from schedules.errors import LowbitError

# What each explanation adds to the program's results, in this order.
RESULTS = ("contributions", "multipliers", "target", "gap")
ATTRIBUTE = "tvm_lowbit.explanations"


def instrument(mod: Any, methods: Sequence[DeepLift]) -> Any:
    """Apply the pass.

    Parameters
    ----------
    mod : IRModule
        After detection, before rewriting: the reverse walk sees every quantiser as one unary operator.
    methods : sequence of DeepLift
        Names must differ. The first output of the model is explained, ``(N, classes)``, by its first input.

    Returns
    -------
    IRModule
        ``main`` returns a tuple: its own outputs, then `RESULTS` for each method. The attribute ``ATTRIBUTE`` describes
        the methods in JSON.

    Raises
    ------
    LowbitError
        For operators without a rule, or targets or references that do not fit the model.
    """
    names = [method.name for method in methods]
    if len(set(names)) != len(names):
        raise LowbitError("explain", "explanations of different names", ", ".join(names), "pass name=...")
    runs = [_reference_run(mod, method) for method in methods]
    bound: list[Any] = []
    values: list[tuple[Any, Any]] = []

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        result = dataflow.keep(var, value, scope)
        bound.append(result)
        if result is not value:
            values.append((result, value))
        return result

    def finish(body: Any, scope: dataflow.Scope) -> Any:
        outputs = list(body.fields) if isinstance(body, relax.Tuple) else [body]
        params = list(mod["main"].params)
        for method, run in zip(methods, runs, strict=True):
            references = {params[-1 - i] if i < 0 else bound[i]: constant for i, constant in run.items()}
            outputs += _explain(method, references, outputs[0], params, values, scope)
        return relax.Tuple(outputs)

    before = {dataflow.name_of(b.var) for b in dataflow.bindings(mod["main"])}
    result = dataflow.rebuild(mod, visit, finish)
    decomposition = "secant per operator in program order; no product of three factors is merged"
    described = [
        {"name": m.name, **m.describe(), "rules_version": RULES_VERSION, "decomposition": decomposition}
        for m in methods
    ]
    main = result["main"].with_attr(ATTRIBUTE, json.dumps(described))
    result.update_func(result.get_global_var("main"), main)
    names_after = [dataflow.name_of(b.var) for b in dataflow.bindings(main)]
    return notes.add(result, "explanation", {name: True for name in names_after if name not in before})


def _reference_run(mod: Any, method: DeepLift) -> dict[int, Any]:
    """Constants of the reference run, batch 1, by position of the binding; parameters count as -1, -2, ..."""
    function = mod["main"]
    params, bound = list(function.params), [(b.var, b.value) for b in dataflow.bindings(function)]
    active = active_variables(params, bound)
    body, values = function.body.body, dict(bound)
    while isinstance(values.get(body), relax.Var | relax.Tuple):
        body = values[body]
    explained = ancestors(body.fields[0] if isinstance(body, relax.Tuple) else body, bound)
    wanted = []
    for i, (var, value) in enumerate(bound):
        if var in active and var in explained and not isinstance(value, relax.Var | relax.Tuple):
            rule_of(var, value)  # a missing rule is found before anything is compiled
            wanted.append(i)
    inputs = [method.reference_input(shape_of(param)) for param in params]
    batches = [np.repeat(x, shape_of(p)[0], axis=0) for x, p in zip(inputs, params, strict=True)]
    arrays = run_reference(mod, batches, wanted)
    constants = {i: literal(_once(array)) for i, array in zip(wanted, arrays, strict=True)}
    return constants | {-1 - i: literal(x) for i, x in enumerate(inputs)}


def _once(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One row where all rows are equal (the batch, as a rule): it broadcasts to the same."""
    return array[:1] if array.ndim and np.array_equal(array, np.broadcast_to(array[:1], array.shape)) else array


def _explain(
    method: DeepLift,
    references: dict[Any, Any],
    output: Any,
    params: list[Any],
    values: list[tuple[Any, Any]],
    scope: dataflow.Scope,
) -> list[Any]:
    shape = shape_of(output)
    if output not in references:
        raise LowbitError("explain", "an output that depends on the first input", "one that does not")
    if len(shape) != 2:
        raise LowbitError("explain", "an output of shape (batch, classes)", str(shape))
    active = active_variables(params, values)
    context = Context(scope, dict(values), references, active, secant, f"{EXPLANATION}{method.name}/")
    target = _target(method, output, shape, context)
    classes = literal(np.arange(shape[1], dtype=np.int64)[None])
    chosen = context.emit(
        relax.op.equal(classes, context.emit(relax.op.reshape(target, relax.ShapeExpr([shape[0], 1]))))
    )
    seed = context.emit(relax.op.astype(chosen, "float32"), "seed")
    image = params[0]
    found = multipliers(seed, output, values, context)
    if image not in found:
        raise LowbitError("explain", "an output that depends on the first input", f"{image.name} does not reach it")
    total: Any = None
    contributions: Any = None
    # From the outputs themselves: the gap must not be computed by what it checks.
    delta = context.emit(relax.op.multiply(context.emit(relax.op.subtract(output, references[output])), seed))
    for param in params:
        if param not in found:
            continue
        shares = context.emit(relax.op.multiply(found[param], context.difference(param)), "contributions")
        contributions = shares if param is image else contributions
        axes = list(range(1, len(shape_of(param))))
        part = context.emit(relax.op.sum(shares, axes))
        total = part if total is None else context.emit(relax.op.add(total, part))
    gap = context.emit(relax.op.subtract(total, context.emit(relax.op.sum(delta, [1]))), "gap")
    return [contributions, found[image], target, gap]


def _target(method: DeepLift, output: Any, shape: tuple[int, ...], context: Context) -> Any:
    """The explained class of each item, int64 ``(N,)``."""
    if method.target == "argmax":
        return context.emit(relax.op.argmax(output, axis=1), "target")
    index = int(method.target)
    if not 0 <= index < shape[1]:
        raise LowbitError("DeepLift target", f"a class index in 0..{shape[1] - 1}", str(index))
    # Bound rather than inlined: a result of the program must be a variable.
    return context.emit(relax.op.full(relax.ShapeExpr([shape[0]]), literal(np.int64(index)), "int64"), "target")
