"""Products of 16-bit numbers modulo 2**16, by MLA with one element for all lanes: output channels along the lanes.

Nothing is to be reduced over lanes, and nothing overflows: whoever takes the sums knows a range of ``2**16`` that they
lie in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.intrinsics import splat, vload
from schedules.ordered_elements import CHANNELS, UNIT, WIDTH, OrderedElements
from schedules.registers import Registers
from schedules.vectors import call_loop

LANES = 8
DTYPE = "int16"

# Where in a buffer something begins.
At = Callable[..., list[Any]]


@dataclass(frozen=True)
class ElementDot:
    """Sums of ``tiles`` x 16 outputs.

    Attributes
    ----------
    ordered : bool
        Whether to write the loop out for an in-order core: see `ordered_elements`.
    """

    ordered: bool = False
    defined: set[str] = field(default_factory=set)

    def multiply(self, values: Any, value: At, weights: Any, weight: At, tiles: int, channels: int) -> list[Any]:
        """Emit the products of some channels; returns vectors of sums, channels innermost.

        Parameters
        ----------
        values, weights : Buffer
            Of int16; channels are the last dimension of values, 16 output channels that of weights.
        value : callable
            ``(tile, channel)`` to indices.
        weight : callable
            ``(channel)`` to indices of its 16 weights.
        tiles, channels : int
            How many; a multiple of 4 channels.
        """
        loop = OrderedElements(tiles, int(values.shape[-1]) * WIDTH, channels)
        if self.ordered and loop.possible():
            bases = tirx.address_of(values[tuple(value(0, 0))]), tirx.address_of(weights[tuple(weight(0))])
            return call_loop(loop, self.defined, bases, DTYPE, LANES)
        outputs = [(i, half) for i in range(tiles) for half in range(CHANNELS // LANES)]
        sums = Registers(outputs, DTYPE, LANES)
        with T.serial(0, channels // UNIT) as unit:
            for lane in range(UNIT):
                channel = unit * UNIT + lane
                *at, first = weight(channel)
                w = [vload(weights, [*at, first + half * LANES], LANES) for half in range(CHANNELS // LANES)]
                for i, half in outputs:
                    one = splat(values[tuple(value(i, channel))], LANES)
                    sums[i, half] = sums[i, half] + one * w[half]
        return sums.vectors()
