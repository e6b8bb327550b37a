"""Rules of multiplying operators against a recomputation product by product, in float and after rewriting."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from explained import explain, summed
from relax_models import const, quantised, spec
from tvm import relax

import tvm_lowbit
from relay_passes.ops import fake_quant

RNG = np.random.default_rng(0)
N = 2
SHAPE = (N, 4, 6, 5)
INPUT, REFERENCE = RNG.normal(size=SHAPE).astype(np.float32), RNG.normal(size=SHAPE[1:]).astype(np.float32)


def checked(body: Callable[..., Any], shape: tuple[int, ...] = SHAPE) -> tuple[Any, Any]:
    """The multipliers, complete, and the multipliers at the operator's result."""
    mod, g = summed(body, shape)
    x, reference = INPUT.reshape(shape), REFERENCE.reshape(shape[1:])
    found = explain(mod, x, reference=reference)
    # A few roundings of the sums of contributions, which are some hundreds in magnitude.
    shares = np.abs(found.contributions).sum(axis=tuple(range(1, len(shape))))
    assert np.all(np.abs(found.gap) <= np.maximum(1e-4, 1e-6 * shares))
    np.testing.assert_allclose(found.contributions, found.multipliers * (x - reference), rtol=1e-6, atol=1e-7)
    return found.multipliers, g.astype(np.float64)


def close(found: Any, expected: Any) -> None:
    """Multipliers in float32 against float64."""
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=2e-4, atol=2e-5)


CONVS: dict[str, dict[str, Any]] = {
    "plain": {"weight": (3, 4, 3, 3)},
    "stride": {"weight": (3, 4, 3, 2), "strides": (2, 3)},
    "asymmetric padding": {"weight": (3, 4, 3, 3), "padding": (2, 0, 1, 3)},
    "dilation": {"weight": (3, 4, 2, 3), "dilation": (3, 2)},
    "groups": {"weight": (6, 2, 3, 3), "groups": 2, "padding": (1, 1, 1, 1)},
    "depthwise": {"weight": (8, 1, 2, 2), "groups": 4, "strides": (1, 2), "padding": (0, 1, 1, 0)},
    "all": {"weight": (6, 2, 2, 3), "groups": 2, "strides": (2, 3), "dilation": (2, 1), "padding": (1, 2, 3, 0)},
}
TRANSPOSED: dict[str, dict[str, Any]] = {
    "plain": {"weight": (4, 3, 3, 3)},
    "stride": {"weight": (4, 3, 3, 2), "strides": (2, 3)},
    "asymmetric padding": {"weight": (4, 3, 3, 3), "strides": (2, 1), "padding": (2, 0, 1, 2)},
    "dilation": {"weight": (4, 3, 2, 3), "dilation": (3, 2), "strides": (2, 2)},
    "output padding": {"weight": (4, 3, 3, 3), "strides": (3, 2), "output_padding": (2, 1), "padding": (1, 1, 1, 1)},
    "groups": {"weight": (4, 3, 3, 2), "groups": 2, "strides": (2, 2), "padding": (1, 0, 0, 1)},
    "depthwise": {"weight": (4, 2, 2, 2), "groups": 4, "strides": (1, 2)},
}


def flat(attrs: dict[str, Any]) -> dict[str, Any]:
    """The columns of a case only: its 1-d convolution."""
    axes = {"weight": [0, 1, 3], "padding": [1, 3]}
    keep = lambda key, v: tuple(v[i] for i in axes.get(key, [1]))  # noqa: E731 - an abbreviation
    return {key: keep(key, v) if isinstance(v, tuple) else v for key, v in attrs.items()}


def pairs(attrs: dict[str, Any], weight: tuple[int, ...], at: tuple[int, ...]) -> Any:
    """For one position of the strided side of a convolution: (kernel position, position on the other side)."""
    rank = len(weight) - 2
    stride, dilation = (attrs.get(key, (1,) * rank) for key in ("strides", "dilation"))
    padding = attrs.get("padding", (0,) * rank)
    for tap in itertools.product(*map(range, weight[2:])):
        yield tap, tuple(p * s - b + k * d for p, s, b, k, d in zip(at, stride, padding, tap, dilation, strict=False))


@pytest.mark.parametrize(("name", "rank"), [*((name, 2) for name in CONVS), ("all", 1), ("depthwise", 1)])
def test_convolution(name: str, rank: int) -> None:
    """Product by product."""
    attrs = dict(CONVS[name]) if rank == 2 else flat(CONVS[name])
    shape = SHAPE if rank == 2 else (N, 4, 30)
    weight = RNG.normal(size=attrs.pop("weight")).astype(np.float32)
    op = relax.op.nn.conv2d if rank == 2 else relax.op.nn.conv1d
    found, g = checked(lambda emit, x: emit(op(x, const(weight), **attrs), "conv"), shape)
    groups = attrs.get("groups", 1)
    expected = np.zeros(shape[1:])
    out_per, in_per = weight.shape[0] // groups, weight.shape[1]
    for (o, *at), value in np.ndenumerate(g):
        for tap, place in pairs(attrs, weight.shape, tuple(at)):
            if all(0 <= p < extent for p, extent in zip(place, shape[2:], strict=True)):
                first = o // out_per * in_per
                expected[(slice(first, first + in_per), *place)] += value * weight[(o, slice(None), *tap)]
    close(found, expected)


@pytest.mark.parametrize(("name", "rank"), [*((n, 2) for n in TRANSPOSED), ("output padding", 1), ("groups", 1)])
def test_transposed_convolution(name: str, rank: int) -> None:
    """Product by product: each input is added to a window of outputs."""
    attrs = dict(TRANSPOSED[name]) if rank == 2 else flat(TRANSPOSED[name])
    shape = SHAPE if rank == 2 else (N, 4, 30)
    weight = RNG.normal(size=attrs.pop("weight")).astype(np.float32)
    op = relax.op.nn.conv2d_transpose if rank == 2 else relax.op.nn.conv1d_transpose
    found, g = checked(lambda emit, x: emit(op(x, const(weight), **attrs), "conv"), shape)
    groups = attrs.get("groups", 1)
    expected = np.zeros(shape[1:])
    in_per, out_per = weight.shape[0] // groups, weight.shape[1]
    for i, *at in np.ndindex(shape[1:]):
        for tap, place in pairs(attrs, weight.shape, tuple(at)):
            if all(0 <= p < extent for p, extent in zip(place, g.shape[1:], strict=True)):
                first = i // in_per * out_per
                expected[(i, *at)] += g[(slice(first, first + out_per), *place)] @ weight[(i, slice(None), *tap)]
    close(found, expected)


# Shape of the operand that varies (batch first), shape of the weights, whether they stand on the left.
MATMULS = {
    "rows": ((N, 120), (120, 7), False),
    "rows of rows": ((N, 24, 5), (5, 7), False),
    "rows of images": (SHAPE, (5, 7), False),
    "batches of weights": (SHAPE, (4, 5, 3), False),
    "weights repeat the input": ((N, 1, 24, 5), (3, 5, 2), False),
    "a vector": (SHAPE, (5,), False),
    "columns": ((N, 20, 6), (7, 20), True),
    "columns of images": (SHAPE, (7, 6), True),
    "a vector on the left": (SHAPE, (6,), True),
    "batches on the left": (SHAPE, (4, 3, 6), True),
}


@pytest.mark.parametrize("name", MATMULS)
def test_matmul(name: str) -> None:
    """``g W^T`` and ``W^T g``, by the definition of a linear map: what a unit of each input adds."""
    shape, extents, left = MATMULS[name]
    weight = RNG.normal(size=extents).astype(np.float32)

    def product(x: Any) -> Any:
        return np.matmul(weight, x) if left else np.matmul(x, weight)

    def body(emit: Any, x: Any) -> Any:
        x = emit(relax.op.reshape(x, shape), "shaped")
        return emit(relax.op.matmul(const(weight), x) if left else relax.op.matmul(x, const(weight)), "fc")

    found, g = checked(body)
    units = np.eye(120).reshape(120, *shape[1:])
    close(found, np.reshape([np.sum(product(unit[None])[0] * g) for unit in units], SHAPE[1:]))


def test_vector_times_the_input_itself() -> None:
    """A row of the batch is a vector: ``W x`` of one item."""
    weight = RNG.normal(size=(3, 120)).astype(np.float32)
    for left in (False, True):

        def body(emit: Any, x: Any, left: bool = left) -> Any:
            vector = emit(relax.op.reshape(x, (120,)), "vector")
            product = relax.op.matmul(const(weight), vector) if left else relax.op.matmul(vector, const(weight.T))
            return emit(relax.op.reshape(emit(product, "fc"), (1, 3)), "row")

        mod, g = summed(body, (1, *SHAPE[1:]))
        found = explain(mod, INPUT[:1], reference=REFERENCE)
        assert abs(float(found.gap[0])) <= 1e-4
        close(found.multipliers, (g @ weight).reshape(SHAPE[1:]))


def weights(emit: Any, *shape: int, axis: int) -> Any:
    """2-bit weights with a step for each output."""
    random = np.random.default_rng(len(shape))
    step = np.linspace(0.3, 0.5, shape[axis])
    return emit(fake_quant(const(random.normal(size=shape)), spec(step, -2, 1, axis=axis)), "w")


LOWBIT: dict[str, tuple[tuple[int, ...], Callable[[Any, Any], Any]]] = {
    "conv1d": ((2, 4, 9), lambda emit, q: relax.op.nn.conv1d(q, weights(emit, 6, 2, 3, axis=0), groups=2, padding=1)),
    "conv1d_transpose": (
        (2, 4, 5),
        lambda emit, q: relax.op.nn.conv1d_transpose(q, weights(emit, 4, 3, 3, axis=1), strides=2, padding=1),
    ),
    "conv2d_transpose": (
        (2, 4, 5, 3),
        lambda emit, q: relax.op.nn.conv2d_transpose(q, weights(emit, 4, 3, 3, 2, axis=1), strides=2, groups=2),
    ),
    "matmul": ((2, 4, 5), lambda emit, q: relax.op.matmul(weights(emit, 3, 4, axis=0), q)),
}


@pytest.mark.parametrize("name", LOWBIT)
def test_low_bit_layers_are_explained(name: str) -> None:
    """Complete, from the codes that the library computes: quantiser, product, quantiser, then a sum."""
    shape, product = LOWBIT[name]

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, "q", scale=0.3, qmin=0, qmax=1, zero=0.5)
        return quantised(emit, emit(product(emit, q), "layer"), "out", scale=0.4, qmin=-2, qmax=1)

    mod, _ = summed(body, shape)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    artifact = tvm_lowbit.build(mod, "host", explain=[tvm_lowbit.DeepLift(target=0)])
    assert "layer" in [row.name for row in artifact.report.low_bit]
    result = artifact.run(x)
    (found,) = result.explanations.values()
    (output,) = result.outputs.values()
    reference = artifact.run(np.zeros_like(x)).outputs["output"]
    assert np.any(output != reference)
    np.testing.assert_allclose(
        found.contributions.reshape(2, -1).sum(1), (output - reference)[:, 0], rtol=1e-4, atol=1e-4
    )
    assert np.all(np.abs(found.gap) <= 1e-4)
