"""``Similarity``: how near the model's output, an embedding, is to a given one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from relay_passes.attribution.targets import Emit, Target
from relay_passes.ops import literal, shape_of
from schedules.errors import LowbitError

# In place of a length of 0, so that nothing is divided by it.
_LARGE = np.float32(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Similarity(Target):
    """The cosine of the angle between the output, all of it but the batch, and an embedding.

    It is not linear in the output, so gradients take it, and methods of differences do not.

    Attributes
    ----------
    to : array or "input"
        The embedding, of the output's shape without its batch. ``"input"``: the library takes a further input
        ``<name of the method>.embedding``, of the output's shape; with several targets ``embedding0`` and so on.
    """

    linear: ClassVar[bool] = False

    to: Any
    # The embedding's variable, where it is an input.
    more: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.needs_more:
            return
        try:
            array = np.asarray(self.to, np.float64)
        except (TypeError, ValueError) as error:
            raise LowbitError("Similarity to", 'an array of numbers, or "input"', repr(self.to)) from error
        if not np.all(np.isfinite(array)) or not np.any(array):
            raise LowbitError("Similarity to", "finite numbers that are not all 0", "others")
        object.__setattr__(self, "to", array)

    @property
    def needs_more(self) -> bool:
        """Whether the embedding is an input."""
        return isinstance(self.to, str) and self.to == "input"

    def taking(self, variable: Any) -> Similarity:
        """With that input."""
        return Similarity(self.to, variable)

    def given(self) -> list[Any]:
        """That input."""
        return [self.more] if self.needs_more else []

    def choose(self, emit: Emit, output: Any) -> Any:
        """0: it is one number."""
        extent = relax.ShapeExpr([shape_of(output)[0]])
        return emit(relax.op.full(extent, literal(np.int64(0)), "int64"), "target")

    def seed(self, emit: Emit, output_shape: Sequence[int], choice: Any) -> Any:
        """Unlike that of other targets, it depends on the output: see `gradient`."""
        raise NotImplementedError("a similarity has no seed that holds for every output")

    def gradient(self, emit: Emit, output: Any, choice: Any) -> Any:
        """``(e - s o / |o|) / |o|`` for an embedding ``e`` of length 1; 0 where the output is 0."""
        direction = self._direction(emit)
        length, similarity = self._cosine(emit, output, direction)
        unit = emit(relax.op.divide(output, length), "step")
        along = emit(relax.op.multiply(similarity, unit), "step")
        away = emit(relax.op.subtract(direction, along), "step")
        there = emit(relax.op.astype(emit(relax.op.less(length, literal(_LARGE)), "step"), "float32"), "step")
        return emit(relax.op.multiply(emit(relax.op.divide(away, length), "step"), there), "seed")

    def change(self, emit: Emit, output: Any, reference: Any, choice: Any) -> Any:
        """Similarity less the reference's."""
        direction = self._direction(emit)
        both = [self._cosine(emit, expr, direction)[1] for expr in (output, reference)]
        flat = [emit(relax.op.reshape(v, relax.ShapeExpr([shape_of(v)[0]])), "step") for v in both]
        return emit(relax.op.subtract(*flat), "change")

    def _direction(self, emit: Emit) -> Any:
        """The embedding with length 1; with a batch of 1, where it is fixed."""
        if not self.needs_more:
            return literal((self.to / np.linalg.norm(self.to)).astype(np.float32)[None])
        return emit(relax.op.divide(self.more, self._length(emit, self.more)), "direction")

    def _length(self, emit: Emit, expr: Any) -> Any:
        """The length, with the output's number of axes; `_LARGE` for 0."""
        axes = list(range(1, len(shape_of(expr))))
        square = emit(relax.op.sum(emit(relax.op.multiply(expr, expr), "step"), axes, keepdims=True), "step")
        root = emit(relax.op.sqrt(square), "length")
        some = emit(relax.op.greater(root, literal(np.float32(0))), "step")
        return emit(relax.op.where(some, root, literal(_LARGE)), "length")

    def _cosine(self, emit: Emit, output: Any, direction: Any) -> tuple[Any, Any]:
        """Length and similarity, with the output's number of axes; for a length of 0, `_LARGE` and 0."""
        length = self._length(emit, output)
        along = emit(relax.op.multiply(output, direction), "step")
        dot = emit(relax.op.sum(along, list(range(1, len(shape_of(along)))), keepdims=True), "step")
        return length, emit(relax.op.divide(dot, length), "similarity")

    def describe(self) -> Any:
        """The embedding, or the word that stands for it."""
        if self.needs_more:
            return {"similarity": "input"}
        return {"similarity": {"shape": list(self.to.shape), "values": self.to.ravel().tolist()}}

    def check(self, shape: Sequence[int]) -> None:
        """It has the output's shape."""
        if not self.needs_more and tuple(shape[1:]) != self.to.shape:
            raise LowbitError("Similarity to", f"an embedding of shape {tuple(shape[1:])}", str(self.to.shape))
