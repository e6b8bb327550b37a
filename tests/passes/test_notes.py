"""Notes travel with the module."""

from __future__ import annotations

from typing import Any

from relax_models import module
from tvm import relax

from relay_passes import dataflow, notes


def empty() -> Any:
    """A module without notes."""
    return module(lambda emit, x: emit(relax.op.nn.relu(x), "r"), (2, 2))


def test_no_notes_read_as_empty() -> None:
    """A module that no pass has touched."""
    assert notes.read(empty()) == {}


def test_entries_are_merged_by_topic() -> None:
    """Later entries win; topics are apart."""
    mod = notes.add(empty(), "layers", {"a": {"bits": "W2A2"}, "b": 1})
    mod = notes.add(mod, "declined", {"a": "why"})
    mod = notes.add(mod, "layers", {"b": 2, "é/c": [1]})
    assert notes.read(mod) == {
        "layers": {"a": {"bits": "W2A2"}, "b": 2, "é/c": [1]},
        "declined": {"a": "why"},
    }


def test_notes_survive_a_rewrite() -> None:
    """They are attributes of ``main``."""
    mod = dataflow.rebuild(notes.add(empty(), "declined", {"a": "why"}))
    assert notes.read(mod) == {"declined": {"a": "why"}}


def test_before_and_after_in_the_program() -> None:
    """The attribute shows in the printed program, nothing else changes."""
    before = empty()
    text = before.script()
    assert "tvm_lowbit.notes" not in text
    assert "tvm_lowbit.notes" in notes.add(before, "layers", {}).script()
