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
from relay_passes.attribution.model import Forward, Model, Part, chosen_output
from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.several import along_path, points_at_once, several
from relay_passes.attribution.slopes import GRADIENT
from relay_passes.attribution.steps import Extra, Step, make_step
from relay_passes.attribution.targets import Target
from relay_passes.ops import literal, shape_of

# What a piece of the path multiplies a neuron's change by: shares of the gradients at its beginning and at its end.
RULES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"trapezoid": (0.5, 0.5), "left": (1.0, 0.0), "right": (0.0, 1.0)}
)


@dataclass(frozen=True)
class _Prepared:
    run: dict[int, Any]
    layers: list[str]
    step: Step
    points: int


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
        How many pieces: as many predictions, the model's own aside. Up to five are computed at once where that comes
        out even and the network computes each item of a batch by itself: 50 cost less than 49.
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
        """The outputs at the reference, and some points of the path as a function."""
        starts = [broadcast_reference("Conductance", self.reference, shape_of(param)) for param in model.params]
        layers: dict[str, Any] = {}
        for target in self.targets:
            output = chosen_output(target, model.outputs, model.output_names)
            layers |= model.layers.reaching(tuple(self.layer), output)
        model.check_rules(self.targets, list(layers.values()))
        points = points_at_once(int(self.steps))
        more = several(model, points)
        if more is None:
            more, points = model, 1
        step = self._step(model, list(layers), points, along_path(more, starts, points))
        return _Prepared(model.reference_outputs(starts, self.targets), list(layers), step, points)

    def _step(self, model: Model, layers: Sequence[str], points: int, more: Model) -> Step:
        """A function of points, the targets' choices, and of the point after them, layer by layer: see `_state`.

        It gives the same of the last of these points.
        """
        state = [
            Extra(f"{part}_{at}_{t}", shape_of(model.layers.find(name)))
            for at, name in enumerate(layers)
            for part, t in self._state()
        ]

        def write(forward: Forward) -> list[Any]:
            after = iter(forward.extra)
            chosen = chosen_targets.taken(self.targets, after)
            context = forward.context(self.key, GRADIENT, Real())
            cuts = {name: forward.layer(name) for name in layers}
            found = []
            for target, choice in chosen:
                output = forward.output(target)
                seed = target.gradient(context.emit, output, choice)
                found.append(forward.walk(context, output, seed, list(cuts.values())))
            results: list[Any] = []
            for cut in cuts.values():
                was = {key: next(after) for key in self._state()}
                for point in range(points):
                    was = self._piece(
                        context, was, *(_at(context, e, point, points) for e in (cut, *(f[cut] for f in found)))
                    )
                results += was.values()
            return chosen_targets.with_outputs(forward, self.targets, results)

        extras = [*chosen_targets.extras(more, self.targets), *state]
        return make_step(more, f"{self.key}_step", extras, write)

    def _piece(
        self, context: Context, was: Mapping[tuple[str, int], Any], value: Any, *gradients: Any
    ) -> dict[tuple[str, int], Any]:
        """What is known before a piece: ``was`` after it; ``value`` and the targets' ``gradients`` at its beginning."""
        begin, end = RULES[self.rule]
        change = context.emit(relax.op.subtract(was["value", 0], value))
        found = {("value", 0): value}
        for t, gradient in enumerate(gradients):
            terms = [(begin, gradient), *([(end, was["gradient", t])] if end else [])]
            shares = [
                g if share == 1 else context.emit(relax.op.multiply(g, literal(np.float32(share))))
                for share, g in terms
                if share
            ]
            slope = shares[0] if len(shares) == 1 else context.emit(relax.op.add(*shares))
            share = context.emit(relax.op.multiply(slope, change))
            now = {"gradient": gradient, "sum": context.emit(relax.op.add(was["sum", t], share), "sum")}
            found |= {(part, t): now[part] for part in self._parts}
        return found

    @property
    def _parts(self) -> tuple[str, ...]:
        """What is handed on of a layer for each target: the gradient, if the rule needs that at a piece's end."""
        return ("gradient", "sum") if RULES[self.rule][1] else ("sum",)

    def _state(self) -> list[tuple[str, int]]:
        """What is handed on of a layer: its value; for each target the gradient, if the rule needs it, and the sum."""
        return [("value", 0), *((part, t) for t in range(len(self.targets)) for part in self._parts)]

    def _at_input(
        self, forward: Forward, context: Context, targets: Sequence[tuple[Target, Any]], cuts: Mapping[str, Any]
    ) -> list[Any]:
        """The state at the path's end."""
        found: dict[tuple[str, int], dict[Any, Any]] = {("value", 0): {cut: cut for cut in cuts.values()}}
        for t, (target, choice) in enumerate(targets):
            if "gradient" in self._parts:
                output = forward.output(target)
                seed = target.gradient(context.emit, output, choice)
                found["gradient", t] = forward.walk(context, output, seed, list(cuts.values()))
            zeros = (relax.op.zeros(relax.ShapeExpr(list(shape_of(cut))), "float32") for cut in cuts.values())
            found["sum", t] = {cut: context.emit(zero, "zeros") for cut, zero in zip(cuts.values(), zeros, strict=True)}
        return [found[key][cut] for cut in cuts.values() for key in self._state()]

    def explain(self, forward: Forward, prepared: _Prepared) -> list[Part]:
        """The conductances of each layer; their gap where all ways from the input pass through it.

        The path is gone from its end, the input, which is known already.
        """
        context = forward.context(self.key, GRADIENT, Real())
        targets = self.at_run_time(forward)
        choices = [target.choose(context.emit, forward.output(target)) for target in targets]
        chosen = chosen_targets.arguments(forward, targets, choices, prepared.points)
        cuts = {name: forward.layer(name) for name in prepared.layers}
        keys = [(name, *key) for name in cuts for key in self._state()]
        state = self._at_input(forward, context, list(zip(targets, choices, strict=True)), cuts)
        for number in range(int(self.steps) - 1, -1, -prepared.points):
            shares = [(number - point) / self.steps for point in range(prepared.points)]
            along = literal(np.array(shares, np.float32))
            state = prepared.step.call(forward, [*forward.params, along, *chosen, *state])[: len(state)]
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


def _at(context: Context, values: Any, point: int, points: int) -> Any:
    """The values at one of some points."""
    if points == 1:
        return values
    items = shape_of(values)[0] // points
    return context.emit(relax.op.strided_slice(values, [0], [point * items], [(point + 1) * items]), "point")


NeuronIntegratedGradients = Conductance
