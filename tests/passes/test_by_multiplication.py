"""Codes by multiplication are those by division, for every float32; what is not proven is not used."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tvm
from emulator import require_emulator
from relax_models import module, spec
from tvm import relax

from relay_passes import by_multiplication as subject
from relay_passes.by_multiplication import agree, by_multiplication
from relay_passes.compile import vector_lanes
from relay_passes.inline_chains import inline_chains
from relay_passes.lower import lower_lowbit
from relay_passes.ops import quantize
from relay_passes.pin_rounding import pin_rounding
from relay_passes.quant_forms import FORMS
from schedules.cores import CORES, host_core
from tvm_lowbit.metering.kernels import meter_kernels

FORMS_TAKEN = ("divide", "divide_shifted", "reciprocal", "reciprocal_above", "reciprocal_below")
SPECIAL = np.float32([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -1e-45, 1e-38, -1e-38, 0.0, -0.0])
# By hand: a power of two, a third, numbers that a single factor does not do for, with any zero point.
SPECS = [
    spec(2.0**-5, 0, 255),
    spec(1 / 3, -128, 127, 1.0),
    spec(0.018658448, 0, 255, 114.0, form="divide_shifted"),
    spec(0.03137255, -127, 127, 2.5, form="divide_shifted"),
    spec(0.7, -4, 3, -3.0),
    spec(12.3, 0, 1, 1.0, form="reciprocal"),
    spec(0.0047, 1, 15, 7.0, form="reciprocal_below"),
]


def near_steps(q: Any) -> Any:
    """Numbers beside all ties between codes, and special ones; a multiple of 64 of them."""
    ties = (np.arange(2 * q.qmin - 3, 2 * q.qmax + 4) / 2 - float(q.zero_point)) * np.float64(q.scale)
    x = ties.astype(np.float32)
    near = [x]
    for _ in range(3):
        near = [np.nextafter(near[0], np.float32(-np.inf)), *near, np.nextafter(near[-1], np.float32(np.inf))]
    x = np.concatenate([*near, SPECIAL])
    return np.resize(x, -(-len(x) // 64) * 64)


def test_fused_multiply_add_rounds_once() -> None:
    """Against fractions, where float64 would round on the way, and where the result is tiny."""
    random = np.random.default_rng(0)
    a, c = (random.normal(size=300) * 2.0 ** random.integers(-70, 60, 300) for _ in range(2))
    a, c = a.astype(np.float32), c.astype(np.float32)
    # Sums beside the middle of two float32 numbers: only what float64 cannot hold says which is nearer.
    a[:4], c[:4] = np.float32(1 + 2**-23), np.float32([2**-60, -(2**-60), 2**-80, -(2**-80)])
    b = np.float32(1 + 2**-23)
    a[:4] = np.float32(1.5), np.float32(1.5), np.float32(1 + 2**-12), np.float32(1 + 2**-12)
    got = subject.numpy_fma(a, b, c)
    for i in range(300):
        exact = Fraction(float(a[i])) * Fraction(float(b)) + Fraction(float(c[i]))
        beside = [np.nextafter(got[i], np.float32(end)) for end in (-np.inf, np.inf)]
        error, *others = (abs(Fraction(float(v)) - exact) for v in (got[i], *beside))
        assert error <= min(others)


@pytest.mark.parametrize("q", SPECS, ids=str)
def test_codes_beside_all_steps(q: Any) -> None:
    found, x = by_multiplication(q), near_steps(q)
    assert found is not None
    np.testing.assert_array_equal(found.codes(x), q.codes(x))


def test_most_scales_are_proven() -> None:
    """Any form that divides, any zero point; one factor mostly does not do for 8 bits."""
    random = np.random.default_rng(0)
    single = 0
    for i in range(40):
        form, scale = FORMS_TAKEN[i % 5], 2.0 ** random.uniform(-12, 5)
        q = spec(scale, -3, 252, float(random.integers(0, 200)), form=form)
        found = by_multiplication(q)
        assert found is not None
        single += found.low is None and i % 5 < 2
        x = (random.normal(size=500) * scale * 200).astype(np.float32)
        np.testing.assert_array_equal(found.codes(x), q.codes(x))
    assert single < 8


def test_a_factor_that_is_off_is_found_out() -> None:
    q = SPECS[2]
    found = by_multiplication(q)
    assert found is not None and found.low is not None and agree(found, q)
    assert not agree(replace(found, low=None), q)
    assert not agree(replace(found, high=float(np.nextafter(np.float32(found.high), np.float32(1)))), q)
    assert not agree(replace(found, start=found.start + 1), q)
    assert not agree(replace(found, last=found.last - 1), q)


@pytest.mark.parametrize(
    "q",
    [spec([0.5, 0.25], 0, 3, axis=1), spec(0.5, 0, 3, 0.5), spec(1e-40, 0, 3), spec(2e38, 0, 3)]
    + [spec(0.3, 0, 3, form=form) for form in FORMS if form not in FORMS_TAKEN],
    ids=str,
)
def test_others_divide(q: Any) -> None:
    """Scales along an axis, codes that are no integers, reciprocals out of range, other roundings."""
    assert by_multiplication(q) is None


def program(q: Any, size: int) -> Any:
    """A quantiser alone."""
    return module(lambda emit, x: emit(quantize(x, q)), (1, size))


def kernel(q: Any, size: int, core: Any) -> Any:
    """What the only kernel is compiled from."""
    lowered = relax.transform.LegalizeOps()(lower_lowbit(program(q, size), core))
    target = tvm.target.Target(core.target_dict())
    lowered = pin_rounding(inline_chains(lowered, vector_lanes(target)))
    return next(f for f in lowered.functions.values() if not isinstance(f, relax.Function))


@pytest.mark.parametrize("name", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_kernels_on_emulated_arm(name: str) -> None:
    """Codes equal; less than half the cycles of a division each."""
    require_emulator()
    calls = []
    for q in SPECS:
        x = near_steps(q)
        calls.append((kernel(q, len(x), CORES[name]), [x[None], np.zeros((1, len(x)), np.uint8)]))
    x = calls[0][1][0]
    divides = kernel(spec(0.3, 0, 255, form="half_up"), x.size, CORES[name])
    slow = (divides, [x, *[np.float32(v) for v in (0.3, 0)], np.zeros(x.shape, np.uint8)])
    *fast, slow = meter_kernels([*calls, slow], name)
    for q, done in zip(SPECS, fast, strict=True):
        assert done.output is not None, done.failure
        np.testing.assert_array_equal(done.output[0], q.codes(near_steps(q)))
    assert slow.estimate and fast[0].estimate and 2 * fast[0].estimate.cycles < slow.estimate.cycles


def test_cores_without_fma_divide() -> None:
    plain = replace(host_core(), features=frozenset())
    q = SPECS[2]
    assert len(kernel(q, 64, plain).params) == 4  # x, scale, zero point and the codes
    assert len(kernel(q, 64, CORES["cortex-a72"]).params) == 2
