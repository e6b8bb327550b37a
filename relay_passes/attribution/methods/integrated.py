"""Gradients at many points: along a path (integrated gradients), and around the input (SmoothGrad).

The gradient at a point is a function of its own, see `steps`; the same for both methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes.attribution.carriers.base import Real
from relay_passes.attribution.gaussian import gaussian
from relay_passes.attribution.methods import chosen_targets
from relay_passes.attribution.methods.base import (
    Method,
    broadcast_reference,
    checked_choice,
    checked_count,
    checked_reference,
    described_reference,
)
from relay_passes.attribution.methods.gradient import summing_up
from relay_passes.attribution.model import Forward, Model, Part
from relay_passes.attribution.quadrature import RULES
from relay_passes.attribution.slopes import GRADIENT
from relay_passes.attribution.steps import Extra, Step, make_step
from relay_passes.attribution.targets import Target
from relay_passes.ops import collapsed, literal, shape_of
from schedules.errors import LowbitError


@dataclass(frozen=True)
class _Prepared:
    """The references, the outputs there, the inputs that each target's output depends on, and the step."""

    starts: list[npt.NDArray[np.float32]]
    run: dict[int, Any]
    reached: list[list[int]]
    step: Step


@dataclass(frozen=True, eq=False, kw_only=True)
class MeanGradient(Method):
    """A weighted sum of gradients at several points; subclasses say which."""

    any_target: ClassVar[bool] = True

    reference: float | npt.NDArray[Any] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_reference(type(self).__name__, self.reference)

    def prepare(self, model: Model) -> _Prepared:
        """The outputs at the reference, and the gradient as a function."""
        model.check_rules(self.targets)
        where = type(self).__name__
        starts = [broadcast_reference(where, self.reference, shape_of(param)) for param in model.params]
        reached = [model.reached(target) for target in self.targets]
        step = gradient_step(model, self.targets, reached)
        return _Prepared(starts, model.reference_outputs(starts, self.targets), reached, step)

    def points(self, forward: Forward, starts: Sequence[Any]) -> Iterable[tuple[float, list[Any]]]:
        """Weights and inputs."""
        raise NotImplementedError

    def explain(self, forward: Forward, prepared: _Prepared) -> list[Part]:
        """Contributions, mean gradients, target and gap."""
        context = forward.context(self.key, GRADIENT, Real())
        targets = self.at_run_time(forward)
        choices = [target.choose(context.emit, forward.output(target)) for target in targets]
        chosen = chosen_targets.arguments(forward, targets, choices)
        sums = [
            context.emit(relax.op.zeros(relax.ShapeExpr(list(shape_of(forward.params[i]))), "float32"))
            for reached in prepared.reached
            for i in reached
        ]
        for weight, point in self.points(forward, prepared.starts):
            share = literal(np.full(1, weight, np.float32))
            sums = prepared.step.call(forward, [*point, share, *chosen, *sums])[: len(sums)]
        means = iter(sums)
        found = [{i: next(means) for i in reached} for reached in prepared.reached]
        at_reference = forward.references(prepared.run)

        def one(position: int) -> list[Part]:
            target = targets[position]
            gradients = [found[position].get(i) for i in range(len(forward.params))]
            choice = choices[position]
            shares, gap = summing_up(forward, context, target, choice, gradients, prepared.starts, at_reference)
            return [
                Part("contributions", shares),
                Part("multipliers", gradients[0]),
                Part("target", choice),
                Part("gap", gap),
            ]

        return self.joined(forward, [one(position) for position in range(len(targets))])


def gradient_step(model: Model, targets: Sequence[Target], reached: Sequence[Sequence[int]]) -> Step:
    """A step that adds a weight times the gradients of targets to sums.

    Its extras: the weight ``(1,)``, those of `chosen_targets`, a sum for each target and input that it depends on;
    it gives the sums.
    """
    images = [shape_of(param) for param in model.params]
    sums = [Extra(f"sum{t}_{i}", images[i]) for t, inputs in enumerate(reached) for i in inputs]

    def write(forward: Forward) -> list[Any]:
        weight, rest = forward.extra[0], iter(forward.extra[1:])
        chosen = chosen_targets.taken(targets, rest)
        context = forward.context("gradient", GRADIENT, Real())
        results = []
        for (target, choice), inputs in zip(chosen, reached, strict=True):
            output = forward.output(target)
            seed = target.gradient(context.emit, output, choice)
            cuts = [forward.params[i] for i in inputs]
            found = forward.walk(context, output, seed, cuts)
            for cut in cuts:
                share = context.emit(relax.op.multiply(weight, found[cut]))
                results.append(context.emit(relax.op.add(next(rest), share), "sum"))
        return chosen_targets.with_outputs(forward, targets, results)

    return make_step(model, "gradient", [Extra("weight", (1,)), *chosen_targets.extras(model, targets), *sums], write)


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegratedGradients(MeanGradient):
    """Gradients along the straight path from the reference, times the difference (Sundararajan et al., 1703.01365).

    ``(x - x0)`` times the integral of the gradient at ``x0 + a (x - x0)`` over a from 0 to 1 (equation 1), by a
    quadrature. At quantisers the gradient is straight through, so contributions miss some of the difference however
    many the steps: the gap says how much.

    Attributes
    ----------
    steps : int
        How many points, one prediction and one way back each.
    rule : str
        ``"midpoint"`` (the default), ``"gausslegendre"`` (Captum's default), ``"trapezoid"`` (one point more),
        ``"left"`` or ``"right"``.
    reference : float or array
        The path's start, broadcast to the model's inputs without their batch.
    target, name
        See `Method`.
    """

    method: ClassVar[str] = "integrated_gradients"

    steps: int = 50
    rule: str = "midpoint"

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_count("IntegratedGradients steps", self.steps)
        checked_choice("IntegratedGradients rule", self.rule, RULES)

    def settings(self) -> dict[str, Any]:
        """Steps, rule and reference."""
        return {"steps": int(self.steps), "rule": self.rule, "reference": described_reference(self.reference)}

    def points(self, forward: Forward, starts: Sequence[Any]) -> Iterable[tuple[float, list[Any]]]:
        """Those of the quadrature."""
        for share, weight in zip(*RULES[self.rule](int(self.steps)), strict=True):
            yield weight, on_path(forward, starts, share)


def on_path(forward: Forward, starts: Sequence[Any], share: float) -> list[Any]:
    """The inputs' points at a share of the way from their references."""
    points = []
    # A tensor rather than a number: a number would be built into the kernel, which then were another for each point.
    along = literal(np.full(1, share, np.float32))
    for param, start in zip(forward.params, starts, strict=True):
        at = literal(collapsed(start))
        part = forward.emit(relax.op.multiply(along, forward.emit(relax.op.subtract(param, at))))
        points.append(forward.emit(relax.op.add(at, part), "point"))
    return points


@dataclass(frozen=True, eq=False, kw_only=True)
class SmoothGrad(MeanGradient):
    """The mean gradient at noisy copies of the input (Smilkov et al., 1706.03825).

    The noise is Gaussian and made by the library itself, see `gaussian`: the same at each run, on each machine, and for
    each item of a batch. Contributions are the mean gradient times the difference to the reference.

    Attributes
    ----------
    samples : int
        How many copies.
    noise : float
        The noise's standard deviation, as a share of the item's range, largest less smallest element (section 3.1).
    seed : int
        Another one, other noise.
    reference : float or array
        What contributions are measured from.
    target, name
        See `Method`.
    """

    method: ClassVar[str] = "smooth_grad"

    samples: int = 50
    noise: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_count("SmoothGrad samples", self.samples)
        if not isinstance(self.noise, int | float | np.number) or not 0 <= self.noise < np.inf:
            raise LowbitError("SmoothGrad noise", "a finite number of at least 0", repr(self.noise))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or not 0 <= self.seed < 2**32:
            raise LowbitError("SmoothGrad seed", "a whole number from 0 to 2**32 - 1", repr(self.seed))

    def settings(self) -> dict[str, Any]:
        """Samples, noise, seed and reference."""
        numbers = {"samples": int(self.samples), "noise": float(self.noise), "seed": int(self.seed)}
        return {**numbers, "reference": described_reference(self.reference)}

    def points(self, forward: Forward, starts: Sequence[Any]) -> Iterable[tuple[float, list[Any]]]:
        """Noisy copies."""
        widths = [self._width(forward, param) for param in forward.params]
        for sample in range(int(self.samples)):
            points = []
            for i, (param, width) in enumerate(zip(forward.params, widths, strict=True)):
                draw = forward.emit(gaussian(shape_of(param)[1:], int(self.seed), sample, i), "noise")
                points.append(forward.emit(relax.op.add(param, forward.emit(relax.op.multiply(width, draw))), "point"))
            yield 1 / self.samples, points

    def _width(self, forward: Forward, param: Any) -> Any:
        """The standard deviation for each item."""
        axes = list(range(1, len(shape_of(param))))
        ends = [forward.emit(reduce(param, axes, keepdims=True)) for reduce in (relax.op.max, relax.op.min)]
        return forward.emit(
            relax.op.multiply(forward.emit(relax.op.subtract(*ends)), literal(np.float32(self.noise))), "width"
        )
