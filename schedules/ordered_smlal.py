"""The inner loop of `byte_dot` by SMULL, SMLAL2 in the order in which an in-order core is to start its instructions.

As in `ordered_pairs`: the lower half of each vector is loaded together with the move of the one before's upper half,
upper halves are loaded to general registers beside multiplications. A register is loaded anew as soon as its last
product has begun, so that blocks of up to 6 x 4 outputs fit: of activations, only the next few are held.
"""

from __future__ import annotations

from dataclasses import dataclass

STEP, CHANNELS = 16, 4
# The farthest that a 64-bit load reaches from its base.
REACH = 32760
# Pixels of a block, and how many of them are held at a time: a divisor.
HELD = {2: 2, 3: 3, 4: 4, 5: 5, 6: 3}
_A, _W, _COUNT = "x9", "x10", "x8"
_HIGH = ("x11", "x12", "x13", "x14", "x15", "x16", "x17")

# A vector to load: its register, its base, and the offset there.
Load = tuple[int, str, int]


@dataclass(frozen=True)
class OrderedSmlal:
    """Sums over steps of 16 products of ``pixels`` rows of bytes and four of weights; see `byte_dot`.

    Attributes
    ----------
    pixels : int
        A key of `HELD`.
    stride : int
        Bytes from a row to the next one, a multiple of 8.
    steps : int
        Steps of 16 bytes.
    widened : bool
        Whether each step is added to 32-bit lanes; then at most 4 pixels.
    """

    pixels: int
    stride: int
    steps: int
    widened: bool = False

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        return f"lowbit_smlal_{self.pixels}_{self.stride}_{self.steps}_{int(self.widened)}"

    @property
    def outputs(self) -> int:
        """Sums, each a vector."""
        return self.pixels * CHANNELS

    def possible(self) -> bool:
        """Whether registers suffice, and loads reach their operands."""
        fits = self.pixels in HELD and (not self.widened or self.pixels <= 4)
        return fits and self.stride * (self.pixels - 1) + 3 * STEP <= REACH and self.steps < 1 << 16

    def definition(self) -> str:
        """An LLVM function ``(codes, weights, a place for each vector of sums)``, inlined where it is called."""
        kind, number = "<4 x i32>" if self.widened else "<8 x i16>", self.outputs
        results = ", ".join([kind] * number)
        outputs = ",".join(f"={{v{i}}}" for i in range(number))
        clobbered = [f"v{r}" for r in range(number, 32)] + [_COUNT, *_HIGH, "cc", "memory"]
        ties = f"={{{_A}}},={{{_W}}},{number},{number + 1}"
        constraints = ",".join([outputs, ties, *(f"~{{{name}}}" for name in clobbered)])
        text = "\\0A".join(self.instructions())
        sums = ", ".join(f"ptr %p{i}" for i in range(number))
        lines = [
            f"define internal i32 @{self.name}(ptr %a, ptr %w, {sums}) alwaysinline nounwind {{",
            f'  %r = call {{{results}, ptr, ptr}} asm sideeffect "{text}", "{constraints}"(ptr %a, ptr %w)',
        ]
        for i in range(number):
            lines += [
                f"  %s{i} = extractvalue {{{results}, ptr, ptr}} %r, {i}",
                f"  store {kind} %s{i}, ptr %p{i}, align 16",
            ]
        return "\n".join([*lines, "  ret i32 0", "}"]) + "\n"

    def instructions(self) -> list[str]:
        """The whole of it."""
        emission = _Emission(self)
        if self.widened:
            emission.lines += [f"movi d{i}, #0" for i in range(self.outputs)]
        emission.begin()
        emission.step(0, fresh=True, more=self.steps > 1)
        rounds = self.steps - 2
        if rounds > 0:
            emission.lines += [f"mov {_COUNT}, #{rounds}", "1:"]
            emission.step(1, fresh=False, more=True)
            emission.lines += [f"subs {_COUNT}, {_COUNT}, #1"]
            emission.lines += [f"add {_A}, {_A}, #{STEP}", f"add {_W}, {_W}, #{CHANNELS * STEP}", "b.ne 1b"]
        if self.steps > 1:
            emission.step(1, fresh=False, more=False)
        emission.finish()
        return emission.lines


class _Emission:
    """The instructions so far, and the load whose upper half is on its way."""

    def __init__(self, loop: OrderedSmlal) -> None:
        self.loop, self.held = loop, HELD[loop.pixels]
        self.lines: list[str] = []
        self.weights = loop.outputs
        self.codes = self.weights + CHANNELS
        self.temporary = self.codes + self.held
        loads = loop.pixels + CHANNELS
        # As many general registers as divide the loads of a step, so that each round uses them alike.
        self.high = next(n for n in range(2, 8) if loads % n == 0)
        # Scalar loads that the next multiplication takes along, and the register of the next load's upper half.
        self.beside: list[str] = []
        self.ready: str | None = None
        # The vector whose upper half is still to be moved, from where.
        self.pending: tuple[int, str] | None = None
        self.next_high = 0
        self.late: list[str] = []

    def code(self, pixel: int, step: int) -> Load:
        """The bytes of a pixel; pixels past the last are those of the next step."""
        more, pixel = divmod(pixel, self.loop.pixels)
        return self.codes + pixel % self.held, _A, pixel * self.loop.stride + STEP * (step + more)

    def weight(self, channel: int, step: int) -> Load:
        """The bytes of a channel."""
        return self.weights + channel, _W, (step * CHANNELS + channel) * STEP

    def load(self, load: Load, following: Load | None) -> None:
        """Load a lower half together with moving the upper half of the load before; then see to the next one's."""
        register = load[0]
        self.prepare(load)
        self.lines.append(f"ldr d{register}, [{load[1]}, #{load[2]}]")
        if self.pending is not None:
            self.lines.append(f"ins v{self.pending[0]}.d[1], {self.pending[1]}")
        assert self.ready is not None
        self.pending, self.ready = (register, self.ready), None
        if following is not None:
            self.prepare(following, later=True)

    def prepare(self, load: Load, later: bool = False) -> None:
        """Load an upper half, beside the next multiplication if that is early enough."""
        if self.ready is None:
            self.ready = _HIGH[self.next_high]
            self.next_high = (self.next_high + 1) % self.high
            self.beside.append(f"ldr {self.ready}, [{load[1]}, #{load[2] + 8}]")
        if not later:
            self.lines += self.beside
            self.beside = []

    def join(self) -> None:
        """Complete the vector that was loaded last."""
        if self.pending is not None:
            self.lines.append(f"ins v{self.pending[0]}.d[1], {self.pending[1]}")
        self.pending = None

    def begin(self) -> None:
        """Load what the first products need."""
        loads = [self.code(pixel, 0) for pixel in range(self.held - 1)]
        loads += [self.weight(channel, 0) for channel in range(CHANNELS)]
        for load, following in zip(loads, [*loads[1:], self.code(self.held - 1, 0)], strict=True):
            self.load(load, following)
            self.lines += self.beside
            self.beside = []

    def plan(self, step: int, more: bool) -> dict[int, Load]:
        """What is loaded after so many outputs of a step have begun."""
        pixels, plan = self.loop.pixels, {1: self.code(self.held - 1, step)}
        for pixel in range(pixels - 1):
            if more or pixel + self.held < pixels:
                plan[CHANNELS * (pixel + 1)] = self.code(pixel + self.held, step)
        if more:
            for channel in range(CHANNELS):
                plan[CHANNELS * (pixels - 1) + channel + 1] = self.weight(channel, step + 1)
        return plan

    def step(self, step: int, fresh: bool, more: bool) -> None:
        """Multiply 16 bytes of each pixel and channel."""
        plan = self.plan(step, more)
        after = [*list(plan.values())[1:], self.code(self.held - 1, step + 1) if more else None]
        following = dict(zip(plan, after, strict=True))
        write = self.widen if self.loop.widened else self.multiply
        for output in range(self.loop.outputs + 1):
            if output in plan:
                self.load(plan[output], following[output])
            elif not more and output == max(plan) + 2:
                self.join()
            if output < self.loop.outputs:
                write(output, fresh)
        self.lines += self.beside
        self.beside = []

    def operands(self, output: int) -> tuple[str, str]:
        """Registers of an output's codes and weights."""
        pixel, channel = divmod(output, CHANNELS)
        return f"v{self.codes + pixel % self.held}", f"v{self.weights + channel}"

    def product(self, operation: str, target: int, output: int, half: str) -> None:
        """One multiplication, and beside it the scalar load that waits."""
        a, w = self.operands(output)
        self.lines += [f"{operation} v{target}.8h, {a}.{half}, {w}.{half}", *self.beside]
        self.beside = []

    def multiply(self, output: int, fresh: bool) -> None:
        """Add to 16-bit lanes."""
        self.product("smull" if fresh else "smlal", output, output, "8b")
        self.product("smlal2", output, output, "16b")

    def widen(self, output: int, fresh: bool) -> None:
        """Add to 32-bit lanes, two outputs later, when the products are there."""
        target = self.temporary + output % 4
        self.product("smull", target, output, "8b")
        self.product("smlal2", target, output, "16b")
        self.late.append(f"sadalp v{output}.4s, v{target}.8h")
        if len(self.late) > 2:
            self.lines.append(self.late.pop(0))

    def finish(self) -> None:
        """What is left to add."""
        self.lines += self.late
        self.late = []


