"""Smooth activations, norms and overlapping maxima against tangermeme's DeepLIFT and torch's gradients.

Softmax is not among them: tangermeme takes it apart into exponentials and a quotient, whose multipliers grow with the
logits; `test_composed_rules` has ours by hand.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tangermeme.deep_lift_shap import _nonlinear, deep_lift_shap
from test_tangermeme import Quantiser
from torch import nn

import tvm_lowbit

CHANNELS, LENGTH, ITEMS = 4, 16, 3


class Sequences(nn.Module):
    """Convolutions of sequences, each behind another activation; quantised to ``bits`` unless None."""

    def __init__(self, bits: int | None, activations: list[nn.Module], norm: bool) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.convs = nn.ModuleList([nn.Conv1d(4, 4, 3, padding=1, groups=g, dilation=1) for g in (1, 4, 2)])
        self.acts = nn.ModuleList(activations)
        self.norm = nn.LayerNorm(LENGTH) if norm else nn.Identity()
        if norm:
            nn.init.normal_(self.norm.weight, 1, 0.3)
            nn.init.normal_(self.norm.bias)
        self.pool = nn.MaxPool1d(3, 1, 1)
        steps = (0.0, 0.0) if bits is None else (2.1 / 2 ** (bits - 1), 0.9 / 2 ** (bits - 1))
        low, high = (0, 0) if bits is None else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        make = (lambda s: nn.Identity()) if bits is None else (lambda s: Quantiser(s, low, high))
        self.codes = nn.ModuleList([make(steps[0]) for _ in self.convs])
        self.weights = nn.ModuleList([make(steps[1]) for _ in self.convs])
        self.fc = nn.Linear(4 * LENGTH, 3)
        for layer in (*self.convs, self.fc):
            nn.init.normal_(layer.weight, 0, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        for i, conv in enumerate(self.convs):
            w = self.weights[i](conv.weight)
            x = nn.functional.conv1d(self.codes[i](x), w, conv.bias, padding=1, groups=conv.groups)
            x = self.acts[i](x)
            x = self.pool(x) if i == 1 else self.norm(x) if i == 2 else x
        return self.fc(x.flatten(1))


CASES = {
    "gelu, silu, sigmoid": (None, [nn.GELU(), nn.SiLU(), nn.Sigmoid()], False),
    "tanh, elu, leaky relu": (None, [nn.Tanh(), nn.ELU(), nn.LeakyReLU(0.2)], True),
    # Of fewer bits see `test_units_that_do_not_change`.
    "eight bits and a norm": (8, [nn.GELU(), nn.SiLU(), nn.Softplus()], True),
    "eight bits": (8, [nn.PReLU(4), nn.Mish(), nn.SELU()], False),
}


class Through(torch.autograd.Function):
    """Rounding with the derivative 1."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """To the nearest, ties to even."""
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        """Unchanged."""
        return g


def gradient(network: nn.Module, x: Any, patch: pytest.MonkeyPatch) -> Any:
    """Of class 1 by torch, straight through rounding and 0 where a clamp holds."""
    here = torch.tensor(x, requires_grad=True)
    patch.setattr(torch, "round", Through.apply)
    network(here)[:, 1].sum().backward()
    patch.undo()
    return here.grad.numpy()


def flat(module: Any, grad_input: Any, grad_output: Any) -> Any:
    """As tangermeme's rule, but 0 and not the derivative where a unit does not change."""
    change, result = (torch.sub(*v.chunk(2)) for v in (module.input, module.output))
    still = change.abs() < 1e-6
    slope = torch.where(still, torch.zeros_like(change), result / torch.where(still, 1, change))
    return (grad_output[0] * torch.cat([slope, slope]),)


def oracle(network: nn.Module, x: Any, reference: Any, rules: Any = None) -> Any:
    """Contributions to class 1 by tangermeme."""
    start = torch.from_numpy(reference)[None]

    def references(batch: torch.Tensor, n: int, random_state: int | None = None) -> torch.Tensor:
        return start.expand(len(batch), -1, -1)[:, None]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = deep_lift_shap(
            network,
            torch.from_numpy(x),
            target=1,
            references=references,
            n_shuffles=1,
            additional_nonlinear_ops=rules or {Quantiser: _nonlinear},
            raw_outputs=True,
            only_warn=True,
            device="cpu",
        )
    return (found[:, 0] * (torch.from_numpy(x) - start)).detach().numpy()


@pytest.mark.parametrize("name", CASES)
def test_equal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contributions and gradient."""
    bits, activations, norm = CASES[name]
    network = Sequences(bits, activations, norm).eval()
    random = np.random.default_rng(5)
    x = random.normal(size=(ITEMS, CHANNELS, LENGTH)).astype(np.float32)
    reference = (random.normal(size=(CHANNELS, LENGTH)) * 0.5).astype(np.float32)
    methods = [tvm_lowbit.DeepLift(target=1, reference=reference), tvm_lowbit.Gradient(target=1)]
    program = torch.export.export(network, (torch.zeros(1, CHANNELS, LENGTH),))
    artifact = tvm_lowbit.build(program, "host", explain=methods)
    assert bits is None or len(artifact.report.low_bit) == 3
    result = artifact.run(x)
    with torch.no_grad():
        (logits,) = result.outputs.values()
        np.testing.assert_allclose(logits, network(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-5)
    found = result.explanations["deeplift"]
    np.testing.assert_allclose(found.contributions, oracle(network, x, reference), atol=2e-5)
    assert np.all(np.abs(found.gap) <= 1e-5)
    assert np.abs(found.contributions).max() > 0.01
    expected = gradient(network, x, monkeypatch)
    np.testing.assert_allclose(result.explanations["gradient"].multipliers, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pooled", [True, False])
def test_units_that_do_not_change(pooled: bool) -> None:
    """With few codes many units are what they are in the reference run, though what they read is not.

    Ours have the multiplier 0 there, tangermeme's the derivative: shares that cancel. Both sum to the same, and are
    equal once tangermeme's rule gives 0; ties of a maximum have no part in it.
    """
    network = Sequences(4, [nn.GELU(), nn.SiLU(), nn.Softplus()], norm=False).eval()
    if not pooled:
        network.pool = nn.Identity()
    random = np.random.default_rng(5)
    x = random.normal(size=(ITEMS, CHANNELS, LENGTH)).astype(np.float32)
    reference = (random.normal(size=(CHANNELS, LENGTH)) * 0.5).astype(np.float32)
    program = torch.export.export(network, (torch.zeros(1, CHANNELS, LENGTH),))
    artifact = tvm_lowbit.build(program, "host", explain=[tvm_lowbit.DeepLift(target=1, reference=reference)])
    found = artifact.run(x).explanations["deeplift"].contributions
    rules = dict.fromkeys((Quantiser, nn.GELU, nn.SiLU, nn.Softplus), flat)
    np.testing.assert_allclose(found, oracle(network, x, reference, rules), rtol=0, atol=2e-6)
    other = oracle(network, x, reference)
    assert np.mean(np.abs(found - other) > 1e-4) > 0.1
    np.testing.assert_allclose(found.sum((1, 2)), other.sum((1, 2)), rtol=0, atol=1e-5)
