"""Maps of where a layer's activations speak for the target: small graphs on the activations and gradients of a cut.

At quantisers gradients are straight through, see `derivatives`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from relay_passes.attribution.carriers.base import Real
from relay_passes.attribution.methods.base import Method, checked_choice, checked_layers
from relay_passes.attribution.model import Forward, Model, Part, chosen_output
from relay_passes.attribution.rules.base import Context
from relay_passes.attribution.slopes import GRADIENT
from relay_passes.attribution.targets import Target
from relay_passes.ops import literal, shape_of
from schedules.errors import LowbitError

_ZERO = np.float32(0)


@dataclass(frozen=True, eq=False, kw_only=True)
class ActivationMaps(Method):
    """What the methods have in common: ``map``, (N, H, W), at each layer's resolution, and as a whole at the input's.

    Layers of one spatial axis give (N, L).
    """

    any_target: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """The layers."""

    @abc.abstractmethod
    def one(self, context: Context, activations: Any, gradients: Any) -> Any:
        """The map of a layer."""

    def prepare(self, model: Model) -> None:
        """Find what is wrong with the layers before anything is compiled."""
        image = shape_of(model.params[0])
        for target in self.targets:
            output = chosen_output(target, model.outputs, model.output_names)
            cuts = model.layers.reaching(self.names, output)
            model.check_rules([target], list(cuts.values()))
            for name, var in cuts.items():
                shape = shape_of(var)
                if len(shape) not in (3, 4) or len(image) != len(shape):
                    hint = "name a layer before pixels are flattened or averaged away"
                    expected = f"a layer with channels and pixels, as the input {image} has"
                    raise LowbitError(f"{type(self).__name__} layer", expected, f"{name} of shape {shape}", hint)

    def explain(self, forward: Forward, prepared: Any) -> list[Part]:
        """Maps and target."""
        context = forward.context(self.key, GRADIENT, Real())

        def explained(target: Target) -> list[Part]:
            output = forward.output(target)
            choice = target.choose(context.emit, output)
            cuts = forward.named(self.names, output)
            seed = target.gradient(context.emit, output, choice)
            found = forward.walk(context, output, seed, list(cuts.values()))
            maps = {name: self.one(context, cut, found[cut]) for name, cut in cuts.items()}
            whole = self.joined_maps(context, list(maps.values()), shape_of(forward.params[0])[2:])
            return [Part("map", whole), Part("target", choice), *(Part("map", m, name) for name, m in maps.items())]

        return self.stacked(forward, explained)

    def joined_maps(self, context: Context, maps: Sequence[Any], size: Sequence[int]) -> Any:
        """The map as a whole, at the input's size."""
        return upsampled(context, maps[0], size)


def upsampled(context: Context, expr: Any, size: Sequence[int]) -> Any:
    """A map at another size, bilinear, pixels as squares (half a pixel from the border to the first centre)."""
    batch, *extents = shape_of(expr)
    tall = [1] * (2 - len(extents))
    image = context.emit(relax.op.reshape(expr, relax.ShapeExpr([batch, 1, *tall, *extents])))
    options = {"method": "linear", "coordinate_transformation_mode": "half_pixel"}
    resized = context.emit(
        relax.op.image.resize2d(image, relax.ShapeExpr([*tall, *size]), layout="NCHW", **options), "resized"
    )
    return context.emit(relax.op.reshape(resized, relax.ShapeExpr([batch, *size])), "map")


def normalised(context: Context, expr: Any) -> Any:
    """From 0 at an item's least element to 1 at its largest; 0 where all are equal."""
    axes = list(range(1, len(shape_of(expr))))
    least, largest = (context.emit(f(expr, axes, keepdims=True)) for f in (relax.op.min, relax.op.max))
    span = context.emit(relax.op.subtract(largest, least))
    flat = context.emit(relax.op.equal(span, literal(_ZERO)))
    over = context.emit(relax.op.where(flat, literal(np.float32(1)), span))
    return context.emit(relax.op.divide(context.emit(relax.op.subtract(expr, least)), over), "normalised")


def _rectified(context: Context, expr: Any) -> Any:
    return context.emit(relax.op.nn.relu(expr))


def _over_channels(context: Context, a: Any, b: Any) -> Any:
    """The sum of products over channels."""
    return context.emit(relax.op.sum(context.emit(relax.op.multiply(a, b)), [1]), "map")


def _pooled(context: Context, expr: Any, keep: bool) -> Any:
    """The mean over pixels."""
    axes = list(range(2, len(shape_of(expr))))
    return context.emit(relax.op.mean(expr, axes, keepdims=keep), "pooled") if axes else expr


@dataclass(frozen=True, eq=False, kw_only=True)
class GradCam(ActivationMaps):
    """Grad-CAM (Selvaraju et al., 1610.02391): ``relu(sum_k mean(dy/dA_k) A_k)``, equations 1 and 2.

    Attributes
    ----------
    layer : str
        Its name; as a rule the last convolution's activations.
    target, name
        See `Method`; a `Similarity`, too.
    """

    method: ClassVar[str] = "grad_cam"

    layer: str = field(kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.layer, str):
            raise LowbitError("GradCam layer", "the name of a layer", repr(self.layer))

    @property
    def names(self) -> tuple[str, ...]:
        """The layer."""
        return (self.layer,)

    def settings(self) -> dict[str, Any]:
        """The layer."""
        return {"layer": self.layer}

    def one(self, context: Context, activations: Any, gradients: Any) -> Any:
        """See the class."""
        weights = _pooled(context, gradients, True)
        return _rectified(context, _over_channels(context, weights, activations))


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerCam(ActivationMaps):
    """LayerCAM (Jiang et al., IEEE TIP 2021): ``relu(sum_k relu(dy/dA_k) A_k)``, each element with its own weight.

    Maps of several layers are joined as the paper does: each ``tanh(gamma M / max M)``, upsampled, and of these the
    largest, pixel by pixel. That of one layer stays as it is.

    Attributes
    ----------
    layers : str or sequence of str
        Their names.
    gamma : float
        How much weak places of maps are lifted when they are joined; 2 in the paper.
    target, name
        See `Method`; a `Similarity`, too.
    """

    method: ClassVar[str] = "layer_cam"

    layers: str | Sequence[str] = field(kw_only=False)
    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", checked_layers("LayerCam layers", self.layers))
        if not isinstance(self.gamma, int | float) or not 0 < self.gamma < np.inf:
            raise LowbitError("LayerCam gamma", "a finite number above 0", repr(self.gamma))

    @property
    def names(self) -> tuple[str, ...]:
        """The layers."""
        return tuple(self.layers)

    def settings(self) -> dict[str, Any]:
        """Layers and gamma."""
        return {"layers": list(self.layers), "gamma": float(self.gamma)}

    def one(self, context: Context, activations: Any, gradients: Any) -> Any:
        """See the class."""
        return _rectified(context, _over_channels(context, _rectified(context, gradients), activations))

    def joined_maps(self, context: Context, maps: Sequence[Any], size: Sequence[int]) -> Any:
        """See the class."""
        if len(maps) == 1:
            return upsampled(context, maps[0], size)
        scaled = []
        for expr in maps:
            largest = context.emit(relax.op.max(expr, list(range(1, len(shape_of(expr)))), keepdims=True))
            some = context.emit(relax.op.greater(largest, literal(_ZERO)))
            over = context.emit(relax.op.where(some, largest, literal(np.float32(1))))
            share = context.emit(relax.op.divide(expr, over))
            lifted = context.emit(
                relax.op.tanh(context.emit(relax.op.multiply(share, literal(np.float32(self.gamma)))))
            )
            scaled.append(upsampled(context, lifted, size))
        return reduce(lambda a, b: context.emit(relax.op.maximum(a, b), "map"), scaled)


COMBINE: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {"mean": relax.op.add, "max": relax.op.maximum, "product": relax.op.multiply}
)


@dataclass(frozen=True, eq=False, kw_only=True)
class GAM(ActivationMaps):
    """Gradient activation maps (Barkan et al., 2109.00951): ``sum_k A_k relu(ds/dA_k)``, gradients not pooled.

    Each layer's map is brought to 0 .. 1, upsampled, and joined with the others'. The maps at the layers' resolution
    are given as they are summed.

    Attributes
    ----------
    layers : str or sequence of str
        Their names.
    combine : str
        ``"mean"`` (the default), ``"max"`` or ``"product"`` of the layers' normalised maps.
    target, name
        See `Method`: a class score, or the `Similarity` of the model's embedding to another.
    """

    method: ClassVar[str] = "gam"

    layers: str | Sequence[str] = field(kw_only=False)
    combine: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", checked_layers("GAM layers", self.layers))
        checked_choice("GAM combine", self.combine, COMBINE)

    @property
    def names(self) -> tuple[str, ...]:
        """The layers."""
        return tuple(self.layers)

    def settings(self) -> dict[str, Any]:
        """Layers and how they are combined."""
        return {"layers": list(self.layers), "combine": self.combine}

    def one(self, context: Context, activations: Any, gradients: Any) -> Any:
        """See the class."""
        return _over_channels(context, _rectified(context, gradients), activations)

    def joined_maps(self, context: Context, maps: Sequence[Any], size: Sequence[int]) -> Any:
        """See the class."""
        scaled = [upsampled(context, normalised(context, expr), size) for expr in maps]
        whole = reduce(lambda a, b: context.emit(COMBINE[self.combine](a, b), "map"), scaled)
        if self.combine == "mean" and len(maps) > 1:
            return context.emit(relax.op.multiply(whole, literal(np.float32(1 / len(maps)))), "map")
        return whole
