"""``DotProblem``: one quantised convolution or dense layer, as the kernels see it.

A dense layer is the 1x1 convolution over a 1x1 image; everything below is a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from schedules.layout import Layout

INT32_MAX = 2**31 - 1
# Numbers of input channels, from any multiple of 4 on, whose weights' magnitudes are added up.
MASSES = (*range(4, 65, 4), 96, 128, 192, 256, 384, 512, 1024)


def threshold_dtype(accumulator_bound: int) -> str:
    """The narrowest type that holds every accumulator and, above them all, the threshold that is never reached."""
    return "int16" if accumulator_bound < 2**15 - 1 else "int32"


def _masses(magnitudes: npt.NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """For each number of input channels in `MASSES`, the most that magnitudes ``(O, C, ...)`` of so many add up to."""
    of_four = magnitudes.sum(axis=tuple(range(2, magnitudes.ndim)))
    of_four = np.pad(of_four, ((0, 0), (0, -of_four.shape[1] % 4))).reshape(len(of_four), -1, 4).sum(axis=2)
    before = np.pad(of_four.cumsum(axis=1), ((0, 0), (1, 0)))
    found = []
    for channels in MASSES:
        count = min(channels // 4, of_four.shape[1])
        found.append((channels, int((before[:, count:] - before[:, :-count]).max())))
        if count == of_four.shape[1]:
            break
    return tuple(found)


@dataclass(frozen=True)
class Operand:
    """How the unsigned codes of one side stand for integers: ``value = multiplier * code + offset``.

    ``multiplier`` is 2 for bipolar codes ({-1, +1} = 2 u - 1), 1 otherwise. ``offset_bound`` is the largest
    ``|offset|``; weights may carry one offset per output channel, unless ``uniform``: then all carry ``offset``, as
    activations always do. ``span``, where it is known, holds the least and the largest code that occurs; ``mass``, for
    some numbers of neighbouring input channels (`MASSES`), what an output channel's magnitudes add up to at most.
    """

    bits: int
    multiplier: int = 1
    offset: int = 0
    offset_bound: int = 0
    uniform: bool = field(default=False, kw_only=True)
    span: tuple[int, int] | None = field(default=None, kw_only=True)
    mass: tuple[tuple[int, int], ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits must be 1..8, got {self.bits}")
        if self.multiplier not in (1, 2):
            raise ValueError(f"multiplier must be 1 or 2, got {self.multiplier}")
        if self.offset_bound < abs(self.offset):
            object.__setattr__(self, "offset_bound", abs(self.offset))

    @property
    def max_code(self) -> int:
        """The largest code, 2**bits - 1."""
        return (1 << self.bits) - 1

    @property
    def one_offset(self) -> bool:
        """Whether all channels are known to have the offset ``offset``."""
        return self.uniform or self.offset_bound == 0

    @property
    def values(self) -> tuple[int, int]:
        """The least and the largest value that occurs, as far as that is known."""
        least, most = (self.multiplier * code for code in self.span or (0, self.max_code))
        low, high = (self.offset,) * 2 if self.one_offset else (-self.offset_bound, self.offset_bound)
        return least + low, most + high

    @property
    def bound(self) -> int:
        """An upper bound of ``|value|`` and of each term that the correction formula adds for it."""
        return self.multiplier * self.max_code + self.offset_bound

    @property
    def zero_code(self) -> int | None:
        """The code that stands for 0, or None if no code does."""
        code, rest = divmod(-self.offset, self.multiplier)
        return code if rest == 0 and 0 <= code <= self.max_code else None


@dataclass(frozen=True)
class Thresholds:
    """An epilogue that turns an accumulator into the next quantiser's code by counting thresholds.

    Attributes
    ----------
    bits : int
        Width of the output codes.
    levels : int
        Thresholds per channel (the number of output codes less one).
    side_bits : int
        Width of a second operand's codes (a residual join picks its row of thresholds by them); 0 without one.
    out : Layout
        Layout of the codes written.
    side : Layout or None
        Layout of the second operand.
    falls : int
        Thresholds per channel at which the code falls again, for functions that turn (SiLU); 0 for monotone ones.
    shift : int or None
        Where the second operand's code moves the accumulator instead, how far that is shifted left first, and a table
        of steps comes with the thresholds: see `slants`.
    dtype : str or None
        Type of thresholds, and what accumulators are counted in, where it is not the problem's: int16 where they fit as
        the weights are, though not for all that weights might be; int32 where a shift wants more bits.
    lines : bool
        Whether a table of lines near the thresholds comes with them, by which codes are guessed: see `threshold_lines`.
    """

    bits: int
    levels: int
    side_bits: int = 0
    out: Layout = field(default_factory=Layout)
    side: Layout | None = None
    falls: int = 0
    lines: bool = False
    shift: int | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        top = (1 << self.bits) - 1
        # What falls must have risen: each fall may come with a rise above the number of codes.
        fits = 1 <= self.levels <= top + min(self.falls, top) and 0 <= self.falls <= top
        if not (1 <= self.bits <= 8 and fits and 0 <= self.side_bits <= 8):
            raise ValueError(f"bits must be 1..8, levels fit in them, side_bits 0..8: {self}")
        if self.lines and (self.falls or self.side_bits):
            raise ValueError(f"lines are for one row of rising thresholds: {self}")
        if self.shift is not None and (self.falls or not self.side_bits or self.shift < 0):
            raise ValueError(f"a shift is for rising thresholds and a second operand: {self}")

    @property
    def rows(self) -> int:
        """Rows of thresholds: one per code of the second operand that picks among them."""
        return 1 if self.shift is not None else 1 << self.side_bits


@dataclass(frozen=True)
class DotProblem:
    """Geometry, operand codes and epilogue of one low-bit convolution.

    Shapes: input ``(batch, height, width, channels)``, weights ``(out_channels, channels / groups, *kernel)``.
    ``padding`` is (top, left, bottom, right); a padded position has the value 0, and a negative padding leaves out rows
    or columns of the image. ``epilogue`` None means: write the int32 accumulators.
    """

    batch: int
    height: int
    width: int
    channels: int
    out_channels: int
    a: Operand
    w: Operand
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    epilogue: Thresholds | None = None

    def __post_init__(self) -> None:
        sizes = (self.batch, self.height, self.width, self.channels, self.out_channels, self.groups)
        if min(sizes + self.kernel + self.stride + self.dilation) < 1:
            raise ValueError(f"sizes must be positive: {self}")
        if self.channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"groups {self.groups} must divide {self.channels} and {self.out_channels} channels")
        if self.out_height < 1 or self.out_width < 1:
            raise ValueError(f"kernel {self.kernel} does not fit the padded input: {self}")

    @cached_property
    def out_height(self) -> int:
        """Rows of the output."""
        span = self.dilation[0] * (self.kernel[0] - 1) + 1
        return (self.height + self.padding[0] + self.padding[2] - span) // self.stride[0] + 1

    @cached_property
    def out_width(self) -> int:
        """Columns of the output."""
        span = self.dilation[1] * (self.kernel[1] - 1) + 1
        return (self.width + self.padding[1] + self.padding[3] - span) // self.stride[1] + 1

    @property
    def group_channels(self) -> int:
        """Input channels of one group."""
        return self.channels // self.groups

    @property
    def group_out_channels(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def k(self) -> int:
        """Products summed into one output."""
        return self.group_channels * self.kernel[0] * self.kernel[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole layer."""
        return self.batch * self.out_height * self.out_width * self.out_channels * self.k

    @property
    def name(self) -> str:
        """The model's widths, weights first: W2A2."""
        return f"W{self.w.bits}A{self.a.bits}"

    def knowing(self, weights: npt.NDArray[np.uint8], weight_offset: npt.NDArray[np.int32]) -> DotProblem:
        """The problem with what the weights' codes and offsets ``(O,)`` tell: which occur, and if all are one."""
        w = replace(self.w, span=(int(weights.min()), int(weights.max())))
        low, high = int(weight_offset.min()), int(weight_offset.max())
        if low == high:
            w = replace(w, offset=low, uniform=True)
            if self.groups == 1 and max(self.kernel) > 1:
                w = replace(w, mass=_masses(np.abs(w.multiplier * weights.astype(np.int64) + low)))
        return replace(self, w=w)

    @property
    def needs_code_sum(self) -> bool:
        """Whether the kernel must sum the activation codes of each patch (some weight offset is not 0)."""
        return self.w.offset_bound > 0

    @property
    def pads_without_code(self) -> bool:
        """Whether padded positions stand for 0 and no activation code does."""
        return max(self.padding) > 0 and self.a.zero_code is None

    def accumulator_bound(self) -> int:
        """Largest magnitude any partial sum of the correction formula can take (all operands at their extreme)."""
        return self.k * self.a.bound * self.w.bound

    @property
    def threshold_dtype(self) -> str:
        """Type of the thresholds in memory."""
        return threshold_dtype(self.accumulator_bound())

    def declines(self) -> str | None:
        """Why no technique can take this problem exactly, or None.

        The sums are kept in int32, so ``k * max|a| * max|w|`` must fit.
        """
        if self.accumulator_bound() > INT32_MAX:
            bits = self.accumulator_bound().bit_length() + 1
            return f"the accumulator would need {bits} bits for {self.k} products of {self.name}; int32 holds 32"
        return None
