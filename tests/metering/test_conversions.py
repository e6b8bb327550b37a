"""Estimates of conversions against the emulated board."""

from __future__ import annotations

import emulator
import numpy as np
import pytest

from schedules.conversions import pool_cycles, repack_cycles
from schedules.cores import CORES
from schedules.layout import Layout
from schedules.moving import Window, max_pool_kernel, repack_kernel
from tvm_lowbit.metering.kernels import meter_kernels
from tvm_lowbit.metering.tools import missing

SHAPE = (1, 14, 14, 128)
FACTOR = 1.7
PLAIN = Layout()


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_conversions_cost_about_what_is_estimated(core: str) -> None:
    """Planes of 1, 2 and 4 bits from plain codes and back, and a pool of 3x3."""
    emulator.require(missing())
    spec, codes = CORES[core], np.zeros(SHAPE, np.uint8)
    jobs, estimates = [], []
    for bits in (1, 2, 4):
        planes = Layout("planes", bits)
        for source, target in ((PLAIN, planes), (planes, PLAIN)):
            arrays = [np.zeros(layout.shape(*SHAPE), np.uint8) for layout in (source, target)]
            jobs.append((repack_kernel(SHAPE, source, target), arrays))
            estimates.append(repack_cycles(SHAPE, source, target, spec))
    window, half = Window((3, 3), (2, 2), (1, 1, 1, 1)), (1, 7, 7, 128)
    jobs.append((max_pool_kernel(SHAPE, window, half, PLAIN, PLAIN), [codes, np.zeros(half, np.uint8)]))
    estimates.append(pool_cycles(half, 9, PLAIN, spec))
    for metered, estimated in zip(meter_kernels(jobs, spec), estimates, strict=True):
        assert metered.estimate is not None, metered.failure
        assert estimated / FACTOR < metered.estimate.cycles < estimated * FACTOR
