"""What contributions are measured from: one fixed input, several, one that the user gives at run time, or shuffles."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.attribution.methods.base import broadcast_reference, checked_reference, described_reference
from relay_passes.attribution.shuffle import dinucleotide_shuffles
from schedules.errors import LowbitError

Array = npt.NDArray[Any]
LETTERS = 4


class Reference(abc.ABC):
    """A reference that a user wrote, checked where it was written."""

    @abc.abstractmethod
    def describe(self) -> Any:
        """In JSON types."""

    def extra(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """The shape of the input that the library needs for it, given the model's; None if it is known beforehand.

        Raises
        ------
        LowbitError
            If the model's input does not fit.
        """
        return None

    def fixed(self, shape: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        """The references that are known beforehand, each with batch 1 for an input of this shape.

        Raises
        ------
        LowbitError
            If one cannot be broadcast.
        """
        return []


@dataclass(frozen=True, eq=False)
class References(Reference):
    """Several references: contributions and multipliers are their means (1704.02685, section 3.1, on its choice).

    Attributes
    ----------
    arrays : sequence of float or array
        Each broadcasts to the model's input without its batch.
    """

    arrays: Sequence[Any]
    where: str = field(default="References", repr=False)

    def __post_init__(self) -> None:
        if len(self.arrays) == 0:
            raise LowbitError(f"{self.where} reference", "at least one", "none")
        object.__setattr__(self, "arrays", tuple(checked_reference(self.where, a) for a in self.arrays))

    def describe(self) -> Any:
        """The one, or all."""
        each = [described_reference(array) for array in self.arrays]
        return each[0] if len(each) == 1 else {"mean_of": each}

    def fixed(self, shape: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        """Each."""
        return [broadcast_reference(self.where, array, shape) for array in self.arrays]


@dataclass(frozen=True)
class Given(Reference):
    """An input of the library's own: ``reference="input"``."""

    def describe(self) -> Any:
        """The word that stands for it."""
        return "input"

    def extra(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Each item has its own."""
        return tuple(shape)


@dataclass(frozen=True)
class DinucleotideShuffle(Reference):
    """Shuffles of each input sequence with the same counts of neighbouring letters; contributions are their means.

    The reference that DeepLIFT's authors use for DNA. Made in Python when the library runs, as each input has its own.

    Attributes
    ----------
    count : int
        Shuffles of each sequence.
    seed : int
        Of the random numbers; a sequence always has the same shuffles.
    """

    count: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise LowbitError(f"DinucleotideShuffle {name}", f"an integer from {least}", repr(value))

    def describe(self) -> Any:
        """All that defines the shuffles."""
        return {"shuffle": "dinucleotide", "count": self.count, "seed": self.seed}

    def extra(self, shape: Sequence[int]) -> tuple[int, ...]:
        """``(N, count, 4, L)``."""
        if len(shape) != 3 or shape[1] != LETTERS:
            raise LowbitError("DinucleotideShuffle", f"an input (N, {LETTERS}, L)", str(tuple(shape)))
        return (shape[0], self.count, *shape[1:])

    def shuffles(self, x: Array) -> npt.NDArray[np.float32]:
        """Shuffles of a batch.

        Parameters
        ----------
        x : array ``(N, 4, L)``
            One-hot: 1 at each position's letter, else 0.

        Returns
        -------
        float32 ``(N, count, 4, L)``

        Raises
        ------
        LowbitError
            If ``x`` is not one-hot.
        """
        x = np.asarray(x)
        hint = "encode sequences as 1 at each position's letter, 0 elsewhere"
        if x.ndim != 3 or x.shape[1] != LETTERS:
            raise LowbitError("DinucleotideShuffle", f"one-hot sequences (N, {LETTERS}, L)", str(x.shape), hint)
        if not np.all((x == 0) | (x == 1)) or not np.all(x.sum(1) == 1):
            raise LowbitError("DinucleotideShuffle", "one-hot sequences", "other values than one 1 a position", hint)
        letters = x.argmax(1)
        paths = [dinucleotide_shuffles(sequence, self.count, self.seed) for sequence in letters]
        return np.ascontiguousarray(np.eye(LETTERS, dtype=np.float32)[np.stack(paths)].transpose(0, 1, 3, 2))


def parse_reference(where: str, reference: Any) -> Reference:
    """A reference from what a user writes.

    Raises
    ------
    LowbitError
        If it is neither a number, an array, several arrays, ``"input"`` nor a reference.
    """
    if isinstance(reference, Reference):
        return reference
    if isinstance(reference, str) and reference == "input":
        return Given()
    several = isinstance(reference, list | tuple) and any(isinstance(r, np.ndarray) for r in reference)
    return References(reference if several else [reference], where)
