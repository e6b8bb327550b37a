"""The reverse walk: what a carrier takes from a seed at the output to the cuts, operator by operator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tvm import relax

from relay_passes.attribution.rules import RULES, STOPS, UNARY, Context
from relay_passes.dataflow import name_of, variables
from relay_passes.ops import op_name
from schedules.errors import LowbitError

HINT = "add a rule: see 'An attribution rule' in CONTRIBUTING.md"


def active_variables(params: list[Any], values: list[tuple[Any, Any]]) -> frozenset[Any]:
    """Variables that depend on the parameters, given ``(variable, value)`` in program order."""
    active = set(params)
    for var, value in values:
        if any(argument in active for argument in variables(value)):
            active.add(var)
    return frozenset(active)


def ancestors(output: Any, values: list[tuple[Any, Any]]) -> set[Any]:
    """The variables that an expression is computed from, itself included if it is one."""
    found = set(variables(output))
    for var, value in reversed(values):
        if var in found:
            found.update(variables(value))
    return found


def rule_of(var: Any, value: Any) -> Any:
    """The rule for a bound value.

    Raises
    ------
    LowbitError
        If the operator has none, or stands in `STOPS`.
    """
    operator = op_name(value)
    if operator in STOPS:
        hint = "explain an output before it, as target=tvm_lowbit.Element(..., output=...) does"
        raise LowbitError(
            f"layer {name_of(var)}", "an operator that explanations pass", f"{operator}: {STOPS[operator]}", hint
        )
    if operator not in RULES:
        raise LowbitError(f"layer {name_of(var)}", "an operator with an attribution rule", operator or str(value), HINT)
    return RULES[operator]


def reaching(sources: Iterable[Any], values: list[tuple[Any, Any]], without: Any = None) -> frozenset[Any]:
    """The variables that are computed from any of the sources, these included, on ways that do not pass ``without``."""
    return active_variables([v for v in sources if v is not without], [v for v in values if v[0] is not without])


def walk(
    seed: Any, output: Any, values: list[tuple[Any, Any]], context: Context, cuts: Sequence[Any]
) -> dict[Any, Any]:
    """Walk backwards.

    Parameters
    ----------
    seed : expression
        What stands at ``output``, float32 of its shape.
    output : Var
        Where the walk starts.
    values : list of (Var, expression)
        The program up to the output, in order.
    context : Context
        What rules may ask for.
    cuts : sequence of Var
        Where multipliers are wanted; no operator is asked that lies on no way from these to the output.

    Returns
    -------
    dict
        What the carrier gives at each cut that the output depends on.

    Raises
    ------
    LowbitError
        If an operator on the way has no rule, or its rule does not cover the case.
    """
    return back(context.carrier.seed(context, seed), output, values, context, cuts)


def back(g: Any, output: Any, values: list[tuple[Any, Any]], context: Context, cuts: Sequence[Any]) -> dict[Any, Any]:
    """`walk` from what the carrier has at the output already."""
    needed = reaching(cuts, values)
    context = replace(context, skipped=_skipped(output, values, context, cuts))
    parts: dict[Any, list[tuple[Any, Any]]] = {output: [(None, g)]}
    found: dict[Any, Any] = {}

    def met(var: Any) -> Any:
        if var not in found:
            found[var] = context.carrier.meet(context, parts[var])
        return found[var]

    for var, value in reversed(values):
        if var not in parts or var not in needed:
            continue
        if not any(argument in needed for argument in variables(value)):
            met(var)
            continue
        g = met(var) if var in context.skipped else context.carrier.enter(context, var, met(var))
        try:
            partials = rule_of(var, value)(var, value, g, context)
        except NotImplementedError as error:
            raise LowbitError(
                f"layer {name_of(var)}", f"a {op_name(value)} that its rule covers", str(error), HINT
            ) from error
        for argument, partial in _pairs(value.args, partials):
            if partial is not None and argument in needed:
                parts.setdefault(argument, []).append((var, partial))
    return {cut: met(cut) for cut in cuts if cut in parts}


def _skipped(output: Any, values: list[tuple[Any, Any]], context: Context, cuts: Sequence[Any]) -> frozenset[Any]:
    """What only a unary operator reads of a unary operator, and nobody asks for: see `Context.skipped`."""
    readers: dict[Any, list[Any]] = {}
    for pair in values:
        for argument in variables(pair[1]):
            readers.setdefault(argument, []).append(pair)
    wanted = {output, *cuts}
    return frozenset(
        var
        for var, value in values
        if var not in wanted and op_name(value) in UNARY and len(readers.get(var, ())) == 1
        for ((reader, call),) in [readers[var]]
        if op_name(call) in UNARY
        and context.slope.telescopes(call)
        and context.carrier.telescopes(context, var)
        and context.carrier.telescopes(context, reader)
    )


def _pairs(arguments: Any, partials: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Each argument with its partial, the fields of a tuple one by one."""
    for argument, partial in zip(arguments, partials, strict=True):
        if isinstance(argument, relax.Tuple) and partial is not None:
            yield from zip(argument.fields, partial, strict=True)
        else:
            yield argument, partial
