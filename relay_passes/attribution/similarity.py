"""``Similarity``: how near the model's output, an embedding, is to a given one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes.attribution.targets import Emit, Target
from relay_passes.ops import literal, shape_of
from schedules.errors import LowbitError


@dataclass(frozen=True, eq=False)
class Similarity(Target):
    """The cosine of the angle between the output, all of it but the batch, and an embedding.

    It is not linear in the output, so gradients take it, and methods of differences do not.

    Attributes
    ----------
    to : array
        The embedding, of the output's shape without its batch.
    """

    linear: ClassVar[bool] = False

    to: npt.NDArray[Any]

    def __post_init__(self) -> None:
        try:
            array = np.asarray(self.to, np.float64)
        except (TypeError, ValueError) as error:
            raise LowbitError("Similarity to", "an array of numbers", repr(self.to)) from error
        if not np.all(np.isfinite(array)) or not np.any(array):
            raise LowbitError("Similarity to", "finite numbers that are not all 0", "others")
        object.__setattr__(self, "to", array)

    @property
    def direction(self) -> npt.NDArray[np.float32]:
        """The embedding with length 1 and a batch of 1."""
        return (self.to / np.linalg.norm(self.to)).astype(np.float32)[None]

    def choose(self, emit: Emit, output: Any) -> Any:
        """0: it is one number."""
        extent = relax.ShapeExpr([shape_of(output)[0]])
        return emit(relax.op.full(extent, literal(np.int64(0)), "int64"), "target")

    def seed(self, emit: Emit, output_shape: Sequence[int], choice: Any) -> Any:
        """Unlike that of other targets, it depends on the output: see `gradient`."""
        raise NotImplementedError("a similarity has no seed that holds for every output")

    def gradient(self, emit: Emit, output: Any, choice: Any) -> Any:
        """``(e - s o / |o|) / |o|`` for an embedding ``e`` of length 1; 0 where the output is 0."""
        length, similarity = self._cosine(emit, output)
        unit = emit(relax.op.divide(output, length), "step")
        away = emit(
            relax.op.subtract(literal(self.direction), emit(relax.op.multiply(similarity, unit), "step")), "step"
        )
        lengthless = emit(relax.op.divide(away, length), "step")
        there = emit(relax.op.astype(emit(relax.op.less(length, literal(_LARGE)), "step"), "float32"), "step")
        return emit(relax.op.multiply(lengthless, there), "seed")

    def change(self, emit: Emit, output: Any, reference: Any, choice: Any) -> Any:
        """Similarity less the reference's."""
        both = [self._cosine(emit, expr)[1] for expr in (output, reference)]
        flat = [emit(relax.op.reshape(v, relax.ShapeExpr([shape_of(v)[0]])), "step") for v in both]
        return emit(relax.op.subtract(*flat), "change")

    def _cosine(self, emit: Emit, output: Any) -> tuple[Any, Any]:
        """Length and similarity, with the output's number of axes; for a length of 0, `_LARGE` and 0."""
        axes = list(range(1, len(shape_of(output))))
        square = emit(relax.op.sum(emit(relax.op.multiply(output, output), "step"), axes, keepdims=True), "step")
        root = emit(relax.op.sqrt(square), "length")
        some = emit(relax.op.greater(root, literal(np.float32(0))), "step")
        length = emit(relax.op.where(some, root, literal(_LARGE)), "length")
        along = emit(relax.op.multiply(output, literal(self.direction)), "step")
        dot = emit(relax.op.sum(along, axes, keepdims=True), "step")
        return length, emit(relax.op.divide(dot, length), "similarity")

    def describe(self) -> Any:
        """The embedding."""
        return {"similarity": {"shape": list(self.to.shape), "values": self.to.ravel().tolist()}}

    def check(self, shape: Sequence[int]) -> None:
        """It has the output's shape."""
        if tuple(shape[1:]) != self.to.shape:
            raise LowbitError("Similarity to", f"an embedding of shape {tuple(shape[1:])}", str(self.to.shape))


# In place of a length of 0, so that nothing is divided by it.
_LARGE = np.float32(np.finfo(np.float32).max)
