"""What an explanation reads of a quantised network is kept in few bits, and read from there as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from relax_models import const, module, quantised, spec
from tvm import relax

import tvm_lowbit
from relay_passes import layouts
from relay_passes.compile import compile_module
from relay_passes.dataflow import Scope
from relay_passes.ops import fake_quant
from tvm_lowbit.pipeline import Options, run_phases

RNG = np.random.default_rng(9)


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
@pytest.mark.parametrize("shape", [(2, 11, 5, 7), (1, 3, 9)])
def test_round_trip(bits: int, shape: tuple[int, ...]) -> None:
    """Channels need not fill bytes."""
    physical = layouts.nhwc_shape(shape)
    dtype = "int32" if bits == 16 else "uint8"
    low, high = (-(2**15), 2**15) if bits == 16 else (0, 2**bits)
    values = RNG.integers(low, high, physical).astype(dtype)
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(list(physical), dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(layouts.kept(Scope(builder), x, shape, "codes", bits))
        builder.emit_func_output(result)
    machine = relax.VirtualMachine(compile_module(builder.get(), tvm.target.Target("llvm")), tvm.cpu())
    got = machine["main"](tvm.runtime.tensor(values)).numpy()
    want = np.moveaxis(values, -1, 1).reshape(shape)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def network(emit: Any, x: Any) -> Any:
    """Three quantised convolutions and a dense layer."""
    q = quantised(emit, x, "q", scale=0.5, qmin=0, qmax=3)
    for i in range(3):
        w = emit(fake_quant(const(RNG.normal(size=(8, 8, 3, 3))), spec(0.5, -2, 1)), f"w{i}")
        r = emit(relax.op.nn.relu(emit(relax.op.nn.conv2d(q, w, padding=1), f"conv{i}")), f"relu{i}")
        q = quantised(emit, r, f"q{i}", scale=1.5, qmin=0, qmax=3)
    flat = emit(relax.op.reshape(q, relax.ShapeExpr([1, 8 * 36])), "flat")
    w = emit(fake_quant(const(RNG.normal(size=(8 * 36, 3))), spec(0.5, -2, 1)), "last")
    return emit(relax.op.matmul(flat, w), "logits")


def test_explanations_alone_keep() -> None:
    """Codes of 2 bits and accumulators of the convolutions in int16; a prediction alone keeps nothing."""
    mod = module(network, (1, 8, 6, 6))
    core = tvm_lowbit.boards.rows.resolve("host").core
    for explain, count in (((), 0), ((tvm_lowbit.DeepLift(),), 4)):
        text = str(run_phases(mod, Options(core, explain)).script())
        assert text.count("R.call_tir(cls.keep") >= count if count else "cls.keep" not in text
    x = RNG.normal(size=(1, 8, 6, 6)).astype(np.float32)
    explained = tvm_lowbit.build(mod, "host", explain=[tvm_lowbit.DeepLift(layers=["q1"])]).run(x)
    plain = tvm_lowbit.build(mod, "host").run(x)
    for name, array in plain.outputs.items():
        np.testing.assert_array_equal(explained.outputs[name], array)
    (found,) = explained.explanations.values()
    assert abs(float(found.values["gap"][0])) < 1e-4
    assert np.abs(found.values["contributions"]).max() > 0
