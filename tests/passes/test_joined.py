"""Residual joins count by steps where that is exact, in a convolution's epilogue and behind it, else by rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from relax_models import const, evaluate, module, quantised, spec
from tvm import relax

from relay_passes import notes
from relay_passes.lower import lower_lowbit
from relay_passes.ops import fake_quant
from relay_passes.rewrite import rewrite_lowbit
from schedules.cores import CORES, host_core

WEIGHTS = np.random.default_rng(4).normal(size=(24, 24, 3, 3)).astype(np.float32)
SHAPE = (2, 24, 5, 4)


def join(bits: int, between: int | None) -> Any:
    """A convolution and what it reads, added and quantised; ``between`` bits the convolution's result has before."""

    def body(emit: Any, x: Any) -> Any:
        top = (1 << bits) - 1
        q = quantised(emit, x, "act", scale=3.0 / top, qmax=top)
        w = emit(fake_quant(const(WEIGHTS), spec(np.linspace(0.0507, 0.2113, 24), -2, 1, axis=0)), "weight")
        branch = emit(relax.op.nn.conv2d(q, w, padding=1), "conv")
        if between is not None:
            branch = quantised(
                emit, branch, "branch", scale=1.7 / between, qmin=-(1 << between - 1), qmax=(1 << between - 1) - 1
            )
        total = emit(relax.op.nn.relu(emit(relax.op.add(branch, q), "join")), "relu")
        return emit(relax.op.negative(quantised(emit, total, "out", scale=4.117 / top, qmax=top)), "end")

    return body


def keys(lowered: Any) -> list[str]:
    """Problems of the kernels that convolve."""
    return [str(call["problem"]) for call in notes.read(lowered)["kernels"].values() if "problem" in call]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_residual_moves_a_convolutions_accumulators(bits: int) -> None:
    x = np.random.default_rng(5).uniform(-1, 5, SHAPE).astype(np.float32)
    (expected,) = evaluate(module(join(bits, None), SHAPE), x)
    before = rewrite_lowbit(module(join(bits, None), SHAPE))
    for core in (host_core(), CORES["cortex-a53"]):
        lowered = lower_lowbit(before, core)
        assert f"side{bits}<<" in keys(lowered)[0]
        if core is not CORES["cortex-a53"]:
            np.testing.assert_array_equal(evaluate(lowered, x)[0], expected)


def test_codes_of_a_residual_move_codes() -> None:
    """Codes of 4 bits that were quantised before the join are joined by a kernel of its own, by vectors."""
    x = np.random.default_rng(6).uniform(-1, 5, SHAPE).astype(np.float32)
    (expected,) = evaluate(module(join(4, 4), SHAPE), x)
    lowered = lower_lowbit(rewrite_lowbit(module(join(4, 4), SHAPE)), host_core())
    joins = [f for gv, f in lowered.functions.items() if gv.name_hint.startswith("requantize")]
    assert isinstance(joins[0], tvm.tirx.PrimFunc) and len(joins) == 1
    assert "steps" in joins[0].script(), "one row of thresholds, moved"
    np.testing.assert_array_equal(evaluate(lowered, x)[0], expected)


def test_rows_that_are_not_evenly_apart_are_selected() -> None:
    x = np.random.default_rng(7).uniform(-1, 5, SHAPE).astype(np.float32)
    (expected,) = evaluate(module(join(2, 2), SHAPE), x)
    lowered = lower_lowbit(rewrite_lowbit(module(join(2, 2), SHAPE)), host_core())
    row = notes.read(lowered)["layers"]["conv"]
    assert "side2" in keys(lowered)[0] and "<<" not in keys(lowered)[0]
    assert "pick thresholds: its rows of thresholds are not evenly apart" in row["why"]
    np.testing.assert_array_equal(evaluate(lowered, x)[0], expected)
