"""``SemiringPath`` and ``SemiringEntropy``: what else backpropagation computes (Du et al. 2023, 2307.03056).

A network's operators are a graph of elements whose edges weigh as much as their derivatives, or their secants; the
gradient is the sum over all paths of the product of their edges. With another sum the same walk gives the one path of
largest product, or the entropy of all paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tvm import relax

from relay_passes import dataflow
from relay_passes.attribution.carriers import path_kernels
from relay_passes.attribution.carriers.base import Carrier
from relay_passes.attribution.carriers.entropy import Entropy, Weighed, entropy
from relay_passes.attribution.carriers.path import Best, Path, chosen, follow
from relay_passes.attribution.carriers.scaled import aligned, power
from relay_passes.attribution.engine import ancestors
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
from relay_passes.attribution.slopes import GRADIENT, SECANT, Slope
from relay_passes.attribution.targets import Target
from relay_passes.ops import literal, op_name, shape_of
from schedules.errors import LowbitError

SLOPES: dict[str, Slope] = {"gradient": GRADIENT, "deeplift": SECANT}


@dataclass(frozen=True, eq=False, kw_only=True)
class Semiring(Method):
    """What both have.

    Attributes
    ----------
    over : str
        What edges weigh: ``"gradient"``, derivatives, straight through at quantisers, or ``"deeplift"``, secants to a
        reference run (Rescale). An edge of weight 0 is none. An operator whose rule has several steps has edges for
        each: softmax one from a logit to its own output and one to every output by way of the sum.
    reference : float or array
        For ``"deeplift"``: the input that differences are measured from, broadcast to the model's input.
    layers : sequence of str
        Names of layers for whose elements results are given too: of the paths from there. ``"all"``: see
        `Forward.named`.
    target, name
        See `Method`.
    """

    over: str = "gradient"
    reference: float | npt.NDArray[Any] | None = None
    layers: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        if self.over not in SLOPES:
            raise LowbitError(f"{where} over", f"one of {', '.join(SLOPES)}", repr(self.over))
        if self.over == "gradient" and self.reference is not None:
            raise LowbitError(f"{where} reference", 'none: derivatives have no reference (over="deeplift" has)', "one")
        checked_reference(where, self._reference)
        object.__setattr__(self, "layers", checked_layers(f"{type(self).__name__} layers", self.layers, 0))

    @property
    def _reference(self) -> Any:
        return 0.0 if self.reference is None else self.reference

    def settings(self) -> dict[str, Any]:
        """What edges weigh, and layers."""
        secant = {"reference": described_reference(self._reference)} if self.over == "deeplift" else {}
        return {"over": self.over, **secant, "layers": list(self.layers)}

    def prepare(self, model: Model) -> Any:
        """The reference run, for secants."""
        model.check_rules(self.targets)
        if self.over == "gradient":
            return {}
        where = type(self).__name__
        inputs = [broadcast_reference(where, self._reference, shape_of(param)) for param in model.params]
        return model.reference_run(inputs, self.targets)

    def _walked(
        self, forward: Forward, prepared: Any, carrier: Carrier, target: Target, cuts: Sequence[Any]
    ) -> tuple[Context, dict[Any, Any], Any]:
        """The context, what the carrier gives at each cut, and the choice of the target."""
        context = forward.context(self.key, SLOPES[self.over], carrier, forward.references(prepared))
        output = forward.output(target)
        choice = target.choose(context.emit, output)
        seed = target.seed(context.emit, shape_of(output), choice)
        named = forward.named(self.layers, output)
        found = forward.walk(context, output, seed, [*forward.params, *named.values(), *cuts])
        if forward.params[0] not in found:
            got = f"{forward.params[0].name} does not reach it"
            raise LowbitError("explain", "an output that depends on the first input", got)
        for name, cut in named.items():
            if cut not in found:
                raise LowbitError("explain", "a layer that the output depends on", repr(name))
        return context, found, choice


@dataclass(frozen=True, eq=False, kw_only=True)
class SemiringPath(Semiring):
    """The highest-weighted path from the input to the target, and the neurons that it passes.

    It gives, for each item: ``weight`` (N,), float64, the product of the path's edges, 0 if there is no path; ``path``
    (N, values), int64, the index of the element that the path passes in each value of the network (flattened without
    the batch), -1 where it takes another branch, and in ``columns("path")`` what these values are called: inputs first,
    in program order; ``weights``, float64, for each element of the input (and of ``layers``) the weight of the best
    path from it, 0 where there is none.

    Attributes
    ----------
    sign : str
        ``"positive"``: the path of the largest weight; ``"negative"``: of the smallest; ``"absolute"``: of the largest
        absolute one. Among equals the first wins: see `carriers.path`.
    """

    method: ClassVar[str] = "semiring_path"

    sign: str = "positive"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign not in path_kernels.SIGNS:
            raise LowbitError("SemiringPath sign", f"one of {', '.join(path_kernels.SIGNS)}", repr(self.sign))

    def settings(self) -> dict[str, Any]:
        """And which sign."""
        return super().settings() | {"sign": self.sign}

    def explain(self, forward: Forward, prepared: Any) -> list[Part]:
        """The path and its weight, and the best from every element."""
        reached: set[Any] = set()
        for target in self.targets:
            reached |= ancestors(forward.output(target), forward.values)
        passed = [var for var, value in forward.values if op_name(value) and var in reached & forward.active]
        values = [*(param for param in forward.params if param in reached), *passed]
        return self.stacked(forward, lambda target: self._one(forward, prepared, target, values))

    def _one(self, forward: Forward, prepared: Any, target: Target, values: list[Any]) -> list[Part]:
        context, found, choice = self._walked(forward, prepared, Path(), target, values)
        starts, weight = self._starts(context, [found[param] for param in forward.params if param in found])
        places = follow(context, starts, [found.get(value) for value in values])
        names = tuple(dataflow.name_of(value) for value in values)
        image = forward.params[0]
        return [
            Part("weight", weight),
            Part("path", _indices(context, values, places, shape_of(image)[0]), columns=names),
            Part("weights", self._weights(context, found[image])),
            Part("target", choice),
            *(
                Part("weights", self._weights(context, found[cut]), name)
                for name, cut in forward.named(self.layers, forward.output(target)).items()
            ),
        ]

    def _starts(self, context: Context, inputs: list[Best]) -> tuple[list[tuple[Best, Any]], Any]:
        """Where each item's path begins, and its weight."""
        places = [context.emit(path_kernels.start(g.hi, g.lo, self.sign), "place") for g in inputs]
        exponent, factors = aligned(context, [g.exponent for g in inputs])
        numbers = [
            context.emit(path_kernels.value(at, g.hi, g.lo), "number") for at, g in zip(places, inputs, strict=True)
        ]
        numbers = [
            n if factor is None else context.emit(relax.op.multiply(n, factor), "number")
            for n, factor in zip(numbers, factors, strict=True)
        ]
        places = chosen(context, numbers, places)
        negated = literal(np.int32(1))
        weight = None
        for number, at in zip(numbers, places, strict=True):
            odd = context.emit(relax.op.equal(context.emit(relax.op.bitwise_and(at, negated)), negated))
            signed = context.emit(relax.op.where(odd, context.emit(relax.op.negative(number)), number))
            none = context.emit(relax.op.less(at, literal(np.int32(0))))
            own = context.emit(relax.op.where(none, literal(np.float32(0)), signed))
            weight = own if weight is None else context.emit(relax.op.add(weight, own))
        return list(zip(inputs, places, strict=True)), _in_full(context, weight, exponent, "weight")

    def _weights(self, context: Context, g: Best) -> Any:
        """The best weight at each element, 0 where there is no path."""
        zero, none = literal(np.float32(0)), literal(np.float32(-np.inf))
        hi, lo = (
            context.emit(relax.op.where(context.emit(relax.op.equal(v, none)), zero, v), "weights")
            for v in (g.hi, g.lo)
        )
        signed = hi
        if self.sign != "positive":
            signed = context.emit(relax.op.negative(lo))
        if self.sign == "absolute":
            signed = context.emit(relax.op.where(context.emit(relax.op.greater(g.lo, g.hi)), signed, hi), "weights")
        return _in_full(context, signed, g.exponent, "weights")


def _in_full(context: Context, number: Any, exponent: Any, name: str) -> Any:
    """A scaled number as it is, float64: float32 has not the range for products over many layers."""
    wide = context.emit(relax.op.astype(number, "float64"), name)
    if exponent is None:
        return wide
    return context.emit(relax.op.multiply(wide, power(context, exponent, "float64")), name)


def _indices(context: Context, values: list[Any], places: list[Any], batch: int) -> Any:
    """Places as indices, int64 (N, values), without the batch where it is a value's first axis."""
    nowhere = context.emit(relax.op.full(relax.ShapeExpr([batch, 1]), literal(np.int32(-1)), "int32"), "place")
    column = relax.ShapeExpr([batch, 1])
    each = [nowhere if at is None else context.emit(relax.op.reshape(at, column), "place") for at in places]
    joined = context.emit(relax.op.concat(each, axis=1), "places") if len(each) > 1 else each[0]
    shapes = [shape_of(value) for value in values]
    sizes = np.array([np.prod(s[1:] if s[:1] == (batch,) else s, dtype=np.int64) for s in shapes], np.int32)
    element = context.emit(relax.op.floor_divide(joined, literal(np.int32(2))))
    within = context.emit(relax.op.floor_mod(element, literal(sizes[None])))
    outside = context.emit(relax.op.less(joined, literal(np.int32(0))))
    found = context.emit(relax.op.where(outside, literal(np.int32(-1)), within))
    return context.emit(relax.op.astype(found, "int64"), "path")


@dataclass(frozen=True, eq=False, kw_only=True)
class SemiringEntropy(Semiring):
    """How many ways matter: the entropy, in nats, of the paths to the target, each picked by its absolute weight.

    It gives ``entropy``, for each element of the input (and of ``layers``) that of the paths from it, 0 where there is
    none; and ``total_entropy`` (N,), that of the paths from all inputs. Of n paths of equal weight it is log n.
    """

    method: ClassVar[str] = "semiring_entropy"

    def explain(self, forward: Forward, prepared: Any) -> list[Part]:
        """The entropies."""
        return self.stacked(forward, lambda target: self._one(forward, prepared, target))

    def _one(self, forward: Forward, prepared: Any, target: Target) -> list[Part]:
        context, found, choice = self._walked(forward, prepared, Entropy(), target, ())
        whole: Weighed | None = None
        for param in forward.params:
            if param in found:
                g = found[param]
                own = Weighed(summed(context, g.p), summed(context, g.e), g.exponent)
                whole = own if whole is None else Entropy().add(context, whole, own)
        assert whole is not None
        image = found[forward.params[0]]
        return [
            Part("entropy", entropy(context, image.p, image.e)),
            Part("total_entropy", entropy(context, whole.p, whole.e)),
            Part("target", choice),
            *(
                Part("entropy", entropy(context, found[cut].p, found[cut].e), name)
                for name, cut in forward.named(self.layers, forward.output(target)).items()
            ),
        ]
