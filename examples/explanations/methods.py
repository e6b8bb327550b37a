"""The methods that are compared, as `tvm_lowbit.build` takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tvm_lowbit

STEPS = 20  # of integrals, and samples of SmoothGrad
CAM_LAYER = "relu2"  # of the digits' networks: the last that has pixels
NEURON_STEPS = 50  # of conductance


def contributions(explanation: Any) -> NDArray[np.float32]:
    """What each input element adds to each target, shape (N, targets, ...)."""
    return np.asarray(explanation.contributions)


@dataclass(frozen=True)
class Method:
    """A row.

    Attributes
    ----------
    title : str
        What tables call it.
    make : callable or None
        Makes the method from ``reference``, ``target`` and ``name``; None draws scores at random.
    shuffles : bool
        Whether shuffles of a sequence may be its reference.
    settings : mapping
        What it depends on besides its name.
    scores : callable
        Takes the scores out of an explanation.
    dna : bool
        Whether it scores positions of DNA.
    """

    title: str
    make: Callable[..., Any] | None
    shuffles: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Callable[[Any], NDArray[np.float32]] = contributions
    dna: bool = True


def _deep_lift(rule: str) -> Callable[..., Any]:
    return lambda **options: tvm_lowbit.DeepLift(rule=rule, **options)


def _cam(method: Callable[..., Any]) -> Callable[..., Any]:
    # Maps have no reference.
    return lambda reference, **options: method(CAM_LAYER, **options)


def _map(explanation: Any) -> NDArray[np.float32]:
    """A map as scores of a picture of one channel."""
    return np.asarray(explanation["map"])[:, :, None]


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "gradient_x_input": Method("gradient x input", lambda **options: tvm_lowbit.GradientXInput(**options)),
        "integrated_gradients": Method(
            f"integrated gradients, {STEPS} steps",
            lambda **options: tvm_lowbit.IntegratedGradients(steps=STEPS, **options),
            settings={"steps": STEPS},
        ),
        "smooth_grad": Method(
            f"SmoothGrad x input, {STEPS} samples",
            lambda **options: tvm_lowbit.SmoothGrad(samples=STEPS, **options),
            settings={"steps": STEPS},
        ),
        "rescale": Method("DeepLIFT Rescale", _deep_lift("rescale"), True),
        "reveal_cancel": Method("DeepLIFT RevealCancel", _deep_lift("reveal_cancel"), True),
        "genomics": Method("DeepLIFT, RevealCancel behind dense layers", _deep_lift("genomics"), True),
        "grad_cam": Method("Grad-CAM, second convolution", _cam(tvm_lowbit.GradCam), scores=_map, dna=False),
        "layer_cam": Method("LayerCAM, second convolution", _cam(tvm_lowbit.LayerCam), scores=_map, dna=False),
        "random": Method("random", None, dna=False),
    }
)


@dataclass(frozen=True)
class NeuronMethod:
    """A way to score a layer's neurons: its title, what makes it for a layer, and on what else it depends."""

    title: str
    make: Callable[[str], Any] | None
    settings: Mapping[str, Any] = field(default_factory=dict)


def _deep_lift_neurons(rule: str) -> Callable[[str], Any]:
    return lambda layer: tvm_lowbit.DeepLift(rule=rule, layers=[layer], name="asked")


NEURON_METHODS: Mapping[str, NeuronMethod] = MappingProxyType(
    {
        "rescale": NeuronMethod("DeepLIFT Rescale", _deep_lift_neurons("rescale")),
        "reveal_cancel": NeuronMethod("DeepLIFT RevealCancel", _deep_lift_neurons("reveal_cancel")),
        "conductance": NeuronMethod(
            f"conductance, {NEURON_STEPS} steps",
            lambda layer: tvm_lowbit.Conductance(layer=layer, steps=NEURON_STEPS, name="asked"),
            {"steps": NEURON_STEPS},
        ),
        "random": NeuronMethod("random", None),
    }
)
