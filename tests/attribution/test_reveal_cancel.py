"""RevealCancel against known answers and a naive replica: every part, every weight, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from explained import explain
from relax_models import const, evaluate, module, spec
from tvm import relax

import tvm_lowbit
from relay_passes.ops import fake_quant
from relay_passes.quant_spec import QuantSpec
from tvm_lowbit import DeepLift

Array = npt.NDArray[Any]
Function = Callable[[Array], Array]


@dataclass
class Node:
    """A value of the replica: both runs, the parts of their difference, and the parts of its multiplier."""

    x: Array
    x0: Array
    plus: Array
    minus: Array
    m_plus: Array
    m_minus: Array

    @staticmethod
    def of(x: Array, x0: Array, plus: Array | None = None, minus: Array | None = None) -> Node:
        """By the difference's sign unless parts are given."""
        dx = x - x0
        plus = np.maximum(dx, 0) if plus is None else plus
        minus = np.minimum(dx, 0) if minus is None else minus
        return Node(x, x0, plus, minus, np.zeros_like(dx), np.zeros_like(dx))


def linear(node: Node, matrix: Array, bias: Array) -> Node:
    """Parts by the sign of each term."""
    terms = matrix * (node.x - node.x0)
    plus, minus = np.where(terms > 0, terms, 0).sum(1), np.where(terms < 0, terms, 0).sum(1)
    return Node.of(matrix @ node.x + bias, matrix @ node.x0 + bias, plus, minus)


def linear_back(node: Node, out: Node, matrix: Array) -> None:
    """Section 3.5.1, one weight after the other."""
    for i, dx in enumerate(node.x - node.x0):
        total = 0.0
        for w, m_plus, m_minus in zip(matrix[:, i], out.m_plus, out.m_minus, strict=True):
            total += w * (m_plus if w * dx > 0 else m_minus if w * dx < 0 else (m_plus + m_minus) / 2)
        node.m_plus[i] += total
        node.m_minus[i] += total


def unary(node: Node, f: Function) -> Node:
    """Section 3.5.3."""
    y0, y = f(node.x0), f(node.x)
    up, down = f(node.x0 + node.plus), f(node.x0 + node.minus)
    up, down = np.where(node.minus == 0, y, up), np.where(node.plus == 0, y, down)
    return Node.of(y, y0, (up - y0 + y - down) / 2, (down - y0 + y - up) / 2)


def unary_back(node: Node, out: Node) -> None:
    """Parts over parts; where there is but one, both get the secant."""
    for i in range(len(node.x)):
        plus, minus, dx = node.plus[i], node.minus[i], node.x[i] - node.x0[i]
        shares = out.m_plus[i] * out.plus[i], out.m_minus[i] * out.minus[i]
        if plus and minus:
            node.m_plus[i] += shares[0] / plus
            node.m_minus[i] += shares[1] / minus
        elif dx:
            node.m_plus[i] += sum(shares) / dx
            node.m_minus[i] += sum(shares) / dx


def rescale_back(node: Node, out: Node) -> None:
    """Section 3.5.2."""
    slope = (out.x - out.x0) / np.where(node.x == node.x0, 1, node.x - node.x0)
    node.m_plus += slope * out.m_plus
    node.m_minus += slope * out.m_minus


class Network:
    """x, quantiser, product, scale and shift, relu, plus what went in, quantiser, product; in Relax and in NumPy."""

    def __init__(self, bits: int | None, convolution: bool) -> None:
        random = np.random.default_rng(10 * (bits or 0) + convolution)
        self.convolution = convolution
        self.shape = (2, 2, 4, 4) if convolution else (2, 7)
        count = int(np.prod(self.shape[1:]))
        self.w0 = random.normal(size=(2, 2, 3, 3) if convolution else (7, 7)).astype(np.float32) * 0.5
        self.w1 = random.normal(size=(count, 3)).astype(np.float32) * 0.5
        along = (2, 1, 1) if convolution else (7,)
        self.scale, self.shift = random.normal(size=(2, *along)).astype(np.float32)
        self.specs = [self.quantiser(bits, s) for s in (0.83, 0.47, 1.37, 0.53)]
        self.x, self.x0 = random.normal(size=(2, *self.shape)).astype(np.float32)
        self.x0 = self.x0[0]
        self.x[1, ..., 1] = self.x0[..., 1]  # no difference here

    @staticmethod
    def quantiser(bits: int | None, scale: float) -> QuantSpec | None:
        """Signed, bipolar at 1 bit; None is float."""
        if bits is None:
            return None
        if bits == 1:
            return spec(2 * scale, 0, 1, zero=0.5, form="divide_shifted")
        half = 1 << (bits - 1)
        return spec(2.3 * scale / half, -half, half - 1)

    def module(self) -> Any:
        """In Relax; the quantisers of weights as operators too."""

        def q(emit: Any, x: Any, i: int) -> Any:
            s = self.specs[i]
            return emit(x if s is None else fake_quant(x, s), f"q{i}") if s is not None else x

        def body(emit: Any, x: Any) -> Any:
            q0, w0, w1 = q(emit, x, 0), q(emit, const(self.w0), 1), q(emit, const(self.w1), 3)
            product = relax.op.nn.conv2d(q0, w0, padding=1) if self.convolution else relax.op.matmul(q0, w0)
            v = emit(relax.op.multiply(emit(product, "product"), const(self.scale)), "scaled")
            v = emit(relax.op.nn.relu(emit(relax.op.add(v, const(self.shift)), "shifted")), "relu")
            v = q(emit, emit(relax.op.add(v, q0), "residual"), 2)
            flat = emit(relax.op.reshape(v, (self.shape[0], int(np.prod(self.shape[1:])))), "flat")
            return emit(relax.op.matmul(flat, w1), "logits")

        return module(body, self.shape)

    def function(self, i: int) -> Function:
        """A quantiser in NumPy, in the shape of the input."""
        s = self.specs[i]
        if s is None:
            return lambda x: x
        return lambda x: s.values(s.codes(np.asarray(x, np.float32))).astype(np.float64)

    def first(self) -> tuple[Array, Array]:
        """The first product with scale and shift as one matrix and a bias."""
        w = self.function(1)(self.w0)
        count = int(np.prod(self.shape[1:]))
        if not self.convolution:
            return (w * self.scale).T.astype(np.float64), self.shift.astype(np.float64)
        matrix = np.zeros((count, count))
        for o, c, y, x, ky, kx in np.ndindex(2, 2, 4, 4, 3, 3):
            iy, ix = y + ky - 1, x + kx - 1
            if 0 <= iy < 4 and 0 <= ix < 4:
                matrix[16 * o + 4 * y + x, 16 * c + 4 * iy + ix] = w[o, c, ky, kx] * self.scale[o, 0, 0]
        return matrix, np.repeat(self.shift.ravel(), 16).astype(np.float64)

    def replica(self, x: Array, rescale: bool, target: int) -> tuple[Array, Array]:
        """Contributions and multipliers of one input; by Rescale at all functions where asked."""
        start = Node.of(x.ravel().astype(np.float64), self.x0.ravel().astype(np.float64))
        matrix, bias = self.first()
        # Without quantisers these are the values before them, not functions of them.
        q0 = unary(start, self.function(0)) if self.specs[0] else start
        shifted = linear(q0, matrix, bias)
        relu = unary(shifted, lambda v: np.maximum(v, 0))
        residual = Node.of(relu.x + q0.x, relu.x0 + q0.x0, relu.plus + q0.plus, relu.minus + q0.minus)
        q1 = unary(residual, self.function(2)) if self.specs[2] else residual
        last = self.function(3)(self.w1).astype(np.float64).T
        logits = linear(q1, last, np.zeros(3))
        back: Any = (lambda a, b: rescale_back(a, b)) if rescale else unary_back
        logits.m_plus[target] = logits.m_minus[target] = 1
        linear_back(q1, logits, last)
        if q1 is not residual:
            back(residual, q1)
        relu.m_plus, relu.m_minus = residual.m_plus.copy(), residual.m_minus.copy()
        q0.m_plus, q0.m_minus = residual.m_plus.copy(), residual.m_minus.copy()
        back(shifted, relu)
        linear_back(q0, shifted, matrix)
        if q0 is not start:
            back(start, q0)
        contributions = start.m_plus * start.plus + start.m_minus * start.minus
        np.testing.assert_allclose(contributions.sum(), logits.x[target] - logits.x0[target], atol=1e-9)
        middle = (start.m_plus + start.m_minus) / 2
        multipliers = np.where(start.plus > 0, start.m_plus, np.where(start.minus < 0, start.m_minus, middle))
        return contributions.reshape(x.shape), multipliers.reshape(x.shape)


@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("bits", [None, 1, 2, 4, 8])
def test_replica(bits: int | None, convolution: bool) -> None:
    """Contributions and multipliers; ``genomics`` is Rescale behind convolutions."""
    network = Network(bits, convolution)
    mod = network.module()
    layers = ["q0", "residual", "relu", "flat"][bits is None :]
    methods = [
        DeepLift(rule=r, name=r, reference=network.x0, target=1, layers=layers) for r in ("reveal_cancel", "genomics")
    ]
    result = tvm_lowbit.build(mod, "host", explain=methods).run(network.x)
    np.testing.assert_allclose(result.outputs["output"], evaluate(mod, network.x)[0], rtol=1e-4, atol=1e-4)
    for name, found in result.explanations.items():
        expected = [network.replica(x, name == "genomics" and convolution, 1) for x in network.x]
        np.testing.assert_allclose(found.contributions, [c for c, _ in expected], rtol=1e-4, atol=2e-6)
        np.testing.assert_allclose(found.multipliers, [m for _, m in expected], rtol=1e-3, atol=2e-5)
        np.testing.assert_allclose(found.gap, 0, atol=1e-5)
        for layer, values in found.layers.items():
            if layer != "relu":
                np.testing.assert_allclose(values["gap"], 0, atol=1e-5)
    assert not np.allclose(result.explanations["reveal_cancel"].contributions, 0)


@pytest.mark.parametrize(("rule", "shares"), [("rescale", (0, 2)), ("reveal_cancel", (1, 1)), ("genomics", (1, 1))])
def test_minimum(rule: str, shares: tuple[float, float]) -> None:
    """i1 - relu(i1 - i2) at (3, 2): what Rescale hides (1704.02685, figure 2)."""

    def body(emit: Any, x: Any) -> Any:
        relu = emit(relax.op.nn.relu(emit(relax.op.matmul(x, const([[1], [-1]])), "d")), "relu")
        return emit(relax.op.subtract(emit(relax.op.matmul(x, const([[1], [0]])), "i1"), relu), "minimum")

    found = explain(module(body, (1, 2)), [[3, 2]], rule=rule)
    np.testing.assert_allclose(found.contributions, [shares], atol=1e-6)
