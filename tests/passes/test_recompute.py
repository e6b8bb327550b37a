"""What is computed again far from where it was first: the same bits, less memory, and only where operands are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from relax_models import const, module
from tvm import relax

from relay_passes import compile as compiling
from relay_passes.memory import MemoryPlan

SHAPE = (1, 8, 24, 24)
RNG = np.random.default_rng(6)
WEIGHTS, BIAS = RNG.normal(size=(8, 8, 3, 3)) * 0.2, RNG.normal(size=(8, 1, 1))


def network(with_operand: bool) -> Callable[..., Any]:
    """Three convolutions with ReLUs whose results are read in the end, with those of the convolutions or without."""

    def body(emit: Any, x: Any) -> Any:
        seen = []
        for i in range(3):
            conv = emit(relax.op.nn.conv2d(x, const(WEIGHTS * (1 + i)), padding=1), f"conv{i}")
            x = emit(relax.op.nn.relu(emit(relax.op.add(conv, const(BIAS)), f"sum{i}")), f"relu{i}")
            seen.append((conv, x))
        for conv, relu in reversed(seen):
            share = emit(relax.op.tanh(relu), "share")
            share = emit(relax.op.multiply(share, conv), "secant") if with_operand else share
            x = emit(relax.op.nn.conv2d(emit(relax.op.multiply(x, share), "g"), const(WEIGHTS), padding=1), "back")
        return x

    return body


def run(mod: Any, x: Any) -> tuple[Any, MemoryPlan]:
    """The result and the plan."""
    plans: list[MemoryPlan] = []
    executable = compiling.compile_module(mod, tvm.target.Target("llvm"), planned=plans.append)
    return relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy(), plans[0]


@pytest.mark.parametrize("with_operand", [True, False])
def test_less_is_kept_where_operands_are(with_operand: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.normal(size=SHAPE).astype(np.float32)
    mod = module(network(with_operand), SHAPE)
    got, plan = run(mod, x)
    monkeypatch.setattr(compiling, "recompute", lambda mod: mod)
    want, without = run(mod, x)
    np.testing.assert_array_equal(got, want)
    saved = without.activations - plan.activations
    assert saved >= x.nbytes if with_operand else saved == 0


def test_what_is_only_read_again_is_not_computed_before(capfd: pytest.CaptureFixture[str]) -> None:
    weights, shape = np.ones((2, 2, 3, 3)), (1, 2, 4, 4)

    def body(emit: Any, x: Any) -> Any:
        early = emit(relax.op.tanh(x), "early")
        early = emit(relax.op.multiply(early, early), "square")
        for _ in range(3):
            x = emit(relax.op.nn.conv2d(x, const(weights), padding=1), "conv")
        return emit(relax.op.nn.conv2d(emit(relax.op.add(x, early), "late"), const(weights), padding=1), "last")

    run(module(body, shape), np.zeros(shape, np.float32))
    assert "dead code" not in capfd.readouterr().err  # what TVM's fusion says on stderr to whoever builds
