"""What thresholds cannot say goes from integers to codes in one kernel: no float tensor is written between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from relax_models import const, evaluate, module, quantised, spec
from tvm import relax

from relay_passes import dataflow, notes, ops
from relay_passes.compile import compile_module
from relay_passes.detect import detect_quantizers
from relay_passes.lower import lower_lowbit
from relay_passes.ops import fake_quant, op_name
from relay_passes.rewrite import rewrite_lowbit
from schedules.cores import host_core

SHAPE = (1, 4, 6, 6)
Body = Callable[..., Any]


def random(*shape: int, seed: int = 3) -> Any:
    """Reproducible numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv_of(emit: Any, x: Any, name: str = "conv") -> Any:
    """quantiser -> 3x3 convolution of 2-bit weights."""
    q = quantised(emit, x, f"{name}_in")
    numbers = random(4, 4, 3, 3, seed=len(name)) * np.float32(0.5)
    w = emit(fake_quant(const(numbers), spec(0.25, -2, 1)), f"{name}_w")
    return emit(relax.op.nn.conv2d(q, w, padding=1), name)


def joined(emit: Any, x: Any) -> Any:
    """Two convolutions, each with a batch norm, and ReLU."""
    sides = [conv_of(emit, x, name) for name in ("left", "right_side")]
    sides = [emit(relax.op.multiply(s, const(random(4, 1, 1, seed=i)))) for i, s in enumerate(sides)]
    return emit(relax.op.nn.relu(emit(relax.op.add(*sides), "join")), "relu")


def third(emit: Any, x: Any) -> Any:
    """Two residuals into one accumulator."""
    sides = [quantised(emit, x, f"side{i}", scale=s) for i, s in enumerate((0.25, 0.5))]
    value = emit(relax.op.add(conv_of(emit, x), sides[0]), "once")
    return emit(relax.op.add(value, sides[1]), "twice")


def broadcast_side(emit: Any, x: Any) -> Any:
    """A residual with one channel for all."""
    side = quantised(emit, emit(relax.op.max(x, [1], keepdims=True), "narrow"), "side")
    return emit(relax.op.add(conv_of(emit, x), side), "join")


def per_channel_side(emit: Any, x: Any) -> Any:
    """A residual with a scale per channel."""
    side = quantised(emit, x, "side", scale=[0.1, 0.2, 0.3, 0.4], axis=1)
    return emit(relax.op.add(conv_of(emit, x), side), "join")


def wide_residual(emit: Any, x: Any) -> Any:
    """8 bits and an accumulator into 8 bits: too many thresholds."""
    return emit(relax.op.add(conv_of(emit, x), quantised(emit, x, "side", qmax=255)), "join")


def varying_bias(emit: Any, x: Any) -> Any:
    """A bias per pixel."""
    return emit(relax.op.add(conv_of(emit, x), const(random(*SHAPE[1:]))), "bias")


def product(emit: Any, x: Any) -> Any:
    """Two accumulators multiplied."""
    return emit(relax.op.multiply(conv_of(emit, x), conv_of(emit, x, "other")), "product")


CASES: dict[str, tuple[Body, dict[str, Any], str]] = {
    "two accumulators": (joined, {}, "its result depends on two accumulators"),
    "third tensor": (third, {}, "it joins a third tensor"),
    "broadcast side": (broadcast_side, {}, "the tensor it adds is broadcast or quantised per channel"),
    "side per channel": (per_channel_side, {}, "the tensor it adds is broadcast or quantised per channel"),
    "wide residual": (wide_residual, {"qmax": 255, "scale": 0.01}, "takes 65280 thresholds a channel"),
    "bias per pixel": (varying_bias, {}, "its constant varies along more than the channels"),
    "product": (product, {"scale": 0.1}, "its result depends on two accumulators"),
    "scale elsewhere": (conv_of, {"scale": np.full(6, 0.5), "axis": 2}, "scale does not run along the channels"),
}


def float_tensors(mod: Any) -> list[str]:
    """Names of the float tensors that the fused program writes, its inputs and results aside."""
    passes = [relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern()]
    fused = tvm.transform.Sequential([*passes, relax.transform.FuseOps(), relax.transform.FuseTIR()])(mod)
    results = dataflow.variables(fused["main"].body.body)
    bound = [b for b in dataflow.bindings(fused["main"]) if op_name(b.value) == "relax.call_tir"]
    return [dataflow.name_of(b.var) for b in bound if "float" in str(b.var.ty.dtype) and b.var not in results]


@pytest.mark.parametrize("name", CASES)
def test_integers_to_codes_in_one_kernel(name: str) -> None:
    """Codes as TVM's own compilation of the fake-quantised program gives; the reason noted; no float tensor."""
    chain, numbers, reason = CASES[name]

    def body(emit: Any, x: Any) -> Any:
        # The negation is the network's float result; the quantiser is what counts.
        return emit(relax.op.negative(quantised(emit, chain(emit, x), "out", **numbers)), "end")

    mod = rewrite_lowbit(detect_quantizers(module(body, SHAPE)))
    row = notes.read(mod)["layers"]["out"]
    assert (row["technique"], row["op"]) == ("registers", ops.FAKE_QUANT)
    assert reason in row["why"]
    assert not [n for n, r in notes.read(mod)["layers"].items() if "reason" in r and n != "end"]
    lowered = lower_lowbit(mod, host_core())
    # A side that is reduced over the float input is one float tensor of the model's own.
    assert float_tensors(lowered) == (["narrow"] if name == "broadcast side" else [])
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    (expected,) = evaluate(detect_quantizers(module(body, SHAPE)), x)
    machine = relax.VirtualMachine(compile_module(lowered, tvm.target.Target("llvm")), tvm.cpu())
    np.testing.assert_array_equal(machine["main"](tvm.runtime.tensor(x)).numpy(), expected)
    assert len(np.unique(expected)) > 2, "the case must tell codes apart"


def kernels(mod: Any) -> list[str]:
    """Names of the kernels that the fused program calls."""
    passes = [relax.transform.LegalizeOps(), relax.transform.AnnotateTIROpPattern()]
    fused = tvm.transform.Sequential([*passes, relax.transform.FuseOps(), relax.transform.FuseTIR()])(mod)
    values = [b.value for b in dataflow.bindings(fused["main"])]
    return [value.args[0].name_hint for value in values if op_name(value) == "relax.call_tir"]


@pytest.mark.parametrize(
    "join, fused", [(joined, True), (varying_bias, False)], ids=["by pixel", "constant by channel"]
)
def test_codes_are_written_pixel_by_pixel_where_that_is_the_order_of_all_they_read(join: Body, fused: bool) -> None:
    """No kernel packs the join's codes for the convolution behind it; one does where a constant lies otherwise."""

    def body(emit: Any, x: Any) -> Any:
        return emit(relax.op.negative(conv_of(emit, join(emit, x), "behind")), "end")

    mod = detect_quantizers(module(body, SHAPE))
    lowered = lower_lowbit(rewrite_lowbit(mod), host_core())
    names = kernels(lowered)
    assert any("quantize" in name and "pack" in name.partition("quantize")[2] for name in names) == fused
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    machine = relax.VirtualMachine(compile_module(lowered, tvm.target.Target("llvm")), tvm.cpu())
    np.testing.assert_array_equal(machine["main"](tvm.runtime.tensor(x)).numpy(), evaluate(mod, x)[0])


def test_what_several_read_is_written_and_says_so() -> None:
    """A residual stream that nothing quantises before it branches stays float, with its reason."""

    def body(emit: Any, x: Any) -> Any:
        stream = joined(emit, x)
        q = quantised(emit, stream, "q")
        return emit(relax.op.add(emit(relax.op.negative(q), "branch"), stream), "sum")

    rows = notes.read(rewrite_lowbit(detect_quantizers(module(body, SHAPE))))["layers"]
    assert "its result depends on two accumulators" not in rows.get("q", {}).get("why", "")
    assert rows["relu"]["reason"]
