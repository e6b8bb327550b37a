"""What passes have to say about layers, carried by the module itself (a JSON text in the attributes of ``main``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_ATTRIBUTE = "tvm_lowbit.notes"


def read(mod: Any) -> dict[str, Any]:
    """All notes of a module, by topic."""
    attrs = mod["main"].attrs
    return dict(json.loads(str(attrs[_ATTRIBUTE]))) if attrs and _ATTRIBUTE in attrs else {}


def add(mod: Any, topic: str, entries: Mapping[str, Any]) -> Any:
    """The module with more entries (layer name to JSON value) under a topic."""
    notes = read(mod)
    notes[topic] = notes.get(topic, {}) | dict(entries)
    mod.update_func(mod.get_global_var("main"), mod["main"].with_attr(_ATTRIBUTE, json.dumps(notes)))
    return mod
