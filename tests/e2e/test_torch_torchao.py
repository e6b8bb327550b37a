"""Networks quantised by torchao: pt2e with its XNNPACK quantiser, and its own affine operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchao  # noqa: F401 - registers the operators
from torch import nn
from torch_nets import Net, bits, compiled, inputs, reasons
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, IntxWeightOnlyConfig, PerAxis, quantize_
from torchao.quantization.granularity import PerGroup
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

import tvm_lowbit

AO = torch.ops.torchao
NARROW = {"act_qmin": -8, "act_qmax": 7, "weight_qmin": -2, "weight_qmax": 1}


class Residual(nn.Module):
    """conv, batch norm, ReLU, a residual, a pool, dense; an average would often lie half-way between codes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = torch.relu(self.norm(self.first(x)))
        return self.fc(nn.functional.max_pool2d(torch.relu(self.second(x) + x), 5).flatten(1))


@pytest.mark.parametrize(
    ("options", "fold", "width"),
    [
        (NARROW, True, "W2A4"),
        ({"is_per_channel": True, **NARROW, "weight_qmin": -7, "weight_qmax": 7}, False, "W4A4"),
    ],
    ids=["per_tensor_stored", "per_channel_fake"],
)
def test_pt2e(options: dict[str, Any], fold: bool, width: str) -> None:
    """Weights stored as int8, or float with their quantiser behind; equal to torch in every layer."""
    x = inputs()
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(**options))
    traced = torch.export.export(Residual().eval(), (x,)).module()
    prepared = prepare_pt2e(traced, quantizer)
    prepared(x)
    converted = convert_pt2e(prepared, fold_quantize=fold)
    artifact = compiled(torch.export.export(converted, (x,)), x)
    assert bits(artifact) == [width] * 3
    assert {row.name.split("/")[0] for row in artifact.report.low_bit} == {"first", "second", "fc"}


class Affine(nn.Module):
    """torchao's affine pair; its blocks say what shares a scale."""

    def __init__(self, scale: Any, zero: Any, low: int, high: int, axis: int | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("zero", torch.tensor(zero, dtype=torch.int32))
        self.low, self.high, self.axis = low, high, axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fake-quantise."""
        block = [1 if i == self.axis else extent for i, extent in enumerate(x.shape)]
        q = AO.quantize_affine(x, block, self.scale, self.zero, torch.int8, self.low, self.high)
        return AO.dequantize_affine(q, block, self.scale, self.zero, torch.int8, self.low, self.high)


def test_affine_operators() -> None:
    """Per tensor and per channel, zero points that are not 0."""
    weight = Affine([0.1, 0.11, 0.12, 0.13, 0.14, 0.15], [0, 1, -1, 2, -2, 0], -4, 3, axis=0)
    assert bits(compiled(Net(Affine([0.21], [-3], -8, 7), weight), inputs(0.21))) == ["W3A4"]


class Dense(nn.Module):
    """One dense layer on quantised activations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.act, self.fc = Affine([0.21], [-3], -8, 7), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.fc(self.act(x))


def dense(config: Any) -> Any:
    net = Dense().eval()
    quantize_(net, config)
    return net


@pytest.mark.parametrize("kind", [torch.int4, torch.int2, torch.int8])
def test_weight_only(kind: torch.dtype) -> None:
    """Stored as int8, with the range of the type they stand for."""
    width = str(kind).removeprefix("torch.int")
    net = dense(IntxWeightOnlyConfig(kind, PerAxis(0)))
    program = torch.export.export(net, (torch.zeros(3, 64),))
    assert bits(compiled(program, torch.randn(3, 64))) == [f"W{width}A4"]


def test_groups_are_declined() -> None:
    """One scale for each 32 inputs: float, and right."""
    program = torch.export.export(dense(IntxWeightOnlyConfig(torch.int4, PerGroup(32))), (torch.zeros(3, 64),))
    (reason,) = (r for r in reasons(compiled(program, torch.randn(3, 64))).values() if "weights" in r)
    assert "on no grid of at most 8 bits" in reason or "blocks" in reason


def test_dynamic_activations_are_refused() -> None:
    """By name."""
    net = dense(Int8DynamicActivationIntxWeightConfig(torch.int4, PerAxis(0)))
    with pytest.raises(tvm_lowbit.LowbitError, match=r"(?s)a constant scale.*choose_qparams_affine.*calibrate"):
        tvm_lowbit.build(torch.export.export(net, (torch.zeros(3, 64),)), "host")
