"""Each rule against a naive recomputation in numpy, and what it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from explained import explain, secant, summed
from relax_models import const, module, quantised, spec
from test_composed_rules import COMPOSED_RULES
from test_functions import FUNCTIONS
from test_moving_rules import MOVING_RULES
from tvm import relax

import tvm_lowbit
from relay_passes.attribution.rules import RULES, register
from relay_passes.ops import FAKE_QUANT
from tvm_lowbit import LowbitError

RNG = np.random.default_rng(0)
N = 2
SHAPE = (N, 4, 6, 5)
INPUT, REFERENCE = RNG.normal(size=SHAPE).astype(np.float32), RNG.normal(size=SHAPE[1:]).astype(np.float32)
# Some elements equal to the reference's: their slope is 0 wherever a secant is taken.
INPUT[:, :, 0, 0] = REFERENCE[:, 0, 0]
X, X0 = INPUT.astype(np.float64), np.broadcast_to(REFERENCE, SHAPE).astype(np.float64)


def close(found: Any, expected: Any) -> None:
    """Multipliers in float32 against float64."""
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=2e-4, atol=2e-5)


def checked(body: Callable[..., Any]) -> tuple[Any, Any]:
    """The multipliers, complete, and the multipliers at the operator's result."""
    mod, g = summed(body, SHAPE)
    found = explain(mod, INPUT, reference=REFERENCE)
    assert np.all(np.abs(found.gap) <= 1e-4)
    np.testing.assert_allclose(found.contributions, found.multipliers * (INPUT - REFERENCE), rtol=1e-6, atol=1e-7)
    return found.multipliers, g.astype(np.float64)


@pytest.mark.parametrize("shape", [(), (4, 1, 1), (5,), (1, 1, 6, 1), (4, 6, 5)])
@pytest.mark.parametrize("swap", [False, True])
def test_arithmetic_with_constants(shape: tuple[int, ...], swap: bool) -> None:
    """add, subtract, multiply, divide with what broadcasts: linear in the input."""
    c = RNG.uniform(0.5, 2, shape).astype(np.float32)

    def body(emit: Any, x: Any) -> Any:
        value = x
        for name, op in (("a", relax.op.add), ("s", relax.op.subtract), ("m", relax.op.multiply)):
            value = emit(op(const(c), value) if swap else op(value, const(c)), name)
        return emit(relax.op.divide(value, const(c * 2)), "d")

    found, g = checked(body)
    sign = -1 if swap else 1
    close(found, sign * g * c / (c * 2))


def test_add_and_subtract_of_broadcast_tensors() -> None:
    """Where an operand was repeated, multipliers are summed."""

    def body(emit: Any, x: Any) -> Any:
        narrow = emit(relax.op.mean(x, [1], keepdims=True), "narrow")
        row = emit(relax.op.mean(x, [2], keepdims=True), "row")
        return emit(relax.op.subtract(emit(relax.op.add(x, narrow), "add"), row), "sub")

    found, g = checked(body)
    close(found, g + g.sum(0, keepdims=True) / 4 - g.sum(1, keepdims=True) / 6)


def test_broadcast_of_fewer_dimensions() -> None:
    """A value without the leading axes."""

    def body(emit: Any, x: Any) -> Any:
        whole = emit(relax.op.mean(x, [0, 1, 2]), "whole")
        return emit(relax.op.add(x, whole), "add")

    mod, g = summed(body, (1, *SHAPE[1:]))
    found = explain(mod, INPUT[:1], reference=REFERENCE)
    assert abs(float(found.gap[0])) <= 1e-4
    close(found.multipliers, g + g.sum((0, 1)) / 24)


def test_product_of_two_varying_tensors() -> None:
    """Each factor's mean over the two runs."""

    def body(emit: Any, x: Any) -> Any:
        narrow = emit(relax.op.mean(x, [1], keepdims=True), "narrow")
        return emit(relax.op.multiply(emit(relax.op.nn.relu(x), "relu"), narrow), "product")

    found, g = checked(body)
    relu = lambda v: np.maximum(v, 0)  # noqa: E731 - an abbreviation
    middle = lambda f: (f(X) + f(X0)) / 2  # noqa: E731 - an abbreviation
    first = g * middle(lambda v: v.mean(1, keepdims=True)) * secant(relu, X, X0)
    second = (g * middle(relu)).sum(1, keepdims=True) / 4
    close(found, first + second)


def test_square() -> None:
    """Both factors the same tensor: x + x0."""
    found, g = checked(lambda emit, x: emit(relax.op.multiply(x, x), "square"))
    close(found, g * (X + X0))


QUANTISERS = {
    "one bit": spec(0.7, 0, 1, 0.5, form="divide_shifted"),
    "two bits": spec(0.5, -2, 1),
    "asymmetric": spec(0.31, 0, 15, 5),
    "per channel": spec([0.2, 0.4, 0.6, 0.8], -4, 3, axis=1),
    "nine bits": spec(0.01, -256, 255),
    "reciprocal": spec(0.1, -8, 7, form="reciprocal"),
}
UNARY: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "relax.nn.relu": (relax.op.nn.relu, lambda v: np.maximum(v, 0)),
    "relax.clip": (lambda x: relax.op.clip(x, -0.5, 0.7), lambda v: np.clip(v, -0.5, 0.7)),
    "relax.round": (relax.op.round, np.rint),
    "relax.sign": (relax.op.sign, np.sign),
    "relax.abs": (relax.op.abs, np.abs),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    """The secant, 0 where there is no difference."""
    op, f = UNARY[name]
    found, g = checked(lambda emit, x: emit(op(x), "op"))
    close(found, g * secant(f, X, X0))


@pytest.mark.parametrize("name", QUANTISERS)
def test_fake_quant(name: str) -> None:
    """A quantiser's secant, whatever its width and form."""
    q = QUANTISERS[name]
    numbers = {"scale": q.scale, "qmin": q.qmin, "qmax": q.qmax, "zero": q.zero_point, "axis": q.axis, "form": q.form}
    found, g = checked(lambda emit, x: quantised(emit, x, **numbers))
    scale, zero = ((v if q.axis is None else v.reshape(4, 1, 1)) for v in (q.scale, q.zero_point))

    def values(v: Any) -> Any:
        v = v.astype(np.float32)
        if q.form == "divide_shifted":
            code = np.rint(v / scale + zero)
        else:
            code = np.rint(v * (1 / scale) if q.form == "reciprocal" else v / scale) + zero
        return (np.clip(code, q.qmin, q.qmax) - zero).astype(np.float64) * scale

    close(found, g * secant(values, X, X0))


POOLS = {
    "plain": {"pool_size": (2, 2), "strides": (2, 2)},
    "overlapping": {"pool_size": (3, 3), "strides": (1, 1)},
    "padded": {"pool_size": (3, 2), "strides": (2, 1), "padding": (1, 0, 2, 1)},
    "dilated": {"pool_size": (2, 2), "strides": (1, 2), "dilation": (2, 3)},
}


@pytest.mark.parametrize("name", POOLS)
def test_max_pool(name: str) -> None:
    """``M - y0`` to the largest input, ``y - M`` to the largest reference input, over that position's difference."""
    attrs = POOLS[name]
    found, g = checked(lambda emit, x: emit(relax.op.nn.max_pool2d(x, **attrs), "pool"))
    (kh, kw), (sy, sx), (dy, dx) = attrs["pool_size"], attrs["strides"], attrs.get("dilation", (1, 1))
    top, left, *_ = attrs.get("padding", (0, 0, 0, 0))
    expected = np.zeros(SHAPE)
    for b in range(N):
        for (c, oy, ox), value in np.ndenumerate(g):
            window = [
                (oy * sy - top + ky * dy, ox * sx - left + kx * dx)
                for ky, kx in itertools.product(range(kh), range(kw))
            ]
            window = [(y, x) for y, x in window if 0 <= y < SHAPE[2] and 0 <= x < SHAPE[3]]
            at = max(window, key=lambda p: X[b, c, p[0], p[1]])
            at0 = max(window, key=lambda p: X0[b, c, p[0], p[1]])
            y, y0 = X[b, c, at[0], at[1]], X0[b, c, at0[0], at0[1]]
            for where, share in ((at, max(y, y0) - y0), (at0, y - max(y, y0))):
                i = (b, c, *where)
                expected[i] += value * share / (X[i] - X0[i]) if share else 0
    close(found, expected)


AVERAGES = {
    "plain": {"pool_size": (2, 2), "strides": (2, 2)},
    "overlapping": {"pool_size": (3, 2), "strides": (1, 1)},
    "counted padding": {"pool_size": (3, 3), "strides": (2, 2), "padding": (1, 1, 1, 1), "count_include_pad": True},
    "padding not counted": {
        "pool_size": (3, 3),
        "strides": (2, 2),
        "padding": (1, 1, 1, 1),
        "count_include_pad": False,
    },
    "asymmetric": {"pool_size": (2, 3), "strides": (1, 2), "padding": (1, 0, 0, 2), "count_include_pad": False},
}


@pytest.mark.parametrize("name", AVERAGES)
def test_average_pool(name: str) -> None:
    """Each input gets its windows' multipliers over their counts."""
    attrs = AVERAGES[name]
    found, g = checked(lambda emit, x: emit(relax.op.nn.avg_pool2d(x, **attrs), "pool"))
    (kh, kw), (sy, sx) = attrs["pool_size"], attrs["strides"]
    top, left, *_ = attrs.get("padding", (0, 0, 0, 0))
    expected = np.zeros(SHAPE[1:])
    for (c, oy, ox), value in np.ndenumerate(g):
        window = [(oy * sy - top + ky, ox * sx - left + kx) for ky, kx in itertools.product(range(kh), range(kw))]
        inside = [(y, x) for y, x in window if 0 <= y < SHAPE[2] and 0 <= x < SHAPE[3]]
        count = len(window) if attrs.get("count_include_pad") else len(inside)
        for y, x in inside:
            expected[c, y, x] += value / count
    close(found, expected)


@pytest.mark.parametrize("axes", [[2, 3], [1], [-1], [1, 3]])
@pytest.mark.parametrize("keepdims", [False, True])
def test_mean(axes: list[int], keepdims: bool) -> None:
    """g over the count."""
    found, g = checked(lambda emit, x: emit(relax.op.mean(x, axes, keepdims=keepdims), "mean"))
    positive = sorted(a % 4 for a in axes)
    count = np.prod([SHAPE[a] for a in positive])
    close(found, g.reshape([1 if a in positive else SHAPE[a] for a in range(1, 4)]) / count)


def test_global_average() -> None:
    """Adaptive pooling to one pixel."""
    found, g = checked(lambda emit, x: emit(relax.op.nn.adaptive_avg_pool2d(x, (1, 1)), "pool"))
    close(found, g / 30)


def test_shapes() -> None:
    """reshape, permute, expand and squeeze move multipliers back."""

    def body(emit: Any, x: Any) -> Any:
        value = emit(relax.op.permute_dims(x, [0, 2, 3, 1]), "nhwc")
        value = emit(relax.op.squeeze(emit(relax.op.expand_dims(value, [1, 3]), "wide"), [1]), "narrow")
        return emit(relax.op.permute_dims(emit(relax.op.reshape(value, (N, 30, 4)), "rows"), [0, -1, -2]), "out")

    found, g = checked(body)
    close(found, g.reshape(4, 6, 5))


def test_matmul_of_two_varying_tensors() -> None:
    """Each factor takes the other's mean; vectors, matrices and batches that broadcast alike."""

    def body(emit: Any, x: Any) -> Any:
        turned = emit(relax.op.permute_dims(emit(relax.op.nn.relu(x), "relu"), [0, 1, 3, 2]), "turned")
        return emit(relax.op.matmul(x, turned), "product")

    found, g = checked(body)
    relu, relu0 = np.maximum(X, 0), np.maximum(X0, 0)
    slope = np.divide(relu - relu0, X - X0, out=np.zeros_like(X), where=X != X0)
    close(found, g @ (relu + relu0) / 2 + slope * (g.swapaxes(-1, -2) @ (X + X0) / 2))


TESTED = {"relax.add", "relax.subtract", "relax.multiply", "relax.divide"}
TESTED |= {"relax.matmul", *(f"relax.nn.conv{way}" for way in ("1d", "2d", "1d_transpose", "2d_transpose"))}
TESTED |= {"relax.nn.max_pool2d", "relax.nn.avg_pool2d", "relax.nn.adaptive_avg_pool2d", "relax.mean"}
TESTED |= {f"relax.{name}" for name in MOVING_RULES}
TESTED |= {"relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.permute_dims", FAKE_QUANT, *UNARY}
TESTED |= {f"relax.{name}" for name in (*COMPOSED_RULES, *(row[0] for row in FUNCTIONS.values()))}


def test_every_rule_is_tested() -> None:
    """A new row needs its case."""
    assert set(RULES) == TESTED


def twice(op: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """An operator of two varying tensors, named ``bad``."""
    return lambda emit, x: emit(op(x, emit(relax.op.add(x, const(3.0)), "other")), "bad")


REFUSED: dict[str, tuple[Callable[..., Any], str, str]] = {
    "power": (twice(relax.op.power), "relax.power", "neither its exponent nor a base above 0 is constant"),
    "conv2d": (
        lambda emit, x: emit(
            relax.op.nn.conv2d(x, const(np.ones((1, 1, 5, 2))), data_layout="NHWC", kernel_layout="HWIO"), "bad"
        ),
        "relax.nn.conv2d",
        "its layout is NHWC with HWIO, not NCHW with OIHW",
    ),
    "conv2d of two": (
        lambda emit, x: emit(relax.op.nn.conv2d(x, emit(relax.op.add(x, const(3.0)), "other")), "bad"),
        "relax.nn.conv2d",
        "weights that do not depend on the input",
    ),
    "max pool": (
        lambda emit, x: emit(relax.op.nn.max_pool2d(x, (2, 2), layout="NHWC"), "bad"),
        "relax.nn.max_pool2d",
        "only NCHW max pooling",
    ),
    "adaptive pool": (
        lambda emit, x: emit(relax.op.nn.adaptive_avg_pool2d(x, (2, 2), layout="NHWC"), "bad"),
        "relax.nn.adaptive_avg_pool2d",
        "only NCW, NCHW and NCDHW pooling",
    ),
}


def refused(body: Callable[..., Any]) -> LowbitError:
    """What building with an explanation raises."""
    mod, _ = summed(body, SHAPE)
    with pytest.raises(LowbitError) as caught:
        tvm_lowbit.build(mod, "host", explain=[tvm_lowbit.DeepLift()])
    return caught.value


@pytest.mark.parametrize("name", REFUSED)
def test_case_that_a_rule_does_not_cover(name: str) -> None:
    """Layer, operator, why, and where to read how to add a rule."""
    body, operator, why = REFUSED[name]
    error = refused(body)
    assert error.where == "layer bad"
    assert operator in error.expected
    assert why in error.got
    assert "CONTRIBUTING" in error.hint


WITHOUT_RULE: dict[str, tuple[Callable[..., Any], str]] = {
    "triu": (lambda emit, x: emit(relax.op.triu(x), "bad"), "relax.triu"),
    "tril beside": (
        lambda emit, x: emit(relax.op.add(x, emit(relax.op.tril(x), "bad")), "sum"),
        "relax.tril",
    ),
}


@pytest.mark.parametrize("name", WITHOUT_RULE)
def test_operator_without_a_rule(name: str) -> None:
    """The message names layer and operator; nothing is left out silently."""
    body, operator = WITHOUT_RULE[name]
    error = refused(body)
    assert error.where == "layer bad"
    assert error.got == operator
    assert "CONTRIBUTING" in error.hint


def test_operator_off_the_way_needs_no_rule() -> None:
    """A second head is not explained."""

    def body(emit: Any, x: Any) -> Any:
        first = emit(relax.op.matmul(x, const(np.ones((3, 2)))), "first")
        return relax.Tuple([first, emit(relax.op.triu(first), "second")])

    found = explain(module(body, (1, 3)), np.float32([[1, 2, 3]]))
    np.testing.assert_allclose(found.contributions, [[1, 2, 3]])


def test_a_rule_cannot_be_registered_twice() -> None:
    """The first stays."""
    rule = RULES["relax.add"]
    with pytest.raises(ValueError, match=r"'relax\.add' has an attribution rule already"):
        register("relax.add", RULES["relax.subtract"])
    assert RULES["relax.add"] is rule


def test_an_added_rule_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of CONTRIBUTING: one function and one row."""
    from relay_passes.attribution import rules

    kept = np.triu(np.ones(SHAPE[2:], np.float32))

    def triu(var: Any, call: Any, g: Any, context: Any) -> list[Any]:
        return [context.scale(g, const(kept)), None]

    monkeypatch.setattr(rules, "_TABLE", table := dict(rules._TABLE))
    monkeypatch.setattr("relay_passes.attribution.engine.RULES", table)
    register("relax.triu", triu)
    found, g = checked(lambda emit, x: emit(relax.op.triu(x), "s"))
    close(found, g * kept)
