"""Conductance: the known answers, Captum's reference and its layer conductance, completeness, and what is refused."""

from __future__ import annotations

from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from captum.testing.attr.helpers.conductance_reference import ConductanceReference
from captum.testing.helpers.basic_models import BasicModel_MultiLayer
from explained import explained
from relax_models import const, module, quantised
from tvm import relax

import tvm_lowbit
from tvm_lowbit import Conductance, DeepLift, IntegratedGradients, LowbitError, NeuronIntegratedGradients, Similarity

RNG = np.random.default_rng(0)
W0, W1, W2 = (RNG.normal(size=s).astype(np.float32) * 0.4 for s in ((4, 2, 3, 3), (4, 4, 3, 3), (64, 5)))
BIAS = RNG.normal(size=(4, 1, 1)).astype(np.float32)
X = RNG.normal(size=(2, 2, 4, 4)).astype(np.float32)
START = RNG.normal(size=(2, 4, 4)).astype(np.float32)


def test_known_answers() -> None:
    """Captum's BasicModel_MultiLayer at (0, 100, 0): hidden (90, 100, 100, 100), input (0, 390, 0)."""

    def body(emit: Any, x: Any) -> Any:
        line = emit(relax.op.matmul(x, const(np.ones((3, 4)))), "linear1/matmul")
        shifted = emit(relax.op.add(line, const([-10, 1, 1, 1])), "linear1/add")
        relu = emit(relax.op.nn.relu(shifted), "relu")
        line = emit(relax.op.matmul(relu, const(np.ones((4, 2)))), "linear2/matmul")
        return emit(relax.op.add(line, const([-1, 1])), "linear2/add")

    method = Conductance(["linear1", "relu", "x"], steps=500, target=1)
    found = explained(module(body, (1, 3)), [[0, 100, 0]], method)["conductance"]
    hidden = found.layers["relu"]["contributions"]
    np.testing.assert_allclose(hidden, [[90, 100, 100, 100]], rtol=1e-4)
    np.testing.assert_allclose(found.layers["linear1"]["contributions"], [[90, 100, 100, 100]], rtol=2e-3)
    np.testing.assert_allclose(found.layers["x"]["contributions"], [[0, 390, 0]], rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(found.layers["relu"]["gap"], [0], atol=1e-2)
    model = BasicModel_MultiLayer()
    oracle = ConductanceReference(model, model.relu)
    want = oracle.attribute(torch.tensor([[0.0, 100.0, 0.0]]), target=1, n_steps=500, method="gausslegendre")
    np.testing.assert_allclose(hidden, np.asarray(want.detach()), rtol=2e-3)


class Network(torch.nn.Module):
    """Two convolutions, the second with a residual, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.ReLU(), torch.nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(torch.nn.functional.conv2d(x, torch.tensor(W0), padding=1) + torch.tensor(BIAS))
        second = self.second(torch.nn.functional.conv2d(first, torch.tensor(W1), padding=1))
        return (second + first).flatten(1) @ torch.tensor(W2)


def network(emit: Any, x: Any) -> Any:
    """The same in Relax, batch 2."""
    conv = emit(relax.op.add(emit(relax.op.nn.conv2d(x, const(W0), padding=1), "c0"), const(BIAS)), "b0")
    first = emit(relax.op.nn.relu(conv), "first")
    second = emit(relax.op.nn.relu(emit(relax.op.nn.conv2d(first, const(W1), padding=1), "c1")), "second")
    flat = emit(relax.op.reshape(emit(relax.op.add(second, first), "residual"), (2, 64)), "flat")
    return emit(relax.op.matmul(flat, const(W2)), "logits")


def test_equal_to_captum() -> None:
    """Captum's layer conductance is the rule "left"; its reference, which integrates, the limit of all of them."""
    methods = [
        Conductance(["first", "second"], steps=20, rule="left", target=[3, 0], reference=START, name="left"),
        Conductance("first", steps=20, rule="right", target=3, reference=START, name="right"),
        Conductance("first", steps=20, target=3, reference=START, name="mean"),
        NeuronIntegratedGradients(["first", "residual", "x"], steps=300, target=3, reference=START, name="fine"),
        IntegratedGradients(steps=300, rule="trapezoid", target=3, reference=START),
        DeepLift(layers=["first"], target=3, reference=START),
        Conductance("second", steps=100, target=Similarity(np.arange(5)), reference=START, name="similar"),
    ]
    result = explained(module(network, X.shape), X, *methods)
    model, inputs, start = Network(), torch.tensor(X), torch.tensor(START)[None]
    for name in ("first", "second"):
        oracle = captum.attr.LayerConductance(model, getattr(model, name))
        for position, index in enumerate((3, 0)):
            want = oracle.attribute(inputs, start, target=index, n_steps=20, method="riemann_trapezoid")
            found = result["left"].layers[name]["contributions"][:, position]
            np.testing.assert_allclose(found, want.detach().numpy(), rtol=1e-3, atol=1e-5)
    left, right, mean = (result[name].layers["first"]["contributions"] for name in ("left", "right", "mean"))
    assert not np.allclose(left[:, 0], right, atol=1e-3)
    np.testing.assert_allclose(mean, (left[:, 0] + right) / 2, rtol=1e-4, atol=1e-5)

    reference = ConductanceReference(model, model.first)
    for item in range(2):
        want = reference.attribute(inputs[item : item + 1], start, target=3, n_steps=300, method="riemann_trapezoid")
        found = result["fine"].layers["first"]["contributions"][item : item + 1]
        np.testing.assert_allclose(found, np.asarray(want.detach()), rtol=0.02, atol=0.02)
    fine, path = result["fine"].layers, result["integrated_gradients"]
    np.testing.assert_allclose(fine["x"]["contributions"], path.contributions, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(fine["x"]["gap"], path.gap, atol=1e-4)
    for name in ("first", "residual"):
        assert np.abs(fine[name]["gap"]).max() < 0.01
    assert "gap" not in result["left"].layers["second"], "the residual goes around it"
    one_pass = result["deeplift"].layers["first"]["contributions"]
    sums = [values.sum((1, 2, 3)) for values in (one_pass, fine["first"]["contributions"])]
    np.testing.assert_allclose(*sums, atol=0.01)
    assert result["similar"].layers["second"]["contributions"].shape == (2, 4, 4, 4)


def test_quantised() -> None:
    """Against NumPy: neurons' codes along the path, straight-through gradients; and the forward part is integers."""
    w, v = (RNG.integers(-2, 2, s).astype(np.float32) * 0.5 for s in ((6, 8), (8, 3)))
    x = RNG.normal(size=(4, 6)).astype(np.float32)

    def body(emit: Any, value: Any) -> Any:
        q0 = quantised(emit, value, "q0", scale=0.5, qmin=-2, qmax=1)
        weights = quantised(emit, const(w), "w", scale=0.5, qmin=-2, qmax=1)
        q1 = quantised(emit, emit(relax.op.matmul(q0, weights), "fc0"), "q1")
        return emit(relax.op.matmul(q1, quantised(emit, const(v), "v", scale=0.5, qmin=-2, qmax=1)), "fc1")

    steps = 12
    built = tvm_lowbit.build(module(body, x.shape), "host", explain=[Conductance("fc0", steps=steps, target=1)])
    found = built.run(x).explanations["conductance"].layers["fc0"]
    hidden = [(np.clip(np.rint(x * np.float32(k / steps) / 0.5), -2, 1) * 0.5) @ w for k in range(steps + 1)]
    slopes = [v[:, 1] * ((h >= 0) & (h <= 1.5)) for h in hidden]
    pieces = [(a + b) / 2 * (h - g) for a, b, g, h in zip(slopes, slopes[1:], hidden, hidden[1:], strict=False)]
    np.testing.assert_allclose(found["contributions"], np.sum(pieces, 0), atol=1e-5)
    last, first = (np.clip(np.rint(h / 0.5), 0, 3) * 0.5 @ v[:, 1] for h in (hidden[-1], hidden[0]))
    np.testing.assert_allclose(found["gap"], np.sum(pieces, 0).sum(1) - (last - first), atol=1e-5)
    assert all(row.technique for row in built.manifest.layers)


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: Conductance("first", steps=0), "steps"),
        (lambda: Conductance("first", rule="midpoint"), "rule"),
        (lambda: Conductance([]), "layer"),
        (lambda: Conductance(3), "layer"),
        (lambda: DeepLift(target=Similarity([1.0])), "linear"),
    ],
)
def test_bad_arguments(make: Any, where: str) -> None:
    with pytest.raises(LowbitError, match=where):
        make()


@pytest.mark.parametrize("name", ["frist", "branch"])
def test_unknown_layers(name: str) -> None:
    """A name that is near another, and a layer that the output does not depend on."""

    def body(emit: Any, x: Any) -> Any:
        return relax.Tuple([emit(relax.op.nn.relu(x), "first"), emit(relax.op.negative(x), "branch")])

    with pytest.raises(LowbitError, match="near names: first" if name == "frist" else "depends on"):
        tvm_lowbit.build(module(body, (1, 2)), "host", explain=[Conductance(name, target=0)])


def test_nothing_is_asked_of_what_lies_before_the_layer() -> None:
    """An operator without a rule there is no hindrance, behind it one is."""

    def body(emit: Any, x: Any) -> Any:
        folded = emit(relax.op.floor_mod(x, const(2.0)), "folded")
        return emit(relax.op.multiply(emit(relax.op.nn.relu(folded), "relu"), const([1, 2, 3])), "scaled")

    x = RNG.normal(size=(1, 3)).astype(np.float32)
    found = explained(module(body, (1, 3)), x, Conductance("relu", steps=3, target=2))["conductance"].layers["relu"]
    np.testing.assert_allclose(found["contributions"], [[0, 0, 3 * np.mod(x[0, 2], 2)]], atol=1e-5)
    np.testing.assert_allclose(found["gap"], [0], atol=1e-5)
    for method in (Conductance("x", target=2), IntegratedGradients(target=2)):
        with pytest.raises(LowbitError, match="folded"):
            tvm_lowbit.build(module(body, (1, 3)), "host", explain=[method])
