"""LowerLowbit: kernels by table, packed constants, fused epilogues, and the same numbers by every technique."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from relax_models import const, constants, evaluate, module, operators, quantised, spec, text
from tvm import relax

from relay_passes import notes, ops
from relay_passes.lower import lower_lowbit
from relay_passes.ops import fake_quant
from relay_passes.rewrite import EXPLANATION, rewrite_lowbit
from schedules.cores import CORES, host_core
from schedules.errors import LowbitError
from schedules.techniques import TECHNIQUES

WEIGHTS = np.random.default_rng(0).normal(size=(8, 11, 3, 3)).astype(np.float32)
DENSE = np.random.default_rng(1).normal(size=(72, 5)).astype(np.float32)
SHAPE = (1, 11, 3, 3)


def network(emit: Any, x: Any) -> Any:
    """conv with fused epilogue and residual-free flatten to a dense layer with float output."""
    q = quantised(emit, x, "act", scale=0.5)
    w = emit(fake_quant(const(WEIGHTS), spec(np.linspace(0.3, 0.6, 8), -2, 1, axis=0)), "weight")
    relu = emit(relax.op.nn.relu(emit(relax.op.nn.conv2d(q, w, padding=1), "conv")), "relu")
    flat = emit(relax.op.reshape(quantised(emit, relu, "act2", scale=2.0), (1, 72)), "flat")
    dense = emit(fake_quant(const(DENSE), spec(0.5, 0, 1, 0.5, form="divide_shifted")), "weight2")
    return emit(relax.op.matmul(flat, dense), "fc")


def residual(emit: Any, x: Any) -> Any:
    """A convolution that adds its own input."""
    q = quantised(emit, x, "act", scale=0.5)
    w = emit(fake_quant(const(np.resize(WEIGHTS, (11, 11, 3, 3))), spec(0.25, -2, 1)), "weight")
    join = emit(relax.op.add(q, emit(relax.op.nn.conv2d(q, w, padding=1), "conv")), "join")
    return emit(relax.op.negative(quantised(emit, join, "out", scale=1.0, qmin=-2, qmax=1)), "end")


def test_program_before_and_after() -> None:
    """dot and requantize become kernels; weights become packed constants."""
    before = rewrite_lowbit(module(network, SHAPE))
    assert {ops.DOT, ops.REQUANTIZE} <= set(operators(before))
    assert "call_tir" not in text(before)
    after = lower_lowbit(before, CORES["cortex-a72"], "bit_serial")
    assert {ops.DOT, ops.REQUANTIZE, ops.OBSERVE_CODES}.isdisjoint(operators(after))
    kernels = [gv.name_hint for gv, f in after.functions.items() if isinstance(f, tvm.tirx.PrimFunc)]
    assert any(name.startswith("bit_serial_conv") for name in kernels)
    assert any(name.startswith("bit_serial_fc") for name in kernels)
    assert not any(name.startswith("requantize") for name in kernels), "the epilogue is the kernel's own"
    rows = notes.read(after)["layers"]
    for name, parameters in (("conv", WEIGHTS.size), ("fc", DENSE.size)):
        assert rows[name]["technique"] == "bit_serial"
        assert rows[name]["why"]
        assert rows[name]["float_bytes"] == 4 * parameters
        assert 0 < rows[name]["bytes"] < rows[name]["float_bytes"]
    assert (rows["conv"]["bits"], rows["fc"]["bits"]) == ("W2A2", "W1A2")


@pytest.mark.parametrize("body", [network, residual])
@pytest.mark.parametrize("technique", [None, *TECHNIQUES])
def test_every_technique_gives_the_programs_values(body: Any, technique: str | None) -> None:
    """On the host, against TVM's compilation of the fake-quantised program."""
    x = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32) * 2
    (expected,) = evaluate(module(body, SHAPE), x)
    lowered = lower_lowbit(rewrite_lowbit(module(body, SHAPE)), host_core(), technique)
    np.testing.assert_allclose(evaluate(lowered, x)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bent", [False, True], ids=["straight", "bent"])
@pytest.mark.parametrize("core", [host_core(), CORES["cortex-a76"]], ids=["host", "cortex-a76"])
def test_many_codes_are_guessed_by_lines_where_thresholds_rise_evenly(bent: bool, core: Any) -> None:
    """Scale, bias and ReLU leave a line, a sigmoid none: then the layer says why its codes are searched."""

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, "act", scale=0.02, qmax=255)
        w = emit(fake_quant(const(WEIGHTS), spec(np.linspace(0.01, 0.02, 8), -128, 127, axis=0)), "weight")
        conv = emit(relax.op.nn.conv2d(q, w, padding=1), "conv")
        value = relax.op.sigmoid(conv) if bent else relax.op.nn.relu(relax.op.add(conv, const(np.ones((1, 8, 1, 1)))))
        codes = quantised(emit, emit(value, "value"), "out", scale=1 / 255 if bent else 0.1, qmax=255)
        return emit(relax.op.negative(codes), "end")

    x = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32) * 2
    lowered = lower_lowbit(rewrite_lowbit(module(body, SHAPE)), core)
    (kernel,) = (f for gv, f in lowered.functions.items() if gv.name_hint.endswith("_conv"))
    why = notes.read(lowered)["layers"]["conv"]["why"]
    assert ('lines: T.Buffer((2, 8), "float32")' in kernel.script()) == (not bent), why
    assert ("each code is searched among 255 thresholds: thresholds are no line: at " in why) == bent
    if core.name == "host":
        np.testing.assert_array_equal(evaluate(lowered, x)[0], evaluate(module(body, SHAPE), x)[0])


def test_accumulators_read_twice_are_not_fused() -> None:
    """Two quantisers of one convolution: one kernel that writes accumulators, two epilogues."""

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, "act")
        w = emit(fake_quant(const(WEIGHTS), spec(0.5, -2, 1)), "weight")
        conv = emit(relax.op.nn.conv2d(q, w), "conv")
        both = [quantised(emit, conv, f"out{i}", scale=s) for i, s in enumerate((1.0, 2.0))]
        return relax.Tuple([emit(relax.op.negative(v), f"end{i}") for i, v in enumerate(both)])

    x = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32) * 2
    lowered = lower_lowbit(rewrite_lowbit(module(body, SHAPE)), host_core())
    assert text(lowered).count("R.call_tir(cls.requantize") == 2
    for got, expected in zip(evaluate(lowered, x), evaluate(module(body, SHAPE), x), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_explanations_unpack_the_kernels_own_weights() -> None:
    """No second, float copy of the weights."""

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, "act")
        w = emit(fake_quant(const(DENSE), spec(np.linspace(0.3, 0.6, 5), -2, 1, axis=1)), "weight")
        fc = emit(relax.op.matmul(q, w), "fc")
        return emit(relax.op.matmul(fc, emit(relax.op.permute_dims(w), f"{EXPLANATION}m/wt")), f"{EXPLANATION}m/back")

    x = np.random.default_rng(2).normal(size=(1, 72)).astype(np.float32)
    for technique in TECHNIQUES:
        lowered = lower_lowbit(rewrite_lowbit(module(body, (1, 72))), host_core(), technique)
        dense = [f for gv, f in lowered.functions.items() if gv.name_hint.startswith("float_dense")]
        assert dense and all("float32" not in str(f.params[1].dtype) for f in dense), "they are read as they are packed"
        assert not any(c.dtype == np.float32 and c.size > DENSE.size / 2 for c in constants(lowered))
        (expected,) = evaluate(module(body, (1, 72)), x)
        np.testing.assert_allclose(evaluate(lowered, x)[0], expected, rtol=1e-5, atol=1e-5)


# Shape of the input, of the weights and their output axis, and what multiplies both.
UNPACKED: dict[str, tuple[tuple[int, ...], tuple[int, ...], Any]] = {
    "conv1d": ((1, 8, 9), (6, 4, 3), lambda q, w: relax.op.nn.conv1d(q, w, groups=2)),
    "matrix on the left": ((1, 12, 5), (7, 12), lambda q, w: relax.op.matmul(w, q)),
}


@pytest.mark.parametrize("name", UNPACKED)
def test_explanations_unpack_weights_of_any_rank(name: str) -> None:
    """On the left, and of one spatial axis."""
    shape, extents, product = UNPACKED[name]
    weights = np.random.default_rng(3).normal(size=extents).astype(np.float32)

    def body(emit: Any, x: Any) -> Any:
        w = emit(fake_quant(const(weights), spec(np.linspace(0.3, 0.6, extents[0]), -2, 1, axis=0)), "weight")
        total = emit(relax.op.sum(emit(product(quantised(emit, x, "act"), w), "layer")), "total")
        return emit(relax.op.multiply(w, total), f"{EXPLANATION}m/back")

    mod = notes.add(module(body, shape), "explanation", {f"{EXPLANATION}m/back": True})
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    (expected,) = evaluate(mod, x)
    for technique in TECHNIQUES:
        lowered = lower_lowbit(rewrite_lowbit(mod), host_core(), technique)
        assert any(gv.name_hint.startswith("unpack_weights") for gv in lowered.functions)
        np.testing.assert_allclose(evaluate(lowered, x)[0], expected, rtol=1e-5, atol=1e-5)


def test_phases_of_a_transposed_convolution_are_one_row() -> None:
    """Bytes of all its kernels, weights counted once."""
    weights = np.random.default_rng(3).normal(size=(4, 3, 3, 3)).astype(np.float32)

    def body(emit: Any, x: Any) -> Any:
        w = emit(fake_quant(const(weights), spec(0.3, -2, 1)), "weight")
        return emit(relax.op.nn.conv2d_transpose(quantised(emit, x, "act"), w, strides=2), "layer")

    lowered = lower_lowbit(rewrite_lowbit(module(body, (1, 4, 3, 3))), host_core(), "reference")
    rows = notes.read(lowered)["layers"]
    assert set(rows) == {"layer"}
    assert (rows["layer"]["technique"], rows["layer"]["float_bytes"]) == ("reference", 4 * weights.size)
    # The reference keeps a byte for each weight, and an int32 offset for each output of each of four phases.
    assert rows["layer"]["bytes"] == weights.size + 4 * 4 * 3


def test_unknown_technique() -> None:
    """The message lists the table."""
    with pytest.raises(LowbitError, match=r"technique: expected one of .*bit_serial.*, got 'fastest'"):
        lower_lowbit(rewrite_lowbit(module(network, SHAPE)), host_core(), "fastest")
