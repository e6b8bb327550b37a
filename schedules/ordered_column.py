"""``bit_serial`` for a single pixel, as dense layers have it, in the order in which an in-order core is to start it.

All planes of the activations stay in registers; each vector of weights is read once, meets them all, and its counts are
added to bytes, one for each sum ``p + q`` of the planes' numbers. A channel's bytes become 16-bit lanes (UADDLP, MLA
with powers of two) and are reduced over lanes (ADDP) beside the next channel's counting. Loads as in `ordered_rows`.

Worst cases: ``8 pairs steps`` in a byte, of the planes' pairs that share a sum, at most 255; a channel's whole sum fits
16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from schedules.written_function import written_function

STEP, BLOCK, CHANNELS = 16, 4, 8
# The farthest that a 64-bit load reaches from its base.
REACH = 32760
_A, _W, _SUMS, _COUNT, _HIGH = "x9", "x10", "x2", "x8", ("x11", "x12")
# Powers of two, by element.
_POWERS, _REGISTERS = 0, 32


@dataclass(frozen=True)
class OrderedColumn:
    """Sums of ``2**(p + q) popcount(a_p AND w_q)`` of one pixel and ``blocks`` times eight channels.

    Attributes
    ----------
    a_bits, w_bits : int
        Planes.
    steps : int
        Steps of 16 bytes; weights are ``(blocks, 2, w_bits, steps, 4, 16)``.
    stride : int
        Bytes from a plane of activations to the next one.
    blocks : int
        Eight channels each; sums are 16-bit numbers, one channel's after the other's.
    """

    a_bits: int
    w_bits: int
    steps: int
    stride: int
    blocks: int

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        return f"lowbit_column_{self.a_bits}_{self.w_bits}_{self.steps}_{self.stride}_{self.blocks}"

    @property
    def outputs(self) -> int:
        """It leaves its sums in memory."""
        return 0

    @property
    def classes(self) -> int:
        """Sums of two planes' numbers that there are."""
        return self.a_bits + self.w_bits - 1

    @property
    def size(self) -> int:
        """Bytes of eight channels' weights."""
        return CHANNELS * self.w_bits * self.steps * STEP

    def possible(self) -> bool:
        """Whether registers suffice, sums fit and loads reach their operands."""
        registers = 1 + self.a_bits * self.steps + 2 + 2 * self.a_bits + 2 * self.classes + 3
        narrow = 8 * self.steps * min(self.a_bits, self.w_bits) <= 255
        whole = 128 * self.steps * ((1 << self.a_bits) - 1) * ((1 << self.w_bits) - 1) < 1 << 16
        farthest = max(2 * self.size, self.a_bits * self.stride)
        few = self.blocks < 1 << 16 and self.classes <= 8
        return few and registers <= _REGISTERS and narrow and whole and self.stride % 8 == 0 and farthest <= REACH

    def definition(self) -> str:
        """An LLVM function ``(codes, weights, sums, the last sum)``, inlined where it is called."""
        clobbered = [*(f"v{r}" for r in range(_REGISTERS)), _COUNT, *_HIGH]
        return written_function(self.name, self.instructions(), "<8 x i16>", (), (_A, _W, _SUMS), clobbered, 1)

    def instructions(self) -> list[str]:
        """The whole of it."""
        return _Emission(self).whole()


class _Emission:
    """The instructions so far, and the vector whose upper half is on its way."""

    def __init__(self, loop: OrderedColumn) -> None:
        self.loop = loop
        self.lines: list[str] = []
        self.pending: str | None = None
        self.codes = _POWERS + 1
        self.weights = self.codes + loop.a_bits * loop.steps
        self.found = self.weights + 2
        self.bytes = self.found + 2 * loop.a_bits
        self.tree = self.bytes + 2 * loop.classes
        # Vectors of weights in the order in which they are met, of a round: channel, step, plane.
        self.order = [
            (channel, step, q) for channel in range(CHANNELS) for step in range(loop.steps) for q in range(loop.w_bits)
        ]
        # What is to be added beside the next vector, and done to a channel's bytes beside the next channel's counting.
        self.late: list[str] = []
        self.later: list[str] = []

    def whole(self) -> list[str]:
        """Load the activations, then eight channels a round."""
        loop = self.loop
        for power in range(1, loop.classes):
            self.lines += [f"mov w8, #{1 << power}", f"ins v{_POWERS}.h[{power}], w8"]
        number = loop.a_bits * loop.steps
        for i in range(number):
            plane, step = divmod(i, loop.steps)
            # General registers take turns, so that one is moved before it is loaded again.
            self.load(self.codes + i, _A, plane * loop.stride + step * STEP, (number - i) % 2)
        self.load(self.weights, _W, self.at(0), 0)
        self.load(self.weights + 1, _W, self.at(1), 1)
        # What a round leaves to the next one stands at the head of the loop: the first round is apart.
        if loop.blocks > 1:
            self.round(more=True)
        if loop.blocks > 2:
            self.lines += [f"mov {_COUNT}, #{loop.blocks - 2}", "1:"]
            self.round(more=True)
            self.lines += [f"subs {_COUNT}, {_COUNT}, #1", "b.ne 1b"]
        self.round(more=False)
        self.lines += [*self.late, *self.later]
        return self.lines

    def at(self, number: int) -> int:
        """Where a vector of weights is, of this round or the next."""
        loop = self.loop
        more, number = divmod(number, len(self.order))
        channel, step, q = self.order[number]
        block, j = divmod(channel, BLOCK)
        return more * loop.size + (((block * loop.w_bits + q) * loop.steps + step) * BLOCK + j) * STEP

    def load(self, register: int, base: str, at: int, high: int, early: bool = False) -> None:
        """Load a lower half together with moving the upper half of the vector before."""
        if not early:
            self.lines.append(f"ldr {_HIGH[high]}, [{base}, #{at + 8}]")
        self.lines.append(f"ldr d{register}, [{base}, #{at}]")
        self.join()
        self.pending = f"ins v{register}.d[1], {_HIGH[high]}"

    def join(self) -> None:
        """Complete what was loaded last."""
        if self.pending is not None:
            self.lines.append(self.pending)
        self.pending = None

    def round(self, more: bool) -> None:
        """Count the bits of eight channels; what is found is added a vector later."""
        a = self.loop.a_bits
        seen: set[int] = set()
        for number, (channel, step, q) in enumerate(self.order):
            w, found = self.weights + number % 2, self.found + number % 2 * a
            coming = number + 2 < len(self.order) or more
            if coming:
                self.lines.append(f"ldr {_HIGH[number % 2]}, [{_W}, #{self.at(number + 2) + 8}]")
            for p in range(a):
                code = self.codes + p * self.loop.steps + step
                self.lines.append(f"and v{found + p}.16b, v{code}.16b, v{w}.16b")
            if coming:
                self.load(w, _W, self.at(number + 2), number % 2, early=True)
            else:
                self.join()
            self.lines += self.late
            self.late = []
            for p in range(a):
                target = self.byte(channel, p + q)
                fresh = target not in seen
                seen.add(target)
                self.lines.append(f"cnt v{target if fresh else found + p}.16b, v{found + p}.16b")
                if not fresh:
                    self.late.append(f"add v{target}.16b, v{target}.16b, v{found + p}.16b")
            self.lines += self.later[:1]
            del self.later[:1]
            if number + 1 == len(self.order) or self.order[number + 1][0] != channel:
                self.lines += self.later
                self.later = self.reduction(channel)
                seen.clear()
        if more:
            self.lines.append(f"add {_W}, {_W}, #{self.loop.size}")

    def byte(self, channel: int, total: int) -> int:
        """The register of a channel's counts of one class."""
        return self.bytes + channel % 2 * self.loop.classes + total

    def reduction(self, channel: int) -> list[str]:
        """A channel's bytes to 16-bit lanes; then, as in counting to eight, sums of neighbours."""
        own = self.byte(channel, 0)
        sums = self.tree if channel % 2 == 0 else own
        lines = [f"uaddlp v{own + total}.8h, v{own + total}.16b" for total in range(1, self.loop.classes)]
        lines.append(f"uaddlp v{sums}.8h, v{own}.16b")
        for total in range(1, self.loop.classes):
            lines.append(f"mla v{sums}.8h, v{own + total}.8h, v{_POWERS}.h[{total}]")
        done, level = channel + 1, 0
        first, second, third = self.tree, self.tree + 1, self.tree + 2
        while done % 2 == 0:
            done, level = done // 2, level + 1
            if level == 1:
                to = second if channel % 4 == 1 else first
                lines.append(f"addp v{to}.8h, v{first}.8h, v{own}.8h")
            elif level == 2:
                to = third if channel % 8 == 3 else first
                lines.append(f"addp v{to}.8h, v{second}.8h, v{first}.8h")
            else:
                lines.append(f"addp v{first}.8h, v{third}.8h, v{first}.8h")
                lines.append(f"str q{first}, [{_SUMS}], #{2 * CHANNELS}")
                break
        return lines
