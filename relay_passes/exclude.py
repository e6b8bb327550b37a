"""``ExcludeLayers``: what the user wants computed in float is noted, for the passes that would take it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from relay_passes import dataflow, notes
from relay_passes.ops import FAKE_QUANT, op_name
from schedules.errors import LowbitError

REASON = "excluded by the user"


def exclude_layers(mod: Any, names: Sequence[str]) -> Any:
    """Apply the pass: notes under the topic ``excluded``, layer name to reason.

    A layer may be called by its node's name where the node became several operators: ``conv1`` stands for
    the convolution and ``conv1/add``, the addition of its bias.

    Raises
    ------
    LowbitError
        If a name is that of no layer; its hint lists names that are near.
    """
    called: dict[str, set[str]] = {}
    for binding in dataflow.bindings(mod["main"]):
        operator = op_name(binding.value)
        if not operator or operator == FAKE_QUANT:
            continue
        layer = dataflow.name_of(binding.var)
        called.setdefault(layer, set()).add(layer)
        called.setdefault(layer.removesuffix(f"/{operator.split('.')[-1]}"), set()).add(layer)
    for name in names:
        if name not in called:
            near = difflib.get_close_matches(name, called, n=5, cutoff=0.4)
            hint = f"near names: {', '.join(near)}" if near else "`tvm-lowbit inspect` lists the layers"
            raise LowbitError("exclude", "the name of a layer of the model", repr(name), hint)
    return notes.add(mod, "excluded", {layer: REASON for name in names for layer in called[name]})


def excluded(mod: Any) -> Mapping[str, str]:
    """The layers that stay float by the user's wish, and the reason."""
    found: Mapping[str, str] = notes.read(mod).get("excluded", {})
    return found
