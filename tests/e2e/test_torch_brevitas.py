"""Brevitas' layers through torch.export: in its inference mode, and as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import brevitas.nn as qnn
import brevitas.quant as bq
import pytest
import torch
from brevitas.export.inference import quant_inference_mode
from torch import nn
from torch_nets import bits, compiled, inputs

CHANNELS = bq.Int8WeightPerChannelFloat


class Last(nn.Module):
    """A layer on quantised activations, and these."""

    def __init__(self, act: Any, layer: Any) -> None:
        super().__init__()
        self.act, self.layer = act, layer

    def forward(self, x: torch.Tensor) -> Any:
        """Both."""
        q = self.act(x)
        return self.layer(q), q


def conv(width: int = 4, **options: Any) -> Any:
    return qnn.QuantConv2d(3, 4, 3, weight_bit_width=width, **options)


# Activations, weights, the bits that result.
MODELS = {
    "conv": (lambda: qnn.QuantIdentity(bit_width=4), lambda: conv(4), "W4A4"),
    "relu": (lambda: qnn.QuantReLU(bit_width=2), lambda: conv(3, bias=True), "W3A2"),
    "per_channel": (lambda: qnn.QuantReLU(bit_width=3), lambda: conv(2, weight_quant=CHANNELS), "W2A3"),
    "depthwise": (lambda: qnn.QuantReLU(bit_width=4), lambda: qnn.QuantConv2d(3, 3, 3, groups=3), "W8A4"),
    "eight": (lambda: qnn.QuantIdentity(), lambda: conv(8), "W8A8"),
    "asymmetric": (
        lambda: qnn.QuantIdentity(act_quant=bq.ShiftedUint8ActPerTensorFloat, bit_width=3),
        lambda: conv(4, weight_quant=bq.ShiftedUint8WeightPerChannelFloat),
        "W4A3",
    ),
    "powers_of_two": (
        lambda: qnn.QuantIdentity(act_quant=bq.Int8ActPerTensorFixedPoint, bit_width=5),
        lambda: conv(5, weight_quant=bq.Int8WeightPerTensorFixedPoint),
        "W5A5",
    ),
    "ternary": (
        lambda: qnn.QuantIdentity(act_quant=bq.SignedTernaryActPerTensorConst),
        lambda: conv(2, weight_quant=bq.SignedTernaryWeightPerTensorConst, weight_scaling_init=0.1),
        "W2A2",
    ),
    "dense": (
        lambda: nn.Sequential(nn.Flatten(), qnn.QuantIdentity(bit_width=4)),
        lambda: qnn.QuantLinear(75, 4, True, weight_bit_width=2, weight_quant=CHANNELS),
        "W2A4",
    ),
}
BINARY = {
    "bipolar": (
        lambda: qnn.QuantIdentity(act_quant=bq.SignedBinaryActPerTensorConst),
        lambda: conv(1, weight_quant=bq.SignedBinaryWeightPerTensorConst),
        "W1A1",
    ),
    "bipolar_weights": (
        lambda: qnn.QuantReLU(bit_width=2),
        lambda: conv(1, weight_quant=bq.SignedBinaryWeightPerTensorConst),
        "W1A2",
    ),
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Weights are drawn when layers are made."""
    torch.manual_seed(0)
    yield


def calibrated(act: Any, layer: Any) -> tuple[Any, torch.Tensor]:
    """In evaluation mode, with the steps that a few inputs in training gave."""
    net, x = Last(act(), layer()), inputs()
    with torch.no_grad():
        for _ in range(3):
            net(x)
    return net.eval(), x


@pytest.mark.parametrize("name", MODELS)
def test_inference_mode(name: str) -> None:
    """Div, add, round, clamp with tensors of bounds, sub, mul."""
    act, layer, width = MODELS[name]
    net, x = calibrated(act, layer)
    with torch.no_grad(), quant_inference_mode(net):
        net(x)
        program = torch.export.export(net, (x,))
    assert bits(compiled(program, x)) == [width]


@pytest.mark.parametrize("name", {**MODELS, **BINARY})
def test_as_they_are(name: str) -> None:
    """Scales computed in the graph; binary layers, which have no inference mode."""
    act, layer, width = {**MODELS, **BINARY}[name]
    net, x = calibrated(act, layer)
    assert bits(compiled(net, x)) == [width]


def test_layers_keep_their_names() -> None:
    """As excluding them needs."""
    net, x = calibrated(*MODELS["relu"][:2])
    (row,) = compiled(net, x).report.low_bit
    assert row.name == "layer"
    assert not bits(compiled(net, x, exclude=["layer"]))


def test_residual_network() -> None:
    """Shared quantisers, quantised adds, pooling, batch norm, a quantised bias."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = qnn.QuantIdentity(bit_width=8, return_quant_tensor=True)
            self.first = qnn.QuantConv2d(3, 4, 3, padding=1, weight_bit_width=4, bias=True, bias_quant=bq.Int32Bias)
            self.norm, self.relu = nn.BatchNorm2d(4), qnn.QuantReLU(bit_width=4)
            self.second = qnn.QuantConv2d(4, 4, 3, padding=1, weight_bit_width=2, weight_quant=CHANNELS, bias=False)
            self.join = qnn.QuantIdentity(bit_width=4)
            self.pool = nn.AvgPool2d(5)
            self.last = qnn.QuantIdentity(bit_width=4)
            self.fc = qnn.QuantLinear(4, 3, True, weight_bit_width=4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(self.norm(self.first(self.input(x))))
            x = self.join(x + self.second(x))
            return self.fc(self.last(self.pool(x).flatten(1)))

    net, x = Network(), inputs()
    with torch.no_grad():
        for _ in range(3):
            net(x)
        net.eval()
        with quant_inference_mode(net):
            net(x)
            program = torch.export.export(net, (x,))
    assert bits(compiled(program, x)) == ["W4A8", "W2A4", "W4A4"]
