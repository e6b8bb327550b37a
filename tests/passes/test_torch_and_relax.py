"""Torch modules, exported programs and Relax modules through the whole way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from relax_models import const, evaluate, module, quantised, spec
from torch import nn
from tvm import relax

import tvm_lowbit
from relay_passes.ops import fake_quant


class Fake(nn.Module):
    """torch.fake_quantize_*: per tensor by numbers, by tensors, or per channel."""

    def __init__(self, scale: Any, qmin: int, qmax: int, zero: Any = 0, axis: int | None = None, tensors: bool = False):
        super().__init__()
        self.qmin, self.qmax, self.axis = qmin, qmax, axis
        if axis is not None or tensors:
            self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
            self.register_buffer("zero", torch.tensor(zero, dtype=torch.int32))
        else:
            self.scale, self.zero = scale, zero

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fake-quantise."""
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, self.qmin, self.qmax)
        return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero, self.axis, self.qmin, self.qmax)


class Network(nn.Module):
    """conv, BN, ReLU, residual, max pool, average pool, dense: every flavour of fake_quantize."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6)])
        for norm in self.norms:
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(norm.weight)
        self.fc = nn.Linear(6, 4)
        self.weights = nn.ModuleList(
            [
                Fake(np.linspace(0.05, 0.11, 6), -2, 1, [0] * 6, 0),
                Fake(0.06, -4, 3),
                Fake(np.linspace(0.1, 0.2, 4), -8, 7, [0] * 4, 0),
            ]
        )
        self.quants = nn.ModuleList([Fake(0.21, -8, 7, 2), Fake(0.17, 0, 3, 0, None, True), Fake(0.29, 0, 15)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.quants[0](x)
        x = nn.functional.conv2d(x, self.weights[0](self.first.weight), self.first.bias, padding=1)
        skip = self.quants[1](torch.relu(self.norms[0](x)))
        x = nn.functional.conv2d(skip, self.weights[1](self.second.weight), padding=1, groups=2)
        x = self.quants[2](torch.relu(self.norms[1](x) + skip))
        x = nn.functional.max_pool2d(x, 2)
        x = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return nn.functional.linear(x, self.weights[2](self.fc.weight), self.fc.bias)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """In evaluation mode."""
    return Network().eval()


@pytest.mark.parametrize("exported", [False, True], ids=["module", "exported_program"])
def test_torch_network(network: nn.Module, exported: bool) -> None:
    """Codes of every quantiser as torch's, logits close, all layers low-bit (the dense one reads an average)."""
    example = (torch.zeros(2, 3, 6, 6),)
    model: Any = torch.export.export(network, example) if exported else network
    artifact = tvm_lowbit.build(model, "host", probe=True, example_inputs=None if exported else example)
    x = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []
    hooks = [q.register_forward_hook(lambda m, i, o: seen.append(o)) for q in network.quants]
    with torch.no_grad():
        expected = network(x).numpy()
    for hook in hooks:
        hook.remove()
    result = artifact.run(x.numpy())
    (output,) = result.outputs.values()
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)
    assert len(result.codes) == 3
    for codes, quant, values in zip(result.codes.values(), network.quants, seen, strict=True):
        integers = torch.round(values / float(quant.scale)).to(torch.int32) + int(quant.zero)
        np.testing.assert_array_equal(codes, integers.numpy())
    assert sorted(row.bits for row in artifact.report.low_bit) == ["W2A4", "W3A2"]
    reasons = {row.op: row.reason for row in artifact.report.stays_float}
    assert reasons["relax.matmul"] == "its input is not quantised"
    assert "relax.nn.conv2d" not in reasons


def test_torch_module_needs_example_inputs(network: nn.Module) -> None:
    """The hint says how."""
    with pytest.raises(tvm_lowbit.LowbitError, match="example_inputs") as caught:
        tvm_lowbit.build(network, "host")
    assert caught.value.hint


def test_relax_module() -> None:
    """As a user of TVM holds it."""
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)

    def body(emit: Any, x: Any) -> Any:
        w = emit(fake_quant(const(weights), spec(np.linspace(0.3, 0.5, 4), -2, 1, axis=0)), "w")
        conv = emit(relax.op.nn.conv2d(quantised(emit, x, "q0", scale=0.3), w, padding=1), "conv")
        q = quantised(emit, emit(relax.op.nn.relu(conv), "relu"), "q1", scale=0.45)
        return emit(relax.op.mean(q, [2, 3]), "mean")

    mod = module(body, (2, 3, 5, 5))
    x = np.random.default_rng(1).normal(size=(2, 3, 5, 5)).astype(np.float32)
    artifact = tvm_lowbit.build(mod, "host", probe=True)
    result = artifact.run(x)
    np.testing.assert_allclose(result.outputs["output"], evaluate(mod, x)[0], rtol=1e-5)
    assert set(result.codes) == {"q0", "q1"}
    np.testing.assert_array_equal(result.codes["q0"], spec(0.3, 0, 3).codes(x))
    assert [(row.name, row.bits) for row in artifact.report.low_bit] == [("conv", "W2A2")]
