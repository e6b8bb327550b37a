"""The inner loop of `select_dot` written out, so that no register is spilled and no mask copied before BSL takes it.

Sums begin with the counts of the first step, which are not added. Two bytes of a pixel's plane are loaded to all lanes
(LD1R), two planes of eight channels together; every address is a register of its own, as LD1R takes no offset, and
weights' are moved once a round, as that is an operation besides the load.

Worst case: a byte counts 8 bits a step, 248 in `MOST_UNITS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from schedules.written_function import written_function

DEEP, LANES = 2, 8
# Bytes of both planes of eight channels.
WEIGHTS = 2 * DEEP * LANES
COUNTS = 3
MOST_UNITS = 255 // 8
_A, _W, _COUNT, _SIZE = "x9", "x10", "x8", "x17"
_OTHERS = tuple(f"x{i}" for i in (*range(8), *range(11, 17)))
# Registers of planes of weights, of a mask and of its count.
_LEAST, _REGISTERS = 4, 32


@dataclass(frozen=True)
class SelectRows:
    """Counts over ``units`` of two bytes of ``pixels`` rows of activations and ``vectors`` of eight channels.

    Attributes
    ----------
    pixels, vectors : int
        Of a block.
    stride : int
        Bytes from a plane of activations to the next, and from there to the next pixel's.
    block : int
        Bytes from eight channels' weights to the next ones'; of a unit they are ``(planes, 8, 2)``.
    units : int
        At most `MOST_UNITS`.
    """

    pixels: int
    vectors: int
    stride: int
    block: int
    units: int

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        return f"lowbit_select_{self.pixels}_{self.vectors}_{self.stride}_{self.block}_{self.units}"

    @property
    def outputs(self) -> int:
        """Vectors of counts in bytes: three for each pixel and eight channels, which go faster than pixels."""
        return COUNTS * self.pixels * self.vectors

    def possible(self) -> bool:
        """Whether registers suffice, and bytes hold the counts."""
        addresses = 2 * self.pixels + self.vectors - 2
        registers = self.outputs + 2 * self.pixels + _LEAST
        return registers <= _REGISTERS and addresses <= len(_OTHERS) and self.units <= MOST_UNITS

    def definition(self) -> str:
        """An LLVM function ``(codes, weights, a place for each vector of counts)``, inlined where it is called."""
        clobbered = [*(f"v{r}" for r in range(self.outputs, _REGISTERS)), _COUNT, _SIZE, *_OTHERS]
        return written_function(
            self.name, self.instructions(), "<16 x i8>", range(self.outputs), (_A, _W), clobbered, once=True
        )

    def instructions(self) -> list[str]:
        """The whole of it."""
        rest = self.units - 1
        # A round's own instructions are a hundredth of three units.
        times = next((n for n in (3, 4, 2) if rest % n == 0), 3)
        lines = [*self._addresses(), *self._unit(0, 1, fresh=True)]
        if rest >= 2 * times:
            rounds, rest = divmod(rest, times)
            lines += [f"mov {_COUNT}, #{rounds}", "1:", *self._round(times)]
            lines += [f"subs {_COUNT}, {_COUNT}, #1", "b.ne 1b"]
        return lines + self._round(rest)

    def _codes(self) -> list[str]:
        return [_A, *_OTHERS[: 2 * self.pixels - 1]]

    def _weights(self) -> list[str]:
        first = 2 * self.pixels - 1
        return [_W, *_OTHERS[first : first + self.vectors - 1]]

    def _addresses(self) -> list[str]:
        lines = []
        for size, addresses in ((self.stride, self._codes()), (self.block, self._weights())):
            if len(addresses) > 1:
                low, high = size & 0xFFFF, size >> 16
                lines += [f"mov {_SIZE}, #{low}", *([f"movk {_SIZE}, #{high}, lsl #16"] if high else [])]
            lines += [f"add {to}, {of}, {_SIZE}" for of, to in pairwise(addresses)]
        return lines

    def _round(self, units: int) -> list[str]:
        return [line for number in range(units) for line in self._unit(number, units)]

    def _unit(self, number: int, units: int, fresh: bool = False) -> list[str]:
        """All counts of two bytes; the first of some units moves the addresses of weights on, behind all of them."""
        codes = self.outputs
        p, q = codes + 2 * self.pixels, codes + 2 * self.pixels + 1
        mask, count = q + 1, q + 2
        lines = [f"ld1r {{v{codes + i}.8h}}, [{address}], #{DEEP}" for i, address in enumerate(self._codes())]
        for j, address in enumerate(self._weights()):
            place = f", #{WEIGHTS * (number - units)}]" if number else f"], #{WEIGHTS * units}"
            lines.append(f"ldp q{p}, q{q}, [{address}{place}")
            for i in range(self.pixels):
                high, gray = codes + 2 * i, codes + 2 * i + 1
                lines.append(f"eor v{mask}.16b, v{high}.16b, v{p}.16b")
                for each in range(COUNTS):
                    if each:
                        lines.append(f"bsl v{mask}.16b, v{q}.16b, v{gray}.16b")
                    lines += self._count((i * self.vectors + j) * COUNTS + each, mask, count, fresh)
        return lines

    def _count(self, sum_: int, mask: int, count: int, fresh: bool) -> list[str]:
        if fresh:
            return [f"cnt v{sum_}.16b, v{mask}.16b"]
        return [f"cnt v{count}.16b, v{mask}.16b", f"add v{sum_}.16b, v{sum_}.16b, v{count}.16b"]
