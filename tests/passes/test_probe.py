"""ProbeQuantizers: codes of every activation quantiser as outputs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from relax_models import const, evaluate, module, operators, quantised, spec
from tvm import relax

from relay_passes import ops
from relay_passes.lower import lower_lowbit
from relay_passes.ops import fake_quant
from relay_passes.probe import ATTRIBUTE, probe
from relay_passes.rewrite import rewrite_lowbit
from schedules.cores import host_core

WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def network(emit: Any, x: Any) -> Any:
    """Two quantisers of activations, one of weights, one too wide."""
    q = quantised(emit, x, "first", qmin=-8, qmax=7, zero=2.0)
    w = emit(fake_quant(const(WEIGHTS), spec(0.25, -2, 1)), "weight")
    second = quantised(emit, emit(relax.op.matmul(q, w), "fc"), "second", scale=0.1, qmin=-128, qmax=127)
    return quantised(emit, emit(relax.op.negative(second), "neg"), "wide", scale=0.01, qmin=0, qmax=511)


def test_program_before_and_after() -> None:
    """The same program, two observed codes more; weights and wide quantisers are not observed."""
    before = module(network, (2, 4))
    after = probe(before)
    assert operators(after) == [*operators(before), ops.OBSERVE_CODES, ops.OBSERVE_CODES]
    assert json.loads(str(after["main"].attrs[ATTRIBUTE])) == ["first", "second"]
    fields = after["main"].ret_ty.fields
    assert [str(f.dtype) for f in fields] == ["float32", "int32", "int32"]
    assert [tuple(map(int, f.shape)) for f in fields] == [(2, 3), (2, 4), (2, 3)]


def test_codes_lie_between_qmin_and_qmax() -> None:
    """As the graph's own quantisers give them, with signs."""
    x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32) * 3
    lowered = lower_lowbit(rewrite_lowbit(probe(module(network, (2, 4)))), host_core())
    _, first, second = evaluate(lowered, x)
    expected = np.clip(np.rint(x / np.float32(0.5)) + 2, -8, 7)
    np.testing.assert_array_equal(first, expected.astype(np.int32))
    w = (np.clip(np.rint(WEIGHTS / 0.25), -2, 1) * 0.25).astype(np.float32)
    dense = ((expected - 2) * 0.5).astype(np.float32) @ w
    np.testing.assert_array_equal(second, np.clip(np.rint(dense / np.float32(0.1)), -128, 127))


def test_nothing_to_observe() -> None:
    """A float network returns what it did."""
    after = probe(module(lambda emit, x: emit(relax.op.nn.relu(x), "r"), (2, 4)))
    assert operators(after) == ["relax.nn.relu"]
    assert json.loads(str(after["main"].attrs[ATTRIBUTE])) == []
    assert isinstance(after["main"].ret_ty, relax.TensorType)


def test_several_outputs_come_first() -> None:
    """Codes follow the model's own outputs."""

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x)
        return relax.Tuple([emit(relax.op.negative(q), "a"), emit(relax.op.abs(q), "b")])

    after = probe(module(body, (2, 4)))
    assert [str(f.dtype) for f in after["main"].ret_ty.fields] == ["float32", "float32", "int32"]
