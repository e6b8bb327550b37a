"""Chains of operators that move elements, built as a user would: what indices become when one is written into the next.

TVM 0.27's simplifier is wrong about some quotients of remainders below conditions; see `inline_chains`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relax_models import module
from tvm.relax import op

import tvm_lowbit

SHAPE = (2, 4, 6, 6)
Array = npt.NDArray[np.float32]


def repeated(emit: Any, v: Any) -> Any:
    thirds = emit(op.nn.max_pool1d(emit(op.reshape(v, (2, 4, 36))), 3, strides=3))
    return op.reshape(emit(op.repeat(thirds, 3, 2)), SHAPE)


def padded(emit: Any, v: Any) -> Any:
    wider = emit(op.nn.pad(v, [0, 0, 0, 0, 1, 0, 0, 2], "constant", 0.5))
    return op.strided_slice(wider, [2, 3], [0, 1], [6, 7])


def joined(emit: Any, v: Any) -> Any:
    parts = [emit(op.strided_slice(v, [2], [begin], [end])) for begin, end in ((4, 6), (0, 4))]
    return op.concat(parts, axis=2)


def of_thirds(x: Array) -> Array:
    return np.repeat(x.reshape(2, 4, 12, 3).max(3), 3, 2).reshape(SHAPE)


MOVES: dict[str, tuple[Any, Any]] = {
    "repeat": (repeated, of_thirds),
    "pad": (padded, lambda x: np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 2)], constant_values=0.5)[:, :, :6, 1:7]),
    "concat": (joined, lambda x: np.concatenate([x[:, :, 4:], x[:, :, :4]], 2)),
    "flip": (lambda emit, v: op.flip(v, 3), lambda x: x[..., ::-1]),
    "turn": (lambda emit, v: op.permute_dims(v, [0, 1, 3, 2]), lambda x: x.swapaxes(2, 3)),
    "relu": (lambda emit, v: op.nn.relu(v), lambda x: np.maximum(x, 0)),
}


def check(steps: list[str]) -> None:
    def body(emit: Any, x: Any) -> Any:
        v = x
        for step in steps:
            v = emit(MOVES[step][0](emit, v))
        return emit(op.max(v, [2]))

    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    expected = x
    for step in steps:
        expected = MOVES[step][1](expected)
    (found,) = tvm_lowbit.build(module(body, SHAPE), "host").run(x).outputs.values()
    np.testing.assert_array_equal(found, expected.max(2))


@pytest.mark.parametrize("steps", [["repeat", "pad"], ["repeat", "relu", "concat"], ["repeat", "flip", "turn", "pad"]])
def test_repeats_below_conditions(steps: list[str]) -> None:
    check(steps)


@settings(max_examples=16, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(MOVES)), min_size=2, max_size=6))
def test_moves_in_a_row(steps: list[str]) -> None:
    check(steps)
