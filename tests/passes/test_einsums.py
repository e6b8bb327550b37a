"""Einsum as products: NumPy's sums, few operators, and low-bit where its weights are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder
from relax_models import const, evaluate, module, operators, values
from test_moving_forms import check, quant
from tvm import relax

from relay_passes.canonicalize import canonicalize
from relay_passes.einsums import letters_of

RNG = np.random.default_rng(0)
A, B, C = ((2, 3, 4), (4, 5), (2, 4, 3))
# Letters -> (shapes of the operands, whose first varies, and what is left of them).
SUMS: dict[str, tuple[tuple[tuple[int, ...], ...], list[str]]] = {
    "bij,jk->bik": ((A, B), ["matmul"]),
    "bij,jk": ((A, B), ["matmul"]),
    "...j,jk->...k": ((A, B), ["matmul"]),
    "bij,kj->bik": ((A, (5, 4)), ["matmul"]),
    " bij , kj -> bki ": ((A, (5, 4)), ["matmul", "permute_dims"]),
    "bij,ijk->bk": ((A, (3, 4, 5)), ["reshape", "matmul"]),
    "bij,ikj->bk": ((A, (3, 5, 4)), ["reshape", "matmul"]),
    "bij,bjk->bik": ((A, (2, 4, 5)), ["matmul"]),
    "bij,bji->b": ((A, C), ["reshape", "matmul", "reshape"]),
    "bij,j->bi": ((A, (4,)), ["matmul", "reshape"]),
    "bij,ij->bij": ((A, (3, 4)), ["multiply"]),
    "bij,bij->ijb": ((A, A), ["permute_dims", "multiply"]),
    "bij,k->bk": ((A, (5,)), ["sum", "reshape", "multiply"]),
    "bij,bkl->bik": ((A, C), ["sum", "reshape", "sum", "reshape", "multiply"]),
    "bij->jb": ((A,), ["sum", "permute_dims"]),
    "bij->bij": ((A,), []),
    "bij->": ((A,), ["sum"]),
    "bii->bi": (((2, 4, 4),), ["reshape", "take", "reshape"]),
    "bii": (((2, 4, 4),), ["reshape", "take", "reshape", "sum"]),
    "iji,ij->j": (((3, 2, 3), (3, 2)), ["reshape", "take", "reshape", "permute_dims", "reshape", "matmul", "reshape"]),
    "b...,...->...b": ((A, (3, 4)), ["permute_dims", "multiply"]),
    "bij,jk,ik->bk": ((A, B, (3, 5)), ["matmul", "permute_dims", "matmul", "reshape", "permute_dims"]),
    "bhid,bhjd->bhij": (((2, 2, 3, 4), (2, 2, 5, 4)), ["matmul"]),
    "aA,AB->aB": (((2, 3), (3, 4)), ["matmul"]),
}


@pytest.mark.parametrize("letters", SUMS)
def test_sums(letters: str) -> None:
    """NumPy's, in float64, by the operators that it takes."""
    shapes, expected = SUMS[letters]
    arrays = [RNG.normal(size=shape).astype(np.float32) for shape in shapes]

    def body(emit: Any, x: Any) -> Any:
        return emit(relax.op.einsum((x, *(const(a) for a in arrays[1:])), letters), "y")

    mod = canonicalize(module(body, shapes[0]))
    assert [name.removeprefix("relax.") for name in operators(mod)] == expected
    assert expected == [] or "y" in values(mod)
    found = evaluate(mod, arrays[0])[0]
    np.testing.assert_allclose(found, np.einsum(letters, *(a.astype(np.float64) for a in arrays)), rtol=1e-5, atol=1e-5)


def test_weights_first() -> None:
    """The operand with the items is the one whose rows are multiplied."""
    w = RNG.normal(size=(5, 4)).astype(np.float32)

    def body(emit: Any, x: Any) -> Any:
        return emit(relax.op.einsum((const(w), x), "kj,bij->bik"), "y")

    mod = canonicalize(module(body, A))
    assert operators(mod) == ["relax.matmul"]
    x = RNG.normal(size=A).astype(np.float32)
    np.testing.assert_allclose(evaluate(mod, x)[0], x @ w.T, rtol=1e-5, atol=1e-5)


def test_what_stays() -> None:
    """One letter of two extents, which TVM takes for a broadcast."""
    before = module(lambda emit, x: emit(relax.op.einsum((x, const(np.ones((1, 4)))), "bij,ij->bij"), "y"), A)
    assert operators(canonicalize(before)) == operators(before) == ["relax.einsum"]


@pytest.mark.parametrize(
    ("letters", "ranks"), [("ij,jk->ik", [2]), ("ij->i", [3]), ("ijk...->i", [2]), ("ij,j->i", [2, 2])]
)
def test_letters_that_do_not_fit(letters: str, ranks: list[int]) -> None:
    """They are not guessed."""
    assert letters_of(letters, ranks) is None


@pytest.mark.parametrize("spelling", ["raw", "qdq"])
@pytest.mark.parametrize("letters", ["bchw,oc->bohw", "oc,bchw->bohw", "bchw,wo->bcho"])
def test_low_bit(letters: str, spelling: str) -> None:
    """Codes and quantised weights, a quantiser behind: nothing stays float."""

    def body(g: GraphBuilder) -> str:
        rows = g.weights(5, 6, axis=0, name="w") if "wo" not in letters else g.weights(6, 5, axis=1, name="w")
        operands = [rows, g.quantiser("x", 0.37, -4, 3)]
        product = g.add(
            "Einsum", *(operands if letters.startswith("oc") else operands[::-1]), equation=letters, name="e"
        )
        return quant(g, product)

    artifact = check(body, 6, 3, 6, spelling=spelling)
    assert any(row.name.startswith("e") and row.bits == "W2A3" for row in artifact.report.rows)
