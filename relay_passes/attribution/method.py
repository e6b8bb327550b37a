"""What a user asks for: the public description of an explanation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules.errors import LowbitError


@dataclass(frozen=True, eq=False)
class DeepLift:
    """DeepLIFT with the Linear and Rescale rules (Shrikumar et al. 2017, 1704.02685), exact through quantisers.

    Attributes
    ----------
    reference : float or array
        The input that contributions are measured from, broadcast to the model's input without its batch.
    target : int or "argmax"
        The output to explain: a class index, or whichever is largest at run time.
    name : str
        Key of the result in ``result.explanations``.
    """

    reference: float | npt.NDArray[Any] = 0.0
    target: int | str = "argmax"
    name: str = "deeplift"

    def __post_init__(self) -> None:
        if isinstance(self.target, bool) or not (isinstance(self.target, int) or self.target == "argmax"):
            raise LowbitError("DeepLift target", 'a class index or "argmax"', repr(self.target))
        if not self.name.isidentifier():
            raise LowbitError("DeepLift name", "an identifier", repr(self.name))
        try:
            finite = np.all(np.isfinite(np.asarray(self.reference, np.float64)))
        except (TypeError, ValueError) as error:
            raise LowbitError("DeepLift reference", "a number or an array", repr(self.reference)) from error
        if not finite:
            raise LowbitError("DeepLift reference", "finite numbers", "NaN or infinity")

    def reference_input(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The reference as a batch of 1 for an input of this shape.

        Raises
        ------
        LowbitError
            If it cannot be broadcast.
        """
        array = np.asarray(self.reference, np.float32)
        try:
            return np.ascontiguousarray(np.broadcast_to(array, (1, *shape[1:])))
        except ValueError as error:
            raise LowbitError(
                "DeepLift reference", f"a number or an array that broadcasts to {(1, *shape[1:])}", str(array.shape)
            ) from error

    def describe(self) -> dict[str, Any]:
        """For the manifest: everything that defines the explanation, in JSON types."""
        array = np.asarray(self.reference, np.float32)
        reference: Any = (
            float(array) if array.ndim == 0 else {"shape": list(array.shape), "values": array.ravel().tolist()}
        )
        return {"method": "deeplift", "rule": "rescale", "reference": reference, "target": self.target}
