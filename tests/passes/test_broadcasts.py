"""Needless broadcasts go, others stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from relax_models import const, evaluate, module, operators, values
from tvm import relax

from relay_passes.canonicalize import canonicalize
from relay_passes.ops import op_name, shape_of

BROADCAST, MATMUL = "relax.broadcast_to", "relax.matmul"
# Shapes of both operands, what each is broadcast to (or None), operators that are left.
CASES = {
    "as torch writes W @ x": ((3, 5), (2, 5, 7), (2, 3, 5), (2, 5, 7), [MATMUL]),
    "on the right": ((2, 4, 5), (5, 7), None, (2, 5, 7), [MATMUL]),
    "of one": ((1, 3, 5), (2, 5, 7), (2, 3, 5), None, [MATMUL]),
    "both to more": ((3, 5), (5, 7), (2, 3, 5), (2, 5, 7), [BROADCAST, BROADCAST, MATMUL]),
    "a row to rows": ((1, 5), (2, 5, 7), (2, 3, 5), None, [BROADCAST, MATMUL]),
    "a vector": ((5,), (2, 5, 7), (3, 5), None, [BROADCAST, MATMUL]),
    "vectors": ((5,), (5,), None, None, [MATMUL]),
    "a vector on the right": ((2, 3, 5), (5,), (2, 3, 5), None, [MATMUL]),
}


@pytest.mark.parametrize("name", CASES)
def test_products_of_broadcast_operands(name: str) -> None:
    """The same values by what is left."""
    *shapes, first, second, left = CASES[name]

    def body(emit: Any, *sources: Any) -> Any:
        sides = [
            t if to is None else emit(relax.op.broadcast_to(t, relax.ShapeExpr(list(to))))
            for t, to in zip(sources, (first, second), strict=True)
        ]
        return emit(relax.op.matmul(*sides), "product")

    before = module(body, *shapes)
    after = canonicalize(before)
    assert operators(after) == left
    tensors = [np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)]
    np.testing.assert_allclose(evaluate(after, *tensors)[0], evaluate(before, *tensors)[0], rtol=1e-6)


@pytest.mark.parametrize(("alike", "dimensions"), [(True, 2), (False, 3)])
def test_a_repeated_constant(alike: bool, dimensions: int) -> None:
    """Is one matrix, if all are the same."""
    stored = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    stored[1] = stored[0] if alike else stored[1]
    before = module(lambda emit, x: emit(relax.op.matmul(const(stored), x), "product"), (2, 5, 7))
    after = canonicalize(before)
    (product,) = [value for value in values(after).values() if op_name(value) == MATMUL]
    assert len(shape_of(product.args[0])) == dimensions
    x = np.random.default_rng(1).normal(size=(2, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(evaluate(after, x)[0], stored @ x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "left"), [((3, 5), [MATMUL]), ((2, 1, 3, 5), [BROADCAST, "relax.reshape", MATMUL])])
def test_batches_merged_after_a_broadcast(shape: tuple[int, ...], left: list[str]) -> None:
    """As torch writes products of more than three dimensions: one matrix repeated is still the same for each."""

    def body(emit: Any, w: Any, x: Any) -> Any:
        repeated = emit(relax.op.broadcast_to(w, relax.ShapeExpr([2, 4, 3, 5])))
        return emit(relax.op.matmul(emit(relax.op.reshape(repeated, relax.ShapeExpr([8, 3, 5]))), x), "product")

    before = module(body, shape, (8, 5, 7))
    after = canonicalize(before)
    assert operators(after) == left
    tensors = [np.random.default_rng(i).normal(size=s).astype(np.float32) for i, s in enumerate((shape, (8, 5, 7)))]
    np.testing.assert_allclose(evaluate(after, *tensors)[0], evaluate(before, *tensors)[0], rtol=1e-6)


def test_a_broadcast_to_the_same_shape() -> None:
    """Is the tensor itself; others stay."""

    def body(emit: Any, x: Any) -> Any:
        same = emit(relax.op.broadcast_to(x, relax.ShapeExpr([2, 3])))
        more = emit(relax.op.broadcast_to(emit(relax.op.negative(same)), relax.ShapeExpr([4, 2, 3])))
        return emit(relax.op.abs(more), "end")

    assert operators(canonicalize(module(body, (2, 3)))) == ["relax.negative", BROADCAST, "relax.abs"]
