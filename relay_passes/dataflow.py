"""Walking a Relax function that is one straight line of bindings, and writing it anew."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tvm
from tvm import relax

from schedules.errors import LowbitError


def bindings(function: Any) -> Iterator[Any]:
    """The bindings of a function, in order.

    Raises
    ------
    LowbitError
        If the function branches or binds anything but values.
    """
    for block in function.body.blocks:
        for binding in block.bindings:
            if not isinstance(binding, relax.VarBinding) or isinstance(binding.value, relax.If):
                raise LowbitError("the model", "a graph without control flow", "an If or a match of shapes")
            yield binding


# TVM's builder turns the dots of names into underscores; this, which looks like a dot in a printed program, it leaves.
_DOT = "\u2024"


def hint(name: str) -> str:
    """What a builder must be given for a variable to have this name; see `name_of`."""
    return name.replace(".", _DOT)


def name_of(var: Any) -> str:
    """The name of a variable: by this project's convention, the layer's name as the model has it, dots included."""
    return str(var.name).replace(_DOT, ".")


def variables(expr: Any) -> list[Any]:
    """The variables that a bound value reads, those inside tuples included."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Tuple):
        return [var for entry in expr.fields for var in variables(entry)]
    if isinstance(expr, relax.TupleGetItem):
        return variables(expr.tuple_value)
    if isinstance(expr, tvm.ir.Call):
        return [var for argument in expr.args for var in variables(argument)]
    return []


def remap(expr: Any, env: dict[Any, Any]) -> Any:
    """The expression with its variables replaced; programs are in A-normal form, so one level is enough."""
    if isinstance(expr, relax.Var):
        return env.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([remap(field, env) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        source = remap(expr.tuple_value, env)
        return source.fields[expr.index] if isinstance(source, relax.Tuple) else relax.TupleGetItem(source, expr.index)
    if isinstance(expr, tvm.ir.Call):
        return tvm.ir.Call(expr.op, [remap(a, env) for a in expr.args], attrs=expr.attrs, ty_args=expr.ty_args)
    return expr


class Scope:
    """Where a rewritten program is being written: binds expressions, and knows what became of each old variable."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.env: dict[Any, Any] = {}

    def emit(self, expr: Any, name: str = "") -> Any:
        """Bind an expression and return its variable."""
        return self.builder.emit(expr, name_hint=hint(name))

    def new(self, old: Any) -> Any:
        """What an expression of the old program has become."""
        return remap(old, self.env)


Visit = Callable[[Any, Any, Scope], Any]
# Told the layers that a pass comes to: name, number from 1, how many.
Each = Callable[[str, int, int], None]


def no_layers(layer: str, number: int, total: int) -> None:
    """An `Each` that tells nobody."""


def bind(value: Any, name: str, scope: Scope) -> Any:
    """Bind a value under a name; variables, constants and tuples stand for themselves."""
    if isinstance(value, relax.Var | tvm.ir.GenericConst | relax.Tuple):
        return value
    return scope.emit(value, name)


def keep(var: Any, value: Any, scope: Scope) -> Any:
    """A visit that changes nothing."""
    return bind(value, name_of(var), scope)


@contextlib.contextmanager
def closed(builder: Any) -> Iterator[None]:
    """Around ``builder.function``: what fails there leaves an open block, of which TVM would tell the user."""
    try:
        yield
    except BaseException:  # an interrupt too leaves it open
        with contextlib.suppress(RuntimeError):  # it had not begun
            builder._end_block()
        raise


def rebuild(
    mod: Any,
    visit: Visit = keep,
    finish: Callable[[Any, Scope], Any] = lambda body, scope: body,
    extra: Sequence[Any] = (),
) -> Any:
    """``main`` anew, binding by binding, dead code removed.

    Parameters
    ----------
    mod : IRModule
        Its ``main`` is one straight line; other functions are kept.
    visit : callable
        ``visit(var, value, scope)``, the value's variables already replaced, returns the expression that takes the
        variable's place.
    finish : callable
        ``finish(body, scope)`` may replace what the function returns.
    extra : sequence of Var
        Further parameters.
    """
    function = mod["main"]
    others = {gv: f for gv, f in mod.functions.items() if gv.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.IRModule(others, attrs=mod.attrs))
    scope = Scope(builder)
    with closed(builder), builder.function("main", [*function.params, *extra], attrs=dict(function.attrs or {})):
        with builder.dataflow():
            for binding in bindings(function):
                value = scope.new(binding.value)
                scope.env[binding.var] = visit(binding.var, _typed(value, builder), scope)
            output = builder.emit_output(finish(scope.new(function.body.body), scope))
        builder.emit_func_output(output)
    # Functions that explanations were given are called by nobody while another one is written.
    steps = [str(gv.name_hint) for gv, f in others.items() if isinstance(f, relax.Function)]
    return relax.transform.DeadCodeElimination(["main", *steps])(builder.get())


def _typed(value: Any, builder: Any) -> Any:
    """A rebuilt call has no type until it is normalised, which would bind any call that stands among its arguments."""
    if isinstance(value, tvm.ir.Call) and not any(isinstance(a, tvm.ir.Call) for a in value.args):
        return builder.normalize(value)
    return value


def readers(function: Any) -> dict[Any, list[Any]]:
    """The bound variables whose values read each variable; the function's result reads as None."""
    found: dict[Any, list[Any]] = {}
    values = [(binding.var, binding.value) for binding in bindings(function)]
    for reader, value in [*values, (None, function.body.body)]:
        for var in variables(value):
            found.setdefault(var, []).append(reader)
    return found
