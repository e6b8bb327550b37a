"""Max pooling backwards against its definition, written window by window."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernel_runner import Machine

from schedules.cores import CORES
from schedules.float_pool import max_pool_kernel, pool_plan
from schedules.float_taps import FloatConv

Array = npt.NDArray[Any]

# A window, and rows and columns of the output: more than fit where the pooling rounds up.
POOLS = (
    (FloatConv(1, 3, 12, 12, 3, (3, 3), (2, 2), padding=(1, 1, 1, 1), groups=3), (6, 6)),
    (FloatConv(2, 2, 7, 9, 2, (2, 3), (1, 2), (2, 1), (0, 1, 1, 0), 2), (6, 4)),
    # Positions that no window reaches, and a last window that begins inside and ends beyond the padding.
    (FloatConv(1, 2, 11, 10, 2, (2, 2), (4, 3), groups=2), (3, 3)),
    (FloatConv(1, 2, 8, 8, 2, (3, 3), (2, 2), groups=2), (4, 4)),
    (FloatConv(2, 1, 20, 33, 1, (5, 5), padding=(2, 2, 2, 2)), (20, 33)),
)


def rescaled(conv: FloatConv, g: Array, x: Array, x0: Array) -> Array:
    """Each window's largest value and its reference's share what the window gives; the first of equals is meant."""
    out = np.zeros(x.shape)
    taps = list(product(range(conv.kernel[0]), range(conv.kernel[1])))
    for n, c, oy, ox in np.ndindex(g.shape):
        ys = [oy * conv.stride[0] - conv.padding[0] + ky * conv.dilation[0] for ky, _ in taps]
        xs = [ox * conv.stride[1] - conv.padding[1] + kx * conv.dilation[1] for _, kx in taps]
        inside = [(y, x_) for y, x_ in zip(ys, xs, strict=True) if 0 <= y < conv.height and 0 <= x_ < conv.width]
        here, there = x[n, c].astype(np.float64), x0[n % len(x0), c].astype(np.float64)
        at, at0 = (max(inside, key=lambda p, source=source: source[p]) for source in (here, there))
        most = max(here[at], there[at0])
        for place, share in ((at, most - there[at0]), (at0, here[at] - most)):
            if share:
                out[n, c][place] += g[n, c, oy, ox] * share / (here[place] - there[place])
    return out


def gradient(conv: FloatConv, g: Array, x: Array) -> Array:
    """All that a window gives to the first of its largest inputs."""
    out = np.zeros(x.shape)
    for n, c, oy, ox in np.ndindex(g.shape):
        places = [
            (
                oy * conv.stride[0] - conv.padding[0] + ky * conv.dilation[0],
                ox * conv.stride[1] - conv.padding[1] + kx * conv.dilation[1],
            )
            for ky, kx in product(range(conv.kernel[0]), range(conv.kernel[1]))
        ]
        inside = [(y, x_) for y, x_ in places if 0 <= y < conv.height and 0 <= x_ < conv.width]
        out[n, c][max(inside, key=lambda p, plane=x[n, c]: plane[p])] += g[n, c, oy, ox]
    return out


@pytest.mark.parametrize("core", ["host", "cortex-a53", "x86-64"])
def test_shares_are_those_of_the_definition(core: str, machines: Callable[[str], Machine]) -> None:
    machine = (
        Machine(CORES[core])
        if core == "x86-64" and not machines("host").core.is_arm
        else machines("host" if core == "x86-64" else core)
    )
    random = np.random.default_rng(0)
    functions, given = {}, []
    for i, (conv, out_size) in enumerate(POOLS):
        shape = (conv.channels, *conv.size)
        # Few values, so that some are equal, in a window and to their reference.
        x, x0 = (random.integers(-3, 4, (n, *shape)).astype(np.float32) for n in (conv.batch, 1 + i % conv.batch))
        g = random.normal(size=(conv.batch, conv.channels, *out_size)).astype(np.float32)
        plan = pool_plan(conv, out_size)
        for arguments, batch in (((g, x, x0), len(x0)), ((g, x), None)):
            functions[f"kernel{len(given)}"] = max_pool_kernel(plan, batch, machine.core)
            given.append((conv, arguments))
    module = machine.load(functions)
    for i, (conv, arguments) in enumerate(given):
        got = machine.call(module[f"kernel{i}"], arguments, np.full(arguments[1].shape, np.nan, np.float32))
        expected = (rescaled if len(arguments) == 3 else gradient)(conv, *arguments)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5, err_msg=str(conv))
