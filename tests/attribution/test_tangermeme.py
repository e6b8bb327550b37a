"""Contributions of a compiled network against tangermeme's DeepLIFT of the torch module, quantisers registered."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export import fold_bound_casts
from tangermeme.deep_lift_shap import _nonlinear, deep_lift_shap
from torch import nn

import tvm_lowbit

SHAPE, ITEMS, CLASSES = (2, 8, 6), 6, 5


class Quantiser(nn.Module):
    """Divide, clamp, round, multiply; of a weight if it is called as a function of a parameter."""

    def __init__(self, scale: float, qmin: int, qmax: int, zero: float = 0.0) -> None:
        super().__init__()
        self.scale, self.qmin, self.qmax, self.zero = scale, float(qmin), float(qmax), zero

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fake-quantise."""
        value = x / self.scale
        if self.zero:
            value = value + self.zero
        code = torch.round(torch.clamp(value, self.qmin, self.qmax))
        return (code - self.zero if self.zero else code) * self.scale


class Network(nn.Module):
    """Residual block, overlapping max pool and average pool; ``bits`` chooses the quantisers, None leaves them out."""

    def __init__(self, bits: int | None, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convs = nn.ModuleList([nn.Conv2d(2, 6, 3, padding=1), *[nn.Conv2d(6, 6, 3, padding=1) for _ in range(2)]])
        self.norms = nn.ModuleList([nn.BatchNorm2d(6) for _ in range(3)])
        for norm in self.norms:
            nn.init.normal_(norm.weight, 0.5, 1)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.3, 1)
        self.relus = nn.ModuleList([nn.ReLU() for _ in range(3)])
        self.acts = nn.ModuleList([self.act(bits, s) for s in (0.371, 0.453, 0.437, 0.501)])
        self.weights = nn.ModuleList([self.weight(bits, s) for s in (0.2013, 0.1713, 0.1617, 0.8917)])
        self.max_pool, self.average_pool = nn.MaxPool2d(3, 2), nn.AvgPool2d((3, 2))
        self.fc = nn.Linear(6, CLASSES)
        for conv in self.convs:
            nn.init.normal_(conv.weight, 0, 0.2)
        nn.init.normal_(self.fc.weight)

    @staticmethod
    def act(bits: int | None, scale: float) -> nn.Module:
        """An activation's quantiser of at least 2 bits (padding needs a zero); the asymmetric one at 4 bits."""
        if bits is None:
            return nn.Identity()
        bits, below = max(bits, 2), 3 if bits == 4 else 0
        return Quantiser(scale * 8 / 2**bits, -below, 2**bits - 1 - below)

    @staticmethod
    def weight(bits: int | None, scale: float) -> nn.Module:
        """A weight's quantiser, bipolar at 1 bit."""
        if bits is None:
            return nn.Identity()
        if bits == 1:
            return Quantiser(scale, 0, 1, 0.5)
        return Quantiser(scale * 4 / 2**bits, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def layer(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """Convolution and batch norm."""
        x = nn.functional.conv2d(x, self.weights[i](self.convs[i].weight), self.convs[i].bias, padding=1)
        return self.norms[i](x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        first = self.acts[1](self.relus[0](self.layer(0, self.acts[0](x))))
        second = self.acts[2](self.relus[1](self.layer(1, first)))
        x = self.acts[3](self.relus[2](self.layer(2, second) + first))
        x = self.average_pool(self.max_pool(x)).flatten(1)
        return nn.functional.linear(x, self.weights[3](self.fc.weight), self.fc.bias)


class AsSequences(nn.Module):
    """The network on (N, channels, length), as tangermeme wants its inputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.network(x.reshape(-1, *SHAPE))


def exported(network: nn.Module) -> onnx.ModelProto:
    """ONNX with quantisers and batch norm spelled out."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, *SHAPE),),
            buffer,
            dynamo=False,
            opset_version=13,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=["x"],
            output_names=["logits"],
        )
    model = onnx.ModelProto.FromString(buffer.getvalue())
    fold_bound_casts(model.graph)
    return model


def oracle(network: nn.Module, x: Any, reference: Any, target: int) -> Any:
    """Contributions by tangermeme: raw multipliers times differences."""
    sequences = torch.from_numpy(x.reshape(len(x), -1, SHAPE[-1]))
    start = torch.from_numpy(np.broadcast_to(reference, SHAPE).reshape(1, -1, SHAPE[-1]).copy())

    def references(batch: torch.Tensor, n: int, random_state: int | None = None) -> torch.Tensor:
        return start.expand(len(batch), -1, -1)[:, None]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = deep_lift_shap(
            AsSequences(network),
            sequences,
            target=target,
            references=references,
            n_shuffles=1,
            additional_nonlinear_ops={Quantiser: _nonlinear},
            raw_outputs=True,
            only_warn=True,
            device="cpu",
        )
    return (found[:, 0] * (sequences - start)).detach().numpy().reshape(x.shape)


@pytest.mark.parametrize(
    ("bits", "start", "target"),
    [(None, "array", "argmax"), (1, "zero", "argmax"), (2, "array", "argmax"), (4, "zero", 1), (8, "array", 2)],
)
def test_contributions_equal_tangermemes(bits: int | None, start: str, target: int | str) -> None:
    """From zero or an array, for an index or the largest output, at each width."""
    network = Network(bits, seed=3).eval()
    random = np.random.default_rng(3)
    x = random.normal(size=(ITEMS, *SHAPE)).astype(np.float32)
    array = random.normal(size=SHAPE).astype(np.float32) * np.float32(0.5)
    reference = array if start == "array" else np.float32(0)
    method = tvm_lowbit.DeepLift(reference=array if start == "array" else 0.0, target=target)
    artifact = tvm_lowbit.build(exported(network), "host", explain=[method])
    low_bit = [row.op for row in artifact.report.low_bit]
    assert low_bit == ([] if bits is None else ["relax.nn.conv2d"] * 3)
    result = artifact.run(x)
    with torch.no_grad():
        logits = network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(result.outputs["logits"], logits, rtol=1e-4, atol=1e-4)
    found = result.explanations["deeplift"]
    np.testing.assert_array_equal(found.target, logits.argmax(1) if target == "argmax" else target)
    for each in set(found.target.tolist()):
        chosen = found.target == each
        expected = oracle(network, x[chosen], reference, each)
        np.testing.assert_allclose(found.contributions[chosen], expected, atol=1e-4)
    assert np.all(np.abs(found.gap) <= 1e-4)
    assert np.abs(found.contributions).max() > 0.01
