"""A seeded sample of mutants; `python -m fuzz.run` runs as many as you like."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvm_lowbit
from fuzz.judge import judge
from fuzz.mutate import BYTES, MUTATIONS, mutant
from fuzz.progress import Display, State
from fuzz.run import campaign
from fuzz.seeds import SEEDS
from fuzz.worker import inputs

COUNT = 60


def test_a_sample(tmp_path: Path) -> None:
    """Clean outcomes only, and of more than one kind: mutants that all fail to parse would show nothing."""
    kinds: Counter[str] = Counter()
    found = campaign(range(COUNT), 2026, tmp_path, lambda outcome: kinds.update([outcome["kind"]]))
    assert [str(finding) for finding in found] == []
    assert kinds.total() == COUNT and kinds["LowbitError"] >= 5 and kinds["equal"] >= 5, kinds


def test_mutants_are_the_same_for_the_same_numbers() -> None:
    """And every row of the table gets its turn."""
    made = [mutant(0, index) for index in range(300)]
    assert [m.content for m in made[:50]] == [mutant(0, index).content for index in range(50)]
    assert {step for m in made for step in m.steps} == {*MUTATIONS, *BYTES}
    assert {m.seed for m in made} == set(SEEDS)


def answer(name: str) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """A seed model's file, an input, and what it compiles to makes of it."""
    made = SEEDS[name]()
    artifact = tvm_lowbit.build(made, "host", batch=2)
    x = {row.name: inputs(row.shape, 0) for row in artifact.manifest.inputs}
    return made.SerializeToString(), x, dict(artifact.run(x).outputs)


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_are_exact(name: str) -> None:
    """What is not mutated is equal, every layer low-bit."""
    assert judge(*answer(name)).kind == "equal"
    assert not [row for row in tvm_lowbit.inspect(SEEDS[name](), "host").stays_float if "conv" in row.op]


@pytest.mark.parametrize("name", ["raw", "qdq_asymmetric", "qonnx", "sign"])
def test_wrong_answers_are_found(name: str) -> None:
    """One code off in one element, or a ten thousandth of the largest value everywhere, or another shape."""
    content, x, got = answer(name)
    ((output, values),) = got.items()
    off = values.copy()
    off.flat[3] += 0.25 * np.abs(values).max()
    for wrong in (off, values * np.float32(1.001), values[:1]):
        assert judge(content, x, {output: wrong}).kind == "wrong"


def test_what_rounding_moves_passes() -> None:
    """A sum of float32 next to a boundary may get either code; a sum far from it may not."""
    from onnx import TensorProto, helper

    n = helper.make_node
    nodes = [n("MatMul", ["x", "w"], ["m"]), n("Round", ["m"], ["r"]), n("Mul", ["r", "s"], ["y"])]
    constants = [
        onnx.numpy_helper.from_array(np.float32([[1, 1, 1]] * 4) * np.float32([0.1, 0.125, 0.15]), "w"),
        onnx.numpy_helper.from_array(np.float32(3), "s"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, k]) for name, k in (("x", 4), ("y", 3))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    x = {"x": np.ones((1, 4), np.float32)}  # sums 0.4, 0.5 (a tie), 0.6
    for got, kind in (([0, 0, 3], "equal"), ([0, 3, 3], "near"), ([3, 0, 3], "wrong"), ([0, 0, 0], "wrong")):
        assert judge(made, x, {"y": np.float32([got])}).kind == kind


def test_answers_to_what_the_reference_refuses_are_found() -> None:
    """A kernel that contradicts its weights; not an operator that ONNX Runtime has no kernel for."""
    from onnx import TensorProto, helper

    def verdict(opset: int, shape: list[int], node: Any, *constants: Any) -> str:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
        graph = helper.make_graph([node], "g", values[:1], values[1:], list(constants))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        x = np.zeros(shape, np.float32)
        return judge(model.SerializeToString(), {"x": x}, {"y": x}).kind

    weights = onnx.numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    conv = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[5, 5], pads=[1] * 4)
    assert verdict(13, [1, 1, 4, 4], conv, weights) == "accepted"
    assert verdict(1, [1, 4], helper.make_node("Neg", ["x"], ["y"])) == "no oracle"


def test_a_campaign_goes_on_where_it_was_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its counts are kept, of the same seed and first mutant only; outside of a terminal there are lines."""
    state = State(tmp_path, 5, 10, 250)
    with Display(state) as display:
        for kind in ["equal"] * 120 + ["wrong"] * 80:
            state.counts[kind] += 1
            display.advance()
    state.findings.append("5-12-wrong.onnx: wrong")
    state.save()
    assert capsys.readouterr().out.splitlines() == ["100 of 250: equal 100", "200 of 250: equal 120, wrong 80"]
    again = State(tmp_path, 5, 10, 300)
    assert (again.done, again.findings, again.left) == (200, state.findings, range(210, 310))
    assert State(tmp_path, 6, 10, 300).done == State(tmp_path, 5, 0, 300).done == 0
