"""Canonicalize: batch norm as an affine map, rearranged constants as constants, dead code gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from relax_models import const, constants, evaluate, module, operators, text, values
from tvm import relax

from relay_passes.canonicalize import canonicalize

RNG = np.random.default_rng(1)
GAMMA, BETA, MEAN = RNG.normal(size=(3, 4)).astype(np.float32)
VARIANCE = RNG.uniform(0.5, 2, 4).astype(np.float32)


def batch_norm(axis: int = 1, shape: tuple[int, ...] = (2, 4, 3, 3), **attrs: Any) -> Any:
    """``bn`` of the input alone."""

    def body(emit: Any, x: Any) -> Any:
        statistics = map(const, (GAMMA, BETA, MEAN, VARIANCE))
        both = emit(relax.op.nn.batch_norm(x, *statistics, axis=axis, epsilon=1e-3, training=False, **attrs), "bn_all")
        return emit(both[0], "bn")

    return module(body, shape)


def test_batch_norm_becomes_multiply_and_add() -> None:
    """The whole program: before, a batch norm and its tuple; after, the affine map that float32 arithmetic gives."""
    before = batch_norm()
    assert operators(before) == ["relax.nn.batch_norm"]
    a = (GAMMA / np.sqrt(VARIANCE + np.float32(1e-3))).astype(np.float32)
    b = (BETA - MEAN * a).astype(np.float32)

    def affine(emit: Any, x: Any) -> Any:
        scaled = emit(relax.op.multiply(x, const(a.reshape(1, 4, 1, 1))))
        return emit(relax.op.add(scaled, const(b.reshape(1, 4, 1, 1))))

    after = canonicalize(before)
    tvm.ir.assert_structural_equal(after["main"].body, module(affine, (2, 4, 3, 3))["main"].body, map_free_vars=True)
    assert "batch_norm" not in text(after)


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 4)), (1, (2, 4, 3, 3)), (3, (2, 3, 3, 4))])
@pytest.mark.parametrize("flags", [{}, {"scale": False}, {"center": False}])
def test_batch_norm_keeps_its_values(axis: int, shape: tuple[int, ...], flags: dict[str, bool]) -> None:
    """Against the formula in float64."""
    x = RNG.normal(size=shape)
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    gamma = GAMMA if flags.get("scale", True) else np.ones(4)
    beta = BETA if flags.get("center", True) else np.zeros(4)
    parts = [np.reshape(p, along).astype(np.float64) for p in (gamma, beta, MEAN, VARIANCE)]
    expected = (x - parts[2]) / np.sqrt(parts[3] + 1e-3) * parts[0] + parts[1]
    after = canonicalize(batch_norm(axis, shape, **flags))
    assert operators(after) == ["relax.multiply", "relax.add"]
    np.testing.assert_allclose(evaluate(after, x)[0], expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_in_training_is_not_inference() -> None:
    """A batch norm that takes the batch's own statistics must not be folded with the running ones."""

    def body(emit: Any, x: Any) -> Any:
        statistics = map(const, (GAMMA, BETA, MEAN, VARIANCE))
        return emit(emit(relax.op.nn.batch_norm(x, *statistics, axis=1, training=True), "bn_all")[0], "bn")

    x = RNG.normal(size=(3, 4)).astype(np.float32)
    before = module(body, (3, 4))
    expected = evaluate(before, x)[0]
    np.testing.assert_allclose(evaluate(canonicalize(before), x)[0], expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_of_varying_statistics_stays() -> None:
    """Only constant statistics can be folded."""

    def body(emit: Any, x: Any, mean: Any) -> Any:
        both = relax.op.nn.batch_norm(x, const(GAMMA), const(BETA), mean, const(VARIANCE), axis=1, training=False)
        return emit(emit(both, "bn_all")[0], "bn")

    assert operators(canonicalize(module(body, (2, 4), (4,)))) == ["relax.nn.batch_norm"]


@pytest.mark.parametrize(
    ("rearrange", "expected"),
    [
        (lambda c: relax.op.reshape(c, (3, 2)), lambda a: a.reshape(3, 2)),
        (lambda c: relax.op.permute_dims(c), lambda a: a.T),
        (lambda c: relax.op.permute_dims(c, [1, 0]), lambda a: a.T),
        (lambda c: relax.op.expand_dims(c, [0, 3]), lambda a: a[None, :, :, None]),
        (lambda c: relax.op.expand_dims(c, [-1]), lambda a: a[:, :, None]),
        (lambda c: relax.op.astype(c, "int8"), lambda a: a.astype(np.int8)),
        (lambda c: relax.op.squeeze(relax.op.reshape(c, (1, 6))), lambda a: a.reshape(6)),
    ],
)
def test_rearranged_constants_become_constants(rearrange: Callable[[Any], Any], expected: Callable[[Any], Any]) -> None:
    """One constant is left where an operator moved it."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)

    def body(emit: Any, x: Any) -> Any:
        expr = rearrange(const(array))
        if isinstance(expr.args[0], tvm.ir.Call):
            expr = relax.op.squeeze(emit(expr.args[0], "inner"))
        moved = emit(expr, "moved")
        return emit(relax.Tuple([emit(relax.op.nn.relu(x), "r"), moved]), "both")

    after = canonicalize(module(body, (2, 3)))
    assert operators(after) == ["relax.nn.relu"]
    found = [f for v in values(after).values() if isinstance(v, relax.Tuple) for f in v.fields]
    arrays = [f.value.numpy() for f in found if isinstance(f, tvm.ir.GenericConst)]
    assert len(arrays) == 1
    assert arrays[0].dtype == expected(array).dtype
    np.testing.assert_array_equal(arrays[0], expected(array))


def test_arithmetic_on_constants_is_left_alone() -> None:
    """It may be a weight's quantiser."""

    def body(emit: Any, x: Any) -> Any:
        scaled = emit(relax.op.divide(const([1.0, 2.0]), const(0.5)), "scaled")
        return emit(relax.op.add(x, emit(relax.op.round(scaled), "rounded")), "sum")

    before = module(body, (3, 2))
    after = canonicalize(before)
    assert operators(after) == operators(before) == ["relax.divide", "relax.round", "relax.add"]
    assert len(constants(after)) == 2


def test_dead_code_goes() -> None:
    """What nobody reads disappears."""

    def body(emit: Any, x: Any) -> Any:
        emit(relax.op.exp(x), "unused")
        return emit(relax.op.nn.relu(x), "used")

    assert operators(canonicalize(module(body, (2, 2)))) == ["relax.nn.relu"]
