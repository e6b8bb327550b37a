"""Products that stay float get kernels, wherever their weights come from, and compute what TVM's loops do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from relax_models import const, evaluate, module, quantised, spec, text
from tvm import relax

from relay_passes.attribution.kernels import conv2d_input_multiplier
from relay_passes.lower import lower_lowbit
from relay_passes.ops import fake_quant
from relay_passes.problem import Geometry
from relay_passes.rewrite import rewrite_lowbit
from schedules.cores import CORES

RNG = np.random.default_rng(0)
IMAGE = (2, 4, 7, 6)
WEIGHTS = RNG.normal(size=(6, 4, 3, 3)).astype(np.float32)
GROUPED = RNG.normal(size=(6, 2, 3, 2)).astype(np.float32)
MATRIX = RNG.normal(size=(24, 5)).astype(np.float32)
AT = Geometry(padding=(1, 1, 1, 1))
# AVX2: what TVM's own pipeline, which these tests run, may be told on any x86-64; elsewhere NEON.
CORE = CORES["x86-64-v3"]


def low_bit(emit: Any, axis: int = 0) -> Any:
    """2-bit weights with a scale for each output channel."""
    return emit(fake_quant(const(WEIGHTS), spec(np.linspace(0.5, 1.0, 6), -2, 1, axis=axis)), "w")


def reverse(emit: Any, g: Any, w: Any) -> Any:
    return emit(conv2d_input_multiplier(g, w, IMAGE, AT), "back")


def both_ways(emit: Any, x: Any, w: Any, function: Callable[[Any], Any] = lambda w: w) -> Any:
    """A convolution and its transpose by a function of the same weights."""
    g = emit(relax.op.nn.conv2d(x, w, padding=1), "conv")
    return reverse(emit, g, emit(function(w), "of") if function is relax.op.abs else w)


# Name: the program, its input, and which kernels it comes to.
CASES: dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[str, ...]]] = {
    "conv2d": (lambda e, x: e(relax.op.nn.conv2d(x, const(WEIGHTS), strides=2, padding=1)), IMAGE, ("float_conv",)),
    "groups": (
        lambda e, x: e(relax.op.nn.conv2d(x, const(GROUPED), dilation=(1, 2), groups=2)),
        IMAGE,
        ("float_conv",),
    ),
    "conv1d": (
        lambda e, x: e(relax.op.nn.conv1d(x, const(WEIGHTS[:, :, 0]), padding=1)),
        (2, 4, 9),
        ("float_conv",),
    ),
    "weights that are computed": (
        lambda e, x: e(relax.op.nn.conv2d(const(RNG.normal(size=(1, 7, 9, 8))), e(relax.op.tanh(x)))),
        (3, 7, 2, 2),
        ("float_conv",),
    ),
    "weights that are computed, for several images": (
        lambda e, x: e(relax.op.nn.conv2d(const(RNG.normal(size=(2, 7, 9, 8))), e(relax.op.tanh(x)))),
        (3, 7, 2, 2),
        ("float_conv", "float_weights"),
    ),
    "transpose": (lambda e, x: both_ways(e, x, const(WEIGHTS)), IMAGE, ("float_conv", "float_conv_transposed")),
    "transpose by magnitudes": (
        lambda e, x: both_ways(e, x, const(WEIGHTS), relax.op.abs),
        IMAGE,
        ("float_conv", "float_conv_transposed"),
    ),
    "matmul": (lambda e, x: e(relax.op.matmul(x, const(MATRIX))), (3, 24), ("float_dense",)),
    "matmul of rows of rows": (lambda e, x: e(relax.op.matmul(x, const(MATRIX))), (2, 3, 24), ("float_dense",)),
    "turned": (
        lambda e, x: e(relax.op.matmul(x, e(relax.op.permute_dims(const(MATRIX))))),
        (3, 5),
        ("float_dense",),
    ),
    "turned magnitudes": (
        lambda e, x: e(relax.op.matmul(x, e(relax.op.permute_dims(e(relax.op.abs(const(MATRIX))))))),
        (3, 5),
        ("float_dense",),
    ),
    "matmul of two inputs": (
        lambda e, x: e(relax.op.matmul(x, e(relax.op.permute_dims(x)))),
        (3, 5),
        ("float_dense", "float_weights"),
    ),
    "low-bit": (
        lambda e, x: reverse(e, e(relax.op.nn.conv2d(quantised(e, x), low_bit(e), padding=1)), low_bit(e)),
        IMAGE,
        ("float_conv_transposed", "float_weights"),
    ),
    "low-bit magnitudes": (
        lambda e, x: reverse(
            e, e(relax.op.nn.conv2d(quantised(e, x), low_bit(e), padding=1)), e(relax.op.abs(low_bit(e)))
        ),
        IMAGE,
        ("float_conv_transposed", "float_weights"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_product(name: str) -> None:
    body, shape, kernels = CASES[name]
    x = RNG.normal(size=shape).astype(np.float32)
    mod = module(body, shape)
    (expected,) = evaluate(mod, x)
    lowered = lower_lowbit(rewrite_lowbit(mod), CORE)
    np.testing.assert_allclose(evaluate(lowered, x)[0], expected, rtol=2e-5, atol=2e-5)
    found = text(lowered)
    for kernel in ("float_conv", "float_conv_transposed", "float_weights", "float_dense"):
        assert found.count(f"R.call_tir(cls.{kernel},") == (kernel in kernels), kernel


def test_a_core_without_fused_multiply_adds_keeps_tvms_loops() -> None:
    body, shape, _ = CASES["transpose"]
    x = RNG.normal(size=shape).astype(np.float32)
    for core in (CORES["x86-64"], replace(CORE, features=frozenset())):
        lowered = lower_lowbit(rewrite_lowbit(module(body, shape)), core)
        assert "float_" not in text(lowered)
        np.testing.assert_array_equal(evaluate(lowered, x)[0], evaluate(module(body, shape), x)[0])


@pytest.mark.parametrize("function", [None, relax.op.abs], ids=["weights", "magnitudes"])
def test_float_weights_are_held_once(function: Any) -> None:
    """Both kernels read the same constant."""
    mod = module(lambda e, x: both_ways(e, x, const(WEIGHTS), *([function] if function else [])), IMAGE)
    lowered = lower_lowbit(rewrite_lowbit(mod), CORE)
    held = [
        b.value.args[1].fields[1].value.numpy()
        for b in lowered["main"].body.blocks[0].bindings
        if "float_conv" in str(b.value)
    ]
    assert len(held) == 2
    np.testing.assert_array_equal(*held)
