"""Operators of the matrix, written once for ONNX and for torch; what each yields is quantised, and given back.

An operator is a generator ``operator(net, a, weights, pad)``: ``net`` writes nodes, ``a`` is quantised already,
``weights(shape, axis)`` are quantised with one step, or one each along ``axis``, ``pad`` is 0 where codes have none for
0.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Made = Iterator[Any]


def conv2d(net: Any, a: Any, weights: Any, pad: int) -> Made:
    yield net.conv(a, weights((5, 4, 3, 3), 0), pad=pad)


def grouped(net: Any, a: Any, weights: Any, pad: int) -> Made:
    yield net.conv(a, weights((6, 2, 3, 3), 0), pad=pad, stride=2, group=2)


def depthwise(net: Any, a: Any, weights: Any, pad: int) -> Made:
    yield net.conv(a, weights((4, 1, 3, 3), 0), pad=pad, group=4)


def conv1d(net: Any, a: Any, weights: Any, pad: int) -> Made:
    yield net.conv(a, weights((5, 4, 3), 0), pad=pad)


def transposed(net: Any, a: Any, weights: Any, pad: int) -> Made:
    yield net.conv_transpose(a, weights((4, 5, 3, 3), 1), stride=2)


def gemm(net: Any, a: Any, weights: Any, pad: int) -> Made:
    yield net.gemm(a, weights((6, 64), 0))


def matmul(net: Any, a: Any, weights: Any, pad: int) -> Made:
    yield net.matmul(a, weights((12, 6), 1))


def matmul_left(net: Any, a: Any, weights: Any, pad: int) -> Made:
    yield net.matmul(weights((7, 6), 0), a)


def residual(net: Any, a: Any, weights: Any, pad: int) -> Made:
    q = yield net.conv(a, weights((4, 4, 1, 1), 0), pad=0)
    r = yield net.join(net.conv(q, weights((4, 4, 1, 1), 0), pad=0), a)
    yield net.join(r, q)


def pools(net: Any, a: Any, weights: Any, pad: int) -> Made:
    q = yield net.conv(net.max_pool(a), weights((4, 4, 1, 1), 0), pad=0)
    q = yield net.average_pool(q)
    q = yield net.global_average(q)
    yield net.gemm(q, weights((3, 4), 0))


@dataclass(frozen=True)
class Operator:
    """A row: how it is written, the shape it reads, and how many products must run on integers."""

    write: Callable[..., Made]
    shape: tuple[int, ...]
    products: int = 1


OPERATORS = {
    "conv2d": Operator(conv2d, (4, 4, 4)),
    "grouped": Operator(grouped, (4, 5, 5)),
    "depthwise": Operator(depthwise, (4, 4, 4)),
    "conv1d": Operator(conv1d, (4, 20)),
    "transposed": Operator(transposed, (4, 4, 4)),
    "gemm": Operator(gemm, (64,)),
    "matmul": Operator(matmul, (6, 12)),
    "matmul_left": Operator(matmul_left, (6, 12)),
    "residual": Operator(residual, (4, 4, 4), 2),
    "pools": Operator(pools, (4, 4, 4), 2),
}
