"""``METHODS``: the ways to explain, one file a family."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from relay_passes.attribution.methods.activation_maps import GAM, GradCam, LayerCam
from relay_passes.attribution.methods.base import Method
from relay_passes.attribution.methods.conductance import Conductance, NeuronIntegratedGradients
from relay_passes.attribution.methods.deep_lift import DeepLift
from relay_passes.attribution.methods.gradient import Gradient, GradientXInput
from relay_passes.attribution.methods.integrated import IntegratedGradients, SmoothGrad
from relay_passes.attribution.methods.neuron_importance import NeuronImportance
from relay_passes.attribution.methods.semiring import SemiringEntropy, SemiringPath

__all__ = [
    "GAM",
    "METHODS",
    "Conductance",
    "DeepLift",
    "GradCam",
    "Gradient",
    "GradientXInput",
    "IntegratedGradients",
    "LayerCam",
    "Method",
    "NeuronImportance",
    "NeuronIntegratedGradients",
    "SemiringEntropy",
    "SemiringPath",
    "SmoothGrad",
]

_ROWS: tuple[type[Method], ...] = (
    DeepLift,
    Gradient,
    GradientXInput,
    IntegratedGradients,
    SmoothGrad,
    Conductance,
    GradCam,
    LayerCam,
    GAM,
    NeuronImportance,
    SemiringPath,
    SemiringEntropy,
)
METHODS: Mapping[str, type[Method]] = MappingProxyType({row.method: row for row in _ROWS})
