"""The guards of `DotProblem`, and the bound that its accumulators are promised to keep."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from kernel_runner import constant_operands

from schedules import reference
from schedules.dot_problem import INT32_MAX, DotProblem, Operand, Thresholds

PROBLEM = DotProblem(1, 4, 5, 6, 4, Operand(2), Operand(2), groups=2)


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_widths_outside_1_to_8_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=rf"bits must be 1\.\.8, got {bits}"):
        Operand(bits)


@pytest.mark.parametrize("multiplier", [0, 3, -1])
def test_multipliers_other_than_1_and_2_are_refused(multiplier: int) -> None:
    with pytest.raises(ValueError, match=f"multiplier must be 1 or 2, got {multiplier}"):
        Operand(1, multiplier)


def test_the_offset_is_within_its_bound() -> None:
    assert Operand(1, 1, -7).offset_bound == 7
    assert Operand(1, 1, -7, 9).offset_bound == 9
    assert Operand(1, 1, 7, 3).offset_bound == 7


@pytest.mark.parametrize(
    "change",
    [
        *({name: 0} for name in ("batch", "height", "width", "channels", "out_channels", "groups")),
        *({name: size} for name in ("kernel", "stride", "dilation") for size in ((0, 1), (1, 0))),
    ],
    ids=str,
)
def test_sizes_that_are_no_sizes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sizes must be positive"):
        replace(PROBLEM, **change)


@pytest.mark.parametrize("change", [{"groups": 4}, {"groups": 3}, {"out_channels": 5}], ids=str)
def test_groups_that_do_not_divide_the_channels_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"groups \d must divide \d and \d channels"):
        replace(PROBLEM, **change)


@pytest.mark.parametrize(
    ("fits", "does_not"),
    [
        ({"kernel": (4, 1)}, {"kernel": (5, 1)}),
        ({"kernel": (1, 5)}, {"kernel": (1, 6)}),
        ({"kernel": (6, 1), "padding": (2, 0, 0, 0)}, {"kernel": (6, 1), "padding": (1, 0, 0, 0)}),
        ({"kernel": (1, 3), "dilation": (1, 2)}, {"kernel": (1, 3), "dilation": (1, 3)}),
        ({"padding": (-1, 0, -2, 0)}, {"padding": (-2, 0, -2, 0)}),
    ],
    ids=str,
)
def test_a_kernel_larger_than_the_padded_input_is_refused(fits: dict[str, Any], does_not: dict[str, Any]) -> None:
    assert 1 in (replace(PROBLEM, **fits).out_height, replace(PROBLEM, **fits).out_width)
    with pytest.raises(ValueError, match=r"kernel \(\d, \d\) does not fit the padded input"):
        replace(PROBLEM, **does_not)


def test_derived_numbers() -> None:
    p = DotProblem(2, 9, 8, 6, 4, Operand(3), Operand(2), (3, 2), (2, 3), (2, 1), (1, 0, 0, 2), 2, Thresholds(2, 3, 2))
    assert (p.out_height, p.out_width) == (3, 3)
    assert (p.group_channels, p.group_out_channels, p.k) == (3, 2, 18)
    assert p.macs == 2 * 3 * 3 * 4 * 18
    assert p.name == "W2A3"
    assert not p.needs_code_sum
    assert replace(p, w=Operand(2, 1, 0, 1)).needs_code_sum
    assert p.epilogue is not None
    assert p.epilogue.rows == 4


@pytest.mark.parametrize(
    ("operand", "zero"),
    [
        (Operand(2), 0),
        (Operand(3, 1, -3), 3),
        (Operand(3, 1, -7), 7),
        (Operand(3, 1, -8), None),
        (Operand(3, 1, 1), None),
        (Operand(1, 2, -1), None),
        (Operand(2, 2, -2), 1),
        (Operand(2, 2, -6), 3),
        (Operand(2, 2, -8), None),
        (Operand(8, 2, 0), 0),
    ],
    ids=str,
)
def test_zero_code(operand: Operand, zero: int | None) -> None:
    values = [operand.multiplier * code + operand.offset for code in range(operand.max_code + 1)]
    assert operand.zero_code == zero
    assert operand.zero_code == (values.index(0) if 0 in values else None)


def test_padding_without_a_code_for_zero_is_known() -> None:
    bipolar = replace(PROBLEM, a=Operand(1, 2, -1))
    assert not bipolar.pads_without_code
    for side in range(4):
        padding = [0, 0, 0, 0]
        padding[side] = 1
        one_side = replace(bipolar, padding=(padding[0], padding[1], padding[2], padding[3]))
        assert one_side.pads_without_code
        assert one_side.declines() is None
        assert not replace(one_side, a=Operand(2, 1, -1)).pads_without_code
    assert not replace(bipolar, padding=(-1, -1, 0, 0)).pads_without_code


def test_an_accumulator_past_int32_is_declined() -> None:
    k = INT32_MAX // (255 * 255)
    full = DotProblem(1, 1, 1, k, 1, Operand(8), Operand(8))
    assert full.declines() is None
    assert replace(full, channels=k + 1).declines() == (
        f"the accumulator would need 33 bits for {k + 1} products of W8A8; int32 holds 32"
    )
    # Kernel positions count as channels do.
    assert replace(full, height=1, width=2, kernel=(1, 2)).declines() is not None
    # 2**31 - 1 itself fits.
    edge = DotProblem(1, 1, 1, 1, 1, Operand(1), Operand(1, 1, 0, INT32_MAX - 1))
    assert edge.accumulator_bound() == INT32_MAX
    assert edge.declines() is None
    assert replace(edge, w=Operand(1, 1, 0, INT32_MAX)).declines() is not None


ACTIVATIONS = (Operand(1), Operand(2, 1, -1), Operand(3, 1, 4), Operand(1, 2, -1), Operand(2, 2, -6), Operand(8, 2, 3))
WEIGHTS = (Operand(1), Operand(2, 1, 0, 3), Operand(1, 2, 0, 1), Operand(8, 1, 0, 255), Operand(3, 2, 0, 2))


@pytest.mark.parametrize("a", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("w", WEIGHTS, ids=str)
def test_no_partial_sum_passes_the_bound(a: Operand, w: Operand) -> None:
    p = DotProblem(1, 1, 1, 3, 1, a, w)
    largest = 0
    for activation, weight, offset in itertools.product(
        (0, a.max_code), (0, w.max_code), {-w.offset_bound, 0, w.offset_bound}
    ):
        # ma mw sum(a w) + beta sum(a) + gamma, the terms of gamma apart, in every order.
        terms = (
            p.k * a.multiplier * activation * w.multiplier * weight,
            p.k * a.multiplier * activation * offset,
            p.k * a.offset * w.multiplier * weight,
            p.k * a.offset * offset,
        )
        partial = [abs(sum(some)) for size in range(1, 5) for some in itertools.combinations(terms, size)]
        assert max(partial) <= p.accumulator_bound()
        operands = constant_operands(p, activation, weight, offset)
        exact = reference.accumulate(p, operands.activations, operands.weights, operands.weight_offset)
        assert exact.item() == sum(terms)
        largest = max(largest, sum(map(abs, terms)))
    assert largest == p.accumulator_bound(), "layers are declined without need"
