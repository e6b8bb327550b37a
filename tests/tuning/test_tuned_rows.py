"""Tuned rows: taken where they fit, left out with a reason where they do not, never an error."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_lowbit
from schedules import tuned_rows
from schedules.cores import CORES
from schedules.dot_problem import Operand, Thresholds
from schedules.layout import Layout
from schedules.problem_key import problem_key, problem_of
from schedules.techniques import TECHNIQUES, select

CORE = CORES["cortex-a72"]
KEY = "n1h6w6c16o16 k3x3 s1x1 d1x1 p1,1,1,1 g1 a2 w2f to2/3"
PROBLEM = problem_of(KEY)
GOOD = {"technique": "smlal", "knobs": {"mr": 3, "nr": 8}, "cycles": 10.0, "board": "a test"}


def signed(row: dict[str, Any], key: str) -> dict[str, Any]:
    """The row with the fingerprint of its kernel, where there is such a kernel."""
    try:
        kernel = tuned_rows.fingerprint(key, row["technique"], row["knobs"], CORE)
    except Exception:  # rows that do not fit have none
        kernel = "none"
    return {"kernel": kernel, **row}


def write(folder: Path, rows: list[dict[str, Any]], key: str = KEY, tried: Sequence[str] = tuple(TECHNIQUES)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"tried": list(tried), "rows": [signed(row, key) for row in rows]}
    (folder / f"{CORE.name}.json").write_text(json.dumps({"core": CORE.name, "problems": {key: entry}}))
    tuned_rows._read.cache_clear()


def test_a_row_gives_technique_and_knobs(rows_folder: Path) -> None:
    assert tuned_rows.row(PROBLEM, CORE) is None
    untuned = select(PROBLEM, CORE)
    assert tuned_rows.choose(PROBLEM, CORE) == untuned and untuned.technique.name != "smlal"
    slower = {"technique": "bit_serial", "knobs": {"mr": 3}, "cycles": 11.0, "board": "a test"}
    write(rows_folder, [slower, GOOD])
    choice = tuned_rows.choose(PROBLEM, CORE)
    assert choice.technique.name == "smlal" and choice.why == "tuned on a test: 10 cycles, mr=3, nr=8"
    own = TECHNIQUES["smlal"].knobs(PROBLEM, CORE)
    assert tuned_rows.knobs(TECHNIQUES["smlal"], PROBLEM, CORE) == {**own, "mr": 3, "nr": 8} != own
    assert tuned_rows.knobs(TECHNIQUES["bit_serial"], PROBLEM, CORE)["mr"] == 3
    assert tuned_rows.choose(PROBLEM, CORE, "winograd").technique.name == "winograd"
    assert tuned_rows.row(PROBLEM, CORES["cortex-a53"]) is None


def test_what_training_changes_is_no_other_problem() -> None:
    p = PROBLEM
    assert p.epilogue is not None
    alike = [
        replace(p, w=replace(p.w, offset=-3, offset_bound=3)),
        replace(p, epilogue=replace(p.epilogue, out=Layout("planes", 2))),
        replace(p, w=replace(p.w, span=(0, 3))),
    ]
    assert {problem_key(other) for other in alike} == {KEY}
    others = [
        replace(p, w=replace(p.w, span=(1, 3))),
        replace(p, a=Operand(2, offset=-1)),
        replace(p, a=Operand(2, offset=-5)),
        replace(p, w=replace(p.w, uniform=False)),
        replace(p, epilogue=None),
        replace(p, epilogue=Thresholds(2, 2)),
        replace(p, epilogue=Thresholds(2, 3, 2, side=Layout())),
        replace(p, epilogue=Thresholds(2, 3, falls=1)),
        replace(p, stride=(2, 1)),
        replace(p, padding=(1, 1, 1, 0)),
        replace(p, batch=2),
    ]
    keys = [problem_key(other) for other in others]
    assert len({KEY, *keys}) == len(others) + 1
    for key in (KEY, *keys):
        assert problem_key(problem_of(key)) == key


def test_every_key_stands_for_a_problem_of_its_own_kind() -> None:
    random = np.random.default_rng(0)
    for _ in range(500):
        bits, twice = int(random.integers(1, 9)), int(random.integers(1, 3))
        a = Operand(bits, twice, int(random.choice([0, -(twice << bits - 1), -(2**bits) + 1, 7, -300])))
        width, offset = int(random.integers(1, 9)), int(random.choice([0, -1, -2, -128, -200]))
        w = Operand(width, int(random.integers(1, 3)), offset, uniform=bool(random.integers(0, 2)))
        low = int(random.integers(0, w.max_code + 1))
        w = replace(w, span=(low, int(random.integers(low, w.max_code + 1))), offset_bound=int(random.integers(0, 9)))
        key = problem_key(replace(PROBLEM, a=a, w=w))
        assert problem_key(problem_of(key)) == key


@pytest.mark.parametrize("text", ["", KEY + " ", KEY.replace("c16", ""), KEY.replace("w2f", "w2q"), "n0" + KEY[2:]])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        problem_of(text)


def test_rows_of_another_epilogue_serve_where_there_are_none(rows_folder: Path) -> None:
    other = KEY.replace("to2/3", "to2/3 side2")
    write(rows_folder, [GOOD], other)
    row = tuned_rows.row(PROBLEM, CORE)
    assert row is not None and row.knobs == GOOD["knobs"] and not row.exact
    assert "with another epilogue" in tuned_rows.choose(PROBLEM, CORE).why
    assert tuned_rows.row(replace(PROBLEM, out_channels=8), CORE) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"technique": "gone"}, "there is no technique gone"),
        ({"technique": "sdot"}, "sdot declines: cortex-a72 lacks dotprod"),
        ({"technique": "ternary"}, "ternary declines: weights other than"),
        ({"knobs": {"mr": 3, "depth": 2}}, "smlal has no knob depth"),
        ({"knobs": {"mr": 99}}, "smlal takes mr of 2, 3, 4, 5, 6, not 99"),
        ({"knobs": {"nr": 6}}, "smlal takes nr of 4, 8, not 6"),
    ],
)
def test_a_row_that_no_longer_fits_is_left_out_with_its_reason(rows_folder: Path, change: dict, reason: str) -> None:
    write(rows_folder, [GOOD | change])
    choice, untuned = tuned_rows.choose(PROBLEM, CORE), select(PROBLEM, CORE)
    assert choice.technique is untuned.technique
    assert choice.why.startswith(untuned.why + "; tuned row ignored: ") and reason in choice.why
    assert tuned_rows.knobs(choice.technique, PROBLEM, CORE) == untuned.technique.knobs(PROBLEM, CORE)
    assert tuned_rows.choose(PROBLEM, CORE, "winograd").why == "asked for"
    write(rows_folder, [GOOD | change, GOOD])
    assert tuned_rows.choose(PROBLEM, CORE).technique.name == "smlal"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        "\x00",
        '{"problems": {"x": []}}',
        json.dumps({"problems": {KEY: {"tried": [], "rows": [{"technique": "smlal"}]}}}),
        json.dumps({"problems": {KEY: {"tried": [], "rows": [GOOD | {"knobs": {"mr": "x"}, "kernel": ""}]}}}),
        json.dumps({"problems": {KEY: {"tried": 3, "rows": []}}}),
        json.dumps({"problems": {KEY: [GOOD]}}),
        json.dumps({"problems": {KEY: 7}}),
    ],
)
def test_a_file_that_cannot_be_read_is_left_out_with_its_reason(rows_folder: Path, text: str) -> None:
    rows_folder.mkdir()
    (rows_folder / "cortex-a72.json").write_text(text)
    choice = tuned_rows.choose(PROBLEM, CORE)
    assert choice.technique is select(PROBLEM, CORE).technique
    assert f"tuned row ignored: {rows_folder / 'cortex-a72.json'}" in choice.why


def test_a_users_rows_count_before_those_shipped(rows_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tuned_rows.SHIPPED, [GOOD])
    assert tuned_rows.choose(PROBLEM, CORE).technique.name == "smlal"
    write(rows_folder, [GOOD | {"technique": "bit_serial", "knobs": {"mr": 2}, "cycles": 99.0}])
    assert tuned_rows.choose(PROBLEM, CORE).technique.name == "bit_serial"
    write(rows_folder, [GOOD | {"technique": "gone"}])
    assert tuned_rows.choose(PROBLEM, CORE).technique.name == "smlal"
    monkeypatch.setenv(tuned_rows.VARIABLE, tuned_rows.OFF)
    assert tuned_rows.tuned(PROBLEM, CORE) == tuned_rows.Tuned()


def test_a_file_that_changes_is_read_again(rows_folder: Path) -> None:
    write(rows_folder, [GOOD])
    assert tuned_rows.row(PROBLEM, CORE).knobs == GOOD["knobs"]
    path = rows_folder / "cortex-a72.json"
    path.write_text(path.read_text().replace('"cycles": 10.0', '"cycles": 12.0'))
    os.utime(path, ns=(1, 1))
    assert tuned_rows.row(PROBLEM, CORE).cycles == 12


def test_rows_of_kernels_that_have_changed_are_left_out(rows_folder: Path) -> None:
    """Where the fastest is another now, the order of the others says nothing any more; its knobs may still serve."""
    slower = {"technique": "bit_serial", "knobs": {"mr": 3}, "cycles": 11.0, "board": "a test"}
    write(rows_folder, [GOOD | {"kernel": "0123"}, slower])
    choice = tuned_rows.choose(PROBLEM, CORE)
    assert choice.technique is select(PROBLEM, CORE).technique
    assert "tuned row ignored: the kernel of smlal has changed since it was measured" in choice.why
    write(rows_folder, [GOOD, slower | {"kernel": "0123"}])
    assert tuned_rows.choose(PROBLEM, CORE).technique.name == "smlal"
    assert tuned_rows.knobs(TECHNIQUES["bit_serial"], PROBLEM, CORE)["mr"] != 3


def test_a_kernel_that_changes_has_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    def print_of(knobs: dict[str, int]) -> str:
        tuned_rows._fingerprints.clear()
        return tuned_rows.fingerprint(KEY, "smlal", knobs, CORE)

    before = print_of({"mr": 3})
    assert print_of({"mr": 3}) == before != print_of({"mr": 2})
    monkeypatch.setattr("schedules.byte_dot.UNROLL", 99)
    assert print_of({"mr": 3}) != before
    tuned_rows._fingerprints.clear()


def test_a_technique_that_was_not_there_is_taken_by_its_estimate(rows_folder: Path) -> None:
    write(rows_folder, [GOOD], tried=["smlal", "portable"])
    choice = tuned_rows.choose(PROBLEM, CORE)
    assert choice.technique is select(PROBLEM, CORE).technique and "was not measured" in choice.why
    write(rows_folder, [GOOD], tried=[name for name in TECHNIQUES if name != "portable"])
    assert tuned_rows.choose(PROBLEM, CORE).technique.name == "smlal"


def test_cycles_are_on_one_scale(rows_folder: Path) -> None:
    smlal, winograd = TECHNIQUES["smlal"], TECHNIQUES["winograd"]
    own = smlal.cycles(PROBLEM, CORE)
    assert tuned_rows.cycles(smlal, PROBLEM, CORE) == own
    write(rows_folder, [GOOD | {"cycles": 2 * own}])
    assert tuned_rows.cycles(smlal, PROBLEM, CORE) == 2 * own
    # Estimated to be faster, it was measured, and is not among the fast ones.
    assert winograd.cycles(PROBLEM, CORE) < own
    assert tuned_rows.cycles(winograd, PROBLEM, CORE) == tuned_rows.NEAR * 2 * own
    write(rows_folder, [GOOD | {"cycles": 2 * own}], tried=["smlal"])
    assert tuned_rows.cycles(winograd, PROBLEM, CORE) == pytest.approx(2 * winograd.cycles(PROBLEM, CORE))
    portable = TECHNIQUES["portable"]
    assert tuned_rows.cycles(portable, PROBLEM, CORE) == pytest.approx(2 * portable.cycles(PROBLEM, CORE))


def test_build_computes_the_same_with_any_row(model: Path, rows_folder: Path) -> None:
    """Tuned to every technique in turn, and with rows that do not fit, the library gives the same bits."""
    x = np.random.default_rng(0).random((3, 1, 4, 4), np.float32)
    plain = tvm_lowbit.build(model, "host")
    expected = plain.run(x).outputs["logits"]
    keys = [row.problem for row in plain.manifest.kernels]
    core = CORES[plain.manifest.core]
    for name in ("bit_serial", "smlal", "portable", "gone"):
        entries = {}
        for key in keys:
            space = TECHNIQUES[name].space(problem_of(key), core) if name in TECHNIQUES else {"mr": (1,)}
            knobs = {knob: values[-1] for knob, values in space.items() if knob != "parallel"}
            kernel = tuned_rows.fingerprint(key, name, knobs, core) if name in TECHNIQUES else ""
            row = {"technique": name, "knobs": knobs, "cycles": 1e9, "board": "a test", "kernel": kernel}
            entries[key] = {"tried": list(TECHNIQUES), "rows": [row]}
        rows_folder.mkdir(exist_ok=True)
        (rows_folder / f"{core.name}.json").write_text(json.dumps({"problems": entries}))
        tuned_rows._read.cache_clear()
        built = tvm_lowbit.build(model, "host")
        whys = [row.why for row in built.report.low_bit]
        assert all(("ignored: there is no" if name == "gone" else "tuned on") in why for why in whys)
        assert name == "gone" or {row.technique for row in built.report.low_bit} == {name}
        np.testing.assert_array_equal(built.run(x).outputs["logits"], expected)
