"""Trained QONNX networks that others published, against their own definition in ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from onnx import numpy_helper
from qonnx_oracle import spelled_out

import tvm_lowbit

COUNT = 1000
# Name: (range of the inputs, layers that stay float and why). MatMul and Gemm after the first quantiser are low-bit.
PERCEPTRONS: dict[str, tuple[Any, dict[str, str]]] = {
    "tfc_w1a1": (lambda rng, shape: rng.random(shape), {}),
    "tfc_w1a2": (lambda rng, shape: rng.random(shape), {}),
    # Its inputs are -1 and 1, which no quantiser in the graph says.
    "unsw_nb15_w2a2": (
        lambda rng, shape: rng.integers(0, 2, shape) * 2 - 1,
        {"/pretrained/pretrained_0/Gemm": "its input is not quantised"},
    ),
}


@pytest.fixture(scope="module")
def folder() -> Path:
    path = os.environ.get("TVM_LOWBIT_MODELS")
    if not path:
        pytest.skip("TVM_LOWBIT_MODELS does not name a folder of trained networks")
    return Path(path)


def inputs_of(model: onnx.ModelProto) -> Any:
    """The one input that no initialiser feeds."""
    stored = {tensor.name for tensor in model.graph.initializer}
    (found,) = [value for value in model.graph.input if value.name not in stored]
    return found


def shape_of(model: onnx.ModelProto, count: int) -> tuple[int, ...]:
    return count, *[dim.dim_value for dim in inputs_of(model).type.tensor_type.shape.dim][1:]


def one_by_one(model: onnx.ModelProto, x: oracle.Array) -> oracle.Array:
    """The first output; the files fix a batch of one."""
    session, name = oracle.session(model), inputs_of(model).name
    return np.concatenate([session.run(None, {name: x[i : i + 1]})[0] for i in range(len(x))])


@pytest.mark.parametrize("name", PERCEPTRONS)
def test_perceptron(folder: Path, name: str) -> None:
    """The same class on all of 1,000 seeded inputs, outputs within 1e-4 relative, layers low-bit."""
    path = folder / f"{name}.onnx"
    draw, floats = PERCEPTRONS[name]
    model = onnx.load(str(path))
    x = draw(np.random.default_rng(0), shape_of(model, COUNT)).astype(np.float32)
    artifact = tvm_lowbit.build(path, "host")
    (got,) = artifact.run(x).outputs.values()
    expected = one_by_one(spelled_out(model)[0], x)
    np.testing.assert_array_equal(got.argmax(axis=1), expected.argmax(axis=1))
    scale = np.abs(expected).max(axis=1, keepdims=True)
    assert np.all(np.abs(got - expected) <= 1e-4 * scale)
    assert {row.name: row.reason for row in artifact.report.stays_float} == floats
    assert len(artifact.report.low_bit) == 4 - len(floats)


def test_super_resolution(folder: Path) -> None:
    """Every quantiser's codes are those of ONNX Runtime fed with the codes before, but within rounding of a boundary.

    Outputs can not be compared as a whole: a first layer in float32 sums in an order of its own, so now and then a code
    differs, and what follows with it.
    """
    path = folder / "espcn_subpixel_quant.onnx"
    model = onnx.load(str(path))
    artifact = tvm_lowbit.build(path, "host", probe=True)
    assert [row.name.split("/")[0] for row in artifact.report.low_bit] == ["Conv_17", "Conv_29", "Conv_41"]
    x = np.random.default_rng(0).random(shape_of(model, 2)).astype(np.float32)
    result = artifact.run(x)
    standard, codes = spelled_out(model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in standard.graph.initializer}
    quantisers = [node for node in model.graph.node if node.op_type == "Quant" and node.input[0] not in arrays]
    assert set(result.codes) == {node.name for node in quantisers}
    value, source = x, inputs_of(model).name
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(standard))
    for node in quantisers:
        stage = extractor.extract_model([source], [node.input[0], codes[node.name]])
        session = oracle.session(stage)
        items = [session.run(None, {source: item[None]}) for item in value]
        before, expected = (np.concatenate(tensors) for tensors in zip(*items, strict=True))
        got, scale = result.codes[node.name], arrays[node.input[1]]
        # How far the value lies from the nearest change of the code, in steps.
        to_boundary = np.abs(before / scale - np.floor(before / scale) - 0.5)
        wrong = got != expected
        assert np.all(np.abs(got - expected)[wrong] == 1)
        assert np.all(to_boundary[wrong] < 1e-4), node.name
        assert wrong.mean() < 1e-4, node.name
        value, source = (got * scale).astype(np.float32), node.output[0]
