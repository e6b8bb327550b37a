"""Whole networks with seeded weights and calibrated steps: what compiling must bear, not what they predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from networks.calibrate import calibrate
from networks.mobilenet_v2 import mobilenet_v2
from networks.quantise import SCHEMES, Layers, QuantisedWeights
from networks.resnet import resnet18, resnet50
from networks.vgg16_ssd import vgg16_ssd
from networks.yolov5 import yolov5

SEED = 20


@dataclass(frozen=True)
class Network:
    """One row: its name, pixels of a side at full size, how it is made, and a narrow variant for tests."""

    name: str
    size: int
    make: Callable[[Layers, int], nn.Module]
    small_size: int
    small_width: float


_ROWS = (
    Network("resnet18", 224, resnet18, 64, 1 / 16),
    Network("resnet50", 224, resnet50, 64, 1 / 16),
    Network("vgg16_ssd", 300, vgg16_ssd, 48, 1 / 16),
    Network("mobilenet_v2", 224, mobilenet_v2, 64, 1 / 8),
    Network("yolov5", 640, yolov5, 64, 1 / 8),
)
NETWORKS: Mapping[str, Network] = MappingProxyType({row.name: row for row in _ROWS})


def make(name: str, scheme: str, *, width: float = 1.0, size: int | None = None, seed: int = SEED) -> nn.Module:
    """A calibrated network.

    Parameters
    ----------
    name, scheme : str
        Keys of `NETWORKS` and `SCHEMES`.
    width : float
        Multiplies channels.
    size : int, optional
        Pixels of a side; by default the network's own.
    seed : int
        Of weights and images.
    """
    row = NETWORKS[name]
    size = row.size if size is None else size
    return calibrate(row.make(Layers(SCHEMES[scheme], width), size), size, seed)


def layers(name: str, scheme: str, *, width: float = 1.0, size: int | None = None) -> int:
    """How many layers of a network have quantised weights."""
    row = NETWORKS[name]
    with torch.device("meta"):
        made = row.make(Layers(SCHEMES[scheme], width), row.size if size is None else size)
    return sum(isinstance(module, QuantisedWeights) for module in made.modules())
