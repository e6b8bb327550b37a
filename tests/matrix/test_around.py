"""What stands around products: moves, joins, norms and activations, in a few cells of raw arithmetic.

As in `test_matrix`; where an activation is no exact arithmetic, values are close, and codes equal but at their ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cells import EXACT
from graph import reference
from operators import Operator
from test_matrix import IN_ONNX, assert_codes_equal, branches

import tvm_lowbit

Made = Iterator[Any]
CELLS = 3


def _kept(net: Any, operator: str, a: str, *more: str, **attrs: Any) -> str:
    name = net.add(operator, a, *more, **attrs)
    net.rank[name] = net.rank[a]
    return str(name)


def _point(net: Any, a: str, weights: Any, outputs: int, inputs: int) -> str:
    return str(net.conv(a, weights((outputs, inputs, 1, 1), 0), pad=0))


def _shaped(net: Any, a: str, *shape: int) -> str:
    name = net.add("Reshape", a, net.constant([0, *shape], np.int64))
    net.rank[name] = 1 + len(shape)
    return str(name)


def _split(net: Any, a: str, *sizes: int) -> list[str]:
    first = _kept(net, "Split", a, net.constant(sizes, np.int64), axis=1)
    names = [first, *(f"{first}_{i}" for i in range(1, len(sizes)))]
    net.nodes[-1].output[:] = names
    net.rank.update(dict.fromkeys(names, net.rank[a]))
    return names


def _norm(net: Any, a: str, channels: int) -> str:
    """Variance and epsilon sum to 1; gammas of both signs and 0."""
    gamma = np.resize([0.5, -1.0, 0.0, 2.0], channels)
    parts = [gamma, np.arange(channels) / 4, np.arange(channels) / 2, np.full(channels, 0.75)]
    return _kept(net, "BatchNormalization", a, *map(net.constant, parts), epsilon=0.25)


def _resized(net: Any, a: str, **attrs: Any) -> str:
    return _kept(net, "Resize", a, "", net.constant([1.0, 1.0, 2.0, 2.0]), **attrs)


def dilation(net: Any, a: Any, weights: Any, pad: int) -> Made:
    """And padding of another size on each side."""
    yield _kept(net, "Conv", a, weights((3, 4, 2, 2), 0), dilations=[2, 1], pads=[2 * pad, 0, pad, pad])


def concat(net: Any, a: Any, weights: Any, pad: int) -> Made:
    """Of two products, quantised together, and split again."""
    q = yield _kept(net, "Concat", _point(net, a, weights, 2, 4), _point(net, a, weights, 3, 4), axis=1)
    first, second = _split(net, q, 2, 3)
    yield net.join(_point(net, first, weights, 3, 2), net.max_pool(second))


def moves(net: Any, a: Any, weights: Any, pad: int) -> Made:
    """DepthToSpace, Transpose, Reshape, Flatten."""
    q = yield _point(net, _kept(net, "DepthToSpace", a, blocksize=2), weights, 2, 1)
    turned = _shaped(net, _kept(net, "Transpose", q, perm=[0, 2, 3, 1]), 4, 32)
    flat = net.add("Flatten", turned, axis=1)
    yield net.gemm(flat, weights((3, 128), 0))


def nearest(net: Any, a: Any, weights: Any, pad: int) -> Made:
    attrs = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    yield _point(net, _resized(net, a, **attrs), weights, 3, 4)


def bilinear(net: Any, a: Any, weights: Any, pad: int) -> Made:
    """Of a product, quantised behind."""
    q = yield _resized(net, _point(net, a, weights, 3, 4), mode="linear")
    yield _point(net, q, weights, 2, 3)


def norm_before(net: Any, a: Any, weights: Any, pad: int) -> Made:
    q = yield _kept(net, "Relu", _norm(net, _point(net, a, weights, 4, 4), 4))
    yield _point(net, q, weights, 2, 4)


def norm_after(net: Any, a: Any, weights: Any, pad: int) -> Made:
    q = yield _norm(net, _kept(net, "Relu", _point(net, a, weights, 4, 4)), 4)
    yield _point(net, q, weights, 2, 4)


def leaky(net: Any, a: Any, weights: Any, pad: int) -> Made:
    yield _kept(net, "LeakyRelu", _point(net, a, weights, 4, 4), alpha=0.125)


def silu(net: Any, a: Any, weights: Any, pad: int) -> Made:
    c = _point(net, a, weights, 4, 4)
    yield _kept(net, "Mul", c, net.add("Sigmoid", c))


def sigmoid(net: Any, a: Any, weights: Any, pad: int) -> Made:
    yield _kept(net, "Sigmoid", _point(net, a, weights, 4, 4))


def hard_swish(net: Any, a: Any, weights: Any, pad: int) -> Made:
    yield _kept(net, "HardSwish", _point(net, a, weights, 4, 4))


# Each with the products that must run on integers.
EXACTLY = {
    dilation: 1,
    concat: 3,
    moves: 2,
    nearest: 1,
    bilinear: 2,
    norm_before: 2,
    norm_after: 2,
    leaky: 1,
}
CLOSELY = {silu: 1, sigmoid: 1, hard_swish: 1}
NEAR = 1e-4  # of a step: this near to a tie, the last bit of an exponential decides


@pytest.mark.parametrize("write", [*EXACTLY, *CLOSELY], ids=lambda write: write.__name__)
def test_around(write: Any) -> None:
    """Codes equal in every cell; products on integers."""
    rows = [*EXACTLY, *CLOSELY]
    kind = Operator(write, (4, 4, 4), (EXACTLY | CLOSELY)[write])
    net, outputs, batch = branches(IN_ONNX["div_clip_round_mul"], kind, rows.index(write), EXACT, CELLS)
    wanted, codes = reference(net, batch, outputs)
    artifact = tvm_lowbit.build(net.model(*outputs), "host", batch=8, probe=True)
    result = artifact.run(batch)
    assert len(artifact.report.low_bit) == kind.products * CELLS, artifact.report
    tensors = dict(zip(outputs, wanted, strict=True))
    undecided = {}
    if write in CLOSELY:
        for value, quantiser in zip(outputs[::2], outputs[1::2], strict=True):
            step = np.diff(np.unique(tensors[quantiser])).min()
            distance = np.abs(tensors[value] - tensors[quantiser]) / step
            undecided[quantiser] = np.abs(distance - 0.5) < NEAR
            assert undecided[quantiser].mean() < 0.25
    assert_codes_equal(result.codes, codes, undecided)
    for name, values in tensors.items():
        if write in EXACTLY:
            np.testing.assert_array_equal(result.outputs[name], values, err_msg=name)
        else:
            same = ~undecided.get(name, np.zeros(values.shape, bool))
            np.testing.assert_allclose(result.outputs[name][same], values[same], rtol=1e-5, atol=1e-6, err_msg=name)
