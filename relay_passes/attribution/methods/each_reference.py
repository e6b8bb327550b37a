"""``ForEachReference``: one compiled function, called for each of several references; what it gives is averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes.attribution.model import Forward, Model, Part
from relay_passes.attribution.steps import Extra, Step, make_step
from relay_passes.dataflow import name_of
from relay_passes.ops import literal, shape_of

# ``explain(forward, starts)``: the parts from references that are expressions, one for each of the model's inputs.
From = Callable[[Forward, Sequence[Any]], Sequence[Part]]


def extra_of(forward: Forward, key: str) -> Any:
    """The input that holds an explanation's references."""
    return next(var for var in forward.extra if name_of(var) == f"{key}.reference")


@dataclass(frozen=True)
class ForEachReference:
    """A step that takes a reference for each of the model's inputs.

    Attributes
    ----------
    key : str
        The explanation's name.
    step : Step
        The model's inputs and references to the parts.
    fields : list of (str, str)
        Field and layer of each part.
    runs : list of list of array
        The references of each call, one for each of the model's inputs; empty where `extra_of` holds them.
    """

    key: str
    step: Step
    fields: list[tuple[str, str]]
    runs: list[list[npt.NDArray[np.float32]]]

    @staticmethod
    def made(model: Model, key: str, explain: From, runs: list[list[npt.NDArray[np.float32]]]) -> ForEachReference:
        """Compile the step."""
        fields: list[tuple[str, str]] = []

        def write(forward: Forward) -> list[Any]:
            parts = explain(forward, forward.extra)
            fields.extend((part.field, part.layer) for part in parts)
            return [part.value for part in parts]

        extras = [Extra(f"reference{i}", shape_of(param)) for i, param in enumerate(model.params)]
        return ForEachReference(key, make_step(model, f"{key}_from", extras, write), fields, runs)

    def mean(self, forward: Forward) -> list[Part]:
        """Call it for each reference; means of all but the target, which is the same each time."""
        starts = self._starts(forward)
        sums: list[Any] = []
        for start in starts:
            found = self.step.call(forward, [*forward.params, *start])
            sums = [self._sum(forward, *pair) for pair in zip(self.fields, sums or found, found, strict=True)]
        share = literal(np.float32(1 / len(starts)))
        parts = []
        for (field, layer), value in zip(self.fields, sums, strict=True):
            whole = value if field == "target" else forward.emit(relax.op.multiply(value, share), f"{self.key}/{field}")
            parts.append(Part(field, whole, layer))
        return parts

    def _sum(self, forward: Forward, named: tuple[str, str], so_far: Any, found: Any) -> Any:
        if named[0] == "target" or so_far is found:
            return so_far
        return forward.emit(relax.op.add(so_far, found), f"{self.key}/sum")

    def _starts(self, forward: Forward) -> list[list[Any]]:
        if self.runs:
            return [
                [literal(np.repeat(x, shape_of(p)[0], axis=0)) for x, p in zip(run, forward.params, strict=True)]
                for run in self.runs
            ]
        every, shape = extra_of(forward, self.key), shape_of(forward.params[0])
        starts = []
        for i in range(shape_of(every)[1]):
            one = forward.emit(relax.op.strided_slice(every, [1], [i], [i + 1]), f"{self.key}/reference")
            starts.append([forward.emit(relax.op.reshape(one, relax.ShapeExpr(list(shape))), f"{self.key}/reference")])
        return starts
