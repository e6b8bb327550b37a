"""What a function may decline, read from its source: tables of reasons that cannot drift from the code."""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

from relay_passes.abstract import Accumulated
from relay_passes.quant_spec import NoMatch
from schedules.dot_problem import DotProblem
from schedules.errors import LowbitError

_OURS = ("tvm_lowbit", "relay_passes", "schedules")
# Called on values whose class a reader of names does not see.
_CLASSES = (Accumulated, DotProblem)
# Returns its reason as text, or None.
_TELLS = "declines"


def reasons(function: Callable[..., Any], said_with: type[Any] = NoMatch) -> tuple[str, ...]:
    """Every reason that a function, or one of ours that it calls, gives; in the order of the source.

    Parameters
    ----------
    function : callable
        A function, bound method or closure of one of our packages.
    said_with : type
        `NoMatch`: what is declined and stays float. `LowbitError`: what is refused (its ``expected``, of ``where``).
        ``NotImplementedError``: what has no rule.

    Returns
    -------
    tuple of str
        Parts that are known only when it happens stand in brackets: ``its range ‹qmin›..‹qmax›``.
    """
    found: dict[str, None] = {}
    seen: set[int] = set()
    waiting: list[Any] = [function]
    while waiting:
        current = _plain_function(waiting.pop(0))
        if current is None or id(current.__code__) in seen:
            continue
        seen.add(id(current.__code__))
        node = _node(current)
        if node is None:
            continue
        known = _names(current)
        found |= dict.fromkeys(_said(node, known, said_with))
        waiting += _called(node, known)
    return tuple(found)


def _plain_function(value: Any) -> types.FunctionType | None:
    while isinstance(value, functools.partial | types.MethodType | classmethod | staticmethod):
        value = value.func if isinstance(value, functools.partial) else value.__func__
    is_ours = isinstance(value, types.FunctionType) and value.__module__.split(".")[0] in _OURS
    return value if is_ours else None


@functools.lru_cache
def _tree(path: str) -> ast.Module:
    with open(path, encoding="utf-8") as file:
        return ast.parse(file.read())


def _node(function: types.FunctionType) -> ast.AST | None:
    first = function.__code__.co_firstlineno
    for node in ast.walk(_tree(inspect.getsourcefile(function) or "")):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            decorators = getattr(node, "decorator_list", [])
            if first == min([node.lineno, *(d.lineno for d in decorators)]):
                return node
    return None


def _names(function: types.FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    return {**vars(builtins), **function.__globals__, **{name: cell.cell_contents for name, cell in cells}}


def _called(node: ast.AST, known: dict[str, Any]) -> Iterator[Any]:
    """Functions of ours that a function names, and methods of classes it may hold."""
    classes = [*_CLASSES, *(value for value in known.values() if isinstance(value, type))]
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            yield known.get(part.id)
        elif isinstance(part, ast.Attribute):
            holder = known.get(part.value.id) if isinstance(part.value, ast.Name) else None
            if isinstance(holder, types.ModuleType):
                yield getattr(holder, part.attr, None)
            else:
                yield from (kind.__dict__[part.attr] for kind in classes if part.attr in kind.__dict__)


def _said(node: ast.AST, known: dict[str, Any], said_with: type[Any]) -> Iterator[str]:
    for part in ast.walk(node):
        value = known.get(part.id) if isinstance(part, ast.Name) else None
        if said_with is NoMatch and isinstance(value, NoMatch):
            yield value.reason
        if said_with is NoMatch and isinstance(part, ast.Return) and getattr(node, "name", "") == _TELLS:
            yield from _texts(part.value)
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and known.get(part.func.id) is said_with:
            if said_with is LowbitError:
                where, expected = (next(_texts(a), "") for a in part.args[:2])
                yield f"{where}: expected {expected}"
            else:
                yield from _texts(part.args[0])


def _texts(node: ast.AST | None) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(_piece(value) for value in node.values)
    elif isinstance(node, ast.IfExp):
        yield from (*_texts(node.body), *_texts(node.orelse))


def _piece(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    value = node.value if isinstance(node, ast.FormattedValue) else node
    if isinstance(value, ast.Attribute):
        return f"‹{value.attr}›"
    return f"‹{value.id}›" if isinstance(value, ast.Name) else "‹…›"
