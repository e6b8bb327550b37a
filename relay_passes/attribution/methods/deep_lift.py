"""``DeepLift``: multipliers and contributions by differences from a reference (Shrikumar et al. 2017, 1704.02685)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes.attribution.carriers.base import Carrier, Real
from relay_passes.attribution.carriers.pair import RevealCancel
from relay_passes.attribution.methods.base import (
    Method,
    broadcast_reference,
    checked_reference,
    described_reference,
    summed,
)
from relay_passes.attribution.model import Forward, Model, Part
from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.slopes import SECANT
from relay_passes.attribution.targets import Target
from relay_passes.ops import shape_of
from schedules.errors import LowbitError

# Rule name to what the reverse walk carries.
RULES_OF: dict[str, Callable[[], Carrier]] = {
    "rescale": Real,
    "reveal_cancel": RevealCancel,
    "genomics": partial(RevealCancel, behind=("relax.matmul",)),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class DeepLift(Method):
    """DeepLIFT, exact through quantisers: contributions sum to the output's difference from the reference's.

    Attributes
    ----------
    rule : str
        ``"rescale"``: differences over differences at every unary operator (section 3.5.2). ``"reveal_cancel"``:
        positive and negative parts of differences apart, averaged over both orders (section 3.5.3; `carriers.pair`).
        ``"genomics"``: RevealCancel behind dense layers, Rescale behind convolutions, as the paper advises.
    reference : float or array
        The input that contributions are measured from, broadcast to the model's input without its batch.
    layers : sequence of str
        Names of layers whose contributions are given too; ``"all"``: of every convolution and dense layer.
    target, name
        See `Method`.
    """

    method: ClassVar[str] = "deeplift"

    reference: float | npt.NDArray[Any] = 0.0
    rule: str = "rescale"
    layers: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_reference("DeepLift", self.reference)
        if self.rule not in RULES_OF:
            raise LowbitError("DeepLift rule", f"one of {', '.join(RULES_OF)}", repr(self.rule))
        object.__setattr__(self, "layers", (self.layers,) if isinstance(self.layers, str) else tuple(self.layers))

    def reference_input(self, shape: Sequence[int]) -> npt.NDArray[np.float32]:
        """The reference as a batch of 1 for an input of this shape."""
        return broadcast_reference("DeepLift", self.reference, shape)

    def settings(self) -> dict[str, Any]:
        """Rule, reference and layers."""
        return {
            "rule": self.rule,
            "reference": described_reference(self.reference),
            "layers": list(self.layers),
        }

    def prepare(self, model: Model) -> Any:
        """The reference run."""
        model.check_rules(self.targets)
        inputs = [self.reference_input(shape_of(param)) for param in model.params]
        return model.reference_run(inputs, self.targets)

    def explain(self, forward: Forward, prepared: Any) -> list[Part]:
        """Contributions, multipliers, target and gap at the input; at each layer, too."""
        references = forward.references(prepared)
        context = forward.context(self.key, SECANT, RULES_OF[self.rule](), references)
        return self.stacked(forward, lambda target: deep_lift_parts(forward, context, target, self.layers))


def deep_lift_parts(forward: Forward, context: Context, target: Target, layers: Sequence[str]) -> list[Part]:
    """The parts of one target: input first, then each layer.

    The gap is the sum of the contributions less what they should sum to; a layer has one where all ways from the input
    pass through it.
    """
    output = forward.output(target)
    choice = target.choose(context.emit, output)
    seed = target.seed(context.emit, shape_of(output), choice)
    image, named = forward.params[0], forward.named(layers, output)
    found = forward.walk(context, output, seed, [*forward.params, *named.values()])
    if image not in found:
        got = f"{image.name} does not reach it"
        raise LowbitError("explain", "an output that depends on the first input", got)
    # From the outputs themselves: the gap must not be computed by what it checks.
    change = context.emit(relax.op.subtract(output, context.references[output]))
    delta = summed(context, context.emit(relax.op.multiply(change, seed)))
    shares = {cut: context.carrier.contributions(context, cut, g) for cut, g in found.items()}
    inputs = [summed(context, shares[param]) for param in forward.params if param in shares]
    total = inputs[0]
    for other in inputs[1:]:
        total = context.emit(relax.op.add(total, other))
    parts = [
        Part("contributions", shares[image]),
        Part("multipliers", context.carrier.multipliers(context, image, found[image])),
        Part("target", choice),
        Part("gap", context.emit(relax.op.subtract(total, delta), "gap")),
    ]
    for name, cut in named.items():
        if cut not in found:
            raise LowbitError("explain", "a layer that the output depends on", repr(name))
        multipliers = context.carrier.multipliers(context, cut, found[cut])
        parts += [Part("contributions", shares[cut], name), Part("multipliers", multipliers, name)]
        if forward.separates(cut, output):
            gap = context.emit(relax.op.subtract(summed(context, shares[cut]), delta), "gap")
            parts.append(Part("gap", gap, name))
    return parts
