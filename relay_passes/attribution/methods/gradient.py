"""``Gradient`` and ``GradientXInput``: derivatives of the output at the input, straight through quantisers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes.attribution.carriers.base import Real
from relay_passes.attribution.methods.base import (
    Method,
    broadcast_reference,
    checked_layers,
    checked_reference,
    described_reference,
    summed,
)
from relay_passes.attribution.model import Forward, Model, Part
from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.slopes import GRADIENT
from relay_passes.attribution.targets import Target
from relay_passes.ops import collapsed, literal, shape_of
from schedules.errors import LowbitError


@dataclass(frozen=True, eq=False, kw_only=True)
class Gradient(Method):
    """The gradient of the target (1312.6034); at quantisers that of a clip to their range.

    Attributes
    ----------
    reference : float or array
        The input from which the gap is measured: how far ``gradient * (input - reference)`` is from summing to the
        output's difference. Straight-through gradients leave a large one.
    layers : sequence of str
        Names of layers at which gradients are given too; ``"all"``: of every convolution and dense layer.
    target, name
        See `Method`.
    """

    method: ClassVar[str] = "gradient"
    any_target: ClassVar[bool] = True

    reference: float | npt.NDArray[Any] = 0.0
    layers: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_reference(type(self).__name__, self.reference)
        object.__setattr__(self, "layers", checked_layers(f"{type(self).__name__} layers", self.layers, 0))

    def settings(self) -> dict[str, Any]:
        """Reference and layers."""
        return {"reference": described_reference(self.reference), "layers": list(self.layers)}

    def inputs(self, model: Model) -> list[npt.NDArray[np.float32]]:
        """The reference for each input, with batch 1."""
        where = type(self).__name__
        return [broadcast_reference(where, self.reference, shape_of(param)) for param in model.params]

    def prepare(self, model: Model) -> Any:
        """The outputs at the reference."""
        model.check_rules(self.targets)
        return self.inputs(model), model.reference_outputs(self.inputs(model), self.targets)

    def explain(self, forward: Forward, prepared: Any) -> list[Part]:
        """Gradients, target and gap."""
        starts, run = prepared
        at_reference = forward.references(run)
        context = forward.context(self.key, GRADIENT, Real())
        return self.stacked(forward, lambda target: self._one(forward, context, target, starts, at_reference))

    def _one(self, forward: Forward, context: Context, target: Target, starts: Any, at_reference: Any) -> list[Part]:
        output = forward.output(target)
        choice = target.choose(context.emit, output)
        seed = target.gradient(context.emit, output, choice)
        named = forward.named(self.layers, output)
        found = forward.walk(context, output, seed, [*forward.params, *named.values()])
        gradients = [found.get(param) for param in forward.params]
        shares, gap = summing_up(forward, context, target, choice, gradients, starts, at_reference)
        return [
            *self.arrays(shares, gradients[0]),
            Part("target", choice),
            Part("gap", gap),
            *(Part("multipliers", found[cut], name) for name, cut in named.items()),
        ]

    def arrays(self, shares: Any, gradient: Any) -> list[Part]:
        """What is given at the input."""
        return [Part("multipliers", gradient)]


def summing_up(
    forward: Forward, context: Context, target: Target, choice: Any, gradients: Any, starts: Any, at_reference: Any
) -> tuple[Any, Any]:
    """Gradient times difference at the first input; and the gap, with all inputs' shares.

    Parameters
    ----------
    gradients : sequence
        At each input; None where the output does not depend on it.
    starts : sequence of arrays
        The references of the inputs.
    at_reference : mapping
        The outputs there.
    """
    if gradients[0] is None:
        got = f"{forward.params[0].name} does not reach it"
        raise LowbitError("explain", "an output that depends on the first input", got)
    shares, total = [], None
    for param, gradient, start in zip(forward.params, gradients, starts, strict=True):
        if gradient is not None:
            difference = context.emit(relax.op.subtract(param, literal(collapsed(start))))
            shares.append(context.emit(relax.op.multiply(gradient, difference), "contributions"))
            part = summed(context, shares[-1])
            total = part if total is None else context.emit(relax.op.add(total, part))
    output = forward.output(target)
    change = target.change(context.emit, output, at_reference[output], choice)
    return shares[0], context.emit(relax.op.subtract(total, change), "gap")


@dataclass(frozen=True, eq=False, kw_only=True)
class GradientXInput(Gradient):
    """``gradient * (input - reference)``; see `Gradient`."""

    method: ClassVar[str] = "gradient_x_input"

    def arrays(self, shares: Any, gradient: Any) -> list[Part]:
        """Contributions and gradients."""
        return [Part("contributions", shares), Part("multipliers", gradient)]
