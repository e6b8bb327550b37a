"""InlineChains: one loop of vectors for a chain; what reduces, or has a schedule, stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te

from relay_passes.inline_chains import inline_chains
from relay_passes.pin_rounding import pin_rounding
from schedules.cores import host_core

LANES = 16


def chain(shape: tuple[int, ...]) -> Any:
    """``(x s + y)`` clipped and squared, as four operators; ``s`` is one factor a channel."""
    x, y = (te.placeholder(shape, "float32", name=name) for name in "xy")
    s = te.placeholder(shape[1:2], "float32", name="s")
    scaled = te.compute(shape, lambda *i: x(*i) * s[i[1]], name="scaled")
    total = te.compute(shape, lambda *i: scaled(*i) + y(*i), name="total")
    clipped = te.compute(shape, lambda *i: te.max(total(*i), total(*i) * te.const(0.5, "float32")), name="clipped")
    square = te.compute(shape, lambda *i: clipped(*i) * clipped(*i), name="square")
    return tvm.IRModule({"main": te.create_prim_func([x, s, y, square]).with_attr("global_symbol", "main")})


@pytest.mark.parametrize("shape", [(1, 3, 4, 8), (2, 32, 7, 7), (1, 5, 3, 3), (1, 64), (2, 8, 256, 128)])
def test_result_is_the_same_bit_for_bit(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, *shape)).astype(np.float32)
    s = random.normal(size=shape[1]).astype(np.float32)
    target = tvm.target.Target(host_core().target_dict())
    function = tvm.compile(pin_rounding(inline_chains(chain(shape), LANES)), target)
    out = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    function(*map(tvm.runtime.tensor, (x, s, y)), out)
    total = x * s.reshape(-1, *[1] * (len(shape) - 2)) + y
    expected = np.maximum(total, total * np.float32(0.5))
    np.testing.assert_array_equal(out.numpy(), expected * expected)


def test_nothing_is_kept_in_between() -> None:
    """One block and no buffer but the arguments; the innermost loop is a vector."""
    text = inline_chains(chain((2, 32, 7, 7)), LANES)["main"].script()
    assert text.count("sblock(") == 1 + text.count('sblock("root")') and "alloc" not in text
    assert f"T.vectorized({LANES})" in text and "T.parallel" not in text
    assert "T.parallel" in inline_chains(chain((2, 8, 256, 128)), LANES)["main"].script()


def test_loops_that_vectors_do_not_fill_stay_loops() -> None:
    assert "T.vectorized" not in inline_chains(chain((1, 5, 3, 3)), LANES)["main"].script()


def test_long_expressions_are_not_written_twice() -> None:
    """Each step uses the one before twice: written out, thirty steps would be a billion terms."""
    x = te.placeholder((64,), "float32", name="x")

    def step(value: Any, name: str) -> Any:
        return te.compute((64,), lambda at: value[at] * value[at] + value[at], name=name)

    last = x
    for i in range(30):
        last = step(last, f"step{i}")
    mod = tvm.IRModule({"main": te.create_prim_func([x, last]).with_attr("global_symbol", "main")})
    assert len(inline_chains(mod, LANES)["main"].script()) < 30_000


def test_reductions_and_schedules_stay() -> None:
    x = te.placeholder((4, 64), "float32", name="x")
    k = te.reduce_axis((0, 64), "k")
    double = te.compute((4, 64), lambda i, j: x[i, j] + x[i, j], name="double")
    total = te.compute((4,), lambda i: te.sum(double[i, k], axis=[k]), name="total")
    reducing = te.create_prim_func([x, total]).with_attr("global_symbol", "main")
    scheduled = chain((1, 3, 4, 8))["main"].with_attr("tirx.is_scheduled", True)
    for function in (reducing, scheduled):
        after = inline_chains(tvm.IRModule({"main": function}), LANES)["main"]
        tvm.ir.assert_structural_equal(after, function)


@pytest.mark.parametrize("name", ["cosh", "sinh"])
def test_functions_of_single_values(name: str) -> None:
    """TVM's back end has no vectors of these: the loop stays, and compiles."""
    x = te.placeholder((2, 64), "float32", name="x")
    y = te.compute((2, 64), lambda *i: getattr(te, name)(x(*i)), name="y")
    mod = tvm.IRModule({"main": te.create_prim_func([x, y]).with_attr("global_symbol", "main")})
    function = tvm.compile(inline_chains(mod, LANES), tvm.target.Target(host_core().target_dict()))
    v = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    out = tvm.runtime.tensor(np.zeros((2, 64), np.float32))
    function(tvm.runtime.tensor(v), out)
    np.testing.assert_allclose(out.numpy(), getattr(np, name)(v), rtol=1e-5)


def test_moves_stay_loops() -> None:
    """A permutation alone: gathered into vectors here, it took twenty times as long as what LLVM makes of the loop."""
    x = te.placeholder((1, 16, 8, 8), "uint8", name="x")
    y = te.compute((1, 8, 8, 16), lambda n, h, w, c: x[n, c, h, w], name="y")
    double = te.compute((1, 8, 8, 16), lambda n, h, w, c: x[n, c, h, w] + x[n, c, h, w], name="double")
    moved, added = (inline_chains(tvm.IRModule({"main": te.create_prim_func([x, out])}), LANES) for out in (y, double))
    assert "T.vectorized" not in moved["main"].script() and "T.vectorized" in added["main"].script()
