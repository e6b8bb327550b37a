"""Rules of operators that move values or sum them with fixed weights: against the operator on every unit vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from explained import explain, summed
from relax_models import const, quantised
from tvm import relax

Array = Any
N = 2
SHAPE = (N, 4, 6, 5)
RNG = np.random.default_rng(0)
INPUT, REFERENCE = RNG.normal(size=SHAPE).astype(np.float32), RNG.normal(size=SHAPE[1:]).astype(np.float32)
INPUT[:, :, 0, 0] = REFERENCE[:, 0, 0]


def interpolated(size: tuple[int, int], **options: Any) -> Callable[[Array], Array]:
    """Torch's interpolation in NumPy."""

    def run(x: Array) -> Array:
        return torch.nn.functional.interpolate(torch.from_numpy(x), size, **options).numpy()

    return run


def adaptive(size: tuple[int, ...]) -> Callable[[Array], Array]:
    """Torch's adaptive average pooling in NumPy."""

    def run(x: Array) -> Array:
        functional = torch.nn.functional
        pool = functional.adaptive_avg_pool1d if len(size) == 1 else functional.adaptive_avg_pool2d
        return pool(torch.from_numpy(x), size).numpy()

    return run


def windows(x: Array, kernel: int, stride: int, before: int, after: int) -> Array:
    """Averages along the last axis, padding not counted."""
    count = (x.shape[-1] + before + after - kernel) // stride + 1
    taps = [[i * stride - before + k for k in range(kernel)] for i in range(count)]
    inside = [[t for t in window if 0 <= t < x.shape[-1]] for window in taps]
    return np.stack([x[..., window].mean(-1) for window in inside], -1)


# Operator -> (in Relax, in NumPy); all are linear.
LINEAR: dict[str, tuple[Callable[[Any], Any], Callable[[Array], Array]]] = {
    "flatten": (lambda x: relax.op.reshape(relax.op.flatten(x), (N, 120)), lambda x: x.reshape(len(x), 120)),
    "concat": (
        lambda x: relax.op.concat([x, const(np.ones((N, 2, 6, 5))), relax.op.multiply(x, const(-1.0))], axis=1),
        lambda x: np.concatenate([x, np.zeros((len(x), 2, 6, 5), np.float32), -x], 1),
    ),
    "nn.pad": (
        lambda x: relax.op.nn.pad(x, [0, 0, 1, 0, 2, 0, 0, 3], "constant", 0.7),
        lambda x: np.pad(x, ((0, 0), (1, 0), (2, 0), (0, 3))),
    ),
    "stack": (
        lambda x: relax.op.stack([x, relax.op.multiply(x, const(-1.0))], axis=-1),
        lambda x: np.stack([x, -x], -1),
    ),
    "strided_slice": (
        lambda x: relax.op.strided_slice(x, [2, 1, 3], [5, 1, 0], [0, 4, 5], [-2, 1, 3]),
        lambda x: x[:, 1:4, 5:0:-2, ::3],
    ),
    "split": (lambda x: relax.TupleGetItem(relax.op.split(x, [1, 3], 1), 1), lambda x: x[:, 1:3]),
    "take": (
        lambda x: relax.op.take(x, const([3, 1, 1], "int64"), axis=1, mode="clip"),
        lambda x: x[:, [3, 1, 1]],
    ),
    "take (one)": (lambda x: relax.op.take(x, const(2, "int64"), axis=2, mode="clip"), lambda x: x[:, :, 2]),
    "flip": (lambda x: relax.op.flip(x, 2), lambda x: x[:, :, ::-1]),
    "repeat": (lambda x: relax.op.repeat(x, 3, 2), lambda x: np.repeat(x, 3, 2)),
    "tile": (lambda x: relax.op.tile(x, (1, 2, 1, 3)), lambda x: np.tile(x, (1, 2, 1, 3))),
    "broadcast_to": (
        lambda x: relax.op.broadcast_to(relax.op.mean(x, [2], True), (N, 4, 7, 5)),
        lambda x: np.repeat(x.mean(2, keepdims=True), 7, 2),
    ),
    "nn.pixel_shuffle": (
        lambda x: relax.op.nn.pixel_shuffle(x, 2),
        lambda x: x.reshape(-1, 1, 2, 2, 6, 5).transpose(0, 1, 4, 2, 5, 3).reshape(-1, 1, 12, 10),
    ),
    "image.resize2d": (
        lambda x: relax.op.image.resize2d(x, (12, 15), method="nearest_neighbor", rounding_method="round"),
        lambda x: np.repeat(np.repeat(x, 2, 2), 3, 3),
    ),
    "image.resize2d (linear)": (
        lambda x: relax.op.image.resize2d(x, (9, 4), method="linear"),
        interpolated((9, 4), mode="bilinear"),
    ),
    "image.resize2d (aligned)": (
        lambda x: relax.op.image.resize2d(x, (11, 13), method="linear", coordinate_transformation_mode="align_corners"),
        interpolated((11, 13), mode="bilinear", align_corners=True),
    ),
    "nn.avg_pool1d": (
        lambda x: relax.op.nn.avg_pool1d(
            relax.op.reshape(x, (N, 4, 30)), 4, strides=3, padding=(2, 1), count_include_pad=False
        ),
        lambda x: windows(x.reshape(-1, 4, 30), 4, 3, 2, 1),
    ),
    "nn.adaptive_avg_pool1d": (
        lambda x: relax.op.nn.adaptive_avg_pool1d(relax.op.reshape(x, (N, 4, 30)), 7),
        lambda x: adaptive((7,))(x.reshape(-1, 4, 30)),
    ),
    "nn.adaptive_avg_pool2d": (lambda x: relax.op.nn.adaptive_avg_pool2d(x, (4, 3)), adaptive((4, 3))),
    "sum": (lambda x: relax.op.sum(x, [1, -1]), lambda x: x.sum((1, 3))),
}
# Rules that are tested here, below "relax.".
MOVING_RULES = {name.split(" ")[0] for name in LINEAR} - {"split", "nn.pixel_shuffle"}
MOVING_RULES |= {"nn.max_pool1d", "max", "min"}


def explained(body: Callable[..., Any]) -> tuple[Any, Any]:
    """The multipliers, complete, and those at the operator's result."""
    mod, g = summed(body, SHAPE)
    found = explain(mod, INPUT, reference=REFERENCE)
    assert np.all(np.abs(found.gap) <= 1e-4)
    return found.multipliers, g.astype(np.float64)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_rule(name: str) -> None:
    """The multiplier of an input is what a unit there adds to the explained sum."""
    operator, f = LINEAR[name]
    found, g = explained(lambda emit, x: emit(operator(x), "op"))
    units = np.eye(120, dtype=np.float32).reshape(120, *SHAPE[1:])
    expected = (f(units).astype(np.float64) * g).reshape(120, -1).sum(1).reshape(SHAPE[1:])
    np.testing.assert_allclose(found, np.broadcast_to(expected, SHAPE), rtol=2e-4, atol=2e-5)


MAXIMA: dict[str, tuple[Callable[[Any], Any], Callable[[Array], Array], int]] = {
    "max": (lambda x: relax.op.max(x, [2, 3]), lambda x: x.reshape(-1, 4, 1, 30), 1),
    "max (last, kept)": (lambda x: relax.op.max(x, [-1], keepdims=True), lambda x: x.reshape(-1, 4, 6, 5), 1),
    "min": (lambda x: relax.op.min(x, [2, 3]), lambda x: x.reshape(-1, 4, 1, 30), -1),
    "max_pool1d": (
        lambda x: relax.op.nn.max_pool1d(relax.op.reshape(x, (N, 4, 30)), 5, strides=5),
        lambda x: x.reshape(-1, 4, 6, 5),
        1,
    ),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_maximum(name: str) -> None:
    """``M - y0`` to the largest input, ``y - M`` to the largest reference input, over that position's difference."""
    operator, rows, sign = MAXIMA[name]
    found, g = explained(lambda emit, x: emit(operator(x), "op"))
    x, x0 = (sign * rows(v).astype(np.float64) for v in (INPUT, np.broadcast_to(REFERENCE, SHAPE)))
    expected = np.zeros(x.shape)
    for at in np.ndindex(*x.shape[:-1]):
        i, j = int(np.argmax(x[at])), int(np.argmax(x0[at]))
        y, y0 = x[at][i], x0[at][j]
        for k, share in ((i, max(y, y0) - y0), (j, y - max(y, y0))):
            expected[at][k] += g.reshape(x.shape[1:-1])[at[1:]] * share / (x[at][k] - x0[at][k]) if share else 0
    np.testing.assert_allclose(found, expected.reshape(SHAPE), rtol=2e-4, atol=2e-5)


def test_ceil_mode() -> None:
    """Windows over the edge, complete."""
    explained(lambda emit, x: emit(relax.op.nn.max_pool2d(x, (4, 4), strides=(4, 4), ceil_mode=True), "pool"))


MIXED: dict[str, Callable[[Any, Any], Any]] = {
    "concat": lambda emit, v: relax.op.concat([v, emit(relax.op.nn.relu(v), "relu")], axis=1),
    "slice": lambda emit, v: relax.op.strided_slice(v, [1], [1], [3]),
    "shuffle": lambda emit, v: relax.op.nn.pixel_shuffle(v, 2),
    "maximum": lambda emit, v: relax.op.nn.max_pool2d(v, (2, 2), strides=(2, 2)),
    "resize": lambda emit, v: relax.op.image.resize2d(v, (12, 10), method="nearest_neighbor"),
}


@pytest.mark.parametrize("name", MIXED)
def test_explained_quantiser_behind_a_move(name: str) -> None:
    """Convolution, move, quantiser: integer, and the explanation that reads the float value before is complete."""

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x, "in", scale=0.3, qmin=-8, qmax=7)
        w = quantised(emit, const(RNG.normal(size=(4, 4, 1, 1))), "w", scale=0.4, qmin=-2, qmax=1)
        moved = emit(MIXED[name](emit, emit(relax.op.nn.conv2d(q, w), "conv")), "moved")
        return quantised(emit, moved, "out", scale=0.7, qmin=-2, qmax=1)

    explained(body)
