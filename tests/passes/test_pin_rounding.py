"""PinRounding: float32 products of elementwise kernels are fenced, and of no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from relay_passes.pin_rounding import pin_rounding
from schedules.cores import CORES, host_core

FENCE = "arithmetic_fence"


def kernel(compute: Callable[..., Any], *shapes: tuple[int, ...], dtype: str = "float32") -> Any:
    """A module of one PrimFunc."""
    inputs = [te.placeholder(shape, dtype, name=f"x{i}") for i, shape in enumerate(shapes)]
    return tvm.IRModule({"main": te.create_prim_func([*inputs, compute(*inputs)]).with_attr("global_symbol", "main")})


def affine(a: Any, b: Any, c: Any) -> Any:
    """a b + c."""
    return te.compute(a.shape, lambda i: a[i] * b[i] + c[i], name="affine")


def dense(a: Any, b: Any) -> Any:
    """A reduction."""
    k = te.reduce_axis((0, int(a.shape[0])), "k")
    return te.compute((1,), lambda i: te.sum(a[k] * b[k], axis=[k]), name="dense")


def test_elementwise_product_is_fenced() -> None:
    """Before, the product is added as it stands; after, behind a fence. Everything else is equal."""
    mod = kernel(affine, (8,), (8,), (8,))
    before = mod.script()
    assert FENCE not in before
    after = pin_rounding(mod).script()
    assert after.count("x0[") == before.count("x0[")
    assert "T.call_llvm" in after or FENCE in after
    assert len(after.splitlines()) >= len(before.splitlines())


@pytest.mark.parametrize(
    ("compute", "count", "dtype"),
    [
        (dense, 2, "float32"),
        (affine, 3, "int32"),
        (lambda a, b: te.compute(a.shape, lambda i: a[i] / b[i] + tirx.const(1, "float32")), 2, "float32"),
    ],
    ids=["reduction", "integers", "quotient"],
)
def test_other_kernels_stay(compute: Callable[..., Any], count: int, dtype: str) -> None:
    """Structurally equal."""
    mod = kernel(compute, *[(8,)] * count, dtype=dtype)
    before = mod["main"]
    tvm.ir.assert_structural_equal(pin_rounding(mod)["main"], before)


def test_no_fused_multiply_add_is_left_on_arm() -> None:
    """LLVM contracts the plain kernel, not the pinned one."""
    target = tvm.target.Target(CORES["cortex-a72"].target_dict())
    plain = tvm.compile(kernel(affine, (8,), (8,), (8,)), target).mod.inspect_source("asm")
    pinned = tvm.compile(pin_rounding(kernel(affine, (8,), (8,), (8,))), target).mod.inspect_source("asm")
    assert any(word in plain for word in ("fmla", "fmadd"))
    assert not any(word in pinned for word in ("fmla", "fmadd", "fmls", "fmsub"))


def test_products_round_on_the_host() -> None:
    """Numbers for which one rounding and two differ."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 64)).astype(np.float32)
    c = -(a * b)
    mod = pin_rounding(kernel(affine, (64,), (64,), (64,)))
    function = tvm.compile(mod, tvm.target.Target(host_core().target_dict()))
    arguments = [tvm.runtime.tensor(v) for v in (a, b, c, np.empty(64, np.float32))]
    function(*arguments)
    np.testing.assert_array_equal(arguments[-1].numpy(), np.zeros(64, np.float32))
