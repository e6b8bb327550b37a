"""``python -m explanations.speed``: a small network timed beside Captum's, and the page of the results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from explanations import captum_calls
from explanations.speed import METHODS, main, ratios
from explanations.speed_page import markdown

DOCS = Path(__file__).parents[2] / "docs"


def test_a_small_network_is_timed(tmp_path):
    small = ("--size", "64", "--width", "0.0625", "--pairs", "2", "--slow-pairs", "1")
    chosen = ("--kind", "fp32", "--method", "deeplift_rescale", "--method", "deeplift_genomics")
    page = tmp_path / "speed.md"
    ended = CliRunner().invoke(main, [*small, *chosen, "--cache", str(tmp_path), "--docs", str(page)])
    assert ended.exit_code == 0, ended.output
    rescale, genomics = json.loads(page.with_suffix(".json").read_text())["rows"]
    for times in (rescale, rescale["captum"], genomics):
        assert 0 < times["alone_ms"] < times["explained_ms"] and times["quartiles"][0] <= times["ratio"]
    assert genomics["captum"] is None  # it has no RevealCancel
    assert rescale["gap"] < 1e-3 and rescale["bytes_alone"]["library"] < rescale["bytes_explained"]["library"]
    assert "deeplift_rescale" in page.read_text()


def test_pairs_are_of_what_was_called_in_turns():
    told = []
    found = ratios([lambda: told.append("a"), lambda: told.append("b")] * 2, 3, 4)
    assert "".join(told) == "aabaa" * 6
    assert [row["pairs"] for row in found] == [3, 3]


@pytest.mark.parametrize("method", [row for row in METHODS.values() if row.captum and not row.slow])
def test_captums_shares_are_of_the_class_that_was_predicted(method):
    torch.manual_seed(0)
    network = captum_calls.float_network("resnet18", 64, 1 / 16)
    x = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    alone, explained = captum_calls.calls(network, x, method.captum)
    change = alone().max() - network(torch.zeros(1, 3, 64, 64))[0, int(alone().argmax())]
    assert float(explained().sum()) == pytest.approx(float(change), rel=1e-3, abs=1e-3)


def test_the_page_is_of_the_results_beside_it():
    result = json.loads((DOCS / "explanations_speed.json").read_text())
    assert (DOCS / "explanations_speed.md").read_text() == markdown(result)
    measured = {(row["kind"], row["method"]) for row in result["rows"]}
    assert measured == {(kind, method) for kind in ("fp32", "w2a2") for method in METHODS}
    slow = result["rows"][0] | {"ratio": 9.5, "limit": 2.5}
    assert "9.50 instead of 2.5" in markdown(result | {"rows": [slow]})
