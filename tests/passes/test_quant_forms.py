"""Every row of FORMS means the same in NumPy, in TIR and in Relax, and rises with x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from relax_models import evaluate, module, spec
from tvm import relax

from relay_passes.ops import dequantize, fake_quant, quantize
from relay_passes.quant_forms import FORMS, NUMPY, steps, truncation

ROUNDED = {
    "divide_shifted": [-2, -2, -1, 0, 0, 0, 1, 2, 2],
    "floor": [-3, -2, -2, -1, 0, 0, 1, 1, 2],
    "ceil": [-2, -1, -1, 0, 0, 1, 2, 2, 3],
    "to_zero": [-2, -1, -1, 0, 0, 0, 1, 1, 2],
    "away": [-3, -2, -2, -1, 0, 1, 2, 2, 3],
    "half_up": [-2, -1, -1, 0, 0, 1, 1, 2, 3],
    "half_up_shifted": [-2, -1, -1, 0, 0, 1, 1, 2, 3],
    "half_away": [-3, -2, -1, -1, 0, 1, 1, 2, 3],
    "half_to_zero": [-2, -1, -1, 0, 0, 0, 1, 1, 2],
}
X = np.array([-2.5, -1.5, -1.25, -0.5, 0, 0.5, 1.25, 1.5, 2.5], np.float32)


MADE = [
    truncation("floor", 2, 9.0, False),
    truncation("half_away", 1, 1.0, True),
    steps(-1, [(True, -0.37), (False, 1e-42)]),
]


def spread(scale: float) -> Any:
    """Ties, codes, their neighbours and extremes."""
    ties = (np.arange(-20, 21) * np.float32(scale) / 2).astype(np.float32)
    near = [ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))]
    return np.sort(np.concatenate([*near, np.float32([-1e30, -1e-42, -0.0, 0, 1e-42, 1e30])]))


@pytest.mark.parametrize("form", ROUNDED)
def test_rounding(form: str) -> None:
    """Halves and a quarter, by hand."""
    np.testing.assert_array_equal(FORMS[form](NUMPY, X, np.float32(1), np.float32(0)), ROUNDED[form])


@pytest.mark.parametrize("scale", [0.5, 0.37, 1e8])
@pytest.mark.parametrize("form", [*FORMS, *MADE])
def test_kernels_give_the_codes_and_values_of_numpy(form: str, scale: float) -> None:
    """``quantize`` and ``fake_quant`` as TVM compiles them; codes never fall."""
    two_codes = form in ("at_least_zero", "above_zero", "sign_scaled")
    q = spec(scale, 0, 1, 0.5, form=form) if two_codes else spec(scale, -4, 3, 1.0, form=form)
    x = spread(scale)

    def body(emit: Any, v: Any) -> Any:
        codes = emit(quantize(v, q))
        return relax.Tuple([emit(fake_quant(v, q)), emit(dequantize(codes, q))])

    values, by_codes = evaluate(module(body, x.shape), x)
    expected = q.codes(x)
    np.testing.assert_array_equal(values, q.values(expected))
    np.testing.assert_array_equal(by_codes, q.values(expected))
    assert np.all(np.diff(expected.astype(int)) >= 0)


def test_wide_codes_are_not_rounded() -> None:
    """32 bits: a small code is no difference of large ones."""
    q = spec(1.0, -(2**31), 2**31 - 1)
    x = np.array([5.0, -3.0, 1e30, 2.0**31 - 128], np.float32)
    (got,) = evaluate(module(lambda emit, v: emit(fake_quant(v, q)), x.shape), x)
    np.testing.assert_array_equal(got, np.float32([5, -3, 2**31, 2**31 - 128]))
