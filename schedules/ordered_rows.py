"""Inner loops of `byte_dot` and `bit_dot` in the order in which an in-order core is to start their instructions.

As in `ordered_pairs`: the lower half of each vector is loaded together with the move of the one before's upper half,
upper halves are loaded to general registers beside vector operations. A register is loaded anew as soon as its last use
has begun, so that blocks of up to 6 x 4 outputs fit: of activations, only the next few are held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from schedules.written_function import written_function

STEP, CHANNELS = 16, 4
# The farthest that a 64-bit load reaches from its base.
REACH = 32760
_A, _W, _COUNT = "x9", "x10", "x8"
_HIGH = ("x11", "x12", "x13", "x14", "x15", "x16", "x17")

# A vector to load: its register, its base, and the offset there.
Load = tuple[int, str, int]


@dataclass(frozen=True)
class Operation:
    """What is done with 16 bytes of a pixel and of a channel.

    Attributes
    ----------
    kind : str
        LLVM's type of a sum.
    held : mapping
        Pixels of a block to how many of them are held at a time, a divisor.
    temporaries : int
        Registers for what is not added yet.
    masks : bool
        Weights are two vectors: signs and a mask.
    """

    kind: str
    held: Mapping[int, int]
    temporaries: int = 0
    masks: bool = False


_FEW = {2: 2, 3: 3, 4: 4}
OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        # SMULL, SMLAL2 into 16-bit lanes, to be reduced over lanes; and the same added to 32-bit lanes each step.
        "smlal": Operation("<8 x i16>", {**_FEW, 5: 5, 6: 3}),
        "smlal_wide": Operation("<4 x i32>", _FEW, 4),
        # Bits of (a AND w), (a XOR w) or ((a XOR w) AND mask), counted in bytes.
        "and": Operation("<16 x i8>", {**_FEW, 5: 5}, 2),
        "eor": Operation("<16 x i8>", {**_FEW, 5: 5}, 2),
        "ternary": Operation("<16 x i8>", {2: 2, 4: 4}, 3, masks=True),
    }
)


@dataclass(frozen=True)
class OrderedRows:
    """Sums over steps of 16 bytes of ``pixels`` rows of activations and four of weights.

    Attributes
    ----------
    operation : str
        A row of `OPERATIONS`.
    pixels : int
        Pixels of the block.
    stride : int
        Bytes from a row of activations to the next one, a multiple of 8.
    steps : int
        Steps of 16 bytes; weights are ``(steps, 4, 16)``.
    mask : int
        Bytes from the weights to their masks.
    """

    operation: str
    pixels: int
    stride: int
    steps: int
    mask: int = 0

    @property
    def name(self) -> str:
        """A name that no other loop has."""
        return f"lowbit_{self.operation}_{self.pixels}_{self.stride}_{self.steps}_{self.mask}"

    @property
    def outputs(self) -> int:
        """Sums, each a vector."""
        return self.pixels * CHANNELS

    def possible(self) -> bool:
        """Whether registers suffice, and loads reach their operands."""
        farthest = max(self.stride * (self.pixels - 1), self.mask + CHANNELS * STEP * 3) + 3 * STEP
        fits = self.pixels in OPERATIONS[self.operation].held and 0 < self.steps < 1 << 16
        return fits and self.stride % 8 == 0 and farthest <= REACH

    def definition(self) -> str:
        """An LLVM function ``(codes, weights, a place for each vector of sums)``, inlined where it is called."""
        kind, number = OPERATIONS[self.operation].kind, self.outputs
        clobbered = [*(f"v{r}" for r in range(number, 32)), _COUNT, *_HIGH]
        return written_function(self.name, self.instructions(), kind, range(number), (_A, _W), clobbered)

    def instructions(self) -> list[str]:
        """The whole of it."""
        emission = _Emission(self)
        if self.operation == "smlal_wide":
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
        emission.add_late(0)
        return emission.lines


class _Emission:
    """The instructions so far, and the load whose upper half is on its way."""

    def __init__(self, loop: OrderedRows) -> None:
        self.loop, self.operation = loop, OPERATIONS[loop.operation]
        self.held = self.operation.held[loop.pixels]
        self.lines: list[str] = []
        self.weights = loop.outputs
        self.masks = self.weights + CHANNELS
        self.codes = self.masks + CHANNELS * self.operation.masks
        self.temporary = self.codes + self.held
        if self.temporary + self.operation.temporaries > 32:
            raise ValueError(f"{loop} needs more than 32 registers")
        loads = loop.pixels + CHANNELS * (1 + self.operation.masks)
        # As many general registers as divide the loads of a step, so that each round uses them alike.
        self.high = next(n for n in range(2, len(_HIGH) + 1) if loads % n == 0)
        # Scalar loads that the next operation takes along, and the register of the next load's upper half.
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

    def weight(self, channel: int, step: int) -> list[Load]:
        """The bytes of a channel, and their mask."""
        at = (step * CHANNELS + channel) * STEP
        loads = [(self.weights + channel, _W, at), (self.masks + channel, _W, at + self.loop.mask)]
        return loads[: 1 + self.operation.masks]

    def load(self, load: Load, following: Load | None) -> None:
        """Load a lower half together with moving the upper half of the load before; then see to the next one's."""
        register = load[0]
        self.prepare(load)
        self.lines += self.beside
        self.beside = []
        self.lines.append(f"ldr d{register}, [{load[1]}, #{load[2]}]")
        self.join()
        assert self.ready is not None
        self.pending, self.ready = (register, self.ready), None
        if following is not None:
            self.prepare(following)

    def prepare(self, load: Load) -> None:
        """Load an upper half beside the next operation."""
        if self.ready is None:
            self.ready = _HIGH[self.next_high]
            self.next_high = (self.next_high + 1) % self.high
            self.beside.append(f"ldr {self.ready}, [{load[1]}, #{load[2] + 8}]")

    def join(self) -> None:
        """Complete the vector that was loaded last."""
        if self.pending is not None:
            self.lines.append(f"ins v{self.pending[0]}.d[1], {self.pending[1]}")
        self.pending = None

    def begin(self) -> None:
        """Load what the first outputs need."""
        loads = [self.code(pixel, 0) for pixel in range(self.held - 1)]
        loads += [load for channel in range(CHANNELS) for load in self.weight(channel, 0)]
        for load, following in zip(loads, [*loads[1:], self.code(self.held - 1, 0)], strict=True):
            self.load(load, following)
            self.lines += self.beside
            self.beside = []

    def plan(self, step: int, more: bool) -> dict[int, list[Load]]:
        """What is loaded after so many outputs of a step have begun."""
        pixels, plan = self.loop.pixels, {1: [self.code(self.held - 1, step)]}
        for pixel in range(pixels - 1):
            if more or pixel + self.held < pixels:
                plan[CHANNELS * (pixel + 1)] = [self.code(pixel + self.held, step)]
        if more:
            for channel in range(CHANNELS):
                plan[CHANNELS * (pixels - 1) + channel + 1] = self.weight(channel, step + 1)
        return plan

    def step(self, step: int, fresh: bool, more: bool) -> None:
        """All outputs of 16 bytes."""
        plan = self.plan(step, more)
        order = [load for loads in plan.values() for load in loads]
        following = dict(zip(order, [*order[1:], self.code(self.held - 1, step + 1) if more else None], strict=True))
        write = {"smlal": self.multiply, "smlal_wide": self.widen}.get(self.loop.operation, self.count)
        for output in range(self.loop.outputs + 1):
            for load in plan.get(output, []):
                self.load(load, following[load])
            if not more and output == max(plan) + 2:
                self.join()
            if output < self.loop.outputs:
                write(output, fresh)
        self.lines += self.beside
        self.beside = []
        if self.loop.operation != "smlal_wide":
            self.add_late(0)

    def write(self, instruction: str) -> None:
        """A vector operation, and what waits to stand beside it."""
        self.lines += [instruction, *self.beside]
        self.beside = []

    def add_late(self, left: int) -> None:
        """Add what waits, all but the last few."""
        while len(self.late) > left:
            self.write(self.late.pop(0))

    def multiply(self, output: int, fresh: bool) -> None:
        """Add to 16-bit lanes."""
        a, w = self.operands(output)
        self.write(f"{'smull' if fresh else 'smlal'} v{output}.8h, v{a}.8b, v{w}.8b")
        self.write(f"smlal2 v{output}.8h, v{a}.16b, v{w}.16b")

    def widen(self, output: int, fresh: bool) -> None:
        """Add to 32-bit lanes, two outputs later, when the products are there."""
        a, w = self.operands(output)
        target = self.temporary + output % 4
        self.write(f"smull v{target}.8h, v{a}.8b, v{w}.8b")
        self.write(f"smlal2 v{target}.8h, v{a}.16b, v{w}.16b")
        self.late.append(f"sadalp v{output}.4s, v{target}.8h")
        self.add_late(2)

    def count(self, output: int, fresh: bool) -> None:
        """Count bits; add them an output later, when they are there."""
        a, w = self.operands(output)
        target = self.temporary + output % self.operation.temporaries
        logic = "eor" if self.operation.masks else self.loop.operation
        self.write(f"{logic} v{target}.16b, v{a}.16b, v{w}.16b")
        if self.operation.masks:
            self.add_late(0)
            self.write(f"and v{target}.16b, v{target}.16b, v{w + CHANNELS}.16b")
        if fresh:
            self.write(f"cnt v{output}.16b, v{target}.16b")
            return
        self.add_late(0)
        self.write(f"cnt v{target}.16b, v{target}.16b")
        self.late.append(f"add v{output}.16b, v{output}.16b, v{target}.16b")

    def operands(self, output: int) -> tuple[int, int]:
        """Registers of an output's codes and weights."""
        pixel, channel = divmod(output, CHANNELS)
        return self.codes + pixel % self.held, self.weights + channel
