"""Products that stay float: each reason in its own words, and the values right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from relax_models import const, evaluate, module, quantised, spec
from tvm import relax

from relay_passes import notes
from relay_passes.detect import detect_quantizers
from relay_passes.lower import lower_lowbit
from relay_passes.ops import fake_quant
from relay_passes.rewrite import rewrite_lowbit
from schedules.cores import host_core

ALONG = "its weights are quantised along axis {}, which is not that of the outputs"


def weights(emit: Any, *shape: int, axis: int | None = None, **numbers: Any) -> Any:
    """2-bit weights."""
    array = np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)
    scale = 0.3 if axis is None else np.linspace(0.2, 0.4, shape[axis])
    return emit(
        fake_quant(const(array), spec(**({"scale": scale, "qmin": -2, "qmax": 1, "axis": axis} | numbers))), "w"
    )


Body = Callable[[Any, Any], Any]
# Shape of the input, the layer of its quantised form, the reason.
CASES: dict[str, tuple[tuple[int, ...], Body, str]] = {
    "conv1d, axis": (
        (2, 4, 6),
        lambda emit, q: relax.op.nn.conv1d(q, weights(emit, 3, 4, 3, axis=1), padding=1),
        ALONG.format(1),
    ),
    "conv1d, layout": (
        (2, 6, 4),
        lambda emit, q: relax.op.nn.conv1d(q, weights(emit, 3, 4, 3), data_layout="NWC", kernel_layout="OIW"),
        "its layout is NWC with OIW, not NCW with OIW",
    ),
    "transposed, axis": (
        (2, 4, 5, 3),
        lambda emit, q: relax.op.nn.conv2d_transpose(q, weights(emit, 4, 3, 2, 2, axis=0), strides=2),
        ALONG.format(0),
    ),
    "transposed, axis of the kernel": (
        (2, 4, 5),
        lambda emit, q: relax.op.nn.conv1d_transpose(q, weights(emit, 4, 3, 4, axis=2), strides=2, dilation=3),
        ALONG.format(2),
    ),
    "transposed, layout": (
        (2, 4, 5, 5),
        lambda emit, q: relax.op.nn.conv2d_transpose(q, weights(emit, 3, 4, 2, 2), kernel_layout="OIHW"),
        "its layout is NCHW with OIHW, not NCHW with IOHW",
    ),
    "left, axis": (
        (2, 4, 5),
        lambda emit, q: relax.op.matmul(weights(emit, 3, 4, axis=1), q),
        ALONG.format(1),
    ),
    "left, batches": (
        (2, 4, 5),
        lambda emit, q: relax.op.matmul(weights(emit, 2, 3, 4), q),
        "its weights have 3 dimensions, not 2",
    ),
    "left, float": (
        (2, 4, 5),
        lambda emit, q: relax.op.matmul(const(np.full((3, 4), 0.3)), q),
        "its weights are not quantised",
    ),
    "right, batches": (
        (2, 4, 5),
        lambda emit, q: relax.op.matmul(q, weights(emit, 2, 5, 4)),
        "its weights have 3 dimensions, not 2",
    ),
    "a scale for each of a vector": (
        (2, 4, 5),
        lambda emit, q: relax.op.matmul(q, weights(emit, 5, axis=0)),
        ALONG.format(0),
    ),
    "a single number": (
        (5,),
        lambda emit, q: relax.op.matmul(q, weights(emit, 5)),
        "its result is a single number",
    ),
    "two inputs": (
        (2, 4, 4),
        lambda emit, q: relax.op.matmul(q, q),
        "its weights are not quantised",
    ),
}


def program(name: str) -> Any:
    """The case between two quantisers."""
    shape, layer, _ = CASES[name]

    def body(emit: Any, x: Any) -> Any:
        y = emit(layer(emit, quantised(emit, x, "in", qmin=-1, qmax=6, zero=1.0, scale=0.25)), "layer")
        return emit(relax.op.negative(y), "end")

    return detect_quantizers(module(body, shape))


@pytest.mark.parametrize("name", CASES)
def test_reason_for_staying_float(name: str) -> None:
    """Noted under the layer's name."""
    row = notes.read(rewrite_lowbit(program(name)))["layers"]["layer"]
    assert row["reason"] == CASES[name][2]
    assert "bits" not in row
    assert row["op"].startswith("relax.")


FLOAT = ["conv1d, axis", "transposed, axis", "transposed, axis of the kernel", "left, batches", "two inputs"]


@pytest.mark.parametrize("name", FLOAT)
def test_declined_layers_are_right_in_float(name: str) -> None:
    """Against TVM's own compilation of the fake-quantised program."""
    x = np.random.default_rng(0).normal(size=CASES[name][0]).astype(np.float32)
    (expected,) = evaluate(program(name), x)
    (found,) = evaluate(lower_lowbit(rewrite_lowbit(program(name)), host_core()), x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


PER_CHANNEL = {"scale": [0.1, 0.2, 0.3, 0.4], "qmin": -2, "qmax": 5}


@pytest.mark.parametrize(("axis", "shape"), [(0, (4, 4, 4, 4)), (2, (1, 4, 4, 4)), (3, (1, 4, 4, 4))])
def test_activations_along_another_axis_than_channels(axis: int, shape: tuple[int, ...]) -> None:
    """Depthwise or not."""

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, axis=axis, **PER_CHANNEL)
        return emit(relax.op.nn.conv2d(q, weights(emit, 4, 1, 3, 3), groups=4), "layer")

    row = notes.read(rewrite_lowbit(detect_quantizers(module(body, shape))))["layers"]["layer"]
    assert row["reason"] == f"its input is quantised along axis {axis}, which is not that of the channels"


def row_of_sums(stride: int) -> dict[str, Any]:
    """The note on a transposed convolution of 160 channels and 256 taps at 8 bits."""

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, qmin=-128, qmax=127)
        w = weights(emit, 160, 1, 16, 16, qmin=-128, qmax=127)
        return emit(relax.op.nn.conv2d_transpose(q, w, strides=stride), "layer")

    row: dict[str, Any] = notes.read(rewrite_lowbit(detect_quantizers(module(body, (1, 160, 2, 2)))))["layers"]["layer"]
    return row


def test_sums_that_do_not_fit() -> None:
    """A phase of a stride sums its own products only."""
    # 40960 products of values up to 255 + 128 on both sides.
    assert row_of_sums(1)["reason"] == "the accumulator would need 34 bits for 40960 products of W8A8; int32 holds 32"
    assert row_of_sums(2)["bits"] == "W8A8"
