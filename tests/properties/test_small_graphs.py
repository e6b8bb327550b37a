"""Random small graphs give what ONNX Runtime gives, on integers where they can and in float where they must."""

from __future__ import annotations

import json
from pathlib import Path

import check
import onnx
import pytest
from check import check_and_save, decided, reproduce
from graphs import graphs
from hypothesis import assume, given, settings
from onnx import helper
from onnx_graphs import GraphBuilder

CASES = settings(settings.get_profile("graphs"))


@CASES
@given(model=graphs())
def test_small_graphs(model: onnx.ModelProto) -> None:
    """See `check`."""
    assume(decided(model))
    check_and_save(model)


def test_a_failing_graph_is_saved_and_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes that are not the reference's are caught; the message names the file, and the file fails as well."""
    monkeypatch.setattr(check, "FOLDER", tmp_path)
    net = GraphBuilder()
    first = net.quantiser(net.input(4), 0.25, -2, 1)
    second = net.quantiser(first, 0.5, -2, 1)
    model = net.model(second)
    wrong = {first: net.codes[second], second: net.codes[second]}
    said = {"seed": 5, "codes": wrong, "rounded": [], "exact": [second], "on_integers": []}
    helper.set_model_props(model, {"check": json.dumps(said)})
    with pytest.raises(AssertionError, match=r"codes of .*[\s\S]*graph.onnx, inputs of seed 5"):
        check_and_save(model)
    with pytest.raises(AssertionError, match="codes of"):
        reproduce(tmp_path / "graph.onnx")
    said["codes"] = net.codes
    helper.set_model_props(model, {"check": json.dumps(said)})
    check_and_save(model)


def test_a_product_in_float_is_caught() -> None:
    """Values alone would be right."""
    net = GraphBuilder()
    # Weights on no grid: the product runs in float.
    weights = net.constant(net.random.normal(size=(4, 3)))
    product = net.add("MatMul", net.quantiser(net.input(4), 0.25, -2, 1), weights)
    model = net.model(product)
    said = {"seed": 5, "codes": net.codes, "rounded": [], "exact": [], "on_integers": []}
    helper.set_model_props(model, {"check": json.dumps(said)})
    check.check(model)
    said["on_integers"] = [product]
    helper.set_model_props(model, {"check": json.dumps(said)})
    with pytest.raises(AssertionError, match=f"quantised products in float: .*{product}"):
        check.check(model)
