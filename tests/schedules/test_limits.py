"""Limits against the arithmetic worked out by hand from measured throughputs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schedules.cores import CORES
from schedules.dot_problem import DotProblem, Operand
from schedules.limits import limit_cycles
from schedules.techniques import TECHNIQUES

CASES = (
    # W1A1 on A53: AND, CNT, ADD at one a cycle and UADALP, at half, every 31: 128 / (3 + 2 / 31).
    ("bit_serial", 1, 1, "cortex-a53", 128 / (3 + 2 / 31)),
    ("bit_serial", 2, 2, "cortex-a53", 32 / (3 + 2 / 31)),
    # On A72 CNT and UADALP share a pipe, on A76 three operations share two.
    ("bit_serial", 1, 1, "cortex-a72", 128 / 2),
    ("bit_serial", 2, 2, "cortex-a72", 32 / 2),
    ("bit_serial", 1, 1, "cortex-a76", 128 / 1.5),
    # Nine instructions of general registers beside nine vector operations: one and a half words of 24 products.
    ("bit_madd", 2, 2, "cortex-a53", (128 + 36) / (9 + 3 * 2 / 31)),
    # Nine operations at 1.5 a cycle, BSL on the pipe of CNT; a byte holds 31 counts.
    ("bit_select", 2, 2, "cortex-a72", 128 / (6 + 3 / 31 / 1.5)),
    ("bit_select", 2, 2, "cortex-a53", 128 / (9 + 3 * 2 / 31)),
    ("ternary", 2, 2, "cortex-a72", 64 / (4 * 2 / 3)),
    # Products of two 2-bit codes are at most 9: 28 fit a byte.
    ("u8_mla", 2, 2, "cortex-a53", 16 / (1 + 2 / 28)),
    ("u8_mla", 3, 3, "cortex-a53", 16 / (1 + 2 / 5)),
    # Beside it a multiplication of eight products every other cycle.
    ("mla_madd", 2, 2, "cortex-a53", 20 / (1 + 2 / 28)),
    ("u8_mla", 2, 2, "cortex-a72", 8),
    ("smlal", 4, 4, "cortex-a72", 8),
    ("smlal", 4, 8, "cortex-a53", 8 / (1 + 2 / 32)),
    ("smlal", 8, 8, "cortex-a53", 16 / 4),
    ("tbl_lookup", 1, 2, "cortex-a53", 64 / (1 + 1.25 + 2 / 21)),
    ("tbl_lookup", 3, 3, "cortex-a72", 64 / 3 / ((3 + 1.25 + 2 / 9) / 2)),
    ("sdot", 4, 4, "cortex-a76", 32),
    ("winograd", 4, 4, "cortex-a53", 18),
    ("winograd_sdot", 4, 4, "cortex-a76", 72),
)


DEPTHWISE = (
    (2, "cortex-a53", 16),
    (2, "cortex-a72", 8),
    (4, "cortex-a72", 8),
    # SMULL, and two additions that widen.
    (8, "cortex-a53", 8 / 3),
)


@pytest.mark.parametrize(("bits", "core", "macs_per_cycle"), DEPTHWISE)
def test_depthwise_macs_per_cycle(bits, core, macs_per_cycle):
    p = replace(problem(bits, bits), groups=64)
    assert p.macs / limit_cycles(p, "depthwise", CORES[core]) == pytest.approx(macs_per_cycle, rel=1e-2)


@pytest.mark.parametrize(
    ("bits", "kernel", "span", "core", "macs_per_cycle"),
    [
        # 25 products of 3 and 1 fit a byte, as 9 of 128 and 28 fit 16 bits.
        (2, 5, (1, 3), "cortex-a53", 16),
        (8, 3, (100, 156), "cortex-a53", 8),
        (8, 3, (100, 158), "cortex-a53", 8 / 3),
    ],
)
def test_depthwise_of_weights_that_are_known(bits, kernel, span, core, macs_per_cycle):
    p = replace(problem(bits, bits), groups=64, kernel=(kernel, kernel), w=Operand(bits, span=span))
    assert p.macs / limit_cycles(p, "depthwise", CORES[core]) == pytest.approx(macs_per_cycle, rel=1e-2)


def test_smlal_of_weights_that_are_known():
    # 255 * 28 fits 65535 nine times; of a layer whose weights are all one code, products are 255 at most.
    p = problem(8, 8)
    for span, products in (((100, 156), 9), ((7, 7), 257)):
        known = replace(p, w=Operand(8, span=span))
        assert p.macs / limit_cycles(known, "smlal", CORES["cortex-a53"]) == pytest.approx(8 / (1 + 2 / products))


def problem(weights: int, activations: int) -> DotProblem:
    return DotProblem(1, 14, 14, 64, 64, Operand(activations), Operand(weights), (3, 3), padding=(1, 1, 1, 1))


@pytest.mark.parametrize(("technique", "weights", "activations", "core", "macs_per_cycle"), CASES)
def test_macs_per_cycle(technique, weights, activations, core, macs_per_cycle):
    p = problem(weights, activations)
    assert p.macs / limit_cycles(p, technique, CORES[core]) == pytest.approx(macs_per_cycle, rel=1e-2)


def test_every_technique_has_a_limit():
    for name in TECHNIQUES.keys() - {"portable", "reference"}:
        assert limit_cycles(problem(2, 2), name, CORES["cortex-a76"]) is not None, name


@pytest.mark.parametrize(
    ("technique", "bits", "core"),
    [
        ("portable", 2, "cortex-a72"),
        ("sdot", 4, "cortex-a72"),  # without the instruction
        ("winograd_sdot", 4, "cortex-a72"),
        ("bit_select", 3, "cortex-a72"),  # products of other codes
        ("u8_mla", 5, "cortex-a53"),  # a product may exceed a byte
        ("tbl_lookup", 8, "cortex-a53"),  # a sum of four may
        ("bit_serial", 2, "x86-64"),
    ],
)
def test_no_limit_is_known(technique, bits, core):
    assert limit_cycles(problem(bits, bits), technique, CORES[core]) is None
