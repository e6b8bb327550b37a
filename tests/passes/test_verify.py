"""Each check between phases fires where a pass would have broken its promise, and stays silent otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from relax_models import const, module, quantised, spec
from tvm import relax

from relay_passes import ops, verify
from relay_passes.ops import fake_quant


def batch_norm(constant_mean: bool) -> Any:
    """With constant or varying statistics."""

    def body(emit: Any, x: Any, mean: Any) -> Any:
        one = const(np.ones(4))
        both = relax.op.nn.batch_norm(x, one, one, one if constant_mean else mean, one, axis=1, training=False)
        return emit(emit(both, "bn")[0], "bn0")

    return module(body, (2, 4), (4,))


def transposed(emit: Any, x: Any) -> Any:
    """A weight's quantiser behind a transposition."""
    w = emit(fake_quant(const(np.ones((5, 4))), spec(0.5, -2, 1)), "w")
    return emit(relax.op.matmul(x, emit(relax.op.permute_dims(w), "hidden")), "fc")


def float_requantize(emit: Any, x: Any) -> Any:
    """Thresholds on a float."""
    tables = np.zeros((1, 3, 4), np.int16), np.zeros(4, np.uint8)
    return emit(ops.requantize(x, *tables, None, None, axis=1, bits=2, side_bits=0), "bad")


def dot_left(emit: Any, x: Any) -> Any:
    """An operator that only the lowering knows."""
    codes = emit(ops.quantize(x, spec(0.5, 0, 3)), "codes")
    attrs = {"layer": "fc", "a": [2, 1, 0, 0], "w": [2, 1, 0, 0], "stride": [1, 1], "dilation": [1, 1]}
    weights = const(np.ones((3, 4, 1, 1)), "uint8"), const(np.zeros(3), "int32")
    return emit(ops.dot(codes, *weights, (2, 3), padding=[0, 0, 0, 0], groups=1, **attrs), "left")


def integer_requantize(emit: Any, x: Any) -> Any:
    """Thresholds on codes."""
    codes = emit(ops.quantize(x, spec(0.5, 0, 3)), "codes")
    return float_requantize(emit, codes)


FIRES: dict[str, tuple[Callable[[Any], None], Any, str]] = {
    "canonicalize": (verify.after_canonicalize, batch_norm(True), "at bn: batch norm must be an affine map"),
    "detect": (
        verify.after_detect,
        module(transposed, (2, 4)),
        "at hidden: a weight's quantiser must not hide behind a transposition",
    ),
    "rewrite (fake_quant)": (
        verify.after_rewrite,
        module(lambda emit, x: quantised(emit, x), (2, 4)),
        "at q: no fake_quant may be left",
    ),
    "rewrite (float)": (
        verify.after_rewrite,
        module(float_requantize, (2, 4)),
        "at bad: no float may stand between accumulator and epilogue",
    ),
    "lower (dot)": (verify.after_lower, module(dot_left, (2, 4)), "at left: no tvm_lowbit.dot may be left"),
    "lower (requantize)": (
        verify.after_lower,
        module(integer_requantize, (2, 4)),
        "at bad: no tvm_lowbit.requantize may be left",
    ),
    "lower (observe_codes)": (
        verify.after_lower,
        module(lambda emit, x: emit(ops.observe_codes(quantised(emit, x)), "seen"), (2, 4)),
        "at seen: no tvm_lowbit.observe_codes may be left",
    ),
}


@pytest.mark.parametrize("name", FIRES)
def test_check_fires(name: str) -> None:
    """The message says after which phase, at which layer, and what was promised."""
    check, mod, message = FIRES[name]
    with pytest.raises(AssertionError) as caught:
        check(mod)
    assert str(caught.value) == f"after {name.split(' ')[0]}, {message}"


@pytest.mark.parametrize(
    ("check", "mod"),
    [
        (verify.after_canonicalize, batch_norm(False)),
        (verify.after_detect, module(lambda emit, x: emit(relax.op.permute_dims(quantised(emit, x)), "p"), (2, 4))),
        (verify.after_rewrite, module(lambda emit, x: quantised(emit, x, qmax=511), (2, 4))),
        (verify.after_rewrite, module(integer_requantize, (2, 4))),
        (verify.after_lower, module(lambda emit, x: quantised(emit, x, qmax=511), (2, 4))),
    ],
)
def test_check_is_silent(check: Callable[[Any], None], mod: Any) -> None:
    """What a phase may leave."""
    check(mod)
