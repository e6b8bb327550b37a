"""Kernels metered under emulation: counts that are known, and what happens when things go wrong."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from emulator import require
from metering.small_kernels import arguments, calling, increment

from schedules.cores import CORES
from schedules.errors import LowbitError
from schedules.pipelines import PIPELINES
from tvm_lowbit.metering import price, tools
from tvm_lowbit.metering.kernels import meter_kernel, meter_kernels
from tvm_lowbit.metering.listing import listing, unit_use

SIZE = 1 << 12


@pytest.fixture(autouse=True)
def _emulator():
    require(tools.missing())


def needs_plugin() -> None:
    require(None if tools.find_plugin() else "QEMU that takes plugins: apt-get install qemu-user gcc")


def test_what_is_counted_is_what_the_kernel_does():
    (row,) = meter_kernels([(increment(SIZE), arguments(SIZE))], "cortex-a72")
    assert row.failure is None and np.array_equal(row.output, arguments(SIZE)[0] + np.uint8(1))
    e = row.estimate
    # Beside the array, some hundred bytes of arguments are read. An add for each 16 bytes, a load and a store for 32.
    assert SIZE <= e.loaded < SIZE + 1024 and SIZE <= e.stored < SIZE + 1024
    assert 2 * SIZE / 16 <= e.instructions < SIZE
    # A 128-bit store takes the store unit two cycles.
    assert 2 * SIZE / 16 <= e.throughput <= e.cycles < 3 * SIZE / 16 + 500
    assert next(iter(e.functions)) == "kernels.so:__tvm_ffi_candidate0"
    assert e.hottest[0].count >= SIZE / 16 / 8 and sum(e.functions.values()) == pytest.approx(e.cycles)


def test_two_runs_give_the_same_and_neighbours_change_nothing():
    work = (increment(SIZE), arguments(SIZE))
    first, second = (meter_kernel(*work, "cortex-a53") for _ in range(2))
    assert first == second
    among = meter_kernels([(increment(64), arguments(64)), work], "cortex-a53")[1].estimate
    assert among.cycles == pytest.approx(first.cycles, abs=50)


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76"])
def test_the_log_gives_what_the_plugin_gives(core, monkeypatch):
    needs_plugin()
    work = [(increment(SIZE), arguments(SIZE)), (increment(64), arguments(64))]
    by_plugin = [row.estimate for row in meter_kernels(work, core)]
    monkeypatch.setenv(tools.NO_PLUGIN, "1")
    assert [row.estimate for row in meter_kernels(work, core)] == by_plugin


@pytest.mark.parametrize(
    ("kibibytes", "l1_misses", "l2_misses"),
    # Two arrays of so much each, on a core with 32 KiB and 512 KiB; the call before has left what fits.
    [(4, 0, 0), (64, 2 * 1024, 0), (1024, 2 * 16384, 2 * 16384)],
)
def test_lines_that_miss(kibibytes, l1_misses, l2_misses):
    needs_plugin()
    size = kibibytes << 10
    e = meter_kernel(increment(size), arguments(size), "cortex-a53", caches=True)
    t = e.traffic
    assert (t.loaded, t.stored) == (e.loaded, e.stored)
    assert t.l1_misses == pytest.approx(l1_misses, abs=64) and t.l2_misses == pytest.approx(l2_misses, abs=64)
    assert t.lines == pytest.approx(2 * size / 64, abs=32)


def test_a_kernel_that_crashes_or_hangs_costs_only_itself():
    good = (increment(64), arguments(64))
    bad = [(calling(name), arguments(16)) for name in ("abort", "pause")]
    rows = meter_kernels([good, *bad, good], "cortex-a72", patience=5)
    assert [row.estimate is not None for row in rows] == [True, False, False, True]
    assert "Aborted" in rows[1].failure and "no end" in rows[2].failure
    with pytest.raises(LowbitError, match=r"a call that ends.*Aborted"):
        meter_kernel(*bad[0], "cortex-a72")


def test_a_core_of_ones_own(monkeypatch):
    pipeline = dataclasses.replace(PIPELINES["cortex-a53"], source="a test")
    monkeypatch.setattr(price, "PIPELINES", {**PIPELINES, "cortex-a35": pipeline})
    core = dataclasses.replace(CORES["cortex-a53"], name="cortex-a35", mcpu="cortex-a35")
    assert meter_kernel(increment(64), arguments(64), core).core == "cortex-a35"


@pytest.mark.parametrize("core", ["cortex-a9000", "x86-64"])
def test_a_core_that_cannot_be_estimated_is_refused(core):
    with pytest.raises(LowbitError, match=core):
        meter_kernel(increment(64), arguments(64), core)


def test_without_qemu_the_error_says_how_to_get_it(monkeypatch):
    kernel = increment(64)
    which = shutil.which
    monkeypatch.setattr(tools.shutil, "which", lambda name: None if "qemu" in name else which(name))
    with pytest.raises(LowbitError, match=r"qemu-aarch64.*install_emulator\.sh"):
        meter_kernel(kernel, arguments(64), "cortex-a72")


def test_a_hot_block_can_be_read():
    hot = meter_kernel(increment(SIZE), arguments(SIZE), "cortex-a72").hottest[0]
    text = listing(hot, "cortex-a72")
    assert "candidate0" in text and "vstore" in text and "a loop" in text
    use = unit_use(hot.words, "cortex-a72")
    assert max(use.values()) == use["S"] == pytest.approx(hot.throughput / hot.count)
