"""The table of spellings is the code's own: nothing is missing from it, and the document is what the code says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from relay_passes import patterns
from relay_passes.coverage import Coverage
from relay_passes.integer_forms import INTEGER_FORMS
from relay_passes.patterns import QUANT_PATTERNS
from relay_passes.quant_spec import NoMatch
from schedules.errors import LowbitError
from tvm_lowbit.declines import reasons
from tvm_lowbit.from_onnx.custom import CUSTOM
from tvm_lowbit.from_torch import pairs, quantisers
from tvm_lowbit.spellings import listings, markdown, spellings

ROOT = Path(__file__).parents[2]


def test_the_document_is_not_stale() -> None:
    wanted = "tvm-lowbit spellings --markdown > docs/spellings.md"
    assert (ROOT / "docs" / "spellings.md").read_text() == markdown(), f"run {wanted}"


def test_every_pattern_says_what_it_covers() -> None:
    assert [row.name for row in QUANT_PATTERNS.values() if row.covers is None] == []


def test_every_custom_operator_has_a_row() -> None:
    named = {operator for row in spellings() for operator in row.operators}
    for module in (*CUSTOM, quantisers, pairs):
        assert set(module.CONVERTERS) <= named, module.__name__


def test_names_are_unique() -> None:
    names = [row.name for row in spellings()]
    assert len(set(names)) == len(names)


def test_the_command_prints_every_row(run) -> None:
    said = run("spellings").output
    assert all(row.name[:12] in said for row in spellings())
    assert run("spellings", "--markdown").output == markdown()


def test_no_reason_of_a_pattern_is_missed() -> None:
    """Every NoMatch that the files of the patterns write stands in the table of spellings."""
    table = markdown()
    for path in Path(patterns.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "NoMatch":
                (said,) = node.args
                parts = [said] if isinstance(said, ast.Constant) else said.values
                for part in parts:
                    assert not isinstance(part, ast.Constant) or part.value in table, ast.unparse(node)


def test_every_integer_form_has_a_row() -> None:
    operators = {row[0] for row in listings()[1].rows}
    assert {name.removeprefix("relax.") for name in INTEGER_FORMS} <= operators


def _refused(where: str, count: int) -> None:
    raise LowbitError(f"input {where}", "one of them", str(count))


def declining(x: int) -> NoMatch | None:
    """Read, not run."""

    def inner() -> NoMatch:
        return NoMatch(f"it has {x + 1} sides, of {x}")

    if x > 2:
        _refused("here", x)
        raise NotImplementedError("too many")
    return inner() if x else NoMatch("it is zero")


def test_reasons_are_read_from_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tvm_lowbit.declines._OURS", (__name__.split(".")[0],))
    assert set(reasons(declining)) == {"it is zero", "it has ‹…› sides, of ‹x›"}
    assert reasons(declining, LowbitError) == ("input ‹where›: expected one of them",)
    assert reasons(declining, NotImplementedError) == ("too many",)


def test_coverage_checks_itself() -> None:
    with pytest.raises(ValueError, match="9"):
        Coverage(("ONNX",), weights=(1, 9))
    with pytest.raises(ValueError, match="weights come with grains"):
        Coverage(("ONNX",), weights=())
