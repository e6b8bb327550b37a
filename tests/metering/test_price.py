"""Prices of blocks written by hand, and the pipelines against what was measured."""

from __future__ import annotations

import pytest
from metering.measured import CORES, rows

from schedules.errors import LowbitError
from schedules.pipelines import KINDS, PIPELINES
from tvm_lowbit.metering.price import price, throughput_cycles

# and v0.16b, v1.16b, v2.16b; cnt v0.16b, v0.16b; uadalp v16.8h, v0.16b
AND, CNT, UADALP = 0x4E221C20, 0x4E205800, 0x6E206810
NOP = 0xD503201F
MLA = 0x4E229420  # mla v0.16b, v1.16b, v2.16b
FMLA = 0x4E22CC20  # fmla v0.4s, v1.4s, v2.4s
LDR_D, LDR_Q, LDR_X = 0xFD400020, 0x3DC00020, 0xF9400024  # ldr d0, q0, x4 from [x1]
AND_D = 0x0E241C65  # and v5.8b, v3.8b, v4.8b
AND_Q = 0x4E241C65  # and v5.16b, v3.16b, v4.16b


def loop(*words: int) -> tuple[int, ...]:
    """The words, then ``b.ne`` to the first of them."""
    return (*words, 0x54000001 | (-len(words) & 0x7FFFF) << 5)


@pytest.mark.parametrize("core", CORES)
def test_throughput_of_each_instruction_is_the_measured_one(core):
    copies = 24
    for word, text, rates in rows():
        if core in rates:
            rate = copies / throughput_cycles((word,) * copies, core)
            assert rate == pytest.approx(rates[core], rel=0.05), text


def test_each_pipeline_knows_every_class():
    assert set(PIPELINES) == set(CORES)
    assert all(set(pipeline.costs) == KINDS and pipeline.source for pipeline in PIPELINES.values())


@pytest.mark.parametrize(("core", "cycles"), [("cortex-a53", 4), ("cortex-a72", 2), ("cortex-a76", 1.5)])
def test_the_step_of_bit_serial(core, cycles):
    # A53: AND 1, CNT 1, UADALP 2 cycles of the one vector unit. A72: CNT and UADALP on one pipe, six of three slots.
    # A76: three operations on two pipes.
    assert throughput_cycles((AND, CNT, UADALP) * 8, core) == pytest.approx(8 * cycles)


def test_an_accumulator_is_forwarded_but_operands_are_not():
    # Measured on Cortex-A53: MLA takes 4 cycles from its operands, 1 from its accumulator; FMLA 8 and 4.
    assert price(loop(*[MLA] * 32), "cortex-a53").cycles == pytest.approx(32, abs=1)
    assert price(loop(*[FMLA] * 32), "cortex-a53").cycles == pytest.approx(4 * 32, abs=1)
    chain = 0x4E209400  # mla v0.16b, v0.16b, v0.16b
    assert price(loop(*[chain] * 32), "cortex-a53").cycles == pytest.approx(4 * 32, abs=2)


@pytest.mark.parametrize(("core", "latency"), [("cortex-a72", 3), ("cortex-a76", 2)])
def test_out_of_order_cores_wait_only_for_what_a_round_hands_to_the_next(core, latency):
    dependent, independent = 0x4E201C00, AND  # and v0.16b, v0.16b, v0.16b
    assert price(loop(dependent), core).cycles == latency
    assert price(loop(*[dependent] * 5), core).cycles == 5 * latency
    hidden = price(loop(*[independent] * 6), core)
    assert hidden.cycles == hidden.throughput
    # The same instructions outside of a loop: nothing is handed on.
    assert price((dependent,) * 5, core).cycles == throughput_cycles((dependent,) * 5, core)


def test_in_order_pays_for_a_load_that_is_used_at_once():
    used = 0x8B040085  # add x5, x4, x4
    early = (LDR_X, used, *[NOP] * 8)
    late = (LDR_X, *[NOP] * 8, used)
    assert price(early, "cortex-a53").cycles == 3 + 5  # the load's latency, then two a cycle
    assert price(late, "cortex-a53").cycles == 5


@pytest.mark.parametrize(
    ("load", "operation", "cycles"),
    [(LDR_X, AND_Q, 1), (LDR_D, AND_D, 1), (LDR_D, AND_Q, 2), (LDR_Q, AND_Q, 3)],
    ids=["scalar load with 128 bits", "64 with 64", "64 with 128", "128 with 128"],
)
def test_which_loads_pair_on_cortex_a53(load, operation, cycles):
    # ncnn, docs/developer-guide/arm-a53-a55-dual-issue.md
    assert price(loop(*(load, operation) * 16), "cortex-a53").cycles == pytest.approx(16 * cycles, abs=1.5)


@pytest.mark.parametrize("core", CORES)
def test_no_block_is_cheaper_than_its_busiest_unit(core):
    for word, text, _ in rows():
        for block in ((word,), (word,) * 9, loop(word, AND, word)):
            cost = price(block, core)
            assert cost.cycles >= cost.throughput > 0, text


def test_a_core_without_a_pipeline_is_refused():
    with pytest.raises(LowbitError, match="cortex-a53, cortex-a72, cortex-a76"):
        price((AND,), "cortex-a35")
