"""``Conductance``: how much of the output's change, on the way from a reference to the input, passes each neuron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes.attribution.carriers.base import Real
from relay_passes.attribution.methods import chosen_targets
from relay_passes.attribution.methods.base import (
    Method,
    broadcast_reference,
    checked_choice,
    checked_count,
    checked_layers,
    checked_reference,
    described_reference,
    summed,
)
from relay_passes.attribution.methods.integrated import on_path
from relay_passes.attribution.model import Forward, Model, Part, chosen_output
from relay_passes.attribution.slopes import GRADIENT
from relay_passes.attribution.steps import Extra, Step, make_step
from relay_passes.ops import literal, shape_of

# What a piece of the path multiplies a neuron's change by: shares of the gradients at its beginning and at its end.
RULES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"trapezoid": (0.5, 0.5), "left": (1.0, 0.0), "right": (0.0, 1.0)}
)


@dataclass(frozen=True)
class _Prepared:
    run: dict[int, Any]
    starts: list[npt.NDArray[np.float32]]
    layers: list[str]
    step: Step


@dataclass(frozen=True, eq=False, kw_only=True)
class Conductance(Method):
    """Total conductance of neurons (Dhamdhere et al., 1805.12233) = neuron integrated gradients (1807.09946).

    The integral along the straight path of the output's gradient at a neuron times the neuron's own change, computed as
    a sum over pieces of the path of gradient times change (1807.09946, equation 4): one prediction each, and the way
    back from the output to the earliest of the layers. A layer's conductances sum to the output's difference from the
    reference's, but for the gap: that of the sum for an integral, and what straight-through gradients lose.

    Attributes
    ----------
    layer : str or sequence of str
        Names of layers; an input's name gives integrated gradients. ``"all"``: every convolution and dense layer.
    steps : int
        How many pieces; there is one prediction more than that.
    rule : str
        ``"trapezoid"`` (the default) takes the mean of the gradients at both ends of a piece, ``"left"`` (Captum's
        LayerConductance) that at its beginning, ``"right"`` that at its end.
    reference : float or array
        The path's start, broadcast to the model's inputs without their batch.
    target, name
        See `Method`.
    """

    method: ClassVar[str] = "conductance"
    any_target: ClassVar[bool] = True

    layer: str | Sequence[str] = field(kw_only=False)
    steps: int = 50
    rule: str = "trapezoid"
    reference: float | npt.NDArray[Any] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layer", checked_layers("Conductance layer", self.layer))
        checked_count("Conductance steps", self.steps)
        checked_choice("Conductance rule", self.rule, RULES)
        checked_reference("Conductance", self.reference)

    def settings(self) -> dict[str, Any]:
        """Layers, steps, rule and reference."""
        numbers = {"layer": list(self.layer), "steps": int(self.steps), "rule": self.rule}
        return {**numbers, "reference": described_reference(self.reference)}

    def prepare(self, model: Model) -> _Prepared:
        """The outputs at the reference, and one point of the path as a function."""
        starts = [broadcast_reference("Conductance", self.reference, shape_of(param)) for param in model.params]
        layers: dict[str, Any] = {}
        for target in self.targets:
            output = chosen_output(target, model.outputs, model.output_names)
            layers |= model.layers.reaching(tuple(self.layer), output)
        model.check_rules(self.targets, list(layers.values()))
        step = self._step(model, layers)
        return _Prepared(model.reference_outputs(starts, self.targets), starts, list(layers), step)

    def _step(self, model: Model, layers: Mapping[str, Any]) -> Step:
        """A function of a point, the targets' choices, and of the point before, layer by layer: see `_state`.

        It gives the same of this point.
        """
        state = [
            Extra(f"{part}_{at}_{t}", shape_of(var))
            for at, var in enumerate(layers.values())
            for part, t in self._state()
        ]
        begin, end = (literal(np.float32(share)) for share in RULES[self.rule])

        def write(forward: Forward) -> list[Any]:
            before = iter(forward.extra)
            chosen = chosen_targets.taken(self.targets, before)
            context = forward.context(self.key, GRADIENT, Real())
            cuts = {name: forward.layer(name) for name in layers}
            found = []
            for target, choice in chosen:
                output = forward.output(target)
                seed = target.gradient(context.emit, output, choice)
                found.append(forward.walk(context, output, seed, list(cuts.values())))
            results = []
            for cut in cuts.values():
                was = {key: next(before) for key in self._state()}
                change = context.emit(relax.op.subtract(cut, was["value", 0]))
                results.append(cut)
                for t, gradients in enumerate(found):
                    slope = gradients[cut]
                    if self._both:
                        slope = context.emit(relax.op.multiply(was["gradient", t], begin))
                        if RULES[self.rule][1]:
                            here = context.emit(relax.op.multiply(gradients[cut], end))
                            slope = context.emit(relax.op.add(slope, here))
                        results.append(gradients[cut])
                    share = context.emit(relax.op.multiply(slope, change))
                    results.append(context.emit(relax.op.add(was["sum", t], share), "sum"))
            return chosen_targets.with_outputs(forward, self.targets, results)

        return make_step(model, f"{self.key}_step", [*chosen_targets.extras(model, self.targets), *state], write)

    @property
    def _both(self) -> bool:
        """Whether gradients are kept from one point to the next."""
        return RULES[self.rule][0] != 0

    def _state(self) -> list[tuple[str, int]]:
        """What is handed on of a layer: its value; for each target the gradient, if the rule needs it, and the sum."""
        parts = ("gradient", "sum") if self._both else ("sum",)
        return [("value", 0), *((part, t) for t in range(len(self.targets)) for part in parts)]

    def explain(self, forward: Forward, prepared: _Prepared) -> list[Part]:
        """The conductances of each layer; their gap where all ways from the input pass through it."""
        context = forward.context(self.key, GRADIENT, Real())
        targets = self.at_run_time(forward)
        choices = [target.choose(context.emit, forward.output(target)) for target in targets]
        chosen = chosen_targets.arguments(targets, choices)
        cuts = {name: forward.layer(name) for name in prepared.layers}
        keys = [(name, *key) for name in cuts for key in self._state()]
        zeros = {
            name: context.emit(relax.op.zeros(relax.ShapeExpr(list(shape_of(cut))), "float32"), "zeros")
            for name, cut in cuts.items()
        }
        state = [zeros[name] for name, *_ in keys]
        for number in range(int(self.steps) + 1):
            point = on_path(forward, prepared.starts, number / self.steps)
            state = prepared.step.call(forward, [*point, *chosen, *state])[: len(state)]
            if number == 0:  # the reference is where changes begin, not a change from 0
                kept = zip(keys, state, strict=True)
                state = [zeros[name] if part == "sum" else value for (name, part, _), value in kept]
        sums = dict(zip(keys, state, strict=True))
        at_reference = forward.references(prepared.run)
        each = []
        for t, (target, choice) in enumerate(zip(targets, choices, strict=True)):
            output = forward.output(target)
            change = target.change(context.emit, output, at_reference[output], choice)
            parts = [Part("target", choice)]
            for name, cut in cuts.items():
                total = sums[name, "sum", t]
                parts.append(Part("contributions", total, name))
                if forward.separates(cut, output):
                    gap = context.emit(relax.op.subtract(summed(context, total), change), "gap")
                    parts.append(Part("gap", gap, name))
            each.append(parts)
        return self.joined(forward, each)


NeuronIntegratedGradients = Conductance
