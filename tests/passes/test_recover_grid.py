"""RecoverGrid: folded weights are taken for what they were, ordinary float weights are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_graphs import GraphBuilder, assert_like_onnx
from relax_models import const, module, operators, quantised, values
from tvm import relax

import tvm_lowbit
from relay_passes import notes
from relay_passes.ops import FAKE_QUANT, op_name, quant_spec
from relay_passes.quant_spec import NoMatch, QuantSpec
from relay_passes.recover_grid import grid_of, recover_grid

SHAPE = (6, 5, 5)


def folded(bits: int, seed: int = 0, shape: tuple[int, ...] = (8, 6, 3, 3), odd: bool = False, axis: int = 0) -> Any:
    """Weights as exporters leave them: codes times step in float32, batch norm's factor folded in; some negative."""
    random = np.random.default_rng(seed)
    along = [-1 if i == axis else 1 for i in range(len(shape))]
    step, factor = (random.uniform(0.05, 0.4, shape[axis]).astype(np.float32).reshape(along) for _ in range(2))
    factor *= np.resize(np.float32([1, -1, 1]), shape[axis]).reshape(along)
    low = -(1 << (bits - 1))
    codes = random.integers(low, -low, shape).astype(np.float32) + np.float32(0.5 if odd else 0)
    return ((codes * step) * factor).astype(np.float32)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
def test_values_are_kept(bits: int, odd: bool) -> None:
    """Within the tolerance of the docstring, at no more bits than the grid has; negated codes may need one more."""
    array = folded(bits, odd=odd)
    spec = grid_of(array, 0)
    if bits == 8 and not odd and isinstance(spec, NoMatch):
        assert spec.reason.startswith("the grid that they lie on takes 9 bits")
        return
    assert isinstance(spec, QuantSpec)
    assert isinstance(spec.checked("w"), QuantSpec)
    assert spec.bits <= bits + (not odd)
    values_ = spec.values(spec.codes(array))
    largest = np.abs(array).max(axis=(1, 2, 3), keepdims=True)
    assert np.all(np.abs(values_ - array) <= 5 * 2.0**-24 * largest)


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (16, 1, 3, 3), (64, 2, 1, 1), (10, 40)])
@pytest.mark.parametrize("seed", range(20))
def test_ordinary_weights_are_no_grid(shape: tuple[int, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    for array in (random.normal(size=shape), random.uniform(-1, 1, shape), random.laplace(size=shape)):
        assert isinstance(grid_of(array.astype(np.float32), 0), NoMatch)
    pruned = random.normal(size=shape) * (random.random(shape) < 0.3)
    assert isinstance(grid_of(pruned.astype(np.float32), 0), NoMatch)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.arange(1, 9).reshape(8, 1, 1, 1), "they are too few to tell a grid"),
        (folded(8, odd=True) * np.linspace(1, 1.3, 54).reshape(1, 6, 3, 3), "channel 0 deviates from the nearest one"),
        (np.where(np.arange(432).reshape(8, 6, 3, 3) == 200, np.nan, folded(2)), "they hold NaN or infinity"),
        (np.zeros((8, 6, 3, 3)), "they are too few to tell a grid"),
        (np.arange(-200, 232).reshape(1, 432, 1, 1), "9 bits; 1 to 8 are supported"),
    ],
)
def test_reasons(array: Any, reason: str) -> None:
    found = grid_of(np.asarray(array, np.float32), 0)
    assert isinstance(found, NoMatch)
    assert reason in found.reason


@pytest.mark.parametrize("second", [0.500004, 0.5000045, 0.3333366])
def test_two_values_that_are_repeated_make_no_grid(second: float) -> None:
    """However often: only values that differ tell a grid; 4e-6 of 1 is more than folding leaves."""
    array = np.random.default_rng(0).choice([1.0, -second], (4, 32, 3, 3)).astype(np.float32)
    found = grid_of(array, 0)
    assert isinstance(found, NoMatch)
    assert "as floats they lie on no grid" in found.reason


@pytest.mark.parametrize(("second", "bits"), [(0.5, 3), (1 / 3, 2)])
def test_two_values_on_a_grid(second: float, bits: int) -> None:
    array = np.random.default_rng(0).choice([1.0, -second, -1.0, second], (4, 32, 3, 3)).astype(np.float32)
    found = grid_of(array, 0)
    assert isinstance(found, QuantSpec)
    assert found.bits == bits


def test_a_weight_beside_its_grid_is_named_with_its_deviation() -> None:
    """One of 432, by a hundredth of a step."""
    array = folded(3)
    steps = [np.unique(np.abs(row[row != 0])).min() for row in array]
    array[5, 2, 1, 1] += np.float32(0.01 * steps[5])
    found = grid_of(array, 0)
    assert isinstance(found, NoMatch)
    assert "channel 5 deviates from the nearest one by 0.01 of a step" in found.reason


def network(g: GraphBuilder, weights: Any, dense: Any, quantise: bool = True) -> str:
    """Conv, pool, dense layer; weights as constants."""
    x = g.input(*SHAPE)
    q = g.quantiser(x, 0.31, -4, 3, name="q0") if quantise else x
    v = g.add("Conv", q, g.constant(weights), g.constant(g.random.normal(size=8)), name="conv")
    q = g.quantiser(g.add("Relu", v), 0.53, 0, 3, name="q1") if quantise else v
    v = g.add("Flatten", g.add("MaxPool", q, kernel_shape=[2, 2]))
    return g.add("Gemm", v, g.constant(dense), g.constant(g.random.normal(size=4)), transB=1, name="fc")


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_layers_of_folded_weights_are_low_bit(bits: int, odd: bool) -> None:
    g = GraphBuilder()
    model = g.model(network(g, folded(bits, odd=odd), folded(bits, 1, (4, 32), odd)))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [row.name for row in artifact.report.low_bit] == ["conv", "fc"]
    x = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
    assert_like_onnx(artifact, g, model, x)


# Operator, shape and output axis of its weights, shape of its input; weights on the left come first.
OTHERS = {
    "1d": ("Conv", (8, 6, 3), 0, (6, 9)),
    "transposed": ("ConvTranspose", (6, 8, 3, 3), 1, SHAPE),
    "transposed 1d": ("ConvTranspose", (6, 8, 4), 1, (6, 9)),
    "left": ("MatMul", (8, 12), 0, (12, 5)),
    "right": ("MatMul", (12, 8), 1, (5, 12)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_folded_weights_of_other_layers(name: str) -> None:
    operator, shape, axis, extents = OTHERS[name]
    g = GraphBuilder()
    q, weights = g.quantiser(g.input(*extents), 0.31, -4, 3, name="q"), g.constant(folded(3, shape=shape, axis=axis))
    layer = g.add(operator, *((weights, q) if name == "left" else (q, weights)), name="layer")
    model = g.model(g.quantiser(g.add("Relu", layer), 0.47, 0, 7, name="out"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [row.bits[1:] for row in artifact.report.low_bit] in (["3A3"], ["4A3"])
    assert_like_onnx(artifact, g, model, np.random.default_rng(0).normal(size=(4, *extents)).astype(np.float32))


def test_dorefa_weights_are_computed() -> None:
    """tanh(w) / (2 max |tanh w|) + 1/2, quantised to 2 bits, times 2 less 1: an odd grid."""
    g = GraphBuilder(opset=13)
    t = g.add("Tanh", g.constant(g.random.normal(size=(8, 6, 3, 3))))
    largest = g.add("ReduceMax", g.add("Abs", t), keepdims=0)
    v = g.add("Add", g.add("Div", t, g.add("Mul", g.constant(2), largest)), g.constant(0.5))
    v = g.add("Div", g.add("Round", g.add("Mul", v, g.constant(3))), g.constant(3))
    w = g.add("Sub", g.add("Mul", g.constant(2), v), g.constant(1))
    model = g.model(g.add("Conv", g.quantiser(g.input(*SHAPE), 0.3, 0, 15, name="q"), w, name="conv"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [row.bits for row in artifact.report.low_bit] == ["W2A4"]
    x = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
    assert_like_onnx(artifact, g, model, x)


def test_folded_sign_weights() -> None:
    """Where(w >= 0, 1, -1) of a constant is a constant already when it is imported: 1 bit."""
    g = GraphBuilder(opset=16)
    w = g.constant(g.random.normal(size=(8, 6, 3, 3)))
    above = g.add("GreaterOrEqual", w, g.constant(0))
    w = g.add("Where", above, g.constant(1), g.constant(-1))
    model = g.model(g.add("Conv", g.quantiser(g.input(*SHAPE), 0.3, 0, 15, name="q"), w, name="conv"))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    assert [row.bits for row in artifact.report.low_bit] == ["W1A4"]
    x = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)
    assert_like_onnx(artifact, g, model, x)


def test_report_says_how_far_off_the_grid() -> None:
    g = GraphBuilder()
    dense = np.random.default_rng(5).normal(size=(4, 32))
    model = g.model(network(g, folded(2), dense))
    (row,) = tvm_lowbit.inspect(model, "host").stays_float
    assert row.name == "fc"
    assert row.reason.startswith("its weights are not quantised: as floats they lie on no grid of at most 8 bits: chan")


def test_layers_of_float_inputs_are_left_alone() -> None:
    g = GraphBuilder()
    model = g.model(network(g, folded(2), folded(2, 1, (4, 32)), quantise=False))
    assert {row.reason for row in tvm_lowbit.inspect(model, "host").stays_float} == {"its input is not quantised"}


def test_whole_program() -> None:
    """A matmul's outputs run along its weights' last axis; weights that are quantised already stay."""

    def body(emit: Any, x: Any) -> Any:
        q = quantised(emit, x)
        first = emit(relax.op.matmul(q, const(folded(2, shape=(9, 5), axis=1))), "first")
        second = emit(relax.op.matmul(quantised(emit, first, "q2"), quantised(emit, const(np.ones((5, 2))), "w")), "fc")
        return second

    after = recover_grid(module(body, (2, 9)))
    assert operators(after) == [FAKE_QUANT, FAKE_QUANT, "relax.matmul", FAKE_QUANT, FAKE_QUANT, "relax.matmul"]
    spec = quant_spec(values(after)["first/weights"])
    assert (spec.axis, spec.scale.shape) == (1, (5,))
    assert op_name(values(after)["w"]) == FAKE_QUANT
    assert notes.read(after)["off_grid"] == {}
