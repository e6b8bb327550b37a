"""What each operator is on codes, and each reason for staying float under its own words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from relax_models import const, evaluate, module, operators, quantised, spec
from tvm import relax

from relay_passes import notes, ops
from relay_passes.detect import detect_quantizers
from relay_passes.integer_forms import INTEGER_FORMS, MULTIPLYING
from relay_passes.lower import lower_lowbit
from relay_passes.ops import fake_quant
from relay_passes.rewrite import rewrite_lowbit
from schedules.cores import host_core

SHAPE = (1, 4, 6, 6)
Body = Callable[..., Any]


def random(*shape: int, seed: int = 3) -> Any:
    """Reproducible numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weight(emit: Any, *shape: int, name: str = "w", **numbers: Any) -> Any:
    """2-bit weights, the same for a shape and name."""
    defaults: dict[str, Any] = {"scale": 0.25, "qmin": -2, "qmax": 1}
    return emit(fake_quant(const(random(*shape, seed=len(name)) * 0.5), spec(**(defaults | numbers))), name)


def conv(emit: Any, x: Any, w: Any, name: str = "conv", **attrs: Any) -> Any:
    """A bound convolution."""
    return emit(relax.op.nn.conv2d(x, w, **attrs), name)


def conv_of(emit: Any, x: Any, name: str = "conv", out: int = 4, **numbers: Any) -> Any:
    """quantiser -> conv of quantised weights."""
    q = quantised(emit, x, f"{name}_in", **numbers)
    return conv(emit, q, weight(emit, out, 4, 3, 3, name=f"{name}_w"), name, padding=1)


def rewritten(body: Body, *shapes: tuple[int, ...]) -> tuple[Any, dict[str, Any]]:
    """The module after the pass and its notes on layers."""
    mod = rewrite_lowbit(detect_quantizers(module(body, *(shapes or (SHAPE,)))))
    return mod, notes.read(mod)["layers"]


def declined_detail(emit: Any, x: Any) -> Any:
    """A conv whose input only looks quantised."""
    codes = emit(relax.op.round(emit(relax.op.clip(emit(relax.op.divide(x, const(0.5))), 0.0, 3.0))))
    return conv(emit, emit(relax.op.multiply(codes, const(0.25)), "odd"), weight(emit, 4, 4, 1, 1))


def q_then(step: Callable[[Any], Any], **numbers: Any) -> Body:
    """One operator on codes, named ``op``."""
    return lambda emit, x: emit(step(quantised(emit, x, **numbers)), "op")


def dense3(emit: Any, x: Any) -> Any:
    """Weights with a batch of their own."""
    return emit(relax.op.matmul(quantised(emit, x), weight(emit, 2, 6, 3)), "op")


PER_CHANNEL = {"scale": [0.1, 0.2, 0.3, 0.4], "axis": 1}
REASONS: dict[str, tuple[Body, str, str]] = {
    "no form": (q_then(relax.op.sin), "op", "it has no integer form here"),
    "concat of two grids": (
        lambda emit, x: conv(
            emit,
            emit(relax.op.concat([quantised(emit, x), quantised(emit, x, "r", scale=0.3)], axis=1), "both"),
            weight(emit, 4, 8, 1, 1),
        ),
        "conv",
        "its input is not quantised: both brings together tensors that no one quantiser gave",
    ),
    "nine bits": (lambda emit, x: quantised(emit, x, qmax=511), "q", "its range 0..511 takes 9 bits"),
    "float input": (lambda emit, x: conv(emit, x, weight(emit, 4, 4, 1, 1)), "conv", "its input is not quantised"),
    "declined input": (declined_detail, "conv", "its input is not quantised: odd looks like a quantiser"),
    "float weights": (
        lambda emit, x: conv(emit, quantised(emit, x), const(np.ones((4, 4, 1, 1)))),
        "conv",
        "its weights are not quantised",
    ),
    "layout": (
        lambda emit, x: conv(
            emit, quantised(emit, x), weight(emit, 1, 1, 4, 3), data_layout="NHWC", kernel_layout="HWIO"
        ),
        "conv",
        "its layout is NHWC with HWIO, not NCHW with OIHW",
    ),
    "batched weights": (dense3, "op", "its weights have 3 dimensions, not 2"),
    "input per channel": (
        lambda emit, x: conv(emit, quantised(emit, x, **PER_CHANNEL), weight(emit, 4, 4, 1, 1)),
        "conv",
        "its input is quantised per channel, so products of different channels have different scales",
    ),
    "weights per input": (
        lambda emit, x: conv(emit, quantised(emit, x), weight(emit, 3, 4, 1, 1, **PER_CHANNEL)),
        "conv",
        "its weights are quantised along axis 1, which is not that of the outputs",
    ),
    "overflow": (
        lambda emit, x: emit(
            relax.op.matmul(quantised(emit, x, qmax=255), weight(emit, 40000, 2, qmin=-128, qmax=127)), "op"
        ),
        "op",
        "int32 holds 32",
    ),
    "average per channel": (
        q_then(lambda q: relax.op.nn.avg_pool2d(q, (2, 2)), **PER_CHANNEL),
        "op",
        "its input is quantised per channel",
    ),
    "average in another layout": (
        q_then(lambda q: relax.op.nn.avg_pool2d(q, (2, 2), layout="NHWC")),
        "op",
        "its layout is NHWC, not NCW or NCHW",
    ),
    "adaptive in another layout": (
        q_then(lambda q: relax.op.nn.adaptive_avg_pool2d(q, (2, 2), layout="NHWC")),
        "op",
        "its layout is NHWC, not NCW or NCHW",
    ),
    "average of padding": (
        q_then(lambda q: relax.op.nn.avg_pool2d(q, (2, 2), padding=2, count_include_pad=True)),
        "op",
        "one of its windows holds only padding",
    ),
    "mean of all": (q_then(lambda q: relax.op.mean(q)), "op", "it leaves no axis"),
    "average of sums": (
        lambda emit, x: emit(relax.op.nn.avg_pool2d(conv_of(emit, x), (2, 2)), "op"),
        "op",
        "its input is neither codes nor a function of one accumulator",
    ),
    "bicubic": (
        q_then(lambda q: relax.op.image.resize2d(q, (12, 12), method="cubic")),
        "op",
        "it interpolates by the method cubic",
    ),
    "thirds": (
        q_then(lambda q: relax.op.image.resize2d(q, (18, 18), method="linear")),
        "op",
        "its weights are multiples of 1/3",
    ),
    "resize in another layout": (
        q_then(lambda q: relax.op.image.resize2d(q, (12, 12), layout="NHWC")),
        "op",
        "its layout is NHWC, not NCHW",
    ),
}


def input_shape(name: str) -> tuple[int, ...]:
    """Cases that need another input."""
    return {"layout": (1, 6, 6, 4), "overflow": (2, 40000), "batched weights": (2, 3, 6)}.get(name, SHAPE)


@pytest.mark.parametrize("name", REASONS)
def test_reason_for_staying_float(name: str) -> None:
    """Noted under the layer's name, in words of its own."""
    body, layer, reason = REASONS[name]
    _, layers = rewritten(body, input_shape(name))
    assert layer in layers, f"no note on {layer}: {layers}"
    assert reason in layers[layer]["reason"]
    assert layers[layer]["op"].startswith(("relax.", "tvm_lowbit."))
    assert "bits" not in layers[layer]


def lowered_values(body: Body, x: Any) -> list[Any]:
    """Outputs of the lowered program."""
    mod = rewrite_lowbit(detect_quantizers(module(body, x.shape)))
    return evaluate(lower_lowbit(mod, host_core()), x)


# Where float stays, the program must still compute what it did.
@pytest.mark.parametrize("name", ["average of padding", "thirds", "bicubic"])
def test_declined_layers_are_right_in_float(name: str) -> None:
    """Against TVM's own compilation of the fake-quantised program."""
    body = REASONS[name][0]
    x = np.random.default_rng(0).normal(size=input_shape(name)).astype(np.float32)
    (expected,) = evaluate(detect_quantizers(module(body, x.shape)), x)
    np.testing.assert_allclose(lowered_values(body, x)[0], expected, rtol=1e-5, atol=1e-5)


CHANNEL = random(4, 1, 1)
TAKEN: dict[str, Callable[[Any], Any]] = {
    "relax.add": lambda v: relax.op.add(v, const(CHANNEL)),
    "relax.add (constant first)": lambda v: relax.op.add(const(CHANNEL), v),
    "relax.subtract": lambda v: relax.op.subtract(v, const(CHANNEL)),
    "relax.multiply": lambda v: relax.op.multiply(v, const(CHANNEL)),
    "relax.multiply (constant first)": lambda v: relax.op.multiply(const(-0.7), v),
    "relax.divide": lambda v: relax.op.divide(v, const(-0.3)),
    "relax.nn.relu": relax.op.nn.relu,
    "relax.clip": lambda v: relax.op.clip(v, -0.4, 0.9),
    "relax.minimum": lambda v: relax.op.minimum(v, const(CHANNEL)),
    "relax.maximum": lambda v: relax.op.maximum(const(CHANNEL), v),
    "relax.subtract (constant first)": lambda v: relax.op.subtract(const(CHANNEL), v),
    "relax.negative": relax.op.negative,
    "relax.abs": relax.op.abs,
    "relax.sigmoid": relax.op.sigmoid,
    "relax.sqrt": lambda v: relax.op.sqrt(relax.op.nn.relu(v)),
    "relax.tanh": relax.op.tanh,
    "relax.exp": relax.op.exp,
    "relax.nn.silu": relax.op.nn.silu,
    "relax.nn.leakyrelu": lambda v: relax.op.nn.leakyrelu(v, 0.3),
    "relax.nn.leakyrelu (turning)": lambda v: relax.op.nn.leakyrelu(v, -0.3),
    "relax.nn.prelu": lambda v: relax.op.nn.prelu(v, const(CHANNEL.reshape(-1)), axis=1),
}
ON_CODES: dict[str, Callable[[Any], Any]] = {
    "relax.nn.max_pool2d": lambda q: relax.op.nn.max_pool2d(q, (3, 3), strides=(2, 2), padding=(1, 0, 0, 1)),
    "relax.nn.avg_pool2d": lambda q: relax.op.nn.avg_pool2d(
        q, (2, 3), strides=(2, 1), padding=1, count_include_pad=True
    ),
    "relax.nn.pad": lambda q: relax.op.nn.pad(q, [0, 0, 1, 0, 0, 2, 1, 1], "constant", 0.75),
    "relax.nn.adaptive_avg_pool2d": lambda q: relax.op.nn.adaptive_avg_pool2d(q, (1, 1)),
    "relax.mean": lambda q: relax.op.mean(q, [2, 3]),
    "relax.mean (kept)": lambda q: relax.op.mean(q, [-1, -2], keepdims=True),
    "relax.mean (channels)": lambda q: relax.op.mean(q, [1]),
    "relax.sum": lambda q: relax.op.sum(q, [3]),
    "relax.nn.avg_pool2d (padding not counted)": lambda q: relax.op.nn.avg_pool2d(
        q, (3, 2), strides=(2, 2), padding=(1, 1, 2, 0), count_include_pad=False, ceil_mode=True
    ),
    "relax.nn.avg_pool1d": lambda q: relax.op.nn.avg_pool1d(
        relax.op.reshape(q, (1, 4, 36)), 5, strides=3, padding=2, count_include_pad=False
    ),
    "relax.nn.adaptive_avg_pool1d": lambda q: relax.op.nn.adaptive_avg_pool1d(relax.op.reshape(q, (1, 4, 36)), 7),
    "relax.nn.adaptive_avg_pool2d (uneven)": lambda q: relax.op.nn.adaptive_avg_pool2d(q, (4, 5)),
    "relax.nn.max_pool1d": lambda q: relax.op.nn.max_pool1d(relax.op.reshape(q, (1, 4, 36)), 3, padding=1),
    "relax.max": lambda q: relax.op.max(q, [2, 3]),
    "relax.min": lambda q: relax.op.min(q, [1], keepdims=True),
    "relax.concat": lambda q: relax.op.concat([q, q], axis=2),
    "relax.stack": lambda q: relax.op.stack([q, q], axis=1),
    "relax.strided_slice": lambda q: relax.op.strided_slice(q, [2, 1], [0, 1], [5, 4], [2, 1]),
    "relax.take": lambda q: relax.op.take(q, const([3, 1, 1], "int64"), axis=1, mode="clip"),
    "relax.flip": lambda q: relax.op.flip(q, 1),
    "relax.tile": lambda q: relax.op.tile(q, (1, 2, 1, 1)),
    "relax.repeat": lambda q: relax.op.repeat(q, 3, 2),
    "relax.broadcast_to": lambda q: relax.op.broadcast_to(q, (2, 4, 6, 6)),
    "relax.flatten": relax.op.flatten,
    "relax.image.resize2d": lambda q: relax.op.image.resize2d(q, (9, 4), method="nearest_neighbor"),
    "relax.image.resize2d (linear)": lambda q: relax.op.image.resize2d(q, (12, 24), method="linear"),
    "relax.reshape": lambda q: relax.op.reshape(q, (1, 4, 36)),
    "relax.permute_dims": lambda q: relax.op.permute_dims(q, [0, 2, 3, 1]),
    "relax.expand_dims": lambda q: relax.op.expand_dims(q, [1]),
    "relax.squeeze": lambda q: relax.op.squeeze(q, [0]),
}


@pytest.mark.parametrize("name", [*TAKEN, *ON_CODES])
def test_integer_form_gives_the_same_codes(name: str) -> None:
    """Asymmetric signed codes, the operator, a quantiser: same values as in float, computed on integers."""
    step = (TAKEN | ON_CODES)[name]

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, "in", scale=0.25, qmin=-8, qmax=7, zero=-3.0)
        return emit(relax.op.negative(quantised(emit, emit(step(q), "op"), "out", scale=0.3, qmin=-4, qmax=3)), "end")

    mod, layers = rewritten(body)
    assert "op" not in layers and "out" not in layers
    found = operators(mod)
    assert ops.REQUANTIZE in found and ops.FAKE_QUANT not in found and found.count(ops.QUANTIZE) == 1
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    (expected,) = evaluate(detect_quantizers(module(body, SHAPE)), x)
    np.testing.assert_array_equal(evaluate(lower_lowbit(mod, host_core()), x)[0], expected)


def test_every_operator_of_the_table_is_tested() -> None:
    """A new row needs its case."""
    tested = {name.split(" ")[0] for name in (*TAKEN, *ON_CODES)} | MULTIPLYING | {ops.FAKE_QUANT}
    assert tested == set(INTEGER_FORMS)


@pytest.mark.parametrize("axis", [0, 2, 3])
@pytest.mark.parametrize("side", [4, 5], ids=["extents_equal", "extents_differ"])
def test_scale_along_another_axis_than_channels(axis: int, side: int) -> None:
    """Codes whose scale runs along rows or columns are no function of the channel; they may stay float, but right."""
    shape = (2 if axis == 0 else 1, 4, side, side)
    scale = np.linspace(0.1, 0.6, shape[axis])

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, "in", scale=scale, qmin=-8, qmax=7, axis=axis)
        return quantised(emit, emit(relax.op.nn.relu(q), "op"), "out", scale=0.3)

    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (expected,) = evaluate(detect_quantizers(module(body, shape)), x)
    np.testing.assert_array_equal(lowered_values(body, x)[0], expected)
