"""``DeepLift``: multipliers and contributions by differences from a reference (Shrikumar et al. 2017, 1704.02685)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from tvm import relax

from relay_passes.attribution.carriers.base import Carrier, Real
from relay_passes.attribution.carriers.pair import RevealCancel
from relay_passes.attribution.methods.base import Method, checked_layers, summed
from relay_passes.attribution.methods.each_reference import ForEachReference, extra_of
from relay_passes.attribution.methods.references import Reference, parse_reference
from relay_passes.attribution.model import Forward, Model, Part
from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.slopes import SECANT
from relay_passes.attribution.steps import Extra, again
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
    reference : float, array, list of arrays, Reference, or "input"
        The input that contributions are measured from, broadcast to the model's input without its batch. From several
        (a list of arrays, `References`, `DinucleotideShuffle`) contributions, multipliers and gaps are the means.
        ``"input"``: the library takes a further input ``<name>.reference``, of the model's input's shape.
    layers : sequence of str
        Names of layers whose contributions are given too; ``"all"``: of every convolution and dense layer.
    target, name
        See `Method`.
    """

    method: ClassVar[str] = "deeplift"

    reference: Any = 0.0
    rule: str = "rescale"
    layers: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_source", parse_reference("DeepLift", self.reference))
        if self.rule not in RULES_OF:
            raise LowbitError("DeepLift rule", f"one of {', '.join(RULES_OF)}", repr(self.rule))
        object.__setattr__(self, "layers", checked_layers(f"{type(self).__name__} layers", self.layers, 0))

    @property
    def source(self) -> Reference:
        """The reference, checked."""
        found: Reference = self.__dict__["_source"]
        return found

    def settings(self) -> dict[str, Any]:
        """Rule, reference and layers."""
        return {"rule": self.rule, "reference": self.source.describe(), "layers": list(self.layers)}

    def extras(self, model: Model) -> Sequence[Extra]:
        """``deeplift.reference``, where it is known at run time only."""
        shape = self.source.extra(shape_of(model.params[0]))
        if shape is None:
            return ()
        if len(model.params) > 1:
            names = ", ".join(str(param.name) for param in model.params)
            raise LowbitError("DeepLift reference", "a model of one input for a reference at run time", names)
        return (Extra(f"{self.key}.reference", shape),)

    def prepare(self, model: Model) -> Any:
        """The reference run where there is one, or the function that is called for each reference."""
        model.check_rules(self.targets)
        fixed = [self.source.fixed(shape_of(param)) for param in model.params]
        runs = [list(inputs) for inputs in zip(*fixed, strict=True)]
        if len(runs) == 1:
            return model.reference_run(runs[0], self.targets)
        extras = self.extras(model)
        if extras and extras[0].shape == shape_of(model.params[0]):
            return None
        return ForEachReference.made(model, self.key, self.explain_from, runs)

    def explain(self, forward: Forward, prepared: Any) -> list[Part]:
        """Contributions, multipliers, target and gap at the input; at each layer, too."""
        if isinstance(prepared, ForEachReference):
            return prepared.mean(forward)
        if prepared is None:
            return self.explain_from(forward, [extra_of(forward, self.key)])
        return self._explained(forward, forward.references(prepared))

    def explain_from(self, forward: Forward, starts: Sequence[Any]) -> list[Part]:
        """The same from references that are computed along with the model: one for each of its inputs."""
        return self._explained(forward, again(forward, starts))

    def _explained(self, forward: Forward, references: Mapping[Any, Any]) -> list[Part]:
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
