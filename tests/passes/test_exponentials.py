"""Exponentials beside what counts: bits kept, finite in between, and secants and derivatives as far as float32 goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from relax_models import const, evaluate, module, operators, values
from relax_models import constants as arrays
from tvm import relax

import tvm_lowbit
from relay_passes.canonicalize import canonicalize

op, F = relax.op, torch.nn.functional
Body = Callable[..., Any]
POINTS = np.float32([1e-30, 1e-7, 1e-3, 0.3, 1, 2.5, 9, 18, 30, 50, 80, 87, 88.6, 88.8, 89, 100, 104, 300, 1e3, 1e4])
POINTS = np.unique(np.concatenate([POINTS, -POINTS, np.float32([0])]))


def less_one(emit: Any, x: Any) -> Any:
    """Of the exponential."""
    return emit(op.subtract(emit(op.exp(x)), const(1.0)))


def one_plus(emit: Any, x: Any) -> Any:
    """The exponential."""
    return emit(op.add(const(1.0), emit(op.exp(x))))


def elu(emit: Any, x: Any) -> Any:
    """As TVM's importers write it."""
    bent = emit(op.nn.relu(emit(op.subtract(const(1.0), emit(op.exp(x))))))
    return op.add(emit(op.multiply(const(-1.3), bent)), emit(op.nn.relu(x)))


def celu(emit: Any, x: Any) -> Any:
    """As torch's documentation writes it."""
    bent = emit(op.multiply(const(1.3), less_one(emit, emit(op.divide(x, const(1.3))))))
    return op.add(emit(op.minimum(bent, const(0.0))), emit(op.maximum(x, const(0.0))))


def selu(emit: Any, x: Any) -> Any:
    """As ONNX's specification writes it."""
    bent = emit(op.subtract(emit(op.multiply(emit(op.exp(x)), const(1.67))), const(1.67)))
    return op.multiply(const(1.05), emit(op.add(emit(op.maximum(x, const(0.0))), emit(op.minimum(const(0.0), bent)))))


def chosen(emit: Any, x: Any) -> Any:
    """ELU by a mask."""
    return op.where(emit(op.greater(x, const(0.0))), x, emit(op.multiply(const(1.3), less_one(emit, x))))


def chosen_below(emit: Any, x: Any) -> Any:
    """The same, asked the other way round."""
    return op.where(emit(op.less_equal(x, const(0.0))), emit(op.multiply(const(1.3), less_one(emit, x))), x)


def torch_elu(v: Any) -> Any:
    """What the last two are."""
    return F.elu(v, 1.3)


# In Relax, in torch, whether bits are kept.
WRITTEN: dict[str, tuple[Body, Callable[[Any], Any], bool]] = {
    "elu": (elu, torch_elu, True),
    "celu": (celu, lambda v: F.celu(v, 1.3), True),
    "selu": (selu, lambda v: 1.05 * (v.clamp(min=0) + 1.67 * v.clamp(max=0).expm1()), True),
    "chosen": (chosen, torch_elu, True),
    "chosen below": (chosen_below, torch_elu, True),
    "softplus": (
        lambda emit, x: op.where(emit(op.greater(x, const(20.0))), x, emit(op.log(one_plus(emit, x)))),
        F.softplus,
        True,
    ),
    "bare softplus": (lambda emit, x: op.log(one_plus(emit, x)), lambda v: F.softplus(v, threshold=100), False),
    "softplus of another slope": (
        lambda emit, x: op.multiply(emit(op.log(one_plus(emit, emit(op.multiply(x, const(-2.5)))))), const(0.4)),
        lambda v: F.softplus(-v, 2.5, threshold=100),
        False,
    ),
    "sigmoid": (lambda emit, x: op.divide(const(1.0), one_plus(emit, emit(op.negative(x)))), torch.sigmoid, True),
    "falling sigmoid": (lambda emit, x: op.divide(const(1.0), one_plus(emit, x)), lambda v: torch.sigmoid(-v), True),
    "silu": (lambda emit, x: op.divide(x, one_plus(emit, emit(op.negative(x)))), F.silu, False),
    "mish": (
        lambda emit, x: op.multiply(x, emit(op.tanh(emit(op.log(one_plus(emit, x)))))),
        F.mish,
        True,
    ),
}


def test_values() -> None:
    """The same bits where nothing is taken for another formula; right beyond 88, too."""
    x = np.concatenate([POINTS, np.random.default_rng(0).normal(size=200).astype(np.float32) * 4])[None]

    def body(emit: Any, v: Any) -> Any:
        return relax.Tuple([emit(f(emit, v), "f") for f, _, _ in WRITTEN.values()])

    before = module(body, x.shape)
    old, new = evaluate(before, x), evaluate(canonicalize(before), x)
    for (name, (_, f, same)), a, b in zip(WRITTEN.items(), old, new, strict=True):
        expected = f(torch.tensor(x, dtype=torch.float64)).numpy()
        np.testing.assert_allclose(b, expected, rtol=1e-5, atol=1e-6, err_msg=name)
        ends = np.isfinite(a)
        np.testing.assert_allclose(b[ends], a[ends], rtol=1e-6, atol=0, err_msg=name)
        if same:
            np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32), err_msg=name)


@pytest.mark.parametrize("name", WRITTEN)
def test_explanations(name: str) -> None:
    """Each point against each as a reference: secants complete, derivatives right, nothing infinite."""
    f, reference, _ = WRITTEN[name]
    count = len(POINTS)
    x = np.repeat(POINTS, count)[None]
    x0 = np.tile(POINTS, count)

    def body(emit: Any, v: Any) -> Any:
        return emit(op.sum(emit(f(emit, v), "f"), [1], keepdims=True), "total")

    methods = [tvm_lowbit.DeepLift(target=0, reference=x0), tvm_lowbit.Gradient(target=0)]
    found = tvm_lowbit.build(module(body, x.shape), "host", explain=methods).run(x).explanations
    here = torch.tensor(x[0], dtype=torch.float64, requires_grad=True)
    y = reference(here)
    y.sum().backward()
    assert here.grad is not None
    change = y.detach().numpy() - reference(torch.tensor(x0, dtype=torch.float64)).numpy()
    large = np.maximum(1, np.maximum(np.abs(x[0]), np.abs(x0)))
    np.testing.assert_allclose(found["deeplift"].contributions[0] / large, change / large, rtol=0, atol=1e-6)
    assert np.all(np.isfinite(found["deeplift"].multipliers))
    # Where they have a kink, derivatives are those of one side; what float32 rounds to 0 is such a place.
    smooth = np.abs(x[0]) > 1e-6
    gradient = found["gradient"].multipliers[0]
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(gradient[smooth], here.grad.numpy()[smooth], rtol=1e-4, atol=1e-4)


STAYS: dict[str, Body] = {
    "not above the bound": lambda emit, x: op.clip(less_one(emit, x), -1, 0.5),
    "another number": lambda emit, x: op.nn.relu(emit(op.subtract(const(2.0), emit(op.exp(x))))),
    "not a number alone": lambda emit, x: op.log(emit(op.add(const([1.0, 2.0, 1.0]), emit(op.exp(x))))),
    "wider": lambda emit, x: op.log(emit(op.add(const(np.ones((1, 1, 1))), emit(op.exp(x))))),
    "no exponential": lambda emit, x: op.where(emit(op.greater(x, const(0.0))), x, emit(op.multiply(x, const(0.1)))),
    "of another": lambda emit, x: op.where(emit(op.greater(emit(op.negative(x)), const(0.0))), x, less_one(emit, x)),
}


@pytest.mark.parametrize("name", STAYS)
def test_stays(name: str) -> None:
    """What the patterns are close to."""
    before = module(lambda emit, x: emit(STAYS[name](emit, x), "y"), (2, 3))
    after = canonicalize(before)
    assert operators(after) == operators(before)
    for a, b in zip(arrays(before), arrays(after), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_program() -> None:
    """The exponential's operand ends where the ReLU does; names stay."""
    after = canonicalize(module(lambda emit, x: emit(elu(emit, x), "elu"), (2, 3)))
    expected = ["clip", "exp", "subtract", "nn.relu", "multiply", "nn.relu", "add"]
    assert operators(after) == [f"relax.{name}" for name in expected]
    assert "elu" in values(after)
    bounds = [[float(v.value) for v in value.args[1:]] for value in values(after).values() if "clip" in str(value)]
    assert bounds == [[-np.inf, 0.0]]
