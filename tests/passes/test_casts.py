"""Codes cast to integers and back: as if they were not where the type holds them, and computed as written where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx_graphs import GraphBuilder, run_onnx

import tvm_lowbit

# Name -> (type, lowest and highest code, what is taken away behind the cast, whether all is low-bit)
ONNX = {
    "int8": (np.int8, -8, 7, None, True),
    "uint8": (np.uint8, 0, 15, None, True),
    "int32, shifted": (np.int32, 0, 15, 5, True),
    "int8, shifted": (np.int8, 0, 15, 5, True),
    "too narrow": (np.int8, 0, 200, None, False),
    "too narrow for the shifted": (np.uint8, 0, 15, 5, False),
}
TYPES = {np.int8: 3, np.uint8: 2, np.int32: 6}


@pytest.mark.parametrize("name", ONNX)
def test_casts_of_onnx(name: str) -> None:
    kind, low, high, shift, low_bit = ONNX[name]
    g = GraphBuilder(opset=18)
    step = g.constant(0.25)
    q = g.add("Div", g.input(3, 5, 5), step)
    if shift is not None:
        q = g.add("Add", q, g.constant(shift))
    q = g.add("Round", g.add("Clip", q, g.constant(low), g.constant(high)))
    q = g.add("Cast", q, to=TYPES[kind])
    if shift is not None:
        q = g.add("Sub", q, g.constant(shift, kind))
    a = g.add("Mul", g.add("Cast", q, to=1), step, name="a")
    model = g.model(g.add("Conv", a, g.weights(4, 3, 3, 3), name="last"))
    artifact = tvm_lowbit.build(model, "host", batch=2)
    assert [row.name for row in artifact.report.low_bit] == (["last"] if low_bit else [])
    if not low_bit:
        return  # what a cast makes of a number that the type does not hold is each machine's own
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype(np.float32) * 3
    (expected,) = run_onnx(model, x, ["last"])
    np.testing.assert_allclose(artifact.run(x).outputs["last"], expected, rtol=1e-5, atol=1e-5)


class Codes(torch.nn.Module):
    """As people write a quantiser that shows its integers."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.weight = torch.nn.Parameter(torch.randint(-2, 2, (4, 3, 3, 3)) * 0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = torch.clamp(torch.round(x / 0.31) + 5, 0, 15).to(self.first)
        q = q.float() - 5 if self.second is None else q.to(self.second) - 5
        w = torch.fake_quantize_per_tensor_affine(self.weight, 0.25, 0, -2, 1)
        return torch.nn.functional.conv2d(q.float() * 0.31, w)


@pytest.mark.parametrize(
    ("first", "second"), [(torch.uint8, None), (torch.int8, torch.int32), (torch.int32, torch.int32)], ids=str
)
def test_casts_of_torch(first: Any, second: Any) -> None:
    torch.manual_seed(0)
    net, x = Codes(first, second), torch.randn(2, 3, 5, 5)
    artifact = tvm_lowbit.build(net, "host", example_inputs=(x,))
    assert [row.bits for row in artifact.report.low_bit] == ["W2A4"]
    (got,) = artifact.run(x.numpy()).outputs.values()
    np.testing.assert_allclose(got, net(x).detach().numpy(), rtol=1e-5, atol=1e-5)
