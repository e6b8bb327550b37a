"""The demo on a small example, and what decides about its exit code. `make demo` runs the real one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from emulator import require_emulator
from tiny_networks import network

import tvm_lowbit
from tvm_lowbit import demo as module
from tvm_lowbit.boards.emulated import EmulatedBoard
from tvm_lowbit.linker import available_linkers
from tvm_lowbit.report import Report

needs_linker = pytest.mark.skipif(
    not available_linkers("aarch64"), reason="no linker for aarch64: pip install 'tvm_lowbit[cross]'"
)
MEASURE = module.Measure("something", "0.1", "0.2", True)


@pytest.fixture
def found(tmp_path):
    return module.Demo((MEASURE,), (module.Measure("size", "1"),), Report(()), tmp_path / "x.png", tmp_path / "b")


DATA = """
from dataclasses import dataclass
from pathlib import Path
import numpy as np

@dataclass(frozen=True)
class Split:
    x_test: np.ndarray
    y_test: np.ndarray

def load_digits_split() -> Split:
    with np.load(Path(__file__).with_name("split.npz")) as arrays:
        return Split(arrays["x"], arrays["y"])
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """An example of the real one's make, too small to take time; what it says is always its label."""
    folder = tmp_path_factory.mktemp("digits")
    for name, quantised in (("digits_w2a2", True), ("digits_fp32", False)):
        onnx.save(network((1, 4, 4), quantised), folder / f"{name}.onnx")
    x = np.random.default_rng(0).random((30, 1, 4, 4), dtype=np.float32)
    y = module.onnx_logits(folder / "digits_w2a2.onnx", x).argmax(axis=1)
    np.savez(folder / "split.npz", x=x, y=y)
    (folder / "data.py").write_text(DATA)
    return folder


@needs_linker
def test_demo_shows_and_writes_what_it_promises(run, example, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "examples_folder", lambda: example)
    monkeypatch.setattr(module, "WEIGHTS", 1.0)  # so few weights are not much smaller
    said = run("demo", "--no-emulated", "--out", tmp_path / "out")
    for words in ("test accuracy, 30 digits", "ONNX Runtime", "gap", "2-bit layers", "library", "dense", "W2A2"):
        assert words in said.stdout
    assert "NO" not in said.stdout.split() and "emulated Arm" not in said.stdout
    assert "run the 30 test digits here ..." in said.stderr
    assert (tmp_path / "out/digits.png").read_bytes().startswith(b"\x89PNG")
    manifest = tvm_lowbit.load(tmp_path / "out/digits_w2a2_arm_cpu").manifest
    assert manifest.board == "arm_cpu" and manifest.explanations


@needs_linker
def test_a_promise_that_is_not_kept_is_seen(example, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "examples_folder", lambda: example)
    logits = module.onnx_logits
    monkeypatch.setattr(module, "onnx_logits", lambda *given: -logits(*given))
    monkeypatch.setattr(EmulatedBoard, "missing", staticmethod(lambda: "missing qemu; install with: sh x"))
    found = module.run_demo(tmp_path / "out")
    assert found.skipped == "missing qemu; install with: sh x" and not found.holds
    kept = {row.what: row.holds for row in found.measures}
    assert not any("emulated" in what for what in kept)
    assert kept.pop("same class as ONNX Runtime") is False and kept.pop("logits off ONNX Runtime's, at most") is False
    assert all(kept.values())


@needs_linker
def test_emulated_arm_is_compared_bit_for_bit(example, monkeypatch, tmp_path):
    require_emulator()
    monkeypatch.setattr(module, "examples_folder", lambda: example)
    (same, near) = [row for row in module.run_demo(tmp_path / "out").measures if "emulated Arm" in row.what]
    assert same.holds and near.holds and "of 6 digits" in same.measured


@pytest.mark.parametrize(
    ("change", "ci", "code"),
    [
        ({}, "true", 0),
        ({"skipped": "missing qemu; install with: sh x"}, "", 0),
        ({"skipped": "missing qemu; install with: sh x"}, "true", 1),
        ({"measures": (replace(MEASURE, holds=False),)}, "", 1),
    ],
)
def test_exit_code(run, found, monkeypatch, change, ci, code):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(module, "run_demo", lambda *_: replace(found, **change))
    said = run("demo", code=code).output
    assert ("install with: sh x" in said) == ("skipped" in change)
    assert ("NO" in said) == ("measures" in change)


def test_what_is_missing_is_said_before_anything_is_built(run, monkeypatch, tmp_path):
    real = module.importlib.import_module
    monkeypatch.setattr(module, "build", lambda *_, **__: pytest.fail("built"))
    for package in ("onnxruntime", "sklearn"):

        def without(name, *rest, package=package):
            if name.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}")
            return real(name, *rest)

        monkeypatch.setattr(module.importlib, "import_module", without)
        said = run("demo", "--out", tmp_path / "out", code=2).stderr
        assert f"the package {package}" in said and "pip install 'tvm_lowbit[demo]'" in said
    monkeypatch.setattr(module, "__file__", str(tmp_path / "site-packages/tvm_lowbit/demo.py"))
    assert "hint: run the demo in a checkout" in run("demo", "--out", tmp_path / "out", code=2).stderr
