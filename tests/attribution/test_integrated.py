"""Integrated gradients and SmoothGrad: against Captum, against straight-through replicas, and the noise itself."""

from __future__ import annotations

from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from explained import explained
from relax_models import const, evaluate, module, quantised
from tvm import relax

import tvm_lowbit
from relay_passes.attribution.gaussian import gaussian, threefry
from tvm_lowbit import Element, Gradient, GradientXInput, IntegratedGradients, LowbitError, Similarity, SmoothGrad

RNG = np.random.default_rng(0)
W0, W1 = (RNG.normal(size=s).astype(np.float32) * 0.4 for s in ((4, 2, 3, 3), (64, 5)))
REFERENCE = RNG.normal(size=(2, 4, 4)).astype(np.float32)
X = RNG.normal(size=(3, 2, 4, 4)).astype(np.float32)


class Network(torch.nn.Module):
    """A convolution with ReLU and a dense layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(torch.nn.functional.conv2d(x, torch.tensor(W0), padding=1))
        return hidden.flatten(1) @ torch.tensor(W1)


def network(emit: Any, x: Any) -> Any:
    """The same in Relax, batch 3."""
    conv = emit(relax.op.nn.conv2d(x, const(W0), padding=1), "conv")
    hidden = emit(relax.op.nn.relu(conv), "relu")
    return emit(relax.op.matmul(emit(relax.op.reshape(hidden, (3, 64)), "flat"), const(W1)), "logits")


def noise(seed: int, sample: int, shape: tuple[int, ...], stream: int = 0) -> Any:
    """What `gaussian` computes, with NumPy's logarithm and cosine in float64."""
    word, count = np.uint32, int(np.prod(shape))
    with np.errstate(over="ignore"):
        counter = np.arange(count, dtype=np.uint32), np.full(count, stream, np.uint32)
        a, b = threefry((word(seed), word(sample)), counter, word)
    u, v = ((a >> word(8)) + 1.0) / 2**24, (b >> word(8)) / 2**24
    return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).reshape(shape)


def torch_gradient(x: Any, index: int) -> Any:
    inputs = torch.tensor(np.asarray(x, np.float32), requires_grad=True)
    (found,) = torch.autograd.grad(Network()(inputs)[:, index].sum(), inputs)
    return found.numpy()


def test_equal_to_captum_and_torch() -> None:
    """All quadratures, several classes, SmoothGrad with the noise made again, and a similarity, in one library."""
    rules = {"midpoint": "riemann_middle", "gausslegendre": "gausslegendre", "left": "riemann_left"}
    embedding = RNG.normal(size=5)
    methods = [
        *(IntegratedGradients(steps=20, rule=r, reference=REFERENCE, target=[3, 0], name=r) for r in rules),
        IntegratedGradients(steps=400, rule="trapezoid", target="argmax", name="fine"),
        SmoothGrad(samples=7, noise=0.2, seed=5, target=2, reference=REFERENCE),
        SmoothGrad(samples=3, noise=0.0, target=2, name="silent"),
        Gradient(target=2),
        GradientXInput(target=Similarity(embedding), name="similar"),
        IntegratedGradients(steps=200, target=Similarity(embedding), reference=REFERENCE, name="similar_path"),
    ]
    result = explained(module(network, X.shape), X, *methods)
    model, inputs, start = Network(), torch.tensor(X), torch.tensor(REFERENCE)[None]
    for rule, name in rules.items():
        found = result[rule]
        assert found.contributions.shape == (3, 2, 2, 4, 4)
        for position, index in enumerate((3, 0)):
            oracle = captum.attr.IntegratedGradients(model)
            want, delta = oracle.attribute(
                inputs, start, target=index, n_steps=20, method=name, return_convergence_delta=True
            )
            np.testing.assert_allclose(found.contributions[:, position], want.numpy(), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.gap[:, position], delta.numpy(), atol=1e-4)
            np.testing.assert_array_equal(found.target[:, position], index)
    logits = model(inputs).detach().numpy()
    np.testing.assert_array_equal(result["fine"].target, logits.argmax(1))
    total = logits.max(1) - model(torch.zeros(1, 2, 4, 4)).detach().numpy()[0, logits.argmax(1)]
    np.testing.assert_allclose(result["fine"].contributions.sum((1, 2, 3)) - result["fine"].gap, total, atol=1e-4)
    assert np.abs(result["fine"].gap).max() < 0.01 * np.abs(total).max()

    width = 0.2 * (X.max((1, 2, 3)) - X.min((1, 2, 3)))[:, None, None, None]
    draws = [noise(5, sample, X.shape[1:]) for sample in range(7)]
    want = np.mean([torch_gradient(X + width * draw, 2) for draw in draws], 0)
    np.testing.assert_allclose(result["smooth_grad"].multipliers, want, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result["smooth_grad"].contributions, want * (X - REFERENCE), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result["gradient"].multipliers, torch_gradient(X, 2), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result["silent"].multipliers, torch_gradient(X, 2), rtol=1e-4, atol=1e-6)

    leaf = torch.tensor(X, requires_grad=True)
    cosine = torch.nn.functional.cosine_similarity(model(leaf), torch.tensor(embedding[None], dtype=torch.float32))
    (slope,) = torch.autograd.grad(cosine.sum(), leaf)
    np.testing.assert_allclose(result["similar"].multipliers, slope.numpy(), rtol=1e-3, atol=1e-6)
    at_start = torch.nn.functional.cosine_similarity(model(start), torch.tensor(embedding[None]).float())
    path = result["similar_path"]
    change = cosine.detach().numpy() - at_start.detach().numpy()
    np.testing.assert_allclose(path.contributions.sum((1, 2, 3)) - path.gap, change, atol=1e-5)
    assert np.abs(path.gap).max() < 0.02


def test_straight_through_quantisers() -> None:
    """Two bits: the path's points go through the quantisers, gradients through their clips; the gap is what is lost."""
    w = RNG.integers(-2, 2, (6, 8)).astype(np.float32) * 0.5
    v = RNG.integers(-2, 2, (8, 3)).astype(np.float32) * 0.5
    x, start = RNG.normal(size=(4, 6)).astype(np.float32), np.float32(-0.25)

    def body(emit: Any, value: Any) -> Any:
        q0 = quantised(emit, value, "q0", scale=0.5, qmin=-2, qmax=1)
        weights = quantised(emit, const(w), "w", scale=0.5, qmin=-2, qmax=1)
        q1 = quantised(emit, emit(relax.op.matmul(q0, weights), "fc0"), "q1")
        return emit(relax.op.matmul(q1, quantised(emit, const(v), "v", scale=0.5, qmin=-2, qmax=1)), "fc1")

    def run(value: Any) -> tuple[Any, Any]:
        """Outputs, and the gradient of class 1."""
        q0 = np.clip(np.rint(value / 0.5), -2, 1) * 0.5
        hidden = q0 @ w
        q1 = np.clip(np.rint(hidden / 0.5), 0, 3) * 0.5
        inner = v[:, 1] * ((hidden >= 0) & (hidden <= 1.5))
        return q1 @ v, (inner @ w.T) * ((value >= -1) & (value <= 0.5))

    steps = 16
    result = explained(module(body, x.shape), x, IntegratedGradients(steps=steps, reference=float(start), target=1))
    found = result["integrated_gradients"]
    points = [start + np.float32((k + 0.5) / steps) * (x - start) for k in range(steps)]
    mean = np.mean([run(point)[1] for point in points], 0)
    np.testing.assert_allclose(found.multipliers, mean, atol=1e-5)
    lost = (mean * (x - start)).sum(1) - (run(x)[0] - run(np.full_like(x, start))[0])[:, 1]
    np.testing.assert_allclose(found.gap, lost, atol=1e-5)
    assert np.abs(lost).max() > 0.1, "straight-through gradients are not complete"


def test_noise() -> None:
    """Threefry's published answer; normal moments; streams and samples differ."""
    word = np.uint32
    with np.errstate(over="ignore"):
        assert [int(v) for v in threefry((word(0),) * 2, (word(0),) * 2, word)] == [0x6B200159, 0x99BA4EFE]

    def body(emit: Any, x: Any) -> Any:
        rows = [emit(gaussian((200, 300), *key), f"n{i}") for i, key in enumerate(((7, 3, 0), (7, 4, 0), (7, 3, 1)))]
        return emit(relax.op.add(emit(relax.op.concat(rows, 0), "all"), x), "sum")

    (drawn,) = evaluate(module(body, (3, 200, 300)), np.zeros((3, 200, 300), np.float32))
    for array, (sample, stream) in zip(drawn, ((3, 0), (4, 0), (3, 1)), strict=True):
        np.testing.assert_allclose(array, noise(7, sample, (200, 300), stream), atol=2e-6)
    z = drawn.ravel().astype(np.float64)
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01 and abs((z**4).mean() - 3) < 0.1
    assert np.abs(np.corrcoef(drawn.reshape(3, -1)) - np.eye(3)).max() < 0.02


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: IntegratedGradients(steps=0), "steps"),
        (lambda: IntegratedGradients(steps=2.5), "steps"),
        (lambda: IntegratedGradients(rule="simpson"), "rule"),
        (lambda: IntegratedGradients(reference=float("nan")), "reference"),
        (lambda: SmoothGrad(samples=-1), "samples"),
        (lambda: SmoothGrad(noise=-0.1), "noise"),
        (lambda: SmoothGrad(noise=float("nan")), "noise"),
        (lambda: SmoothGrad(seed=-1), "seed"),
        (lambda: Similarity([0.0, 0.0]), "Similarity"),
        (lambda: Similarity("other"), "Similarity"),
    ],
)
def test_bad_arguments(make: Any, where: str) -> None:
    with pytest.raises(LowbitError, match=where):
        make()


def test_two_inputs() -> None:
    """Both inputs' shares count for the gap; the noise of each is its own."""
    w = RNG.normal(size=(3, 4)).astype(np.float32)

    def body(emit: Any, x: Any, y: Any) -> Any:
        both = emit(relax.op.multiply(x, y), "both")
        return relax.Tuple([emit(relax.op.matmul(both, const(w)), "f"), emit(relax.op.negative(y), "other")])

    methods = [IntegratedGradients(steps=3, target=1), SmoothGrad(samples=2, noise=0.5, target=1, seed=9)]
    built = tvm_lowbit.build(module(body, (2, 3), (2, 3)), "host", explain=methods)
    x, y = (RNG.normal(size=(2, 3)).astype(np.float32) for _ in range(2))
    found = built.run({"x": x, "y": y}).explanations
    np.testing.assert_allclose(found["integrated_gradients"].contributions, x * y * w[:, 1] / 2, atol=1e-6)
    np.testing.assert_allclose(found["integrated_gradients"].gap, 0, atol=1e-6)
    width = 0.5 * (y.max(1) - y.min(1))[:, None]
    draws = np.mean([noise(9, sample, (3,), stream=1) for sample in range(2)], 0)
    np.testing.assert_allclose(found["smooth_grad"].multipliers, (y + width * draws) * w[:, 1], atol=1e-5)
    method = IntegratedGradients(target=Element((0,), output=built.manifest.outputs[1].name))
    with pytest.raises(LowbitError, match="first input"):
        tvm_lowbit.build(module(body, (2, 3), (2, 3)), "host", explain=[method])
