"""Layers that the user excludes stay float, and everything else is as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx

import tvm_lowbit
from schedules.errors import LowbitError
from tvm_lowbit import DeepLift

REASON = "excluded by the user"


def network(folded: bool = False) -> tuple[GraphBuilder, Any]:
    """Two convolutions, the first with a bias, and a dense layer."""
    g = GraphBuilder()
    q = g.quantiser(g.input(3, 6, 6), 0.3, -4, 3, name="q0")
    v = g.add("Conv", q, g.weights(4, 3, 3, 3), g.constant(g.random.normal(size=4)), name="first")
    q = g.quantiser(g.add("Relu", v), 0.4, 0, 3, name="q1")
    codes = g.random.integers(-2, 2, (4, 4, 1, 1)) * 0.25
    v = g.add("Conv", q, g.constant(codes) if folded else g.weights(4, 4, 1, 1), name="second")
    q = g.quantiser(v, 0.5, -2, 1, name="q2")
    return g, g.model(g.add("Gemm", g.add("Flatten", q), g.weights(64, 3, axis=1), name="dense"))


def batch() -> Any:
    return np.random.default_rng(0).normal(size=(3, 3, 6, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("exclude", "low_bit"),
    [
        (["second"], ["first", "dense"]),
        (["first"], ["second", "dense"]),
        (["first/add"], ["first", "second", "dense"]),
        (["dense", "first"], ["second"]),
        ("dense", ["first", "second"]),
    ],
)
def test_excluded_layers_stay_float(exclude: Any, low_bit: list[str]) -> None:
    g, model = network()
    artifact = tvm_lowbit.build(model, "host", exclude=exclude, probe=True)
    assert [row.name for row in artifact.report.low_bit] == low_bit
    assert {row.reason for row in artifact.report.stays_float} == {REASON}
    assert_like_onnx(artifact, g, model, batch())


def test_folded_weights_of_an_excluded_layer_keep_their_values() -> None:
    _, model = network(folded=True)
    assert len(tvm_lowbit.inspect(model, "host").low_bit) == 3
    report = tvm_lowbit.inspect(model, "host", exclude=["second"])
    assert [(row.name, row.reason) for row in report.stays_float] == [("second", REASON)]


def test_explanations_are_complete_with_an_excluded_layer() -> None:
    """The reference run is of the same program."""
    _, model = network()
    artifact = tvm_lowbit.build(model, "host", exclude=["second"], explain=[DeepLift()])
    (explanation,) = artifact.run(batch()).explanations.values()
    assert float(np.abs(explanation.gap).max()) < 1e-4


@pytest.mark.parametrize("name", ["secnd", "q1", "nothing like it at all"])
def test_unknown_names_are_refused(name: str) -> None:
    """A quantiser is no layer."""
    _, model = network()
    with pytest.raises(LowbitError, match="the name of a layer of the model") as error:
        tvm_lowbit.inspect(model, "host", exclude=[name])
    assert ("near names: second" in str(error.value)) == (name == "secnd")
    assert "hint: " in str(error.value)
