"""What of a program depends on constants only, and its values in NumPy's float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes import dataflow
from relay_passes.canonicalize import REARRANGE
from relay_passes.ops import FAKE_QUANT, constant, literal, op_name, quant_spec

Array = npt.NDArray[Any]


def _clip(call: Any, x: Array, *limits: Any) -> Array:
    lo, hi = (np.asarray(float(a.value), x.dtype) for a in call.args[1:3])
    result: Array = np.minimum(np.maximum(x, lo), hi)
    return result


def _fake_quant(call: Any, x: Array, *parameters: Any) -> Array:
    return quant_spec(call).applied(x)


def _reduced(operation: Callable[..., Any]) -> Callable[..., Array]:
    def reduce(call: Any, x: Array) -> Array:
        axes = tuple(int(a) for a in call.attrs.axis) if call.attrs.axis is not None else None
        return np.asarray(operation(x, axis=axes, keepdims=bool(call.attrs.keepdims)), x.dtype)

    return reduce


def _plain(operation: Callable[..., Any]) -> Callable[..., Array]:
    return lambda call, *arrays: np.asarray(operation(*arrays))


# Operators that weights' quantisers are made of: DoReFa's tanh, XNOR-Net's mean of magnitudes, thresholds, signs.
OPERATORS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        "relax.add": _plain(np.add),
        "relax.subtract": _plain(np.subtract),
        "relax.multiply": _plain(np.multiply),
        "relax.divide": _plain(np.divide),
        "relax.minimum": _plain(np.minimum),
        "relax.maximum": _plain(np.maximum),
        "relax.greater": _plain(np.greater),
        "relax.greater_equal": _plain(np.greater_equal),
        "relax.less": _plain(np.less),
        "relax.less_equal": _plain(np.less_equal),
        "relax.where": _plain(np.where),
        "relax.round": _plain(np.rint),
        "relax.sign": _plain(np.sign),
        "relax.abs": _plain(np.abs),
        "relax.tanh": _plain(np.tanh),
        "relax.sqrt": _plain(np.sqrt),
        "relax.nn.relu": _plain(lambda x: np.maximum(x, np.zeros((), x.dtype))),
        "relax.clip": _clip,
        "relax.max": _reduced(np.max),
        "relax.min": _reduced(np.min),
        "relax.mean": _reduced(np.mean),
        "relax.sum": _reduced(np.sum),
        FAKE_QUANT: _fake_quant,
        **{name: (lambda call, x, *rest, move=move: move(x, call)) for name, move in REARRANGE.items()},
    }
)

# Operators that read constants as numbers, where a product reads weights.
NUMBERS = frozenset(
    {
        *("relax.add", "relax.subtract", "relax.multiply", "relax.divide", "relax.power", "relax.where"),
        *("relax.minimum", "relax.maximum", "relax.nn.prelu"),
    }
)


def fold_numbers(mod: Any) -> Any:
    """What is computed of constants alone and read as numbers, as quantised biases are, becomes constants."""
    constants = Constants(mod["main"])
    arrays: dict[Any, Any] = {}
    for binding in dataflow.bindings(mod["main"]):
        if op_name(binding.value) in NUMBERS and binding.var not in constants:
            for argument in binding.value.args:
                if isinstance(argument, relax.Var) and argument in constants:
                    arrays[binding.var, argument] = literal(np.require(constants.value(argument), requirements="C"))
    if not arrays:
        return mod
    old = {binding.var: binding.value for binding in dataflow.bindings(mod["main"])}

    def visit(var: Any, value: Any, scope: dataflow.Scope) -> Any:
        if any((var, argument) in arrays for argument in dataflow.variables(old[var])):
            args = [arrays.get((var, was), new) for was, new in zip(old[var].args, value.args, strict=True)]
            value = type(value)(value.op, args, attrs=value.attrs)
        return dataflow.keep(var, value, scope)

    return dataflow.rebuild(mod, visit)


class Constants:
    """The bindings of a program that depend on constants only; their values are computed when asked for."""

    def __init__(self, function: Any) -> None:
        self._calls: dict[Any, Any] = {}
        for binding in dataflow.bindings(function):
            value = binding.value
            tensors = [a for a in getattr(value, "args", ()) if hasattr(a.ty, "shape") and not _is_shape(a)]
            if isinstance(value, relax.Var):
                tensors = [value]
            elif op_name(value) not in OPERATORS:
                continue
            if all(constant(a) is not None or a in self._calls for a in tensors):
                self._calls[binding.var] = value

    def __contains__(self, var: Any) -> bool:
        """Whether a bound variable depends on constants only."""
        return var in self._calls

    def value(self, expr: Any) -> Any:
        """The array that an expression stands for, or None if it depends on an input or an unknown operator."""
        if constant(expr) is not None:
            return constant(expr)
        if not isinstance(expr, relax.Var) or expr not in self._calls:
            return None
        call = self._calls[expr]
        if isinstance(call, relax.Var):
            return self.value(call)
        arguments = [a if _is_shape(a) else self.value(a) for a in call.args]
        with np.errstate(all="ignore"):
            return OPERATORS[op_name(call)](call, *arguments)


def _is_shape(expr: Any) -> bool:
    return not isinstance(expr, relax.Var) and constant(expr) is None
