"""``Method``: what a user asks for, checked where it is written; and how its parts are added to a program."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes.attribution.model import Forward, Model, Part, chosen_output
from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.steps import Extra
from relay_passes.attribution.targets import Target, parse
from relay_passes.dataflow import name_of
from relay_passes.ops import shape_of
from schedules.errors import LowbitError

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Method(abc.ABC):
    """A way to explain an output.

    Attributes
    ----------
    target : int, "argmax", Target, or a list of these
        What is explained. With several, every array of the explanation has an axis for them after the batch.
    name : str
        Key of the result in ``result.explanations``; by default the method's.
    """

    method: ClassVar[str]
    # Whether targets may be other than linear functions of the output.
    any_target: ClassVar[bool] = False

    target: Any = "argmax"
    name: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.method if self.name is None else self.name)
        if not str(self.name).isidentifier():
            raise LowbitError(f"{type(self).__name__} name", "an identifier", repr(self.name))
        object.__setattr__(self, "_targets", parse(self.target))
        if not self.any_target:
            check_linear(type(self).__name__, self.targets)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets, at least one."""
        found: tuple[Target, ...] = self.__dict__["_targets"]
        return found

    @property
    def key(self) -> str:
        """The name."""
        return str(self.name)

    @property
    def several(self) -> bool:
        """Whether arrays have an axis for targets."""
        return isinstance(self.target, list | tuple)

    def extras(self, model: Model) -> Sequence[Extra]:
        """Inputs that the library takes beyond the model's; `Forward.extra` by name."""
        return [
            Extra(self._more(t), shape_of(chosen_output(target, model.outputs, model.output_names)))
            for t, target in enumerate(self.targets)
            if target.needs_more
        ]

    def _more(self, position: int) -> str:
        return f"{self.key}.embedding{position if self.several else ''}"

    def at_run_time(self, forward: Forward) -> list[Target]:
        """The targets with what they take when the library runs."""
        given = {name_of(var): var for var in forward.extra}
        return [t.taking(given[self._more(i)]) if t.needs_more else t for i, t in enumerate(self.targets)]

    def prepare(self, model: Model) -> Any:
        """What must be known before the program is written: reference runs, functions of their own (`model.step`)."""
        return None

    @abc.abstractmethod
    def explain(self, forward: Forward, prepared: Any) -> list[Part]:
        """Write the explanation and name what it gives."""

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that defines the explanation besides its target, in JSON types."""

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        described = [target.describe() for target in self.targets]
        target = described if self.several else described[0]
        return {"method": self.method, "settings": self.settings(), "target": target}

    def stacked(self, forward: Forward, explain_one: Callable[[Target], Sequence[Part]]) -> list[Part]:
        """The parts for each target, joined along a new axis after the batch where there are several."""
        return self.joined(forward, [explain_one(target) for target in self.at_run_time(forward)])

    def joined(self, forward: Forward, each: Sequence[Sequence[Part]]) -> list[Part]:
        """The same, the parts for each target given."""
        if not self.several:
            return list(each[0])
        parts = []
        for same in zip(*each, strict=True):
            grown = []
            for part in same:
                batch, *rest = shape_of(part.value)
                grown.append(forward.emit(relax.op.reshape(part.value, relax.ShapeExpr([batch, 1, *rest]))))
            joined = forward.emit(relax.op.concat(grown, axis=1), f"{self.key}/{same[0].field}")
            parts.append(replace(same[0], value=joined))
        return parts


def check_linear(where: str, targets: Sequence[Target]) -> None:
    """Decline targets that are no linear functions of the output.

    Raises
    ------
    LowbitError
        If there is one.
    """
    curved = [type(target).__name__ for target in targets if not target.linear]
    if curved:
        hint = "methods of gradients take it, such as Gradient, IntegratedGradients or GAM"
        expected = "a target that is linear in the output: this method shares differences out"
        raise LowbitError(f"{where} target", expected, curved[0], hint)


def checked_count(where: str, value: Any) -> int:
    """A whole number above 0.

    Raises
    ------
    LowbitError
        If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value <= 0:
        raise LowbitError(where, "a whole number above 0", repr(value))
    return int(value)


def checked_layers(where: str, value: Any, fewest: int = 1) -> tuple[str, ...]:
    """One name of a layer, or several; at least `fewest`.

    Raises
    ------
    LowbitError
        If there are fewer, or one is no name.
    """
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else None
    if names is None or len(names) < fewest or not all(isinstance(name, str) for name in names):
        raise LowbitError(where, "the name of a layer, or several", repr(value))
    return names


def checked_choice(where: str, value: Any, among: Collection[str]) -> None:
    """One of several words.

    Raises
    ------
    LowbitError
        If it is none of them.
    """
    if value not in among:
        raise LowbitError(where, f"one of {', '.join(among)}", repr(value))


def checked_reference(where: str, reference: Any) -> Array:
    """A reference as an array of finite numbers.

    Raises
    ------
    LowbitError
        If it is not one.
    """
    try:
        array = np.asarray(reference, np.float64)
    except (TypeError, ValueError) as error:
        raise LowbitError(f"{where} reference", "a number or an array", repr(reference)) from error
    if not np.all(np.isfinite(array)):
        raise LowbitError(f"{where} reference", "finite numbers", "NaN or infinity")
    return array


def broadcast_reference(where: str, reference: Any, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """The reference as a batch of 1 for an input of this shape.

    Raises
    ------
    LowbitError
        If it cannot be broadcast.
    """
    array = np.asarray(reference, np.float32)
    whole = (1, *shape[1:])
    try:
        return np.ascontiguousarray(np.broadcast_to(array, whole))
    except ValueError as error:
        expected = f"a number or an array that broadcasts to {whole}"
        raise LowbitError(f"{where} reference", expected, str(array.shape)) from error


def described_reference(reference: Any) -> Any:
    """In JSON types."""
    array = np.asarray(reference, np.float32)
    return float(array) if array.ndim == 0 else {"shape": list(array.shape), "values": array.ravel().tolist()}


def summed(context: Context, expr: Any) -> Any:
    """The sum over all but the batch."""
    axes = list(range(1, len(shape_of(expr))))
    return context.emit(relax.op.sum(expr, axes), "sum") if axes else expr
