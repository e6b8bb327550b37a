"""``Layers``: the values of a program that users may name, by the model's own names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from relay_passes import dataflow
from relay_passes.attribution.engine import ancestors
from relay_passes.integer_forms import MULTIPLYING
from relay_passes.ops import op_name
from schedules.errors import LowbitError

# Stands for every layer that multiplies.
ALL = "all"


@dataclass(frozen=True)
class Layers:
    """The inputs, and what operators give that depends on them.

    Attributes
    ----------
    params : list of Var
        The model's inputs.
    values : list of (Var, expression)
        Its program, in order.
    active : frozenset of Var
        What depends on the inputs.
    """

    params: list[Any]
    values: list[tuple[Any, Any]]
    active: frozenset[Any]

    @cached_property
    def by_name(self) -> dict[str, Any]:
        """The variables by name.

        A node that became several operators is its last: ``conv1`` is the sum that ``conv1/add`` gives.
        """
        found = {str(param.name): param for param in self.params}
        whole: dict[str, Any] = {}
        for var, value in self.values:
            operator = op_name(value)
            if operator and var in self.active:
                name = dataflow.name_of(var)
                found[name] = var
                whole[_node(name, operator)] = var
        return found | whole

    def find(self, name: str) -> Any:
        """The variable of a named layer.

        Raises
        ------
        LowbitError
            If there is none; the hint lists names that are near.
        """
        layers = self.by_name
        if name not in layers:
            near = difflib.get_close_matches(name, layers, n=5)
            hint = f"near names: {', '.join(near)}" if near else f"layers: {', '.join(list(layers)[:20])}"
            raise LowbitError("explain", "the name of a layer of the model", repr(name), hint)
        return layers[name]

    def named(self, names: Sequence[str], output: Any) -> dict[str, Any]:
        """The variables of named layers; ``"all"`` names each convolution and dense layer the output depends on.

        Raises
        ------
        LowbitError
            If there is no layer of such a name.
        """
        found = {name: self.find(name) for name in names if name != ALL}
        if ALL not in names:
            return found
        explained = ancestors(output, self.values)
        for var, value in self.values:
            operator = op_name(value)
            if operator in MULTIPLYING and var in self.active and var in explained:
                name = _node(dataflow.name_of(var), operator)
                found[name] = self.by_name[name]
        return found

    def reaching(self, names: Sequence[str], output: Any) -> dict[str, Any]:
        """The same, all of which the output depends on.

        Raises
        ------
        LowbitError
            If it does not on one of them, or there is none of such a name.
        """
        found, explained = self.named(names, output), ancestors(output, self.values)
        for name, var in found.items():
            if var not in explained:
                raise LowbitError("explain", "a layer that the output depends on", repr(name))
        return found


def _node(name: str, operator: str) -> str:
    """What the model calls a node, one of whose operators is ``node/add``, the second of its kind ``node/add1``."""
    return re.sub(rf"/{operator.split('.')[-1]}\d*$", "", name)
