"""Tiny fake-quantised networks on disk, and the command line as a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from tvm_lowbit.cli import cli

CLASSES = 3


def _fake_quant(
    source: str, scale: float, low: int, high: int, out: str, stored: list[onnx.TensorProto]
) -> list[onnx.NodeProto]:
    for name, value in (("scale", scale), ("low", low), ("high", high)):
        stored.append(numpy_helper.from_array(np.float32(value), f"{out}.{name}"))
    return [
        helper.make_node("Div", [source, f"{out}.scale"], [f"{out}.divided"]),
        helper.make_node("Clip", [f"{out}.divided", f"{out}.low", f"{out}.high"], [f"{out}.clipped"]),
        helper.make_node("Round", [f"{out}.clipped"], [f"{out}.rounded"]),
        helper.make_node("Mul", [f"{out}.rounded", f"{out}.scale"], [out]),
    ]


def network(shape: tuple[int, ...], quantised: bool = True) -> onnx.ModelProto:
    """Conv (for images), ReLU, flatten, dense with 3 classes; weights of 2 bits, activations of 2."""
    rng = np.random.default_rng(1)
    stored: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape])

    def weights(name: str, *size: int) -> str:
        values = rng.integers(-2, 2, size).astype(np.float32) * np.float32(0.25)
        stored.append(numpy_helper.from_array(values, f"{name}.stored"))
        if not quantised:
            return f"{name}.stored"
        nodes.extend(_fake_quant(f"{name}.stored", 0.25, -2, 1, name, stored))
        return name

    def activations(name: str) -> str:
        if quantised:
            nodes.extend(_fake_quant(name, 0.5, 0, 3, f"{name}.codes", stored))
        return f"{name}.codes" if quantised else name

    last = "image"
    if len(shape) == 3:
        kernel = weights("kernel", 4, shape[0], 3, 3)
        conv = helper.make_node("Conv", [activations(last), kernel], ["conv"], name="conv", pads=[1, 1, 1, 1])
        nodes += [conv, helper.make_node("Relu", ["conv"], ["relu"])]
        shape, last = (4, *shape[1:]), "relu"
    flat = activations(last)
    nodes.append(helper.make_node("Flatten", [flat], ["flat"]))
    matrix = weights("matrix", int(np.prod(shape)), CLASSES)
    nodes.append(helper.make_node("Gemm", ["flat", matrix], ["logits"], name="dense"))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
    graph = helper.make_graph(nodes, "tiny", [image], [logits], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for images of 1 x 4 x 4."""
    path = tmp_path_factory.mktemp("models") / "grey.onnx"
    onnx.save(network((1, 4, 4)), path)
    return path


@pytest.fixture(scope="session")
def vector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for vectors of 8."""
    path = tmp_path_factory.mktemp("models") / "vector.onnx"
    onnx.save(network((8,)), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two inputs of the network for images."""
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).random((2, 1, 4, 4), dtype=np.float32))
    return path


Run = Callable[..., Result]


@pytest.fixture(scope="session")
def run() -> Run:
    """Call the command line; anything but an exit fails the test."""

    def call(*arguments: object, code: int = 0) -> Result:
        # Narrow tables would break the words that tests look for.
        result = CliRunner(env={"COLUMNS": "200"}).invoke(cli, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture(scope="session")
def bundle(grey: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for this machine that explains itself."""
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    run("build", grey, "--target", "host", "--explain", "deeplift", "--out", path)
    return path


@pytest.fixture(scope="session")
def float_vector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `vector`, without quantisers."""
    path = tmp_path_factory.mktemp("models") / "float.onnx"
    onnx.save(network((8,), quantised=False), path)
    return path
