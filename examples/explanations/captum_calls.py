"""``NETWORKS_OF``: Captum's counterparts of the explanations that `speed` times, on torch's float network, as calls."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import captum.attr
import numpy as np
import torch
from benchmarks.sources import without_quantisers
from networks import NETWORKS, SEED
from networks.calibrate import calibrate
from networks.quantise import SCHEMES, Layers

STEPS = 50
# Of `networks.resnet`: what ends a stage, by the stage; its join is what its activation reads.
JOINS: Mapping[str, int] = MappingProxyType({"layer3": 10, "layer4": 12})


def join_name(stage: str) -> str:
    """What the exported files call a stage's last join of branches."""
    return f"/{JOINS[stage]}/Add"


def float_network(name: str, size: int, width: float) -> torch.nn.Module:
    """The network that `benchmarks.sources` writes as ``fp32``, in torch, on one thread."""
    torch.set_num_threads(1)
    made = NETWORKS[name].make(Layers(SCHEMES["w2a2"], width), size)
    return without_quantisers(calibrate(made, size, SEED)).eval()


def deep_lift(network: Any, x: Any, target: int) -> Any:
    """Captum's DeepLIFT, Rescale, from zeros."""
    return captum.attr.DeepLift(network).attribute(x, torch.zeros_like(x), target)


def integrated_gradients(network: Any, x: Any, target: int) -> Any:
    """Captum's integrated gradients; all points in one batch, Captum's default."""
    return captum.attr.IntegratedGradients(network).attribute(x, torch.zeros_like(x), target, n_steps=STEPS)


def conductance(stage: str) -> Callable[[Any, Any, int], Any]:
    """Captum's conductance of a stage's last join; all points in one batch, Captum's default."""

    def explain(network: Any, x: Any, target: int) -> Any:
        method = captum.attr.LayerConductance(network, network[JOINS[stage]].activation)
        zeros = torch.zeros_like(x)
        return method.attribute(x, zeros, target, n_steps=STEPS, attribute_to_layer_input=True)

    return explain


def calls(network: Any, x: Any, explain: Callable[[Any, Any, int], Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Torch's prediction alone, and prediction with Captum's explanation of the largest class, ready to be timed.

    Captum is given the class, so its explanation needs no further prediction.
    """
    given = torch.from_numpy(np.array(x))
    with torch.no_grad():
        target = int(network(given).argmax())

    def alone() -> Any:
        with torch.no_grad():
            return network(given)

    def explained() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of hooks that it sets and removes
            return explain(network, given, target)

    return alone, explained
