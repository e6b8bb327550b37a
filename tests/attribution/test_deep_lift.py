"""DeepLift as a user asks for it: known answers, completeness, targets, references, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from explained import explain
from hypothesis import given, settings
from hypothesis import strategies as st
from relax_models import const, evaluate, module, quantised, spec
from tvm import relax

import tvm_lowbit
from relay_passes.ops import fake_quant
from tvm_lowbit import DeepLift, LowbitError

settings.register_profile("attribution", derandomize=True, deadline=None, max_examples=8)
settings.load_profile("attribution")
RNG = np.random.default_rng(0)


def test_two_relus() -> None:
    """f = 2 relu(x1) + 2 relu(x2 - 1.5) at (1, 2) from 0."""

    def body(emit: Any, x: Any) -> Any:
        relu = emit(relax.op.nn.relu(emit(relax.op.subtract(x, const([0, 1.5])), "shifted")), "relu")
        return emit(relax.op.matmul(relu, const([[2], [2]])), "f")

    found = explain(module(body, (1, 2)), [[1, 2]])
    np.testing.assert_allclose(found.contributions, [[2.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(found.multipliers, [[2.0, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(found.gap, [0], atol=1e-6)


def test_minimum() -> None:
    """i1 - relu(i1 - i2) at (3, 2): Rescale gives all to the second input."""

    def body(emit: Any, x: Any) -> Any:
        relu = emit(relax.op.nn.relu(emit(relax.op.matmul(x, const([[1], [-1]])), "d")), "relu")
        return emit(relax.op.subtract(emit(relax.op.matmul(x, const([[1], [0]])), "i1"), relu), "minimum")

    found = explain(module(body, (1, 2)), [[3, 2]])
    np.testing.assert_allclose(found.contributions, [[0.0, 2.0]], atol=1e-6)


@pytest.mark.parametrize(("sign", "slopes"), [(1, (0.9, 0.95)), (-1, (0.1, 0.05))])
def test_dense_and_relu(sign: int, slopes: tuple[float, float]) -> None:
    """w = (1, 2, 3, 4), b = -1 at ones and twos, and both negated."""
    w = sign * np.arange(1, 5, dtype=np.float32)[:, None]

    def body(emit: Any, x: Any) -> Any:
        return emit(
            relax.op.nn.relu(emit(relax.op.add(emit(relax.op.matmul(x, const(w))), const(-sign)), "fc")), "relu"
        )

    found = explain(module(body, (2, 4)), [[1] * 4, [2] * 4])
    np.testing.assert_allclose(found.multipliers, [s * w[:, 0] for s in slopes], rtol=1e-6)


BITS = st.sampled_from([None, 1, 2, 4, 8])


def quant(emit: Any, x: Any, bits: int | None, scale: float, name: str) -> Any:
    """A quantiser of some width, bipolar at 1 bit, or none."""
    if bits is None:
        return x
    if bits == 1:
        return quantised(emit, x, name, scale=2 * scale, qmin=0, qmax=1, zero=0.5, form="divide_shifted")
    half = 1 << (bits - 1)
    return quantised(emit, x, name, scale=4 * scale / half, qmin=-half, qmax=half - 1)


def network(seed: int, convolution: bool, widths: list[int | None], pool: bool) -> Any:
    """Two layers, batch norm, ReLU, residual, quantisers of given widths before each layer and on each weight."""
    random = np.random.default_rng(seed)

    def weight(emit: Any, *shape: int, bits: int | None, name: str) -> Any:
        array = const(random.normal(size=shape) * 0.4)
        return quant(emit, array, bits, 0.4, name)

    def body(emit: Any, x: Any) -> Any:
        batch = int(x.ty.shape[0])
        q = quant(emit, x, widths[0], 0.8, "q0")
        if convolution:
            v = relax.op.nn.conv2d(q, weight(emit, 3, 3, 3, 3, bits=widths[1], name="w0"), padding=1)
        else:
            v = relax.op.matmul(q, weight(emit, 12, 12, bits=widths[1], name="w0"))
        along = (3, 1, 1) if convolution else (12,)
        v = emit(relax.op.multiply(emit(v, "first"), const(random.normal(size=along))), "scaled")
        v = emit(relax.op.nn.relu(emit(relax.op.add(v, const(random.normal(size=along))), "shifted")), "relu")
        v = emit(relax.op.add(v, q), "residual")
        q = quant(emit, v, widths[2], 0.9, "q1")
        if convolution:
            if pool:
                q = emit(relax.op.nn.max_pool2d(q, (3, 3), strides=(1, 1)), "pool")
            count = int(np.prod([int(d) for d in q.ty.shape])) // batch
            q = emit(relax.op.reshape(q, (batch, count)), "flat")
        count = int(q.ty.shape[1])
        return emit(relax.op.matmul(q, weight(emit, count, 4, bits=widths[3], name="w1")), "logits")

    return module(body, (4, 3, 4, 4) if convolution else (4, 12))


@given(
    seed=st.integers(0, 2**32 - 1),
    convolution=st.booleans(),
    pool=st.booleans(),
    widths=st.lists(BITS, min_size=4, max_size=4),
    rule=st.sampled_from(["rescale", "reveal_cancel", "genomics"]),
)
def test_contributions_sum_to_the_difference(
    seed: int, convolution: bool, pool: bool, widths: list[int | None], rule: str
) -> None:
    """And at the reference itself all are exactly zero."""
    mod = network(seed, convolution, widths, pool)
    random = np.random.default_rng(seed)
    shape = tuple(int(d) for d in mod["main"].params[0].ty.shape)
    reference = random.normal(size=shape[1:]).astype(np.float32)
    x = random.normal(size=(8, *shape[1:])).astype(np.float32)
    x[0] = reference
    x[1] = np.nextafter(reference, np.float32(np.inf))
    methods = [DeepLift(reference=reference, rule=rule), DeepLift(target=1, name="zero", rule=rule)]
    artifact = tvm_lowbit.build(mod, "host", explain=methods)
    result = artifact.run(x)
    (logits,) = result.outputs.values()
    start = np.stack([reference] * 4)
    base = {"deeplift": artifact.run(start).outputs["output"][0], "zero": artifact.run(0 * start).outputs["output"][0]}
    for name, found in result.explanations.items():
        chosen = logits[np.arange(8), found.target].astype(np.float64)
        difference = chosen - base[name][found.target]
        allowed = 1e-4 * np.maximum(1, np.abs(difference))
        total = found.contributions.reshape(8, -1).sum(1, dtype=np.float64)
        assert np.all(np.abs(total - difference) <= allowed), (total, difference)
        assert np.all(np.abs(found.gap) <= allowed)
        np.testing.assert_allclose(found.gap, total - difference, atol=2e-5)
    np.testing.assert_array_equal(result.explanations["deeplift"].target, logits.argmax(1))
    np.testing.assert_array_equal(result.explanations["zero"].target, 1)
    assert not np.any(result.explanations["deeplift"].contributions[0])
    assert result.explanations["deeplift"].gap[0] == 0


def last_before(q: Any, k: float) -> tuple[np.float32, np.float32]:
    """Neighbouring floats between which the code changes at (k + 1/2) s."""
    low = np.float32(k) * q.scale
    high = np.float32(k + 1) * q.scale
    while np.nextafter(low, high) != high:
        middle = np.float32((np.float64(low) + np.float64(high)) / 2)
        same = q.codes(np.asarray(middle)) == q.codes(np.asarray(low))
        low, high = (middle, high) if same else (low, middle)
    return low, high


@pytest.mark.parametrize("scale", [0.3, 0.5])
def test_smallest_change_across_a_rounding_boundary_carries_the_step(scale: float) -> None:
    """One unit in the last place of the input, one whole step at the output: in both directions, not per mille."""
    q = spec(scale, -2, 1)
    pairs = [last_before(q, k) for k in (-2, -1, 0)]
    below, above = (np.float32([p[i] for p in pairs]) for i in (0, 1))
    assert np.all(np.abs(above / below - 1) < 3e-7)

    def body(emit: Any, x: Any) -> Any:
        return emit(relax.op.matmul(quantised(emit, x, scale=scale, qmin=-2, qmax=1), const(np.eye(3))), "out")

    for start, end, sign in ((below, above, 1), (above, below, -1)):
        methods = [DeepLift(reference=start, target=i, name=f"out{i}") for i in range(3)]
        result = tvm_lowbit.build(module(body, (1, 3)), "host", explain=methods).run(end[None])
        for i in range(3):
            found = result.explanations[f"out{i}"]
            np.testing.assert_allclose(found.contributions[0], np.eye(3)[i] * sign * scale, rtol=1e-5)
            assert abs(float(found.gap[0])) <= 1e-6


def test_boundary_behind_a_convolution() -> None:
    """The same where codes come from an accumulator's thresholds."""
    weights = np.float32([0.25, -0.5, 0.25]).reshape(1, 3, 1, 1)

    def body(emit: Any, x: Any) -> Any:
        w = emit(fake_quant(const(weights), spec(0.25, -2, 1)), "w")
        conv = emit(relax.op.nn.conv2d(quantised(emit, x, "q0", scale=0.5, qmin=-8, qmax=7), w), "conv")
        q = quantised(emit, conv, "q1", scale=0.5, qmin=-2, qmax=1)
        return emit(relax.op.reshape(q, (1, 1)), "out")

    # The accumulator 2 * 0.125 = 0.25 is a tie that goes to 0; 0.375 gives one step.
    start, end = (np.float32(v).reshape(3, 1, 1) for v in ([1.0, 0.0, 0.0], [1.5, 0.0, 0.0]))
    found = explain(module(body, (1, 3, 1, 1)), end[None], reference=start)
    np.testing.assert_allclose(found.contributions.ravel(), [0.5, 0, 0], atol=1e-6)


def linear(classes: int = 3) -> tuple[Any, Any]:
    """A dense layer of 4 inputs and its weights."""
    weights = RNG.normal(size=(4, classes)).astype(np.float32)
    return module(lambda emit, x: emit(relax.op.matmul(x, const(weights)), "fc"), (1, 4)), weights


def test_targets_and_references_of_several_explanations() -> None:
    """An index, the largest output, a number, an array: each under its name."""
    mod, weights = linear()
    array = np.float32([1, -1, 0.5, 2])
    methods = [
        DeepLift(target=2, name="last"),
        DeepLift(),
        DeepLift(reference=array, target=0, name="array"),
        DeepLift(reference=0.25, target=1, name="number"),
        DeepLift(reference=array.reshape(1, 4), target=1, name="batch_of_one"),
    ]
    artifact = tvm_lowbit.build(mod, "host", explain=methods)
    x = RNG.normal(size=(5, 4)).astype(np.float32)
    result = artifact.run(x)
    assert list(result.explanations) == ["last", "deeplift", "array", "number", "batch_of_one"]
    best = (x @ weights).argmax(1)
    assert len(set(best)) > 1
    expected = {"last": (0, [2] * 5), "deeplift": (0, best), "array": (array, [0] * 5), "number": (0.25, [1] * 5)}
    expected["batch_of_one"] = (array, [1] * 5)
    for name, (reference, target) in expected.items():
        found = result.explanations[name]
        assert (found.target.dtype, found.gap.shape) == (np.int64, (5,))
        assert found.contributions.dtype == found.multipliers.dtype == found.gap.dtype == np.float32
        np.testing.assert_array_equal(found.target, target)
        np.testing.assert_allclose(found.multipliers, weights.T[target], rtol=1e-6)
        np.testing.assert_allclose(found.contributions, weights.T[target] * (x - reference), rtol=1e-5, atol=1e-6)
    rows = {row.name: row for row in artifact.manifest.explanations}
    assert rows["number"].settings["reference"] == 0.25
    assert (rows["number"].target, rows["deeplift"].target) == (1, "argmax")
    assert rows["array"].settings["reference"] == {"shape": [4], "values": array.tolist()}
    assert {(row.method, row.settings["rule"]) for row in rows.values()} == {("deeplift", "rescale")}


def test_predictions_do_not_change() -> None:
    """With and without explanations, bit for bit."""
    mod = network(7, True, [4, 2, 2, 2], True)
    x = RNG.normal(size=(4, 3, 4, 4)).astype(np.float32)
    plain = tvm_lowbit.build(mod, "host").run(x).outputs["output"]
    explained = tvm_lowbit.build(mod, "host", explain=[DeepLift()]).run(x).outputs["output"]
    np.testing.assert_array_equal(explained, plain)
    np.testing.assert_allclose(plain, evaluate(mod, x)[0], rtol=1e-4, atol=1e-4)


def test_two_inputs() -> None:
    """The first input is explained; the gap counts what the second carries."""
    w = RNG.normal(size=(4, 2)).astype(np.float32)

    def body(emit: Any, x: Any, y: Any) -> Any:
        return emit(relax.op.matmul(emit(relax.op.multiply(x, y), "product"), const(w)), "out")

    x, y = RNG.normal(size=(2, 1, 4)).astype(np.float32)
    artifact = tvm_lowbit.build(module(body, (1, 4), (1, 4)), "host", explain=[DeepLift(reference=0.5, target=1)])
    found = artifact.run({"x": x, "y": y}).explanations["deeplift"]
    np.testing.assert_allclose(found.contributions, w[:, 1] * (x - 0.5) * (y + 0.5) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.gap, [0], atol=1e-5)


def moved(kind: str) -> Any:
    """A nonlinear operator where the batch is not the first axis."""
    w = RNG.normal(size=(4, 3)).astype(np.float32)

    def body(emit: Any, x: Any) -> Any:
        away = relax.op.permute_dims(x, [1, 0]) if kind == "permuted" else relax.op.reshape(x, (4, 1))
        relu = emit(relax.op.nn.relu(emit(away, "away")), "relu")
        back = relax.op.permute_dims(relu, [1, 0]) if kind == "permuted" else relax.op.reshape(relu, (1, 4))
        return emit(relax.op.matmul(emit(back, "back"), const(w)), "out")

    return module(body, (1, 4))


@pytest.mark.parametrize("kind", ["permuted", "reshaped"])
def test_batch_that_is_not_the_first_axis(kind: str) -> None:
    """Either explained completely or refused by name; never a reference cut in the wrong place."""
    x = np.float32([[0.3, -1.0, 2.0, -0.5]])
    try:
        found = explain(moved(kind), x, reference=np.float32([0.5, -0.5, 1.0, 2.0]))
    except LowbitError as error:
        assert error.where.startswith("layer ")
        return
    np.testing.assert_allclose(found.gap, [0], atol=1e-5)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "reference of another shape": ({"reference": np.zeros(3)}, "DeepLift reference: expected"),
    "reference with a batch": ({"reference": np.zeros((2, 4))}, r"broadcasts to \(1, 4\), got \(2, 4\)"),
    "reference with NaN": ({"reference": np.float32([0, np.nan, 0, 0])}, "DeepLift reference: expected finite"),
    "reference infinite": ({"reference": float("inf")}, "DeepLift reference: expected finite"),
    "target too large": ({"target": 3}, r"target: expected a class index in 0\.\.2, got 3"),
    "target negative": ({"target": -1}, r"target: expected a class index in 0\.\.2, got -1"),
    "target of another word": ({"target": "max"}, "target: expected"),
    "target of another type": ({"target": 1.0}, "target: expected"),
    "target True": ({"target": True}, "target: expected"),
    "name with a space": ({"name": "my name"}, "DeepLift name: expected an identifier"),
    "name empty": ({"name": ""}, "DeepLift name: expected an identifier"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str) -> None:
    """Each a LowbitError that says where, expected, got."""
    options, message = WRONG[name]
    with pytest.raises(LowbitError, match=message):
        tvm_lowbit.build(linear()[0], "host", explain=[DeepLift(**options)])


@pytest.mark.parametrize("reference", ["black", object()])
def test_reference_that_is_no_number(reference: Any) -> None:
    """Not a ValueError of numpy."""
    with pytest.raises(LowbitError, match="DeepLift reference"):
        DeepLift(reference=reference)


def test_names_must_differ() -> None:
    """Two results under one key would hide one."""
    with pytest.raises(LowbitError, match="explanations of different names") as caught:
        tvm_lowbit.build(linear()[0], "host", explain=[DeepLift(), DeepLift(target=1)])
    assert caught.value.hint


def test_output_that_is_not_classes() -> None:
    """An image is no vector of classes."""
    mod = module(lambda emit, x: emit(relax.op.nn.relu(x), "r"), (1, 2, 3, 3))
    with pytest.raises(LowbitError, match=r"an output of shape \(batch, classes\), got \(1, 2, 3, 3\)"):
        tvm_lowbit.build(mod, "host", explain=[DeepLift()])


def test_output_that_does_not_depend_on_the_input() -> None:
    """Nothing to explain."""
    mod = module(lambda emit, x, y: emit(relax.op.nn.relu(y), "r"), (1, 2), (1, 2))
    with pytest.raises(LowbitError, match="an output that depends on the first input"):
        tvm_lowbit.build(mod, "host", explain=[DeepLift()])


def test_unary_operators_after_each_other_take_one_slope() -> None:
    """Unless what lies between is asked for, read twice, or has a slope of its own form: the same shares either way."""
    random = np.random.default_rng(5)
    first, last = random.normal(size=(6, 40)), random.normal(size=(80, 3))

    def body(emit: Any, x: Any) -> Any:
        h = emit(relax.op.matmul(x, const(first)), "h")
        r = emit(relax.op.nn.relu(h), "r")
        q = quantised(emit, r, "q", scale=0.4, qmin=0, qmax=3)
        s = emit(relax.op.sigmoid(emit(relax.op.negative(emit(relax.op.abs(h), "a")), "n")), "s")
        return emit(relax.op.matmul(emit(relax.op.concat([q, s], axis=1), "both"), const(last)), "logits")

    x = random.normal(size=(4, 6)).astype(np.float32)
    methods = [DeepLift(target=1, reference=0.1), DeepLift(target=1, reference=0.1, layers=["r"], name="asked")]
    artifact = tvm_lowbit.build(module(body, (4, 6)), "host", explain=methods)
    whole, asked = artifact.run(x).explanations.values()
    for name in ("contributions", "multipliers"):
        np.testing.assert_allclose(whole.values[name], asked.values[name], rtol=0, atol=1e-5)
    # What is asked for is the quantiser's own slope times its weights.
    h, h0 = x @ first.astype(np.float32), np.float32(0.1) * first.astype(np.float32).sum(0)
    r, r0 = np.maximum(h, 0), np.maximum(h0, 0)
    steps = [np.clip(np.rint(v / np.float32(0.4)), 0, 3) * 0.4 for v in (r, r0)]
    np.testing.assert_allclose(
        asked.layers["r"]["contributions"], (steps[0] - steps[1]) * last[:40, 1], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("folded", [True, False])
def test_small_differences_behind_a_large_bias(folded: bool) -> None:
    """ReLUs that pass both runs hand on what they are given, though the rounding of 30 is as large as a difference."""
    random = np.random.default_rng(3)
    first, second = (random.normal(size=shape).astype(np.float32) for shape in ((6, 40), (40, 1)))

    def body(emit: Any, x: Any) -> Any:
        wide = emit(relax.op.add(emit(relax.op.matmul(x, const(first))), const(np.full(40, 30, np.float32))))
        return emit(relax.op.matmul(emit(relax.op.nn.relu(wide)), const(second)))

    x0 = random.normal(size=(1, 6)).astype(np.float32)
    x = x0 + np.float32(1e-4) * random.normal(size=(3, 6)).astype(np.float32)
    method = DeepLift(reference=x0[0] if folded else "input")
    given = x if folded else {"x": x, "deeplift.reference": np.repeat(x0, 3, 0)}
    run = tvm_lowbit.build(module(body, (3, 6)), "host", explain=[method]).run(given)
    expected = (x.astype(np.float64) - x0) * (first.astype(np.float64) @ second)[:, 0]
    np.testing.assert_allclose(
        run.explanations["deeplift"].contributions, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )
