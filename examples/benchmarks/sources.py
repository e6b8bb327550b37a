"""``write_model``: a network of `networks` as the ONNX file that a compiler is given."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import networks
import torch
from networks.calibrate import calibrate, images
from networks.export import EXPORTERS, OPSET
from networks.quantise import SCHEMES, Layers, QuantisedWeights, Quantiser, Scheme
from torch import nn

W8A8 = Scheme("w8a8", "8-bit weights and activations", (8,), (8,))


def without_quantisers(network: nn.Module) -> nn.Module:
    """The network with its weights as they were before they were quantised, and its activations in float."""
    for module in network.modules():
        if isinstance(module, QuantisedWeights):
            module.quantised = lambda module=module: module.weight
        elif isinstance(module, Quantiser):
            module.values = lambda x: x
    return network


def _float(network: nn.Module, size: int, seed: int, path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # This exporter folds each batch norm into the convolution before it, which is to plain TVM's advantage.
        torch.onnx.export(
            without_quantisers(network), (images(size, seed),), str(path), dynamo=False, opset_version=OPSET
        )


def _exported(exporter: str) -> Callable[[nn.Module, int, int, Path], None]:
    def write(network: nn.Module, size: int, seed: int, path: Path) -> None:
        EXPORTERS[exporter].write(network, images(size, seed), path)

    return write


# What each kind of file is made of: a scheme, and what writes it.
KINDS: Mapping[str, tuple[Scheme, Callable[[nn.Module, int, int, Path], None]]] = MappingProxyType(
    {
        "w2a2": (SCHEMES["w2a2"], _exported("qonnx")),
        "fp32": (SCHEMES["w2a2"], _float),
        "int8": (W8A8, _exported("qcdq")),
    }
)


def write_model(network: str, kind: str, path: Path, *, size: int, width: float, seed: int) -> Path:
    """Make a network and write it.

    Parameters
    ----------
    network : str
        A key of `networks.NETWORKS`.
    kind : str
        A key of `KINDS`.
    path : Path
        What to write; left alone if it is there.
    size, width, seed
        Pixels of a side, a factor of channels, and the seed of weights and images.

    Returns
    -------
    Path
        The file.
    """
    if not path.exists():
        scheme, write = KINDS[kind]
        made = calibrate(networks.NETWORKS[network].make(Layers(scheme, width), size), size, seed)
        draft = path.with_suffix(".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        write(made, size, seed, draft)
        draft.replace(path)
    return path
