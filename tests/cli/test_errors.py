"""What cannot be served: exit code 2, what is wrong, a hint, and no traceback."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from PIL import Image

import tvm_lowbit


def refused(run, *arguments, hint=True):
    """Exit code 2 and a message; gives the message. ``run`` itself looks for tracebacks."""
    said = run(*arguments, code=2).stderr
    assert said.startswith("error: ") and ": expected " in said and ", got " in said
    assert ("\nhint: " in said) or not hint
    return said


def models_that_cannot_be_read(tmp_path, grey):
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("not a model\n")
    (tmp_path / "short.onnx").write_bytes(grey.read_bytes()[:-40])
    return [tmp_path / name for name in ("missing.onnx", "empty.onnx", "text.onnx", "short.onnx")]


@pytest.mark.parametrize("command", ["build", "run", "inspect", "explain"])
def test_models_that_cannot_be_read(run, command, grey, images, tmp_path):
    more = {"build": ("--out", "b"), "run": ("--input", images), "inspect": ()}
    more["explain"] = ("--input", images, "--out", tmp_path / "maps")
    for model in models_that_cannot_be_read(tmp_path, grey):
        assert str(model) in refused(run, command, model, *more[command], hint=False)
    assert not (tmp_path / "maps").exists()


def test_missing_model_has_a_hint(run, tmp_path):
    assert "nothing there" in refused(run, "inspect", tmp_path / "missing.onnx")


@pytest.mark.parametrize("command", ["build", "inspect"])
def test_unknown_target_names_the_known(run, command, grey, tmp_path):
    more = ("--out", tmp_path / "bundle") if command == "build" else ()
    said = refused(run, command, grey, "--target", "toaster", *more, hint=False)
    assert "arm_cpu, rpi3" in said and "'toaster'" in said


def test_unknown_phase_names_the_known(run, grey):
    said = refused(run, "inspect", grey, "--stop-after", "fly", "--dump", hint=False)
    assert "canonicalize, detect" in said and "'fly'" in said


def test_unknown_technique_and_batch(run, grey, tmp_path):
    assert "bit_serial" in refused(run, "build", grey, "--technique", "magic", "--out", tmp_path / "b", hint=False)
    assert "at least 1" in refused(run, "inspect", grey, "--batch", 0, hint=False)


@pytest.mark.parametrize("command", ["run", "explain"])
@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((2, 1, 4, 5), np.float32), "(N, 1, 4, 4)"),
        (np.zeros((1, 4, 4), np.float32), "(N, 1, 4, 4)"),
        (np.zeros((0, 1, 4, 4), np.float32), "(0, 1, 4, 4)"),
        (np.zeros((2, 1, 4, 4)), "float64"),
        (np.full((2, 1, 4, 4), np.nan, np.float32), "NaN"),
    ],
)
def test_inputs_that_do_not_fit(run, bundle, command, array, word, tmp_path):
    np.save(tmp_path / "x.npy", array)
    more = ("--out", tmp_path / "maps") if command == "explain" else ()
    assert word in refused(run, command, bundle, "--input", tmp_path / "x.npy", *more, hint=False)
    assert not (tmp_path / "maps").exists()


def test_input_files_that_cannot_be_read(run, bundle, images, tmp_path):
    whole = images.read_bytes()
    (tmp_path / "short.npy").write_bytes(whole[:-30])
    (tmp_path / "header.npy").write_bytes(whole[:20])
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npz").write_text("not an archive")
    # A header that promises more than any memory holds.
    (tmp_path / "huge.npy").write_bytes(whole.replace(b"(2, 1, 4, 4), }", b"(9999999999999,), }", 1))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    (tmp_path / "x.txt").write_text("0 1 2")
    (tmp_path / "text.png").write_text("not a picture")
    noise = np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    # Eight bytes of the pixels are left: the header is whole.
    (tmp_path / "short.png").write_bytes((tmp_path / "whole.png").read_bytes()[:49])
    for name in ("missing.npy", "", *(path.name for path in tmp_path.iterdir() if path.stem not in ("x", "whole"))):
        assert str(tmp_path / name) in refused(run, "run", bundle, "--input", tmp_path / name)
    refused(run, "run", bundle, "--input", tmp_path / "x.txt")


def test_inputs_by_name(run, bundle, tmp_path):
    np.savez(tmp_path / "x.npz", picture=np.zeros((1, 1, 4, 4), np.float32))
    said = refused(run, "run", bundle, "--input", tmp_path / "x.npz", hint=False)
    assert "expected inputs named image, got picture" in said


def test_output_that_cannot_be_written(run, bundle, images, tmp_path):
    (tmp_path / "file").write_text("")
    refused(run, "run", bundle, "--input", images, "--out", tmp_path / "file" / "y.npz", hint=False)
    refused(run, "explain", bundle, "--input", images, "--out", tmp_path / "file", hint=False)


def test_build_leaves_a_folder_alone_that_is_no_bundle(run, vector, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("years of work")
    refused(run, "build", vector, "--target", "host", "--out", tmp_path / "precious")
    assert [path.name for path in tmp_path.rglob("*")] == ["precious", "thesis.txt"]


def test_bundles_that_are_none(run, bundle, images, tmp_path):
    (tmp_path / "folder").mkdir()
    refused(run, "run", tmp_path / "folder", "--input", images)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in bundle.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    with (broken / "model.so").open("ab") as library:
        library.write(b"!")
    assert "SHA-256" in refused(run, "run", broken, "--input", images)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps(manifest | {"batch": 0}))
    assert "batch" in refused(run, "run", broken, "--input", images, hint=False)


def test_bundle_without_an_explanation(run, vector, tmp_path):
    run("build", vector, "--target", "host", "--out", tmp_path / "plain")
    np.save(tmp_path / "x.npy", np.zeros((1, 8), np.float32))
    said = refused(run, "explain", tmp_path / "plain", "--input", tmp_path / "x.npy", "--out", tmp_path / "maps")
    assert "--explain deeplift" in said and not (tmp_path / "maps").exists()


def test_explanations_that_cannot_be(run, vector, tmp_path):
    asked = ("build", vector, "--target", "host", "--explain", "deeplift", "--out", tmp_path / "bundle")
    assert "0..2" in refused(run, *asked, "--class", 7, hint=False)
    assert "finite" in refused(run, *asked, "--reference", "nan", hint=False)


def test_scales_that_are_no_scales(run, vector, tmp_path):
    for value in (np.nan, 0.0):
        model = onnx.load(vector)
        (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "image.codes.scale")
        scale.CopyFrom(onnx.numpy_helper.from_array(np.float32(value), scale.name))
        onnx.save(model, tmp_path / "scale.onnx")
        refused(run, "inspect", tmp_path / "scale.onnx", hint=False)


def test_an_operator_that_cannot_be_imported(run, vector, tmp_path):
    model = onnx.load(vector)
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Magic", "of.mine"
    model.opset_import.append(onnx.helper.make_opsetid("of.mine", 1))
    onnx.save(model, tmp_path / "magic.onnx")
    assert "Magic" in refused(run, "inspect", tmp_path / "magic.onnx")


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",),
        ("build", "MODEL"),
        ("build", "MODEL", "--out", "b", "--reference", "1"),
        ("build", "MODEL", "--out", "b", "--explain", "deeplift", "--class", "best"),
        ("build", "MODEL", "--out", "b", "--explain", "tea_leaves"),
        ("inspect", "MODEL", "--stop-after", "detect"),
        ("run", "MODEL", "--input", "x.npy", "--emulated", "cortex-a72", "--board", "pi:9090"),
        ("run", "MODEL", "--input", "x.npy", "--board", "pi"),
        ("run", "MODEL", "--input", "x.npy", "--board", "pi:99999"),
    ],
)
def test_usage_errors(run, vector, arguments):
    given = [vector if argument == "MODEL" else argument for argument in arguments]
    assert "Usage: " in run(*given, code=2).stderr


def test_a_bundle_cannot_be_asked_for_another_explanation(run, bundle, images, tmp_path):
    said = run("explain", bundle, "--input", images, "--class", 1, "--out", tmp_path / "maps", code=2).stderr
    assert "fixed when it was built" in said


def test_unreachable_board(run, bundle, images):
    refused(run, "run", bundle, "--input", images, "--board", "127.0.0.1:1")


def test_pictures_are_of_contributions_to_one_target(run, vector, tmp_path):
    """Said before anything runs; a page shows the others, too."""
    np.save(tmp_path / "x.npy", np.zeros((1, 8), np.float32))
    methods = [tvm_lowbit.DeepLift(target=[0, 1]), tvm_lowbit.Gradient()]
    tvm_lowbit.build(vector, "host", explain=methods).save(tmp_path / "both")
    asked = ("explain", tmp_path / "both", "--input", tmp_path / "x.npy", "--method")
    for method, words in (("deeplift", "of several targets"), ("gradient", "which gives gap, multipliers")):
        said = refused(run, *asked, method, "--out", tmp_path / "maps")
        assert words in said and "report.html" in said
        run(*asked, method, "--out", tmp_path / "report.html")
    assert not (tmp_path / "maps").exists()


def test_arrays_beside_a_page_do_not_replace_what_was_given(run, vector, tmp_path):
    np.savez(tmp_path / "x.npz", image=np.zeros((1, 8), np.float32))
    np.savez(tmp_path / "means.npz", a=np.zeros(8, np.float32))
    before = [(tmp_path / name).read_bytes() for name in ("x.npz", "means.npz")]
    asked = ("explain", vector, "--input", tmp_path / "x.npz", "--reference", tmp_path / "means.npz", "--out")
    for page in ("x.html", "means.html"):
        assert "to be written" in refused(run, *asked, tmp_path / page, hint=False)
    assert [(tmp_path / name).read_bytes() for name in ("x.npz", "means.npz")] == before
