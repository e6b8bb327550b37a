"""What of the outputs is explained: a class, the largest, a contrast of classes, or any element.

A target is a linear function of the output once its ``choice`` is known: which element, fixed at compile time or found
at run time. So the contributions to it are those that a reverse walk from its seed gives. `similarity` has one that is
not linear, which methods of differences decline.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from relay_passes.ops import literal, shape_of
from schedules.errors import LowbitError

Emit = Any  # callable(expr, name) -> Var


@dataclass(frozen=True)
class Target(abc.ABC):
    """What is explained of an output ``(N, ...)``, whose elements are counted along all axes but the first."""

    linear: ClassVar[bool] = True

    @abc.abstractmethod
    def choose(self, emit: Emit, output: Any) -> Any:
        """The chosen element of each item, a bound int64 ``(N,)``."""

    def seed(self, emit: Emit, output_shape: Sequence[int], choice: Any) -> Any:
        """The coefficients of the output's elements, float32 of its shape."""
        return one_hot(emit, output_shape, choice)

    @property
    def needs_more(self) -> bool:
        """Whether it takes a tensor of the output's shape when the library runs."""
        return False

    def given(self) -> list[Any]:
        """What it took."""
        return []

    def taking(self, variable: Any) -> Target:
        """The same with what it takes at run time."""
        return self

    def gradient(self, emit: Emit, output: Any, choice: Any) -> Any:
        """The derivative of what is explained at an output: the seed, wherever that is."""
        return self.seed(emit, shape_of(output), choice)

    def change(self, emit: Emit, output: Any, reference: Any, choice: Any) -> Any:
        """What is explained of an output less what it is of a reference's (batch N or 1), float32 ``(N,)``."""
        difference = emit(relax.op.subtract(output, reference), "step")
        shares = emit(relax.op.multiply(difference, self.seed(emit, shape_of(output), choice)), "step")
        return emit(relax.op.sum(shares, list(range(1, len(shape_of(output))))), "change")

    @abc.abstractmethod
    def describe(self) -> Any:
        """For the manifest, in JSON types."""

    def check(self, shape: Sequence[int]) -> None:
        """Raise ``LowbitError`` where an output of this shape has no such element."""
        if len(shape) != 2:
            hint = "name one element: target=tvm_lowbit.Element((3, 0))"
            raise LowbitError("target", "an output of shape (batch, classes)", str(tuple(shape)), hint)


def one_hot(emit: Emit, shape: Sequence[int], choice: Any) -> Any:
    """1.0 at the chosen element of each item, else 0.0."""
    count = int(np.prod(shape[1:]))
    places = literal(np.arange(count, dtype=np.int64)[None])
    chosen = emit(
        relax.op.equal(places, emit(relax.op.reshape(choice, relax.ShapeExpr([shape[0], 1])), "step")), "step"
    )
    flat = emit(relax.op.astype(chosen, "float32"), "seed")
    return flat if len(shape) == 2 else emit(relax.op.reshape(flat, relax.ShapeExpr(list(shape))), "seed")


def _fixed(emit: Emit, output: Any, index: int) -> Any:
    # Bound rather than inlined: a result of the program must be a variable.
    extent = relax.ShapeExpr([shape_of(output)[0]])
    return emit(relax.op.full(extent, literal(np.int64(index)), "int64"), "target")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _in_range(index: int, shape: Sequence[int]) -> None:
    if not 0 <= index < shape[1]:
        raise LowbitError("target", f"a class index in 0..{shape[1] - 1}", str(index))


@dataclass(frozen=True)
class Class(Target):
    """One class of an output ``(N, classes)``."""

    index: int

    def choose(self, emit: Emit, output: Any) -> Any:
        """The class."""
        return _fixed(emit, output, self.index)

    def describe(self) -> Any:
        """The index."""
        return self.index

    def check(self, shape: Sequence[int]) -> None:
        """The class is one of the output's."""
        super().check(shape)
        _in_range(self.index, shape)


@dataclass(frozen=True)
class Argmax(Target):
    """Whichever class of an output ``(N, classes)`` is largest at run time."""

    def choose(self, emit: Emit, output: Any) -> Any:
        """The class with the largest output, the first of equals."""
        return emit(relax.op.argmax(output, axis=1), "target")

    def describe(self) -> Any:
        """The word that stands for it."""
        return "argmax"


@dataclass(frozen=True)
class MinusMean(Target):
    """A class (an index or ``"argmax"``) less the mean over all classes: what tells it from the others.

    The normalisation that DeepLIFT recommends for logits (1704.02685, section 3.6).
    """

    of: int | str = "argmax"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_class", parse_one(self.of))

    @property
    def inner(self) -> Target:
        """The class."""
        found: Target = self.__dict__["_class"]
        return found

    def choose(self, emit: Emit, output: Any) -> Any:
        """The class."""
        return self.inner.choose(emit, output)

    def seed(self, emit: Emit, output_shape: Sequence[int], choice: Any) -> Any:
        """``1 - 1/C`` at the class, ``-1/C`` elsewhere."""
        share = literal(np.float32(1 / output_shape[1]))
        return emit(relax.op.subtract(one_hot(emit, output_shape, choice), share), "seed")

    def describe(self) -> Any:
        """The class, and that the mean is taken off."""
        return {"class": self.inner.describe(), "minus": "mean"}

    def check(self, shape: Sequence[int]) -> None:
        """As for the class."""
        self.inner.check(shape)


@dataclass(frozen=True)
class Difference(Target):
    """Class ``plus`` less class ``minus`` of an output ``(N, classes)``."""

    plus: int
    minus: int

    def __post_init__(self) -> None:
        for name in ("plus", "minus"):
            value = getattr(self, name)
            if not _is_whole(value):
                raise LowbitError(f"Difference {name}", "a class index", repr(value))
            object.__setattr__(self, name, int(value))

    def choose(self, emit: Emit, output: Any) -> Any:
        """The first class."""
        return _fixed(emit, output, self.plus)

    def seed(self, emit: Emit, output_shape: Sequence[int], choice: Any) -> Any:
        """1 at the first, -1 at the second."""
        row = np.zeros(output_shape[1], np.float32)
        row[self.plus] += 1
        row[self.minus] -= 1
        whole = np.broadcast_to(row, tuple(output_shape)).copy()
        return emit(relax.op.add(literal(whole), literal(np.float32(0))), "seed")

    def describe(self) -> Any:
        """Both."""
        return {"class": self.plus, "minus": self.minus}

    def check(self, shape: Sequence[int]) -> None:
        """Both classes are the output's."""
        super().check(shape)
        _in_range(self.plus, shape)
        _in_range(self.minus, shape)


@dataclass(frozen=True)
class Element(Target):
    """One element of an output of any shape, by its index without the batch; ``output`` names one but the first."""

    index: tuple[int, ...] | int
    output: str | None = None

    def __post_init__(self) -> None:
        places = self.index if isinstance(self.index, tuple | list) else (self.index,)
        if not all(_is_whole(place) for place in places):
            raise LowbitError("Element", "an index such as (3, 0), without the batch", repr(self.index))
        object.__setattr__(self, "index", tuple(int(place) for place in places))

    @property
    def places(self) -> tuple[int, ...]:
        """The index along each axis but the batch."""
        return self.index  # type: ignore[return-value]  # a tuple since it was made

    def _flat(self, shape: Sequence[int]) -> int:
        return int(np.ravel_multi_index(self.places, tuple(shape[1:]))) if len(shape) > 1 else 0

    def choose(self, emit: Emit, output: Any) -> Any:
        """The element's place when the output is flattened."""
        return _fixed(emit, output, self._flat(shape_of(output)))

    def describe(self) -> Any:
        """The index, and the output where it is named."""
        return {"index": list(self.places)} | ({"output": self.output} if self.output else {})

    def check(self, shape: Sequence[int]) -> None:
        """The index lies in the shape."""
        extents = tuple(shape[1:])
        if len(self.places) != len(extents) or not all(0 <= i < e for i, e in zip(self.places, extents, strict=True)):
            raise LowbitError("target", f"an index into {extents}", str(self.places))


def parse_one(value: Any) -> Target:
    """A target from what a user writes: an index, ``"argmax"``, or a target.

    Raises
    ------
    LowbitError
        For anything else.
    """
    if isinstance(value, Target):
        return value
    if value == "argmax":
        return Argmax()
    if _is_whole(value):
        return Class(int(value))
    raise LowbitError("target", 'a class index, "argmax", a target such as Difference(8, 3), or several', repr(value))


def parse(value: Any) -> tuple[Target, ...]:
    """One or several targets; see `parse_one`."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise LowbitError("target", "at least one target", repr(value))
    return tuple(parse_one(v) for v in values)
