"""Needless broadcasts go, others stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from relax_models import evaluate, module, operators
from tvm import relax

from relay_passes.canonicalize import canonicalize

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

    def body(emit: Any, *tensors: Any) -> Any:
        sides = [
            t if to is None else emit(relax.op.broadcast_to(t, relax.ShapeExpr(list(to))))
            for t, to in zip(tensors, (first, second), strict=True)
        ]
        return emit(relax.op.matmul(*sides), "product")

    before = module(body, *shapes)
    after = canonicalize(before)
    assert operators(after) == left
    values = [np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)]
    np.testing.assert_allclose(evaluate(after, *values)[0], evaluate(before, *values)[0], rtol=1e-6)


def test_a_broadcast_to_the_same_shape() -> None:
    """Is the tensor itself; others stay."""

    def body(emit: Any, x: Any) -> Any:
        same = emit(relax.op.broadcast_to(x, relax.ShapeExpr([2, 3])))
        more = emit(relax.op.broadcast_to(emit(relax.op.negative(same)), relax.ShapeExpr([4, 2, 3])))
        return emit(relax.op.abs(more), "end")

    assert operators(canonicalize(module(body, (2, 3)))) == ["relax.negative", BROADCAST, "relax.abs"]
