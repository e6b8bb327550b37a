"""What running a compiled model gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.errors import LowbitError
from tvm_lowbit.manifest import ExplanationRow

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Explanation:
    """An explanation of each item of a batch.

    Where several targets were asked for, every array has an axis for them after the batch.

    Attributes
    ----------
    method : ExplanationRow
        How it was computed.
    values : mapping of str to array
        What it gives for the first input and as a whole, by field: see the properties.
    layers : mapping of str to mapping
        The same for each named layer.
    """

    method: ExplanationRow
    values: Mapping[str, Array]
    layers: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        """A field of `values`.

        Raises
        ------
        LowbitError
            If the method does not give it.
        """
        if name not in self.values:
            got = f"{self.method.method}, which gives {', '.join(self.values)}"
            raise LowbitError(f"explanation {self.method.name}", f"a method that gives {name}", got)
        return self.values[name]

    def columns(self, name: str) -> tuple[str, ...]:
        """Names along the last axis of a field of `values`: the layers of a ``path``; empty where it has none."""
        self[name]
        return next(row.columns for row in self.method.results if (row.field, row.layer) == (name, ""))

    @property
    def contributions(self) -> npt.NDArray[np.float32]:
        """What each input element adds to the target beyond the reference, of the first input's shape."""
        return self["contributions"]

    @property
    def multipliers(self) -> npt.NDArray[np.float32]:
        """That per unit of difference."""
        return self["multipliers"]

    @property
    def target(self) -> npt.NDArray[np.int64]:
        """The explained element of the output, ``(N,)``: the class of an output ``(N, classes)``."""
        return self["target"]

    @property
    def gap(self) -> npt.NDArray[np.float32]:
        """Sum of the contributions less the difference of the outputs, ``(N,)``; 0 but for rounding if complete."""
        return self["gap"]


@dataclass(frozen=True)
class Result:
    """Outputs and explanations by name; ``codes`` of probed quantisers, int32."""

    outputs: Mapping[str, Array]
    explanations: Mapping[str, Explanation] = field(default_factory=dict)
    codes: Mapping[str, Array] = field(default_factory=dict)
