"""Signs by arithmetic on a comparison: codes, levels, and what is declined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from relax_models import const, module, values
from tvm import relax

from relay_passes import notes
from relay_passes.detect import detect_quantizers
from relay_passes.ops import FAKE_QUANT, literal, op_name, quant_spec
from relay_passes.patterns.compared_sign import COMPARED_SIGN

X = np.array([[-1e-40, -0.0, 0.0, 1e-40, 2.0, -3.0]], np.float32)


def signs(compare: Any = relax.op.greater_equal, **parts: Any) -> Any:
    """``float(compare(x, 0)) * span - less`` and so on."""

    def body(emit: Any, x: Any) -> Any:
        level = emit(relax.op.astype(emit(compare(x, const(parts.get("threshold", 0)))), parts.get("type", "float32")))
        kind = str(level.ty.dtype)
        v = emit(relax.op.multiply(level, literal(np.asarray(parts.get("span", 2), kind))))
        if "more" in parts:
            v = emit(relax.op.add(literal(np.asarray(parts["more"], kind)), v), "q")
        else:
            v = emit(relax.op.subtract(v, literal(np.asarray(parts.get("less", 1), kind))), "q")
        if "magnitude" in parts:
            v = emit(relax.op.multiply(v, const(parts["magnitude"])), "q")
        return emit(relax.op.abs(v), "out")

    return detect_quantizers(module(body, X.shape))


@pytest.mark.parametrize(
    ("mod", "scale", "upper"),
    [
        (signs(), 1.0, X >= 0),
        (signs(relax.op.greater, more=-1), 1.0, X > 0),
        (signs(magnitude=0.3), 0.3, X >= 0),
        (signs(magnitude=[[0.3, 0.4, 0.5, 0.6, 0.7, 0.8]]), np.float32([0.3, 0.4, 0.5, 0.6, 0.7, 0.8]), X >= 0),
        (signs(span=0.5, less=0.25), 0.25, X >= 0),
    ],
    ids=["plain", "above", "magnitude", "per_channel", "small"],
)
def test_recognised(mod: Any, scale: Any, upper: Any) -> None:
    """The same values as the arithmetic gives, on zeros of either sign and the smallest numbers."""
    found = next(value for value in values(mod).values() if op_name(value) == FAKE_QUANT)
    spec = quant_spec(found)
    assert spec.bits == 1
    expected = np.where(upper, scale, -np.asarray(scale)).astype(np.float32)
    np.testing.assert_array_equal(spec.values(spec.codes(X)), expected)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"threshold": 0.5}, "its threshold is not 0"),
        ({"compare": relax.op.less}, "it is 1 below its threshold"),
        ({"less": 0.5}, "its levels -0.5 and 1.5 are not opposite"),
        ({"span": -2, "more": 1}, "are not opposite"),
        ({"magnitude": -1}, "its magnitude is not above 0"),
        ({"type": "float64"}, "not float32"),
        ({"span": [[2, 2, 2, 2, 2, 1]]}, "its two levels vary within the tensor"),
    ],
)
def test_declined(parts: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its reason; some are another row's quantisers."""
    monkeypatch.setattr("relay_passes.detect.QUANT_PATTERNS", {COMPARED_SIGN.name: COMPARED_SIGN})
    mod = signs(**parts)
    # What a senseless magnitude multiplies is a quantiser still.
    assert ("magnitude" in parts) == (FAKE_QUANT in {op_name(value) for value in values(mod).values()})
    assert reason in " ".join(notes.read(mod)["declined"].values())
