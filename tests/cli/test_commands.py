"""What each command prints and writes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import tvm_lowbit
from relay_passes.attribution.methods import METHODS
from tvm_lowbit.boards.rows import BOARDS, resolve
from tvm_lowbit.cli import cli
from tvm_lowbit.linker import available_linkers
from tvm_lowbit.pipeline import PHASES

COMMANDS = ["build", "run", "inspect", "explain", "spellings", "bench", "tune", "demo"]


def test_help_lists_every_command_in_one_line(run):
    said = run("--help").output
    lines = said[said.index("Commands:") :].splitlines()[1:]
    assert [line.split()[0] for line in lines] == sorted(COMMANDS) and not any(line.endswith("...") for line in lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_each_option(run, command):
    said = run(command, "--help").output
    assert f"tvm-lowbit {command}" in said and "Example" in said
    for option in cli.commands[command].params:
        if option.param_type_name == "option":
            words = option.help.lower()
            assert "default" in words or option.show_default or option.required, option.name


def test_help_lists_the_rows_of_the_tables(run):
    said = run("inspect", "--help").output
    assert all(phase.name in said and phase.help in said for phase in PHASES)
    assert all(row.name in said and row.help in said for row in BOARDS.values())


def test_python_m_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "tvm_lowbit", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: tvm-lowbit ")


def test_build_prints_the_layers_and_writes_a_bundle(run, grey, tmp_path):
    said = run("build", grey, "--target", "host", "--technique", "portable", "--out", tmp_path / "bundle").output
    size = (tmp_path / "bundle/model.so").stat().st_size
    assert said.count("W2A2") == 2 and "asked for" in said and f"{size:,}" in said
    assert tvm_lowbit.load(tmp_path / "bundle").manifest.board == "host"


@pytest.mark.skipif(not available_linkers("aarch64"), reason="no linker for aarch64: pip install 'tvm_lowbit[cross]'")
def test_build_is_for_arm_unless_told_otherwise(run, vector, tmp_path):
    run("build", vector, "--batch", 2, "--out", tmp_path / "bundle")
    manifest = tvm_lowbit.load(tmp_path / "bundle").manifest
    assert manifest.mtriple.startswith("aarch64") and manifest.batch == 2
    np.save(tmp_path / "x.npy", np.zeros((2, 8), np.float32))
    if resolve("host").core.is_arm:
        return
    said = run("run", tmp_path / "bundle", "--input", tmp_path / "x.npy", code=2).stderr
    assert "expected a library for this machine" in said and "hint: " in said and "--emulated" in said


def test_build_compiles_the_explanation_asked_for(run, vector, tmp_path):
    asked = ("--explain", "deeplift", "--reference", 0.5, "--class", 2)
    run("build", vector, "--target", "host", *asked, "--out", tmp_path / "bundle")
    (row,) = tvm_lowbit.load(tmp_path / "bundle").manifest.explanations
    assert (row.settings["reference"], row.target) == (0.5, 2)


def test_run_predicts_from_a_bundle(run, bundle, images, tmp_path):
    said = run("run", bundle, "--input", images, "--out", tmp_path / "y.npz").output
    expected = tvm_lowbit.load(bundle).run(np.load(images))
    with np.load(tmp_path / "y.npz") as written:
        assert set(written) == {"logits", *(f"deeplift.{p}" for p in ("contributions", "multipliers", "target", "gap"))}
        np.testing.assert_array_equal(written["logits"], expected.outputs["logits"])
        np.testing.assert_array_equal(written["deeplift.gap"], expected.explanations["deeplift"].gap)
    best = expected.outputs["logits"].max(axis=1)
    assert all(f"{value:.6g}" in said for value in best) and "gap" in said


def test_run_builds_a_model_for_this_machine(run, vector, tmp_path):
    np.savez(tmp_path / "x.npz", image=np.ones((3, 8), np.float32))
    said = run("run", vector, "--input", tmp_path / "x.npz").output
    assert "logits: top" in said and "gap" not in said


def test_run_takes_a_picture(run, bundle, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (4, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    run("run", bundle, "--input", tmp_path / "x.png", "--out", tmp_path / "y.npz")
    expected = tvm_lowbit.load(bundle).run(pixels.astype(np.float32)[None, None] / np.float32(255))
    with np.load(tmp_path / "y.npz") as written:
        np.testing.assert_array_equal(written["logits"], expected.outputs["logits"])


def test_run_passes_the_board_on(run, bundle, images, monkeypatch):
    asked = []
    monkeypatch.setattr(tvm_lowbit.Artifact, "run", lambda self, x, board, each: asked.append(board))
    monkeypatch.setattr("tvm_lowbit.cli.run.predictions", lambda result: "")
    for options in ((), ("--emulated", "cortex-a53"), ("--board", "pi:9090", "--key", "k"), ("--board", "[::1]:9")):
        run("run", bundle, "--input", images, *options)
    here, emulated, remote, six = asked
    assert here is None and emulated.cpu == "cortex-a53"
    assert (remote.host, remote.port, remote.key) == ("pi", 9090, "k") and (six.host, six.port) == ("::1", 9)


def test_inspect_gives_the_report_without_compiling(run, grey, monkeypatch):
    monkeypatch.setattr(sys.modules["tvm_lowbit.build"], "compile_module", lambda *_: pytest.fail("compiled"))
    assert run("inspect", grey, "--target", "host").output.count("W2A2") == 2


def test_inspect_says_why_a_layer_stays_float(run, float_vector):
    assert "is not quantised" in run("inspect", float_vector).output


@pytest.mark.parametrize("phase", [phase.name for phase in PHASES])
def test_inspect_dumps_the_program_after_each_phase(run, vector, phase):
    said = run("inspect", vector, "--stop-after", phase, "--dump").output
    assert "@R.function" in said
    assert ("fake_quant" in said) == (
        phase in ("detect", "exclude", "recover_grid", "instrument", "probe", "fold_padding")
    )
    assert ("@T.prim_func" in said) == (phase == "lower")


def test_explain_writes_a_picture_for_each_item(run, bundle, images, tmp_path):
    said = run("explain", bundle, "--input", images, "--out", tmp_path / "maps").output
    assert "item_1.png" in said and "gap" in said and "target" in said
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "contributions.npz",
        "item_0.png",
        "item_1.png",
    ]
    with np.load(tmp_path / "maps/contributions.npz") as written:
        assert written["deeplift.contributions"].shape == (2, 1, 4, 4)


def test_explain_puts_many_items_on_sheets(run, vector, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((41, 8), dtype=np.float32))
    run("explain", vector, "--input", tmp_path / "x.npy", "--class", 1, "--reference", 0.25, "--out", tmp_path / "maps")
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["contributions.npz", "sheet_0.png", "sheet_1.png"]
    with np.load(tmp_path / "maps/contributions.npz") as written:
        assert (written["deeplift.target"] == 1).all()
        expected = tvm_lowbit.build(vector, "host", explain=[tvm_lowbit.DeepLift(reference=0.25, target=1)]).run(
            np.load(tmp_path / "x.npy")
        )
        np.testing.assert_array_equal(
            written["deeplift.contributions"], expected.explanations["deeplift"].contributions
        )


def test_control_characters_of_a_model_do_not_reach_the_terminal(run, tmp_path):
    assert "\x1b" not in run("inspect", tmp_path / "\x1b[2Jname.onnx", code=2).stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupt_is_130_without_a_traceback(run, vector, monkeypatch, error):
    """Even where TVM makes another error of it, as it does in callbacks of its passes."""

    def stopped(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr("tvm_lowbit.cli.inspect.inspect", stopped)
    # A shell starts jobs in the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run("inspect", vector, code=130).stderr.strip() == "stopped"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_name_in_brackets_is_not_taken_for_markup(run, vector, tmp_path):
    model = onnx.load(vector)
    model.graph.output[0].name = model.graph.node[-1].output[0] = "[/red]out"
    onnx.save(model, tmp_path / "odd.onnx")
    np.save(tmp_path / "x.npy", np.zeros((1, 8), np.float32))
    assert "[/red]out" in run("run", tmp_path / "odd.onnx", "--input", tmp_path / "x.npy").output


def test_paths_of_examples_do_not_depend_on_the_working_folder(monkeypatch, tmp_path: Path):
    from tvm_lowbit.demo import examples_folder

    monkeypatch.chdir(tmp_path)
    assert (examples_folder() / "digits_w2a2.onnx").is_file()


def test_build_excludes_layers(run, grey, tmp_path):
    said = run("build", grey, "--target", "host", "--exclude", "dense", "--out", tmp_path / "bundle").output
    assert said.count("W2A2") == 1 and "excluded by the user" in said


def test_build_refuses_to_exclude_what_is_not_there(run, grey, tmp_path):
    said = run("build", grey, "--exclude", "dens", "--out", tmp_path / "bundle", code=2).stderr
    assert "'dens'" in said and "near names: dense" in said


def test_inspect_excludes_layers(run, grey):
    said = run("inspect", grey, "--target", "host", "--exclude", "dense").output
    assert said.count("W2A2") == 1 and "excluded by the user" in said
    dumped = run("inspect", grey, "--exclude", "dense", "--stop-after", "rewrite", "--dump").output
    assert "R.matmul" in dumped and "lowbit.dot" in dumped


def test_inspect_refuses_to_exclude_what_is_not_there(run, grey):
    assert "near names: dense" in run("inspect", grey, "--exclude", "dens", code=2).stderr


def test_a_page_for_each_method_that_needs_no_layer(run, vector, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(3).random((1, 8), dtype=np.float32))
    for method in METHODS:
        if method in ("conductance", "grad_cam", "layer_cam", "gam", "neuron_importance"):
            continue
        steps = ("--steps", 2) if method in ("integrated_gradients", "smooth_grad") else ()
        page = tmp_path / f"{method}.html"
        run("explain", vector, "--input", tmp_path / "x.npy", "--method", method, *steps, "--out", page)
        assert method.replace("_", " ") in page.read_text(encoding="utf-8")
