"""Minimum, maximum, ReLU and nested clips are one clip; a detached round is a round; values stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx
from relax_models import const, evaluate, module, operators, values
from tvm import relax

import tvm_lowbit
from relay_passes.canonicalize import canonicalize
from relay_passes.patterns.base import bounds

SHAPE = (2, 3, 4, 4)
X = (np.random.default_rng(3).normal(size=SHAPE) * 4).astype(np.float32)


def chained(*steps: Callable[[Any], Any]) -> Any:
    """Each step bound, the last as ``end``."""

    def body(emit: Any, x: Any) -> Any:
        for i, step in enumerate(steps):
            x = emit(step(x), "end" if i == len(steps) - 1 else f"step{i}")
        return x

    return module(body, SHAPE)


def low(limit: Any) -> Callable[[Any], Any]:
    return lambda x: relax.op.maximum(x, const(limit))


def high(limit: Any) -> Callable[[Any], Any]:
    return lambda x: relax.op.minimum(const(limit), x)


@pytest.mark.parametrize(
    ("steps", "limits"),
    [
        ((low(-2),), (-2, np.inf)),
        ((high([1.5]),), (-np.inf, 1.5)),
        ((high(np.full((1, 3, 1, 1), 1.5)),), (-np.inf, 1.5)),
        ((low(-2), high(1)), (-2, 1)),
        ((high(1), low(-2)), (-2, 1)),
        ((relax.op.nn.relu, high(3)), (0, 3)),
        ((relax.op.nn.relu, lambda x: relax.op.clip(x, -1.0, 3.0)), (0, 3)),
        ((lambda x: relax.op.clip(x, -1.0, 3.0), lambda x: relax.op.clip(x, -4.0, 2.0)), (-1, 2)),
        ((lambda x: relax.op.clip(x, -1.0, 0.0), lambda x: relax.op.clip(x, 1.0, 2.0)), (1, 1)),
        ((low(-2), high(1), low(0), high(7)), (0, 1)),
    ],
)
def test_becomes_one_clip(steps: Any, limits: tuple[float, float]) -> None:
    before = chained(*steps)
    after = canonicalize(before)
    assert operators(after) == ["relax.clip"]
    assert bounds(values(after)["end"]) == limits
    np.testing.assert_array_equal(evaluate(after, X)[0], evaluate(before, X)[0])


@pytest.mark.parametrize(
    "step",
    [
        low(np.arange(3).reshape(1, 3, 1, 1)),
        low(np.nan),
        lambda x: relax.op.maximum(x, x),
        low(np.zeros((2, 2, 3, 4, 4))),
    ],
    ids=["per_channel", "nan", "not_constant", "broadcasts"],
)
def test_what_is_no_clip_stays(step: Any) -> None:
    assert operators(canonicalize(chained(step))) == ["relax.maximum"]


def test_clip_of_crossed_bounds_stays_apart() -> None:
    """It gives its upper bound everywhere, which is no clip between the two."""
    before = chained(lambda x: relax.op.clip(x, 3.0, 1.0), lambda x: relax.op.clip(x, 0.0, 2.0))
    after = canonicalize(before)
    assert operators(after) == ["relax.clip", "relax.clip"]


def test_clip_that_is_read_twice_stays_for_its_other_reader() -> None:
    def body(emit: Any, x: Any) -> Any:
        relu = emit(relax.op.nn.relu(x), "relu")
        return relax.Tuple([emit(relax.op.minimum(relu, const(3)), "end"), relu])

    before = module(body, SHAPE)
    after = canonicalize(before)
    assert operators(after) == ["relax.nn.relu", "relax.clip"]
    for got, expected in zip(evaluate(after, X), evaluate(before, X), strict=True):
        np.testing.assert_array_equal(got, expected)


def clipped(g: GraphBuilder, x: str, lo: float, hi: float, order: str) -> str:
    """A Clip in other words."""
    if order == "min_of_max":
        return g.add("Min", g.add("Max", x, g.constant(lo)), g.constant(hi))
    if order == "max_of_min":
        return g.add("Max", g.constant([lo]), g.add("Min", g.constant(hi), x))
    if order == "three":
        return g.add("Max", g.add("Min", g.constant(hi), x, g.constant(hi + 1)), g.constant(lo))
    return g.add("Min", g.add("Relu", x), g.constant(hi))


def spelled(g: GraphBuilder, x: str, scale: float, lo: int, hi: int, order: str, name: str) -> str:
    """Raw arithmetic without Clip."""
    s = g.constant(scale)
    codes = g.add("Round", clipped(g, g.add("Div", x, s), lo, hi, order), name=f"{name}/round")
    return g.add("Mul", codes, s, name=name)


@pytest.mark.parametrize("order", ["min_of_max", "max_of_min", "three", "relu"])
def test_min_and_max_in_place_of_clip(order: str) -> None:
    """Activations and weights; all layers low-bit, codes those of ONNX Runtime."""
    g = GraphBuilder()
    lo = 0 if order == "relu" else -2
    q = spelled(g, g.input(3, 6, 6), 0.37, lo, lo + 3, order, "q0")
    w = spelled(g, g.constant(g.random.normal(size=(4, 3, 3, 3))), 0.41, -2, 1, "min_of_max", "w")
    g.codes |= {"q0": "q0/round", "q1": "q1/round"}
    q = spelled(g, g.add("Conv", q, w, name="c1"), 0.53, lo, lo + 3, order, "q1")
    model = g.model(g.add("Conv", q, g.weights(2, 4, 1, 1), name="c2"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [row.name for row in artifact.report.low_bit] == ["c1", "c2"]
    assert_like_onnx(artifact, g, model, X[:, :, :1].repeat(6, 2)[..., :1].repeat(6, 3) + 0.1)


def test_min_and_max_on_stored_codes() -> None:
    """Integers have no infinity: the missing bound is the type's."""
    g = GraphBuilder(opset=13)
    parts = [g.constant(0.25), g.constant(0, np.int8)]
    codes = g.add("QuantizeLinear", g.input(3, 4, 4), *parts, name="q/codes")
    codes = g.add("Min", g.add("Max", codes, g.constant(-4, np.int8)), g.constant(3, np.int8), name="q/clip")
    q = g.add("DequantizeLinear", codes, *parts, name="q")
    g.codes["q"] = "q/clip"
    model = g.model(g.add("Conv", q, g.weights(2, 3, 1, 1), name="c"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [row.bits for row in artifact.report.low_bit] == ["W2A3"]
    assert_like_onnx(artifact, g, model, X)


def detached(g: GraphBuilder, q: str, order: str) -> str:
    """Round as a straight-through estimator's export leaves it."""
    difference = g.add("Sub", g.add("Round", q), q)
    return g.add("Add", *((difference, q) if order == "difference_first" else (q, difference)))


@pytest.mark.parametrize("order", ["difference_first", "q_first"])
@pytest.mark.parametrize("scale", [0.37, 0.5])
def test_detached_round_is_a_round(order: str, scale: float) -> None:
    """LSQ: activations, ties among them, and weights; the codes are the sum's, which is a whole number."""
    g = GraphBuilder()

    def lsq(x: str, s: float, lo: int, hi: int, name: str) -> str:
        step = g.constant(s)
        clip = g.add("Clip", g.add("Div", x, step), g.constant(lo), g.constant(hi))
        g.codes[name] = detached(g, clip, order)
        return g.add("Mul", g.codes[name], step, name=name)

    q = lsq(g.input(3, 4, 4), scale, -8, 7, "q")
    w = lsq(g.constant(g.random.normal(size=(4, 3, 3, 3))), 0.41, -2, 1, "w")
    del g.codes["w"]
    model = g.model(g.add("Conv", q, w, name="c"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [row.bits for row in artifact.report.low_bit] == ["W2A4"]
    assert_like_onnx(artifact, g, model, np.concatenate([X, np.rint(X * 4) / 4]))


def test_detached_round_is_exact_for_any_float() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint64).astype(np.uint32)
    q = bits.view(np.float32)
    q = q[np.isfinite(q)]
    np.testing.assert_array_equal((np.rint(q) - q) + q, np.rint(q))


@pytest.mark.parametrize("what", ["another_sum", "another_round"])
def test_other_differences_are_no_detached_round(what: str) -> None:
    def body(emit: Any, x: Any) -> Any:
        other = emit(relax.op.abs(x), "other")
        rounded = emit(relax.op.round(other if what == "another_round" else x), "rounded")
        difference = emit(relax.op.subtract(rounded, x), "difference")
        return emit(relax.op.add(difference, other if what == "another_sum" else x), "end")

    assert operators(canonicalize(module(body, SHAPE)))[-2:] == ["relax.subtract", "relax.add"]
