"""The same network in Brevitas' layers: its quantisers, with the steps that calibration found."""

from __future__ import annotations

import copy
from typing import Any

import torch
from brevitas import nn as brevitas_nn
from brevitas.core.utils import StatelessBuffer
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    ShiftedUint8ActPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    Uint8ActPerTensorFloat,
)
from torch import Tensor, nn

from networks.quantise import QuantisedConv, QuantisedLinear, Quantiser

_ACTIVATIONS = {
    "unsigned": Uint8ActPerTensorFloat,
    "signed": Int8ActPerTensorFloat,
    "affine": ShiftedUint8ActPerTensorFloat,
    "bipolar": SignedBinaryActPerTensorConst,
}


class Given(nn.Module):
    """Stands for the part of a Brevitas quantiser that computes a number, and returns the one it was given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = StatelessBuffer(value)

    def forward(self, *_: Any) -> Tensor:
        """The number."""
        return self.value()


def _scaled(step: Tensor) -> dict[str, Any]:
    # Brevitas divides what scaling gives by what int_scaling gives.
    return {"scaling_impl": Given(step), "int_scaling_impl": Given(torch.tensor(1.0))}


def _activation(quantiser: Quantiser) -> nn.Module:
    injector = _ACTIVATIONS[quantiser.kind]
    parts = _scaled(torch.tensor(quantiser.step))
    if quantiser.kind != "bipolar":
        parts["bit_width"] = quantiser.bits
    if quantiser.kind == "affine":
        parts["zero_point_impl"] = Given(torch.tensor(float(quantiser.zero)))
    return brevitas_nn.QuantIdentity(act_quant=injector.let(**parts), return_quant_tensor=False)


def _weights(layer: QuantisedConv | QuantisedLinear, binary: bool) -> Any:
    step = layer.step.reshape(-1, *[1] * (layer.weight.ndim - 1))
    if layer.bits == 1:
        # Without clipping to the step, which Brevitas would do in place.
        return SignedBinaryWeightPerTensorConst.let(**_scaled(step)) if binary else None
    narrow = layer.low == -layer.high
    return Int8WeightPerChannelFloat.let(bit_width=layer.bits, narrow_range=narrow, **_scaled(step))


def _layer(layer: QuantisedConv | QuantisedLinear, binary: bool) -> nn.Module:
    more: dict[str, Any] = {"bias": layer.bias is not None, "weight_quant": _weights(layer, binary)}
    made: Any
    if isinstance(layer, QuantisedLinear):
        made = brevitas_nn.QuantLinear(layer.in_features, layer.out_features, **more)
    else:
        geometry = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}
        made = brevitas_nn.QuantConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, **geometry, **more)
    made.weight.data = layer.quantised().detach() if more["weight_quant"] is None else layer.weight.detach().clone()
    if layer.bias is not None:
        made.bias.data = layer.bias.detach().clone()
    return made


def to_brevitas(network: nn.Module, binary: bool = True) -> nn.Module:
    """A copy of a calibrated network in Brevitas' layers.

    Parameters
    ----------
    network : nn.Module
        What `networks.make` gave.
    binary : bool
        False for formats without bipolar codes: bipolar weights are then floats on their grid, and bipolar activations
        stay as plain torch has them.
    """
    network = copy.deepcopy(network)
    made: dict[nn.Module, nn.Module] = {}  # a shared quantiser stays shared
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Quantiser) and (binary or child.kind != "bipolar"):
                made.setdefault(child, _activation(child))
            elif isinstance(child, QuantisedConv | QuantisedLinear):
                made.setdefault(child, _layer(child, binary))
            if child in made:
                setattr(parent, name, made[child])
    return network.eval()
