"""The page of an explanation: what it shows, that it stands alone, and that names cannot break it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvm_lowbit import LowbitError
from tvm_lowbit.heatmap import COLOURS
from tvm_lowbit.manifest import ExplanationRow, Manifest, ResultRow, TensorRow
from tvm_lowbit.page.contents import MOST_ITEMS, items_of
from tvm_lowbit.page.pixels import input_pixels, map_pixels, rows_and_columns
from tvm_lowbit.page.render import words, write_page
from tvm_lowbit.result import Explanation, Result

RNG = np.random.default_rng(0)
ROW = {"rules_version": 1, "decomposition": "as it stands", "method": "deeplift", "name": "deeplift"}
MANIFEST = Manifest(
    tvm="0",
    board="host",
    core="x86-64",
    mtriple="x86_64-linux-gnu",
    mcpu="",
    batch=1,
    inputs=(TensorRow(name="x", shape=(1, 4), dtype="float32"),),
    outputs=(TensorRow(name="y", shape=(1, 3), dtype="float32"),),
)


def explained(shares, target="argmax", layers=None, **fields):
    """A result with contributions; gaps are 0.25 in the input."""
    n = len(shares)
    values = {"contributions": shares, "target": np.full(shares.shape[: 1 + isinstance(target, list)], 2), **fields}
    values["gap"] = np.full(values["target"].shape, 0.25, np.float32)
    rows = tuple(ResultRow(field=f) for f in values)
    row = ExplanationRow(settings={"reference": 0.0}, target=target, results=rows, **ROW)
    scores = np.tile(np.float32([1, -3, 2]), (n, 1))
    return Result({"y": scores}, {"deeplift": Explanation(row, values, layers or {})})


def page(tmp_path: Path, inputs, result, title="net.onnx") -> str:
    path = write_page(tmp_path / "report.html", title, inputs, result, "deeplift", MANIFEST)
    return path.read_text(encoding="utf-8")


class Outside(HTMLParser):
    """Collects what a page would fetch, and which elements it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]


def parsed(text: str) -> Outside:
    found = Outside()
    found.feed(text)
    return found


def decoded(address: str):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def test_an_image_with_its_map(tmp_path):
    x, shares = RNG.random((1, 3, 4, 6), np.float32), RNG.normal(size=(1, 3, 4, 6)).astype(np.float32)
    found = parsed(page(tmp_path, x, explained(shares)))
    assert len(found.addresses) == 3 and all(a.startswith("data:image/png;base64,") for a in found.addresses)
    image, heat, overlay = map(decoded, found.addresses)
    np.testing.assert_array_equal(image, np.rint(255 * x[0].transpose(1, 2, 0)))
    total = shares[0].sum(0, dtype=np.float64)
    np.testing.assert_array_equal(heat, map_pixels(total, np.abs(total).max()))
    assert overlay.shape == heat.shape == (4, 6, 3)


def test_zero_is_the_middle_and_the_largest_the_end():
    pixels = map_pixels(np.array([[0.0, -2.0, 2.0]]), 2.0)
    for pixel, at in zip(pixels[0], (0.5, 0.0, 1.0), strict=True):
        np.testing.assert_array_equal(pixel, np.rint(255 * np.array(COLOURS(at))[:3]))


def test_facts_are_those_of_the_result(tmp_path):
    shares = np.full((1, 1, 2, 2), 1.5, np.float32)
    text = page(tmp_path, np.zeros((1, 1, 2, 2), np.float32), explained(shares))
    # 4 x 1.5, of which 0.25 is the gap: 4.35 % of 5.75.
    for words_ in (
        "red adds to the explained output",
        "+6",
        "2.5e-01 (4.3 % of the difference)",
        "2, the largest",
        "2 (2)",
        "2 (explained)",
    ):
        assert words_ in text, words_


def test_layers_are_bars_on_one_scale():
    layers = {
        "conv": {"contributions": np.float32([[[3.0], [-1.0]]]), "gap": np.float32([0.0])},
        "head": {"contributions": np.float32([[2.0, 0.0]])},
    }
    (item,) = items_of(np.zeros((1, 4), np.float32), explained(np.ones((1, 4), np.float32), layers=layers), "deeplift")
    first, second = item.layers
    # The whole difference, 4 - 0.25, is the longest bar.
    assert (first.positive.length, first.negative.length) == pytest.approx((50 * 3 / 3.75, 50 / 3.75))
    assert first.negative.start == pytest.approx(50 - 50 / 3.75)
    assert (first.net, first.gap, second.net, second.gap) == (2.0, 0.0, 2.0, None)
    assert item.top_units == {"conv": "0: +3, 1: -1", "head": "0: +2, 1: +0"}


def test_vectors_sequences_and_several_targets(tmp_path):
    vector = page(tmp_path, np.ones((1, 500), np.float32), explained(RNG.normal(size=(1, 500)).astype(np.float32)))
    assert "100 smaller ones left out" in vector and vector.count("<span title=") == 400
    sequence = RNG.normal(size=(1, 4, 30)).astype(np.float32)
    assert rows_and_columns(sequence[0]).shape == (1, 4, 30)
    assert "pictures wide" in page(tmp_path, sequence, explained(sequence))
    shares = RNG.normal(size=(2, 3, 1, 4, 4)).astype(np.float32)
    result = explained(shares, [0, {"class": 2, "minus": 1}, {"class": "argmax", "minus": "mean"}])
    titles = [item.title for item in items_of(np.zeros((2, 1, 4, 4), np.float32), result, "deeplift")]
    assert titles[:3] == ["item 0, 0", "item 0, 2 less 1", "item 0, argmax less the mean of all"] and len(titles) == 6


def test_a_map_of_pixels_is_drawn_as_it_is():
    shares = np.float32([[[1.0, -1.0], [0.5, 0.0]]])
    result = explained(np.zeros((1, 1, 2, 2), np.float32))
    values = {"map": shares}
    row = result.explanations["deeplift"].method.model_copy(update={"method": "grad_cam"})
    maps = Result(result.outputs, {"deeplift": Explanation(row, values)})
    (item,) = items_of(np.zeros((1, 1, 2, 2), np.float32), maps, "deeplift")
    np.testing.assert_array_equal(decoded(item.heat), map_pixels(shares[0], 1.0))
    assert item.gap is None and item.total is None


def test_colours_say_what_the_method_gives(tmp_path):
    """Only contributions add to the output; a gradient that is positive says what would."""
    result = explained(np.ones((1, 4), np.float32))
    row = result.explanations["deeplift"].method
    gradient = {"multipliers": np.ones((1, 4), np.float32)}
    text = page(tmp_path, np.ones((1, 4), np.float32), Result(result.outputs, {"deeplift": Explanation(row, gradient)}))
    assert "rises with the input" in text and "dds to the explained output" not in text


def test_names_are_text_and_nothing_else(tmp_path):
    bad = "<script>alert(1)</script>"
    layers = {bad: {"contributions": np.ones((1, 2), np.float32)}}
    text = page(tmp_path, np.ones((1, 4), np.float32), explained(np.ones((1, 4), np.float32), layers=layers), bad)
    found = parsed(text)
    assert "script" not in found.tags and text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3
    assert not re.search(r"https?://|@import|url\(", text)


def test_more_items_than_a_page_takes(tmp_path):
    shares = np.ones((MOST_ITEMS + 5, 4), np.float32)
    text = page(tmp_path, shares, explained(shares))
    assert text.count("<h2>item ") == MOST_ITEMS and "5 more are in the arrays alone" in text


def test_nothing_to_draw_is_said(tmp_path):
    result = explained(np.ones((1, 4), np.float32))
    row = result.explanations["deeplift"].method
    bare = Result(result.outputs, {"deeplift": Explanation(row, {"gap": np.zeros(1, np.float32)})})
    with pytest.raises(LowbitError, match="explanation deeplift: expected one with contributions or map"):
        page(tmp_path, np.ones((1, 4), np.float32), bare)
    assert not list(tmp_path.iterdir())


def test_inputs_of_any_range_are_seen():
    assert input_pixels(np.array([[[-1.0, 3.0]]])).tolist() == [[[0] * 3, [255] * 3]]
    assert input_pixels(np.array([[[0.0, 0.5]]])).max() == 128


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        ([], "none"),
        (["a", "b"], "a, b"),
        ({"shape": [2], "values": [0.5, 1]}, "0.5, 1"),
        ({"shape": [3, 4], "values": list(range(12))}, "an array (3, 4), 0 to 11"),
    ],
)
def test_settings_in_words(value, expected):
    assert words(value) == expected


def test_the_command_writes_a_page_and_its_arrays(run, grey, images, tmp_path):
    said = run("explain", grey, "--input", images, "--out", tmp_path / "report.html").output
    text = (tmp_path / "report.html").read_text()
    assert "report.html and report.npz" in said and text.count("<h2>item ") == 2
    with np.load(tmp_path / "report.npz") as arrays:
        assert any("@" in name for name in arrays)  # layers, too


@pytest.mark.parametrize(
    ("arguments", "words_"),
    [
        (("--method", "gradient", "--rule", "rescale"), "gradient takes no --rule"),
        (("--steps", "5"), "deeplift takes no --steps"),
        (("--layer", "nowhere"), "expected the name of a layer of the model, got 'nowhere'"),
        (("--rule", "none"), "DeepLift rule: expected one of"),
    ],
)
def test_settings_that_do_not_fit(run, grey, images, tmp_path, arguments, words_):
    said = run("explain", grey, "--input", images, *arguments, "--out", tmp_path / "report.html", code=2)
    assert words_ in " ".join(said.output.split())
    assert not (tmp_path / "report.html").exists()
