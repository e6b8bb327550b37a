"""Tiny fake-quantised networks on disk, and the command line as a function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from tvm_lowbit.cli import cli

# The test folders are no packages: what they share is found by name.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from tiny_networks import network


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
        result = CliRunner(env={"COLUMNS": "200"}).invoke(cli, [str(a) for a in arguments], prog_name="tvm-lowbit")
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
