"""The four recipes of CONTRIBUTING.md, carried out: each adds a row to a table, and the product uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tvm import relax
from tvm.relax.dpl import is_const, is_op, wildcard

import tvm_lowbit
from relay_passes import patterns
from relay_passes.attribution import rules
from relay_passes.ops import literal, shape_of
from relay_passes.patterns.base import Found
from relay_passes.quant_spec import NoMatch, QuantSpec
from schedules import cores, techniques
from schedules.techniques.portable import Portable
from tvm_lowbit.boards import rows


@contextmanager
def added(table: dict[str, Any], name: str) -> Iterator[None]:
    """Whatever the block adds to a table under this name is gone after it."""
    assert name not in table
    try:
        yield
    finally:
        table.pop(name, None)


def program(body: Any, shape: tuple[int, ...] = (1, 4)) -> Any:
    """A Relax module with one input and one dataflow block."""
    x = relax.Var("x", relax.TensorType(list(shape), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            output = builder.emit_output(body(builder, x))
        builder.emit_func_output(output)
    return builder.get()


WEIGHTS = np.array([[1, -2], [0, 1], [-1, 1], [-2, 0]], np.float32)
X = np.array([[0.1, 0.6, -0.7, 5.0]], np.float32)


def floor_quantised(builder: Any, x: Any) -> Any:
    """A spelling that no row knows: ``floor(clip(x / 0.5 + 0.5, 0, 3)) * 0.5``, then a dense layer."""
    from relay_passes.ops import fake_quant

    half = relax.const(np.float32(0.5))
    scaled = builder.emit(relax.op.add(builder.emit(relax.op.divide(x, half)), half))
    code = builder.emit(relax.op.floor(builder.emit(relax.op.clip(scaled, 0.0, 3.0))))
    a = builder.emit(relax.op.multiply(code, half))
    spec = QuantSpec(np.ones((), np.float32), np.zeros((), np.float32), -2, 1)
    w = builder.emit(fake_quant(relax.const(WEIGHTS), spec))
    return builder.emit(relax.op.matmul(a, w))


def floor_pattern() -> tuple[Any, Any]:
    """Steps 1 of the recipe. (Equal to rounding but at ties, which is enough for a recipe.)"""
    scale, half, again = is_const(), is_const(), is_const()
    divided = is_op("relax.divide")(wildcard(), scale)
    clipped = is_op("relax.clip")(is_op("relax.add")(divided, half), wildcard(), wildcard())
    pattern = is_op("relax.multiply")(is_op("relax.floor")(clipped), again)

    def to_spec(match: Any) -> Found | NoMatch:
        call = match[clipped]
        limits = [int(call.args[i].value) for i in (1, 2)]
        step = np.asarray(match[scale].value.numpy(), np.float32)
        return Found(match[divided].args[0], QuantSpec(step, np.zeros((), np.float32), *limits))

    return pattern, to_spec


def test_a_quantiser_pattern() -> None:
    before = tvm_lowbit.build(program(floor_quantised), "host")
    assert [row.reason for row in before.report.stays_float] == ["its input is not quantised"]
    with added(patterns._TABLE, "floor"):
        patterns.register(patterns.QuantPattern("floor", "floor instead of round", floor_pattern))
        after = tvm_lowbit.build(program(floor_quantised), "host")
        with pytest.raises(ValueError, match="registered already"):
            patterns.register(patterns.QuantPattern("floor", "again", floor_pattern))
    assert [row.bits for row in after.report.low_bit] == ["W2A2"]
    np.testing.assert_array_equal(after.run(X).outputs["output"], before.run(X).outputs["output"])


def test_a_technique() -> None:
    class Eager(Portable):
        """Portable under another name, and said to be free of cost."""

        name = "eager"

        def cycles(self, problem: Any, core: Any) -> float:
            return 0.0

    with added(techniques._TABLE, "eager"), added(patterns._TABLE, "floor"):
        patterns.register(patterns.QuantPattern("floor", "floor instead of round", floor_pattern))
        expected = tvm_lowbit.build(program(floor_quantised), "host", technique="reference").run(X)
        techniques.register(Eager())
        artifact = tvm_lowbit.build(program(floor_quantised), "host")
        with pytest.raises(ValueError, match="registered already"):
            techniques.register(Eager())
    assert [row.technique for row in artifact.report.low_bit] == ["eager"]
    np.testing.assert_array_equal(artifact.run(X).outputs["output"], expected.outputs["output"])


def test_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(cores.CORES["cortex-a53"], name="cortex-a35", mcpu="cortex-a35", source="a test")
    board = rows.BoardRow("my_board", "cortex-a35", "a board of my own")
    monkeypatch.setattr(rows, "CORES", {**cores.CORES, row.name: row})
    monkeypatch.setattr(rows, "BOARDS", {**rows.BOARDS, board.name: board})
    target = rows.resolve("my_board")
    assert target.core is row
    assert str(target.tvm_target().attrs["mcpu"]) == "cortex-a35"
    assert tvm_lowbit.build(program(floor_quantised), "my_board").manifest.core == "cortex-a35"


def test_an_attribution_rule() -> None:
    def body(builder: Any, x: Any) -> Any:
        return builder.emit(relax.op.triu(x, 1))

    def upper(var: Any, call: Any, g: Any, context: Any) -> list[Any]:
        """Linear; what is left out counts nothing."""
        kept = np.triu(np.ones(shape_of(call), np.float32), 1)
        return [context.scale(g, literal(kept)), None]

    with pytest.raises(
        tvm_lowbit.LowbitError,
        match=r"layer triu_1: expected an operator with an attribution rule, got relax\.triu",
    ) as caught:
        tvm_lowbit.build(program(body), "host", explain=[tvm_lowbit.DeepLift()])
    assert "An attribution rule" in caught.value.hint and "CONTRIBUTING.md" in caught.value.hint
    methods = [tvm_lowbit.DeepLift(target=1), tvm_lowbit.Gradient(target=1)]
    with added(rules._TABLE, "relax.triu"):
        rules.register("relax.triu", upper)
        artifact = tvm_lowbit.build(program(body), "host", explain=methods)
        with pytest.raises(ValueError, match="has an attribution rule already"):
            rules.register("relax.triu", upper)
    for explanation in artifact.run(X).explanations.values():
        np.testing.assert_array_equal(explanation.multipliers, [[0, 1, 0, 0]])
        assert explanation.gap == 0


def test_the_recipes_are_the_ones_in_the_document() -> None:
    """A heading for each test above, so that neither grows without the other."""
    from pathlib import Path

    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["A quantiser pattern", "A technique", "A core", "An attribution rule"]
