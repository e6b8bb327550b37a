"""``--reference``: every way of writing one, what it becomes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from tiny_networks import network

import tvm_lowbit
from tvm_lowbit import LowbitError
from tvm_lowbit.cli.reference import ROWS, reference_of
from tvm_lowbit.references import DinucleotideShuffle

SHAPE = (3, 4, 4)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for images of 3 x 4 x 4."""
    path = tmp_path_factory.mktemp("models") / "colour.onnx"
    onnx.save(network(SHAPE), path)
    return path


def explained(model: Path, x: Any, **options: Any) -> Any:
    """What the Python interface gives."""
    artifact = tvm_lowbit.build(model, "host", explain=[tvm_lowbit.DeepLift(target=1, **options)])
    return artifact.run(x).explanations["deeplift"].contributions


def test_numbers_and_words(colour: Path, vector: Path) -> None:
    """One number, one for each channel, the reference at run time, shuffles."""
    assert reference_of("-0.5", colour) == -0.5
    np.testing.assert_array_equal(reference_of("0.5,-1,2e-1", colour), np.float32([[[0.5]], [[-1]], [[0.2]]]))
    np.testing.assert_array_equal(reference_of("1,2,3,4,5,6,7,8", vector), np.arange(1, 9))
    assert reference_of("input", colour) == "input"
    assert reference_of("dinucleotide", colour) == DinucleotideShuffle()
    assert reference_of("dinucleotide:3", colour) == DinucleotideShuffle(3)


def test_files(colour: Path, tmp_path: Path) -> None:
    """One item with its batch or without, what broadcasts, several, a picture."""
    items = np.random.default_rng(0).random((2, *SHAPE))
    for array in (items[0], items[:1], items[0].astype(np.float32)):
        np.save(tmp_path / "one.npy", array)
        np.testing.assert_array_equal(reference_of(str(tmp_path / "one.npy"), colour), array.reshape(SHAPE))
    np.save(tmp_path / "channels.npy", items[0, :, :1, :1])
    assert reference_of(str(tmp_path / "channels.npy"), colour).shape == (3, 1, 1)
    np.save(tmp_path / "several.npy", items)
    np.savez(tmp_path / "several.npz", a=items[0], b=items[1:])
    for name in ("several.npy", "several.npz"):
        found = reference_of(str(tmp_path / name), colour)
        assert isinstance(found, list)
        np.testing.assert_array_equal(found, items)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    expected = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(reference_of(str(tmp_path / "picture.png"), colour), expected)


def test_explain_by_channel_and_from_files(run: Any, colour: Path, tmp_path: Path) -> None:
    """The same as in Python; the page and the bundle say so."""
    random = np.random.default_rng(2)
    x, items = random.random((1, *SHAPE), dtype=np.float32), random.random((2, *SHAPE), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "means.npy", items)
    asked = ("--input", tmp_path / "x.npy", "--class", 1, "--out", tmp_path / "page.html")
    for text, reference in (("0.5,0.4,0.3", np.float32([0.5, 0.4, 0.3]).reshape(3, 1, 1)), ("means.npy", list(items))):
        run("explain", colour, *asked, "--reference", tmp_path / text if "npy" in text else text)
        with np.load(tmp_path / "page.npz") as written:
            expected = explained(colour, x, reference=reference)
            np.testing.assert_allclose(written["deeplift.contributions"], expected, rtol=1e-6, atol=1e-7)
    run("build", colour, "--target", "host", "--explain", "integrated_gradients", "--steps", 2, "--reference", "1,2,3",
        "--out", tmp_path / "bundle")  # fmt: skip
    (row,) = tvm_lowbit.load(tmp_path / "bundle").manifest.explanations
    assert row.settings["reference"] == {"shape": [3, 1, 1], "values": [1, 2, 3]}


def test_a_reference_at_run_time(run: Any, vector: Path, tmp_path: Path) -> None:
    """Beside the model's input in one file; without it, the message names both."""
    random = np.random.default_rng(3)
    x, x0 = random.random((2, 2, 8), dtype=np.float32)
    np.savez(tmp_path / "x.npz", **{"image": x, "deeplift.reference": x0})
    asked = ("explain", vector, "--class", 1, "--reference", "input", "--out", tmp_path / "maps", "--input")
    run(*asked, tmp_path / "x.npz")
    with np.load(tmp_path / "maps" / "contributions.npz") as written:
        expected = np.concatenate([explained(vector, x[i : i + 1], reference=x0[i]) for i in range(2)])
        np.testing.assert_allclose(written["deeplift.contributions"], expected, rtol=1e-6, atol=1e-7)
    np.save(tmp_path / "x.npy", x)
    assert "image, deeplift.reference" in run(*asked, tmp_path / "x.npy", code=2).stderr


def test_shuffles(run: Any, tmp_path: Path) -> None:
    """Of one-hot sequences; of anything else not."""
    onnx.save(network((4, 6)), tmp_path / "dna.onnx")
    x = np.eye(4, dtype=np.float32)[[[0, 1, 2, 3, 1, 0]]].transpose(0, 2, 1)
    np.save(tmp_path / "x.npy", np.ascontiguousarray(x))
    asked = ("explain", tmp_path / "dna.onnx", "--input", tmp_path / "x.npy", "--class", 1, "--out", tmp_path / "maps")
    run(*asked, "--reference", "dinucleotide:2")
    with np.load(tmp_path / "maps" / "contributions.npz") as written:
        expected = explained(tmp_path / "dna.onnx", x, reference=DinucleotideShuffle(2))
        np.testing.assert_allclose(written["deeplift.contributions"], expected, rtol=1e-6, atol=1e-7)
    said = run(*asked, "--reference", "input", "--method", "integrated_gradients", code=2).stderr
    assert "a number or an array" in said and "'input'" in said


# What is written, and what the message says; FILE stands for one that holds the array.
REFUSED: list[tuple[str, Any, str]] = [
    ("0.5,0.4", None, "expected 3 numbers, one for each channel, got 2"),
    ("nothing.npy", None, "nothing there"),
    ("nothing.png", None, "nothing there"),
    ("half", None, "numbers by channel"),
    ("mean.txt", None, "numbers by channel"),
    ("dinucleotide:many", None, "numbers by channel"),
    ("0.5,,1", None, "numbers by channel"),
    ("dinucleotide:0", None, "an integer from 1"),
    ("FILE", np.zeros((3, 5, 5)), "got (3, 5, 5)"),
    ("FILE", np.zeros((2, 3, 4, 5)), "got (3, 4, 5)"),
    ("FILE", np.zeros((0, 3, 4, 4)), "at least one array"),
    ("FILE", np.full(SHAPE, np.nan), "finite numbers"),
    ("FILE", np.full(SHAPE, "x"), "an array of numbers"),
    ("PICTURE", np.zeros((5, 4, 3), np.uint8), "4 x 5 pixels"),
    ("PICTURE", np.zeros((4, 4), np.uint8), "RGB"),
]


@pytest.mark.parametrize(("text", "array", "said"), REFUSED)
def test_what_is_refused(text: str, array: Any, said: str, colour: Path, tmp_path: Path) -> None:
    """Each says what was expected."""
    if text == "FILE":
        np.save(tmp_path / "array.npy", array)
        text = str(tmp_path / "array.npy")
    elif text == "PICTURE":
        Image.fromarray(array).save(tmp_path / "picture.png")
        text = str(tmp_path / "picture.png")
    with pytest.raises(LowbitError) as caught:
        reference_of(text, colour)
    assert said in str(caught.value)


def test_damaged_files(colour: Path, tmp_path: Path) -> None:
    """Whatever their name says."""
    for name in ("x.npy", "x.npz", "x.png"):
        (tmp_path / name).write_bytes(b"not what it says")
        with pytest.raises(LowbitError, match=name):
            reference_of(str(tmp_path / name), colour)


@pytest.mark.parametrize("command", ["build", "explain"])
def test_the_help_says_all(run: Any, command: str) -> None:
    """Each way with what it means."""
    said = run(command, "--help").output
    assert all(way in said and meaning in said for way, meaning in ROWS.items())
