"""The reference run gives, bit for bit, what the compiled library computes."""

from __future__ import annotations

from typing import Any

import numpy as np
from relax_models import const, module, quantised, spec
from tvm import relax

import tvm_lowbit
from relay_passes import dataflow
from relay_passes.attribution.reference_run import run_reference
from relay_passes.ops import fake_quant

RNG = np.random.default_rng(0)
WEIGHTS, FIRST = RNG.normal(size=(4, 4, 3, 3)).astype(np.float32), RNG.normal(size=(4, 1, 3, 3)).astype(np.float32)
SCALE, SHIFT = RNG.normal(size=(2, 1, 4, 1, 1)).astype(np.float32)
SHAPE = (2, 1, 6, 6)


def network(emit: Any, x: Any) -> Any:
    """A float convolution with batch norm, then a quantised one; all inner values are outputs."""
    first = emit(relax.op.nn.conv2d(x, const(FIRST), padding=1), "first")
    norm = emit(relax.op.add(emit(relax.op.multiply(first, const(SCALE)), "scaled"), const(SHIFT)), "norm")
    q = quantised(emit, emit(relax.op.nn.relu(norm), "relu"), "q")
    w = emit(fake_quant(const(WEIGHTS), spec(0.3, -2, 1)), "w")
    conv = emit(relax.op.nn.conv2d(q, w), "conv")
    return emit(relax.op.mean(emit(relax.op.multiply(conv, const(SCALE)), "end"), [2, 3]), "mean")


def test_values_are_the_librarys() -> None:
    """Whole run of the last value against a build of the same module."""
    mod = module(network, SHAPE)
    names = [dataflow.name_of(b.var) for b in dataflow.bindings(mod["main"])]
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    norm, relu, q, mean = run_reference(mod, [x], [names.index(n) for n in ("norm", "relu", "q", "mean")])
    np.testing.assert_array_equal(relu, np.maximum(norm, 0))
    np.testing.assert_array_equal(q, spec(0.5, 0, 3).values(spec(0.5, 0, 3).codes(relu)))
    np.testing.assert_array_equal(tvm_lowbit.build(mod, "host").run(x).outputs["output"], mean)


def test_order_is_that_asked_for() -> None:
    """Shapes tell the values apart."""
    mod = module(network, SHAPE)
    names = [dataflow.name_of(b.var) for b in dataflow.bindings(mod["main"])]
    wanted = [names.index(n) for n in ("mean", "conv", "first")]
    found = run_reference(mod, [np.zeros(SHAPE, np.float32)], wanted)
    assert [f.shape for f in found] == [(2, 4), (2, 4, 4, 4), (2, 4, 6, 6)]
