"""What reads constant positions: as takes the same elements, on codes too, and as ONNX Runtime reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, run_onnx
from relax_models import evaluate, module, operators, values
from test_moving_forms import check, conv, first, ints, last, quant
from tvm import relax

import tvm_lowbit
from relay_passes.canonicalize import canonicalize
from relay_passes.ops import literal, op_name, shape_of
from schedules.errors import LowbitError

op = relax.op
RNG = np.random.default_rng(0)
SHAPE = (2, 3, 4, 5)
WIDTHS = [0, 0, 1, 2, 3, 0, 2, 1]
PAIRS = [(0, 0), (1, 2), (3, 0), (2, 1)]
EACH = RNG.integers(0, 3, (2, 6, 1))
ALONG = RNG.integers(0, 4, (2, 3, 2, 5))


def pairs(*extents: int) -> Any:
    """Seven positions along axes of these extents."""
    return np.stack([RNG.integers(0, extent, 7) for extent in extents], -1)


ROWS, COLUMNS = pairs(3, 4), pairs(4, 5)
# Name -> (in Relax, in NumPy, the shape that its one take is of, or None for several).
READ: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], tuple[int, ...] | None]] = {
    "reflect": (lambda x: op.nn.pad(x, WIDTHS, "reflect"), lambda x: np.pad(x, PAIRS, "reflect"), None),
    "replicate": (lambda x: op.nn.pad(x, WIDTHS, "replicate"), lambda x: np.pad(x, PAIRS, "edge"), None),
    "circular": (lambda x: op.nn.pad(x, WIDTHS, "circular"), lambda x: np.pad(x, PAIRS, "wrap"), None),
    "one axis": (
        lambda x: op.nn.pad(x, [0] * 6 + [4, 4], "reflect"),
        lambda x: np.pad(x, PAIRS[:1] * 3 + [(4, 4)], "reflect"),
        SHAPE,
    ),
    # What is read whole is moved in one piece, for each item alone.
    "gather_nd": (
        lambda x: op.gather_nd(x, literal(np.repeat(ROWS[None], 2, 0)), 1),
        lambda x: x[:, ROWS[:, 0], ROWS[:, 1]],
        (2, 12, 5),
    ),
    "gather_nd in each item elsewhere": (
        lambda x: op.gather_nd(x, literal(EACH), 1),
        lambda x: np.stack([a[at[:, 0]] for a, at in zip(x, EACH, strict=True)]),
        (6, 20),
    ),
    "gather_nd over items": (
        lambda x: op.gather_nd(x, literal(np.int64([[1], [0], [1]]))),
        lambda x: x[[1, 0, 1]],
        (2, 60),
    ),
    "gather_nd of elements": (
        lambda x: op.gather_nd(x, literal(np.broadcast_to(COLUMNS, (2, 3, 7, 2)).copy()), 2),
        lambda x: x[:, :, COLUMNS[:, 0], COLUMNS[:, 1]],
        (2, 60, 1),
    ),
    "gather_elements": (
        lambda x: op.gather_elements(x, literal(ALONG), 2),
        lambda x: np.take_along_axis(x, ALONG, 2),
        (120, 1),
    ),
    "index_tensor": (
        lambda x: op.index_tensor(x, (literal([[0], [1]]), literal([1, 2, 1]))),
        lambda x: x[[[0], [1]], [1, 2, 1]],
        (2, 3, 20),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_the_same_elements(name: str) -> None:
    """Takes and reshapes only."""
    read, expected, shape = READ[name]
    mod = canonicalize(module(lambda emit, x: emit(read(x), "y"), SHAPE))
    found = operators(mod)
    assert set(found) <= {"relax.take", "relax.reshape"}
    if shape is not None:
        assert [shape_of(v.args[0]) for v in values(mod).values() if op_name(v) == "relax.take"] == [shape]
    assert "y" in values(mod)
    x = RNG.normal(size=SHAPE).astype(np.float32)
    np.testing.assert_array_equal(evaluate(mod, x)[0], expected(x))


def test_what_stays() -> None:
    """Positions that are computed, or lie beyond the tensor; pads by a constant."""

    def body(emit: Any, x: Any) -> Any:
        at = emit(op.astype(emit(op.argmax(x, 3, keepdims=True)), "int64"))
        found = [
            emit(op.gather_elements(x, at, 3)),
            emit(op.gather_nd(x, literal(np.int64([[7]])))),
            emit(op.nn.pad(x, WIDTHS, "constant", 1.0)),
        ]
        return relax.Tuple(found)

    before = module(body, SHAPE)
    assert operators(canonicalize(before)) == operators(before)


MODES = {"edge": 13, "reflect": 13, "wrap": 19}


@pytest.mark.parametrize("pads", [(0, 0, 2, 1, 0, 0, 1, 3), (0, 0, -1, 2, 0, 0, 1, -2), (0, 2, 0, 0, 0, 1, 0, 1)])
@pytest.mark.parametrize("mode", MODES)
def test_pads_by_what_is_there(mode: str, pads: tuple[int, ...]) -> None:
    """Before a quantiser and behind one, of channels too; negative numbers take away. Nothing is computed in float."""
    channels = 8 + pads[1] + pads[5]

    def body(g: GraphBuilder) -> str:
        v = g.add("Pad", first(g), ints(g, *pads), mode=mode)
        v = quant(g, conv(g, quant(g, v), channels, 8))
        return last(g, g.add("Pad", v, ints(g, *pads), mode=mode), channels)

    check(body, 3, 7, 6, opset=MODES[mode])


def test_gathers_and_tiles_of_codes() -> None:
    """In each item alike, as ONNX has them; indices may count from the end."""

    def body(g: GraphBuilder) -> str:
        v = g.add("Tile", quant(g, first(g)), ints(g, 1, 1, 2, 1))
        at = g.constant(np.broadcast_to([[[-1], [2], [0], [2]]], (2, 4, 1)), np.int64)
        v = g.add("GatherND", v, at, batch_dims=1)
        rows = np.broadcast_to(np.int64([3, -1, 0]).reshape(1, 1, 3, 1), (2, 4, 3, 6))
        v = g.add("GatherElements", v, g.constant(rows, np.int64), axis=2)
        return last(g, v, 4)

    check(body, 3, 7, 6)


@pytest.mark.parametrize("operator", ["GatherND", "GatherElements"])
def test_an_index_outside(operator: str) -> None:
    """It is refused by name."""
    g = GraphBuilder()
    x = g.input(3, 4)
    at = np.int64([[[5]]]) if operator == "GatherElements" else np.int64([[0, 5]])
    attrs = {"axis": 1} if operator == "GatherElements" else {}
    model = g.model(g.add(operator, x, g.constant(at, np.int64), name="bad", **attrs))
    with pytest.raises(LowbitError, match="bad") as caught:
        tvm_lowbit.build(model, "host")
    assert caught.value.got == "5"


def test_tiles_as_onnx_runtime_has_them() -> None:
    """Of channels and of columns."""
    g = GraphBuilder()
    x = g.input(3, 4, 5)
    outputs = [g.add("Tile", x, ints(g, *repeats)) for repeats in ((1, 2, 1, 3), (1, 1, 1, 1))]
    model, value = g.model(*outputs), RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    found = tvm_lowbit.build(model, "host", batch=2).run(value).outputs
    for name, expected in zip(outputs, run_onnx(model, value, outputs), strict=True):
        np.testing.assert_array_equal(found[name], expected)
