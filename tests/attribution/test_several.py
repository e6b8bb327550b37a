"""A step that takes several points at once gives what they give one by one; where items mix, it takes one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from explained import explained
from relax_models import const, module, quantised
from tvm import relax

from relay_passes.attribution import several
from relay_passes.attribution.model import Model
from relay_passes.ops import shape_of
from tvm_lowbit import Conductance
from tvm_lowbit.boards.rows import resolve
from tvm_lowbit.frontend import import_model
from tvm_lowbit.pipeline import Options, run_phases

RNG = np.random.default_rng(3)
SHAPE = (2, 8, 6, 6)
W0, W1 = RNG.normal(size=(16, 8, 3, 3)), RNG.normal(size=(16, 16, 3, 3))
DENSE = RNG.normal(size=(32, 5))


def branches(emit: Any, x: Any) -> Any:
    """Quantised convolutions of stride 2 and 1, a pooling, a join, a concatenation, a mean and a softmax; two items."""
    q = quantised(emit, x, "q", scale=0.5, qmin=-4, qmax=3)
    weights = [quantised(emit, const(w), name, scale=0.5, qmin=-2, qmax=1) for w, name in ((W0, "w0"), (W1, "w1"))]
    first = emit(relax.op.nn.relu(emit(relax.op.nn.conv2d(q, weights[0], strides=2, padding=1), "c0")), "first")
    code = quantised(emit, first, "code", scale=2.0, qmax=3, qmin=0)
    second = emit(relax.op.nn.conv2d(code, weights[1], padding=1), "c1")
    joined = emit(relax.op.add(second, emit(relax.op.nn.max_pool2d(first, (3, 3), padding=1), "pool")), "joined")
    both = emit(relax.op.concat([joined, first], 1), "both")
    turned = emit(relax.op.permute_dims(emit(relax.op.reshape(both, (2, 32, 9)), "flat"), [0, 2, 1]), "turned")
    mean = emit(relax.op.mean(turned, [1]), "mean")
    return emit(relax.op.nn.softmax(emit(relax.op.matmul(mean, const(DENSE)), "dense"), axis=1), "soft")


@pytest.mark.parametrize("rule", ["trapezoid", "left", "right"])
def test_points_at_once(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = (2 * RNG.normal(size=SHAPE)).astype(np.float32)
    method = Conductance(["first", "joined", "x"], steps=10, rule=rule, target=[1, 3], reference=0.25)
    found = explained(module(branches, SHAPE), x, method)["conductance"].layers
    monkeypatch.setattr(several, "AT_ONCE", 1)
    alone = explained(module(branches, SHAPE), x, method)["conductance"].layers
    for name in ("first", "joined", "x"):
        largest = np.abs(alone[name]["contributions"]).max()
        assert largest > 0
        for part, values in alone[name].items():
            np.testing.assert_allclose(found[name][part], values, rtol=1e-6, atol=1e-6 * largest)


def test_how_many() -> None:
    """They come out even."""
    assert [several.points_at_once(steps) for steps in (50, 12, 9, 7, 1)] == [5, 4, 3, 1, 1]


def model(body: Any, *shapes: tuple[int, ...]) -> Model:
    """What a method is prepared with."""
    options = Options(resolve("host").core)
    return Model(run_phases(import_model(module(body, *shapes), None, 1), options, "recover_grid"), options.lowered)


def test_all_values_have_the_items() -> None:
    """The program of more items: each value's first axis has them; what is the same for all of them stays."""
    more = several.several(model(branches, SHAPE), 5)
    assert more is not None and [shape_of(param) for param in more.params] == [(10, *SHAPE[1:])]
    assert {shape_of(var)[0] for var, _ in more.values if var in more.layers.active} == {10}


def after(operator: Any) -> Any:
    """A program of two by two elements with an operator in the middle."""

    def body(emit: Any, x: Any) -> Any:
        value = emit(operator(emit(relax.op.nn.relu(x), "relu")), "middle")
        return emit(relax.op.add(value, const(1.0)), "shifted")

    return body


@pytest.mark.parametrize(
    "mixing",
    [
        lambda x: relax.op.nn.softmax(x, axis=0),
        lambda x: relax.op.mean(x, [0], keepdims=True),
        lambda x: relax.op.multiply(x, const(RNG.normal(size=(2, 1)))),
        lambda x: relax.op.flip(x, axis=0),
        lambda x: relax.op.cumsum(x, axis=0),
        lambda x: relax.op.permute_dims(x, [1, 0]),
        lambda x: relax.op.reshape(x, (1, 4)),
        lambda x: relax.op.matmul(const(RNG.normal(size=(2, 2))), x),
        lambda x: relax.op.subtract(x, relax.op.max(x)),
    ],
)
def test_items_that_mix(mixing: Any) -> None:
    """Along the first axis, or by constants that tell them apart: no such program is written."""
    assert several.several(model(after(mixing), (2, 2)), 2) is None


@pytest.mark.parametrize(
    "apart",
    [
        lambda x: relax.op.nn.softmax(x, axis=1),
        lambda x: relax.op.mean(x, [1], keepdims=True),
        lambda x: relax.op.multiply(x, const(RNG.normal(size=(1, 2)))),
        lambda x: relax.op.reshape(x, (2, 1, 2)),
        lambda x: relax.op.matmul(x, const(RNG.normal(size=(2, 2)))),
    ],
)
def test_items_by_themselves(apart: Any) -> None:
    assert several.several(model(after(apart), (2, 2)), 2) is not None
