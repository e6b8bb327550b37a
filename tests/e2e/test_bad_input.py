"""Whatever a user does wrong is a `LowbitError` that says where, expected, got, and mostly a hint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from models import dense, model
from onnx import helper

import tvm_lowbit
from tvm_lowbit import LowbitError
from tvm_lowbit.boards import EmulatedBoard


def rejected(call: Any, *words: str) -> LowbitError:
    """The error of a call; its message must hold the words."""
    with pytest.raises(LowbitError) as caught:
        call()
    for word in ("expected", "got", *words):
        assert word in str(caught.value)
    return caught.value


def test_missing_file() -> None:
    rejected(lambda: tvm_lowbit.build("nowhere.onnx", "host"), "nowhere.onnx", "an ONNX file", "nothing there")


def test_folder(tmp_path: Path) -> None:
    rejected(lambda: tvm_lowbit.build(tmp_path, "host"), "a folder")


def test_truncated_file(tmp_path: Path) -> None:
    whole = dense().SerializeToString()
    for length in (0, 7, len(whole) // 2, len(whole) - 3):
        path = tmp_path / "short.onnx"
        path.write_bytes(whole[:length])
        assert "truncated" in rejected(lambda p=path: tvm_lowbit.build(p, "host"), "short.onnx").hint


def test_not_onnx(tmp_path: Path) -> None:
    path = tmp_path / "notes.onnx"
    path.write_text("these are notes, not a network\n" * 20)
    rejected(lambda: tvm_lowbit.build(path, "host"), "an ONNX model", "hint:")


def test_invalid_graph() -> None:
    broken = dense()
    broken.graph.node[-1].input[0] = "never_made"
    rejected(lambda: tvm_lowbit.build(broken, "host"), "inputs that something makes", "never_made")


def test_operator_that_cannot_be_imported() -> None:
    custom = model([helper.make_node("Quantum", ["x"], ["y"], "leap", domain="my.ops")], {}, [1, 4], ["y"])
    custom.opset_import.append(helper.make_opsetid("my.ops", 1))
    rejected(lambda: tvm_lowbit.build(custom, "host"), "leap", "my.ops::Quantum")


def test_custom_operator_named_like_a_standard_one_is_not_taken_for_it() -> None:
    custom = model([helper.make_node("Relu", ["x"], ["y"], "mine", domain="my.ops")], {}, [1, 4], ["y"])
    custom.opset_import.append(helper.make_opsetid("my.ops", 1))
    rejected(lambda: tvm_lowbit.build(custom, "host"), "mine", "my.ops::Relu")


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 0.0, -0.5])
def test_scale_that_is_no_positive_number(scale: float) -> None:
    rejected(lambda: tvm_lowbit.build(dense(scale), "host"), "a/Mul", "a finite number above 0", repr(scale))


def test_symbolic_dimension_that_is_not_the_batch() -> None:
    free = model([helper.make_node("Relu", ["x"], ["y"], "act")], {}, [1, 3, "H", "W"], ["y"])
    rejected(lambda: tvm_lowbit.build(free, "host"), "input x", "static shape", "dimension 2 is H")


@pytest.mark.parametrize(
    "target", ["rpi9", "", 7, None, {"kind": "llvm", "mtriple": "riscv64-linux-gnu"}, {"kind": "no"}]
)
def test_unknown_target(target: Any) -> None:
    rejected(lambda: tvm_lowbit.build(dense(), target), "target")


def test_cpu_that_llvm_does_not_know() -> None:
    row = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a720000"}
    rejected(lambda: tvm_lowbit.build(dense(), row), "mcpu", "cortex-a720000")


def test_model_of_unknown_kind() -> None:
    rejected(lambda: tvm_lowbit.build(42, "host"), "model", "builtins.int")


def test_torch_module_without_example_inputs() -> None:
    rejected(lambda: tvm_lowbit.build(torch.nn.ReLU(), "host"), "example_inputs")


def test_torch_module_with_a_tensor_for_a_tuple() -> None:
    """Its rows would be taken for inputs."""
    rejected(
        lambda: tvm_lowbit.build(torch.nn.ReLU(), "host", example_inputs=torch.zeros(1, 3)),
        "a tuple of tensors",
        "Tensor",
    )


def test_torch_module_stays_as_it_was() -> None:
    """A build in the midst of training does not end it."""
    net = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.ReLU().eval())
    tvm_lowbit.inspect(net, "host", example_inputs=(torch.zeros(1, 3),))
    assert [part.training for part in net.modules()] == [True, True, False]


def test_batch_below_one() -> None:
    rejected(lambda: tvm_lowbit.build(dense(), "host", batch=0), "batch", "at least 1")


@pytest.mark.parametrize("batch", ["2", 1.5, None, True])
def test_batch_that_is_no_whole_number(batch: Any) -> None:
    rejected(lambda: tvm_lowbit.inspect(dense(), "host", batch=batch), "batch", repr(batch))


@pytest.mark.parametrize("explain", [None, "deeplift", ["deeplift"], [tvm_lowbit.DeepLift], 3])
def test_explanations_that_are_no_methods(explain: Any) -> None:
    rejected(lambda: tvm_lowbit.build(dense(), "host", explain=explain), "explain", "DeepLift()")


@pytest.mark.parametrize("exclude", [None, 5, [5]])
def test_excluded_layers_that_are_no_names(exclude: Any) -> None:
    rejected(lambda: tvm_lowbit.inspect(dense(), "host", exclude=exclude), "exclude", "names of layers")


def test_unknown_technique() -> None:
    rejected(lambda: tvm_lowbit.build(dense(), "host", technique="magic"), "technique", "bit_serial")
    # Where no layer takes one, too.
    net, x = torch.nn.ReLU(), (torch.zeros(1, 3),)
    rejected(lambda: tvm_lowbit.build(net, "host", example_inputs=x, technique="magic"), "technique", "bit_serial")


@pytest.fixture(scope="module")
def artifact() -> tvm_lowbit.Artifact:
    return tvm_lowbit.build(dense(), "host", batch=2)


X = np.zeros((2, 6), np.float32)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"image": X}, ("inputs named x", "image")),
        ({}, ("inputs named x", "nothing")),
        ({"x": X, "y": X}, ("inputs named x", "x, y")),
        (X.astype(np.float64), ("dtype float32", "float64", "hint:")),
        (X.astype(np.uint8), ("dtype float32", "uint8")),
        (X[:, :5], ("shape (N, 6)", "(2, 5)")),
        (X[0], ("shape (N, 6)", "(6,)")),
        (X[:1], ("multiple of 2", "(1, 6)")),
        (X[:0], ("multiple of 2", "(0, 6)")),
        (X + np.float32("nan"), ("finite numbers", "NaN")),
        ("a picture", ("dtype float32",)),
    ],
)
def test_wrong_input_at_run_time(artifact: tvm_lowbit.Artifact, inputs: Any, words: tuple[str, ...]) -> None:
    rejected(lambda: artifact.run(inputs), *words)


def test_right_input_still_runs(artifact: tvm_lowbit.Artifact) -> None:
    assert artifact.run({"x": X}).outputs["y"].shape == (2, 3)


def test_arm_library_does_not_run_here() -> None:
    arm = tvm_lowbit.build(dense(), "rpi3")
    if arm.is_host:
        pytest.skip("this machine is an Arm board")
    assert "EmulatedBoard" in rejected(lambda: arm.run(X[:1]), "a board that can run it", "aarch64").hint


def test_explanations_of_one_name() -> None:
    twice = [tvm_lowbit.DeepLift(), tvm_lowbit.DeepLift(reference=1.0)]
    rejected(lambda: tvm_lowbit.build(dense(), "host", explain=twice), "different names")


def test_wrong_versions_of_tvm_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm_lowbit import versions

    monkeypatch.setattr(
        versions.metadata, "version", lambda name: "0.1.15.post2" if "ffi" in name else versions.TVM_VERSION
    )
    error = rejected(versions.check_versions, "apache-tvm-ffi==0.1.14.post1", "0.1.15.post2")
    assert error.hint.startswith("pip install")


def test_checker_accepts_what_these_tests_make() -> None:
    """Or the errors above would be about the tests themselves."""
    onnx.checker.check_model(dense())


@pytest.mark.parametrize("command", [["-m", "tvm_lowbit", "--help"], ["-c", "import tvm_lowbit"]])
def test_wrong_version_on_the_command_line(command: list[str], tmp_path: Path) -> None:
    """A command ends with one line and code 2; an import in a program raises."""
    (tmp_path / "sitecustomize.py").write_text(
        "from importlib import metadata\n"
        "real = metadata.version\n"
        "metadata.version = lambda name: '0.0.1' if name == 'apache-tvm' else real(name)\n"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)
    assert "expected apache-tvm==0.27.0.post1, got 0.0.1" in done.stderr and "hint: pip install" in done.stderr
    assert (done.returncode, "Traceback" in done.stderr) == ((2, False) if command[0] == "-m" else (1, True))


def test_layer_names_are_not_markup() -> None:
    odd = dense()
    odd.graph.node[-1].name = "a[/b]c[bold]"
    assert "a[/b]c[bold]" in str(tvm_lowbit.inspect(odd))


def test_library_for_another_machine_than_the_board(artifact: tvm_lowbit.Artifact) -> None:
    board = EmulatedBoard()
    if artifact.manifest.mtriple.startswith("aarch64"):
        pytest.skip("this machine is an Arm board")
    rejected(lambda: artifact.run(X, board=board), "a library for aarch64", "one for x86_64", "hint:")
