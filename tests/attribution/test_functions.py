"""Every unary row, each a channel of one network: secants and derivatives against torch in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from relax_models import const, module
from tvm import relax

import tvm_lowbit
from relay_passes.attribution.derivatives import DERIVATIVES
from relay_passes.attribution.rules.unary import UNARY
from relay_passes.attribution.smooth import CLOSED
from relay_passes.ops import FAKE_QUANT

op = relax.op
F = torch.nn.functional
RNG = np.random.default_rng(3)
N, WIDTH = 2, 40
ALL, ABOVE, INSIDE = (-3.0, 3.0), (0.05, 4.0), (-0.95, 0.95)


def step(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A step with torch's values and straight-through derivatives."""
    return lambda v: v + (f(v) - v).detach()


def clipped_sign(v: Any) -> Any:
    """The sign, straight through between -1 and 1."""
    inner = v.clamp(-1, 1)
    return inner + (torch.sign(v) - inner).detach()


# Name -> (operator below "relax.", in Relax, in torch, where it is tried).
FUNCTIONS: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], Any], tuple[float, float]]] = {
    "relu": ("nn.relu", op.nn.relu, torch.relu, ALL),
    "leakyrelu": ("nn.leakyrelu", lambda x: op.nn.leakyrelu(x, 0.2), lambda v: F.leaky_relu(v, 0.2), ALL),
    "prelu": (
        "nn.prelu",
        lambda x: op.nn.prelu(x, const([0.3]), 1),
        lambda v: F.prelu(v, torch.tensor([0.3], dtype=v.dtype)),
        ALL,
    ),
    "clip": ("clip", lambda x: op.clip(x, -0.5, 0.7), lambda v: v.clamp(-0.5, 0.7), ALL),
    "round": ("round", op.round, step(torch.round), ALL),
    "floor": ("floor", op.floor, step(torch.floor), ALL),
    "ceil": ("ceil", op.ceil, step(torch.ceil), ALL),
    "trunc": ("trunc", op.trunc, step(torch.trunc), ALL),
    "sign": ("sign", op.sign, clipped_sign, ALL),
    "abs": ("abs", op.abs, torch.abs, ALL),
    "sigmoid": ("sigmoid", op.sigmoid, torch.sigmoid, ALL),
    "tanh": ("tanh", op.tanh, torch.tanh, ALL),
    "erf": ("erf", op.erf, torch.erf, ALL),
    "exp": ("exp", op.exp, torch.exp, ALL),
    "log": ("log", op.log, torch.log, ABOVE),
    "sqrt": ("sqrt", op.sqrt, torch.sqrt, ABOVE),
    "rsqrt": ("rsqrt", op.rsqrt, torch.rsqrt, ABOVE),
    "square": ("square", op.square, torch.square, ALL),
    "gelu": ("nn.gelu", op.nn.gelu, F.gelu, ALL),
    "gelu_tanh": ("nn.gelu_tanh", op.nn.gelu_tanh, lambda v: F.gelu(v, approximate="tanh"), ALL),
    "silu": ("nn.silu", op.nn.silu, F.silu, ALL),
    "selu": ("nn.selu", op.nn.selu, F.selu, ALL),
    "softplus": ("nn.softplus", lambda x: op.nn.softplus(x, 1.5), lambda v: F.softplus(v, 1.5), ALL),
    "sin": ("sin", op.sin, torch.sin, ALL),
    "cos": ("cos", op.cos, torch.cos, ALL),
    "tan": ("tan", op.tan, torch.tan, INSIDE),
    "sinh": ("sinh", op.sinh, torch.sinh, ALL),
    "cosh": ("cosh", op.cosh, torch.cosh, ALL),
    "atan": ("atan", op.atan, torch.atan, ALL),
    "asin": ("asin", op.asin, torch.asin, INSIDE),
    "acos": ("acos", op.acos, torch.acos, INSIDE),
    "asinh": ("asinh", op.asinh, torch.asinh, ALL),
    "acosh": ("acosh", op.acosh, torch.acosh, (1.1, 3.0)),
    "atanh": ("atanh", op.atanh, torch.atanh, INSIDE),
    "power 3": ("power", lambda x: op.power(x, const(3.0)), lambda v: v**3, ALL),
    "power -0.75": ("power", lambda x: op.power(x, const(-0.75)), lambda v: v**-0.75, ABOVE),
    "power of 1.7": ("power", lambda x: op.power(const(1.7), x), lambda v: 1.7**v, ALL),
    "maximum": ("maximum", lambda x: op.maximum(x, const(np.full((1, 1), 0.3))), lambda v: v.clamp(min=0.3), ALL),
    "minimum": ("minimum", lambda x: op.minimum(const(np.full((1, 1), 0.3)), x), lambda v: v.clamp(max=0.3), ALL),
    "negative": ("negative", op.negative, torch.neg, ALL),
    "reciprocal": ("divide", lambda x: op.divide(const(2.0), x), lambda v: 2 / v, ABOVE),
    "cast": (
        "astype",
        lambda x: op.astype(op.astype(x, "int32"), "float32"),
        step(torch.trunc),
        ALL,
    ),
    "hard sigmoid": (
        "clip",
        lambda x: op.clip(op.add(op.multiply(x, const(1 / 6)), const(0.5)), 0, 1),
        F.hardsigmoid,
        ALL,
    ),
    "hard swish": (
        "multiply",
        lambda x: op.multiply(x, op.divide(op.clip(op.add(x, const(3.0)), 0, 6), const(6.0))),
        F.hardswish,
        ALL,
    ),
    "swish": ("multiply", lambda x: op.multiply(x, op.sigmoid(x)), F.silu, ALL),
    "leaky by where": (
        "where",
        lambda x: op.where(op.greater(x, const(0.0)), x, op.multiply(x, const(0.1))),
        lambda v: F.leaky_relu(v, 0.1),
        ALL,
    ),
    "masks": (
        "astype",
        lambda x: op.astype(
            op.logical_or(
                op.logical_and(op.less(const(0.25), x), op.greater_equal(const(1.5), x)), op.less(x, const(-2))
            ),
            "float32",
        ),
        lambda v: v * 0 + (((v > 0.25) & (v <= 1.5)) | (v < -2)),
        ALL,
    ),
}


def runs() -> tuple[Any, Any]:
    """Inputs and a reference within each function's domain; some elements equal, some hardly different."""
    lows, highs = (np.array([row[3][i] for row in FUNCTIONS.values()])[:, None] for i in (0, 1))
    draw = lambda *lead: RNG.uniform(lows, highs, (*lead, len(FUNCTIONS), WIDTH)).astype(np.float32)  # noqa: E731 - once
    x, x0 = draw(N), draw()
    x[:, :, 0] = x0[:, 0]
    x[:, :, 1] = np.nextafter(x0[:, 1], np.float32(10))
    return x, x0


@pytest.fixture(scope="module")
def explained() -> tuple[Any, Any, Any, Any]:
    """Input, reference, multipliers at the operators' results, and both explanations."""
    x, x0 = runs()
    count = len(FUNCTIONS)
    weights = RNG.normal(size=(count * WIDTH, 1)).astype(np.float32)

    def body(emit: Any, value: Any) -> Any:
        rows = []
        for i, (_, f, _, _) in enumerate(FUNCTIONS.values()):
            row = emit(relax.op.strided_slice(value, [1], [i], [i + 1]), f"row{i}")
            rows.append(emit(f(emit(relax.op.reshape(row, (N, WIDTH)), f"x{i}")), f"f{i}"))
        flat = emit(relax.op.concat(rows, 1), "rows")
        return emit(relax.op.matmul(flat, const(weights)), "total")

    methods = [tvm_lowbit.DeepLift(target=0, reference=x0), tvm_lowbit.Gradient(target=0)]
    found = tvm_lowbit.build(module(body, x.shape), "host", explain=methods).run(x).explanations
    return x, x0, weights.reshape(count, WIDTH), found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str, explained: Any) -> None:
    """Secant and derivative; exactly 0 where there is no difference."""
    x, x0, g, found = explained
    i = list(FUNCTIONS).index(name)
    f = FUNCTIONS[name][2]
    here = torch.tensor(x[:, i], dtype=torch.float64, requires_grad=True)
    start = torch.tensor(x0[i], dtype=torch.float64).expand(N, -1)
    f(here).sum().backward()
    derivative = here.grad.numpy() * g[i]
    np.testing.assert_allclose(found["gradient"].multipliers[:, i], derivative, rtol=2e-4, atol=2e-5)
    with torch.no_grad():
        dx, dy = (here - start).numpy(), (f(here) - f(start)).numpy()
    secants = found["deeplift"].multipliers[:, i]
    contributions = found["deeplift"].contributions[:, i]
    np.testing.assert_allclose(contributions, dy * g[i], rtol=1e-4, atol=1e-5)
    assert np.all(contributions[dx == 0] == 0)
    far = np.abs(dx) > 1e-3
    expected = np.divide(dy * g[i], dx, out=np.zeros_like(dx), where=far)
    np.testing.assert_allclose(secants[far], expected[far], rtol=5e-4, atol=5e-5)
    if f"relax.{FUNCTIONS[name][0]}" in CLOSED:
        near = (dx != 0) & ~far
        assert near.any()
        np.testing.assert_allclose(secants[near], derivative[near], rtol=1e-3)


def test_the_sum_is_complete(explained: Any) -> None:
    """All of them together."""
    assert np.all(np.isfinite(explained[3]["deeplift"].contributions))
    assert np.all(np.abs(explained[3]["deeplift"].gap) <= 1e-3)


# Beyond these, float32 overflows.
ENDS = {"exp": 87, "sinh": 87, "cosh": 87, "power of 1.7": 160}
FAR = np.float32([0, 1e-30, 1e-4, 0.3, 1, 4.5, 18, 30, 80, 87, 89, 104, 160, 300, 3e3, 1e4])


def far_points(name: str) -> Any:
    """As far out as a function goes, both signs where it has them; elsewhere the middle of its domain."""
    low, high = FUNCTIONS[name][3]
    signs = FAR if low >= 0 else np.concatenate([-FAR[::-1], FAR])
    points = signs[np.abs(signs) <= ENDS.get(name, np.inf)]
    if (low, high) == INSIDE:
        points = points[np.abs(points) < 1]
    # A pole, or the root of one.
    points = points[points >= 1.1] if name == "acosh" else points[points >= 1e-4] if low > 0 else points
    return np.resize(points, len(FAR) * 2)


def test_far_out() -> None:
    """Each point against each as a reference, up to 1e4: all finite, secants complete."""
    points = np.stack([far_points(name) for name in FUNCTIONS])
    size = points.shape[1]
    x, x0 = np.repeat(points, size, 1), np.tile(points, size)

    def body(emit: Any, value: Any) -> Any:
        rows = []
        for i, (_, f, _, _) in enumerate(FUNCTIONS.values()):
            row = emit(relax.op.strided_slice(value, [1], [i], [i + 1]))
            rows.append(emit(f(emit(relax.op.reshape(row, (1, size * size))))))
        return emit(relax.op.sum(emit(relax.op.concat(rows, 1)), [1], keepdims=True), "total")

    methods = [tvm_lowbit.DeepLift(target=0, reference=x0), tvm_lowbit.Gradient(target=0)]
    found = tvm_lowbit.build(module(body, (1, *x.shape)), "host", explain=methods).run(x[None]).explanations
    for i, (name, (_, _, f, _)) in enumerate(FUNCTIONS.items()):
        ends = [f(torch.tensor(v[i], dtype=torch.float64)).numpy() for v in (x, x0)]
        scale = np.maximum(1, np.abs(np.stack([*ends, x[i], x0[i]])).max(0))
        share = found["deeplift"].contributions[0, i] / scale
        np.testing.assert_allclose(share, (ends[0] - ends[1]) / scale, rtol=0, atol=1e-5, err_msg=name)
        assert np.all(np.isfinite(found["deeplift"].multipliers[0, i])), name
        assert np.all(np.isfinite(found["gradient"].multipliers[0, i])), name


def test_every_row_is_tried() -> None:
    """A new row needs its case."""
    tried = {f"relax.{row[0]}" for row in FUNCTIONS.values()} | {FAKE_QUANT}
    assert set(UNARY) <= tried
    assert set(DERIVATIVES) <= tried
