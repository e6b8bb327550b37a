"""Quantisers as people write them in torch, exported: low-bit with torch's values, or declined with a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch_nets import Net, bits, compiled, inputs, reasons

Step = nn.Parameter


def ste_round(x: torch.Tensor) -> torch.Tensor:
    """The straight-through estimator by detaching."""
    return (x.round() - x).detach() + x


class RoundFunction(torch.autograd.Function):
    """The same as a function of autograd."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Round."""
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        """As if it were not there."""
        return grad


class LSQ(nn.Module):
    """Esser et al. 2020: the step's gradient is scaled, clip before round."""

    def __init__(self, low: int, high: int, step: Any, rounding: Any = ste_round) -> None:
        super().__init__()
        self.low, self.high, self.rounding = low, high, rounding
        self.step = Step(torch.tensor(step, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fake-quantise."""
        factor = 1.0 / (x.numel() * self.high) ** 0.5
        scaled = self.step * factor
        step = (self.step - scaled).detach() + scaled
        if step.dim():
            step = step.view(-1, *[1] * (x.dim() - 1))
        return self.rounding(torch.clamp(x / step, self.low, self.high)) * step


class PACT(nn.Module):
    """Choi et al. 2018, with a clamp by a learnt bound."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.alpha, self.levels, self.how = Step(torch.tensor(3.3)), 2**width - 1, how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fake-quantise."""
        if self.how == "formula":
            y = 0.5 * (x.abs() - (x - self.alpha).abs() + self.alpha)
        elif self.how == "tensors":
            y = torch.clamp(x, torch.zeros(()), self.alpha)
        elif self.how == "number":
            alpha = self.alpha.item()
            return ste_round(torch.clamp(x, 0, alpha) / (alpha / self.levels)) * (alpha / self.levels)
        else:
            y = torch.minimum(torch.relu(x), self.alpha)
        step = self.alpha / self.levels
        return ste_round(y / step) * step


class DoReFaWeights(nn.Module):
    """Zhou et al. 2016."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.levels = 2**width - 1

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """Fake-quantise."""
        squashed = torch.tanh(w)
        unit = squashed / (2 * squashed.abs().max()) + 0.5
        return 2 * (RoundFunction.apply(unit * self.levels) / self.levels) - 1


class DoReFaActivations(nn.Module):
    """Zhou et al. 2016."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.levels = 2**width - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fake-quantise."""
        return RoundFunction.apply(torch.clamp(x, 0, 1) * self.levels) / self.levels


class XNOR(nn.Module):
    """Rastegari et al. 2016: signs with the mean magnitude of each output channel."""

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """Binarise."""
        return torch.sign(w) * w.abs().mean([1, 2, 3], keepdim=True)


class Ternary(nn.Module):
    """Li & Liu 2016 (one magnitude), Zhu et al. 2017 (``negative``: another one for negative weights)."""

    def __init__(self, negative: float | None = None, masks: bool = False) -> None:
        super().__init__()
        self.positive = Step(torch.tensor(0.7))
        self.negative = None if negative is None else Step(torch.tensor(negative))
        self.masks = masks

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """Ternarise."""
        threshold = 0.7 * w.abs().mean()
        if self.negative is not None:
            zeros = torch.zeros_like(w)
            return torch.where(w > threshold, self.positive, torch.where(w < -threshold, -self.negative, zeros))
        mask = (w.abs() > threshold).float()
        if self.masks:
            return (w * mask).sign() * ((w.abs() * mask).sum() / mask.sum())
        return torch.where(w > threshold, 1.0, torch.where(w < -threshold, -1.0, 0.0)) * self.positive


class Bipolar(nn.Module):
    """By comparison, as Brevitas and many others write it."""

    def __init__(self, how: str, magnitude: float = 0.4) -> None:
        super().__init__()
        self.how, self.magnitude = how, Step(torch.tensor(magnitude))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Binarise."""
        if self.how == "float":
            return ((x >= 0).float() * 2 - 1) * self.magnitude
        if self.how == "above":
            return (x > 0).to(x.dtype) * 2.0 + -1.0
        if self.how == "clamped":
            x = torch.where(x > self.magnitude, self.magnitude, x)
            return ((torch.where(x < -self.magnitude, -self.magnitude, x) >= 0).float() * 2 - 1) * self.magnitude
        if self.how == "where":
            return torch.where(x >= 0, self.magnitude, -self.magnitude)
        return torch.sign(x + 1e-30)


ACTIVATIONS = {
    "lsq": (LSQ(0, 15, 0.31), "A4"),
    "lsq_signed": (LSQ(-2, 1, 0.31), "A2"),
    "lsq_function": (LSQ(0, 3, 0.31, RoundFunction.apply), "A2"),
    "pact_tensors": (PACT(4, "tensors"), "A4"),
    "pact_number": (PACT(4, "number"), "A4"),
    "pact_minimum": (PACT(2, "minimum"), "A2"),
    "dorefa": (DoReFaActivations(3), "A3"),
    "bipolar": (Bipolar("float"), "A1"),
    "bipolar_above": (Bipolar("above"), "A1"),
    "bipolar_clamped": (Bipolar("clamped"), "A1"),
    "bipolar_where": (Bipolar("where"), "A1"),
}
WEIGHTS = {
    "lsq": (LSQ(-4, 3, 0.1), "W3"),
    "lsq_channels": (LSQ(-8, 7, [0.05, 0.06, 0.07, 0.08, 0.09, 0.1]), "W4"),
    "dorefa": (DoReFaWeights(2), "W2"),
    "dorefa_1": (DoReFaWeights(1), "W1"),
    "xnor": (XNOR(), "W1"),
    "bipolar": (Bipolar("float"), "W1"),
    "bipolar_clamped": (Bipolar("clamped"), "W1"),
    "bipolar_where": (Bipolar("where"), "W1"),
    "bipolar_sign": (Bipolar("sign"), "W1"),
    "ternary": (Ternary(), "W2"),
    "ternary_masks": (Ternary(masks=True), "W2"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    """The second output is the quantiser's own: torch's to the last bit."""
    act, width = ACTIVATIONS[name]
    step = {"dorefa": 1 / 7, "pact_tensors": 3.3 / 15, "pact_minimum": 1.1}.get(name, 0.31)
    x = inputs(step)
    x[0, 0, 0] = 0.0
    assert bits(compiled(Net(act, LSQ(-2, 1, 0.2), padding=0), x)) == [f"W2{width}"]


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str) -> None:
    """Computed by torch, recognised or taken back to their grid."""
    weight, width = WEIGHTS[name]
    assert bits(compiled(Net(LSQ(0, 15, 0.31), weight), inputs(0.31))) == [f"{width}A4"]


def test_trained_ternary_weights() -> None:
    """TTQ: two magnitudes without a common measure, so two layers of one bit."""
    net = Net(LSQ(0, 15, 0.31), Ternary(negative=0.3391))
    assert bits(compiled(net, inputs(0.31))) == ["W1A4", "W1A4"]


@pytest.mark.parametrize(
    ("act", "weight", "reason"),
    [
        (LSQ(0, 15, 0.31), nn.Identity(), "lie on no grid of at most 8 bits"),
        (LSQ(0, 1023, 0.31), LSQ(-2, 1, 0.2), "takes 10 bits; 1 to 8 are supported"),
        (PACT(4, "formula"), LSQ(-2, 1, 0.2), "it clips by PACT's (abs(x) - abs(x - a) + a) / 2"),
    ],
    ids=["float", "ten_bits", "pact_formula"],
)
def test_declined(act: Any, weight: Any, reason: str) -> None:
    """Float with a reason, and right."""
    artifact = compiled(Net(act, weight), inputs(0.31))
    assert not bits(artifact)
    assert reason in reasons(artifact)["convolution"]


def test_a_dense_layer_of_such() -> None:
    """Linear transposes its weights behind their quantiser."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.quant, self.fc = LSQ(0, 7, 0.3), LSQ(-4, 3, [0.05, 0.06, 0.07, 0.08]), nn.Linear(10, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.act(x), self.quant(self.fc.weight), self.fc.bias)

    torch.manual_seed(0)
    net = Dense()
    assert bits(compiled(net, torch.randn(5, 10))) == ["W3A3"]
    assert bits(compiled(net, torch.randn(5, 3, 10))) == ["W3A3"]
