"""What all tests of tuning need: XGBoost, and no rows but their own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from cli.tiny_networks import network
from click.testing import CliRunner, Result
from emulator import require

from schedules import tuned_rows
from tvm_lowbit.cli import cli


@pytest.fixture(autouse=True)
def rows_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for tuned rows, and none shipped."""
    monkeypatch.setenv(tuned_rows.VARIABLE, str(tmp_path / "rows"))
    monkeypatch.setattr(tuned_rows, "SHIPPED", tmp_path / "shipped" / "tuned")
    return tmp_path / "rows"


@pytest.fixture
def xgboost() -> None:
    """Skip where the extra is not installed; fail under CI."""
    require(None if importlib.util.find_spec("xgboost") else "xgboost: pip install '.[tune]'")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution and a dense layer, two problems."""
    path = tmp_path_factory.mktemp("models") / "grey.onnx"
    onnx.save(network((1, 4, 4)), path)
    return path


@pytest.fixture
def run() -> Callable[..., Result]:
    """Call the command line; anything but an exit fails the test."""

    def call(*arguments: object, code: int = 0) -> Result:
        # Narrow tables would break the words that tests look for.
        result = CliRunner(env={"COLUMNS": "300"}).invoke(cli, [str(a) for a in arguments], prog_name="tvm-lowbit")
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == code, result.output
        return result

    return call
