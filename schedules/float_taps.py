"""``TapPlan``: a float convolution, or its transpose, as sums of shifted planes.

The image is copied once into planes, one for each channel and parity that the strides give rise to, with zeros where
the padding is. Rows of a plane follow one another, so a tap is an offset: output position ``p = y * pitch + x`` adds
plane element ``p + dy * pitch + dx`` times one weight, and neighbouring positions are neighbouring lanes. The few
positions between the end of a row and the next one's start are computed and not kept.

A convolution of stride s reads the s x s parities of its input and writes one part. Its transpose reads one plane and
writes s x s parts, each a small convolution of stride 1: no product with an inserted zero is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Pair = tuple[int, int]


@dataclass(frozen=True)
class FloatConv:
    """Geometry of a convolution in float32: NCHW, weights ``(out_channels, channels / groups, *kernel)``.

    ``padding`` is (top, left, bottom, right); a negative one leaves out rows or columns.
    """

    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    def __post_init__(self) -> None:
        if self.channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"groups {self.groups} must divide {self.channels} and {self.out_channels} channels")
        if min(self.out_size) < 1:
            raise ValueError(f"kernel {self.kernel} does not fit the padded input: {self}")

    @property
    def size(self) -> Pair:
        """Rows and columns of the input."""
        return self.height, self.width

    @property
    def out_size(self) -> Pair:
        """Rows and columns of the output."""
        sides = zip(self.size, self.kernel, self.stride, self.dilation, self.padding[:2], self.padding[2:], strict=True)
        height, width = ((n + low + high - (k - 1) * d - 1) // s + 1 for n, k, s, d, low, high in sides)
        return height, width

    @property
    def macs(self) -> int:
        """Multiply-accumulates, of the transpose as well."""
        height, width = self.out_size
        taps = self.kernel[0] * self.kernel[1]
        return self.batch * height * width * self.out_channels * self.channels // self.groups * taps


@dataclass(frozen=True)
class Tap:
    """One kernel position ``at``: which parity it reads, and how far from the output position."""

    parity: int
    dy: int
    dx: int
    at: Pair


@dataclass(frozen=True)
class Part:
    """Output positions ``start + step * i``, ``i`` below ``count``, which add the same taps."""

    start: Pair
    step: Pair
    count: Pair
    taps: tuple[Tap, ...]


@dataclass(frozen=True)
class TapPlan:
    """What a kernel does.

    Attributes
    ----------
    batch, groups : int
        As the convolution has them.
    inputs, outputs : int
        Channels read and written, of one group.
    size, out_size : pair
        Rows and columns of what is read and written.
    step : pair
        From one row (column) of a plane to the next, in rows (columns) of what is read.
    origins : tuple of pairs
        For each parity: the row and column at which its plane begins, possibly outside.
    parts : tuple of Part
        What is written.
    transposed : bool
        Whether weights are read with their two channel axes exchanged.
    beside : int
        How many images of the batch lie side by side in a plane, so that fewer lanes are lost at the ends of rows.
    rows, across : int
        What positions of an image that are kept read of a plane.
    pitch : int
        From one row of a plane to the next.
    """

    batch: int
    groups: int
    inputs: int
    outputs: int
    size: Pair
    out_size: Pair
    step: Pair
    origins: tuple[Pair, ...]
    parts: tuple[Part, ...]
    transposed: bool
    beside: int = 1
    rows: int = field(init=False)
    across: int = field(init=False)
    pitch: int = field(init=False)

    def __post_init__(self) -> None:
        reach = [
            [part.count[axis] + max((t.dy, t.dx)[axis] for t in part.taps) for part in self.computed] for axis in (0, 1)
        ]
        object.__setattr__(self, "rows", max(reach[0], default=1))
        object.__setattr__(self, "across", max(reach[1], default=1))
        object.__setattr__(self, "pitch", (self.beside - 1) * self.apart + self.across)

    @property
    def computed(self) -> tuple[Part, ...]:
        """Parts that have taps and positions; in a transpose, others may be all zeros."""
        return tuple(part for part in self.parts if part.taps and min(part.count) > 0)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Those of all computed parts, in the order that weights are packed in."""
        return tuple(tap for part in self.computed for tap in part.taps)

    @property
    def farthest(self) -> int:
        """The largest offset of a tap."""
        return max((tap.dy * self.pitch + tap.dx for tap in self.taps), default=0)

    def positions(self, part: Part) -> int:
        """How many neighbouring plane positions hold all of a part's."""
        return (part.count[0] - 1) * self.pitch + (self.beside - 1) * self.apart + part.count[1]

    @property
    def apart(self) -> int:
        """Columns from one image of a plane to the next: one's zeros may be the other's, what is read of it may not."""
        inside = [self.inside(parity, 1)[:2] for parity in range(len(self.origins))]
        kept = [part.count[1] for part in self.computed]
        return max([*kept, *(max(self.across - first, end) for first, end in inside)], default=1)

    def inside(self, parity: int, axis: int) -> tuple[int, int, int]:
        """Rows (columns) of a plane that lie in the image: the first, the end, and the image's at the first."""
        extent = (self.rows, self.across)[axis]
        origin, step, size = self.origins[parity][axis], self.step[axis], self.size[axis]
        first = min(max(0, -(origin // step)), extent)
        end = min(max(first, -(-(size - origin) // step)), extent)
        return first, end, origin + first * step


def forward(conv: FloatConv) -> TapPlan:
    """The convolution itself."""
    axes = [_parities(*sides) for sides in zip(conv.kernel, conv.stride, conv.dilation, strict=True)]
    parities = list(product(*(sorted({parity for parity, _ in axis}) for axis in axes)))
    origins = tuple((py - conv.padding[0], px - conv.padding[1]) for py, px in parities)
    taps = [
        Tap(parities.index((py, px)), dy, dx, (ky, kx))
        for (ky, (py, dy)), (kx, (px, dx)) in product(*(enumerate(axis) for axis in axes))
    ]
    part = Part((0, 0), (1, 1), conv.out_size, tuple(sorted(taps, key=lambda tap: tap.parity)))
    inputs, outputs = conv.channels // conv.groups, conv.out_channels // conv.groups
    sizes = (conv.size, conv.out_size)
    return TapPlan(conv.batch, conv.groups, inputs, outputs, *sizes, conv.stride, origins, (part,), False)


def transpose(conv: FloatConv) -> TapPlan:
    """From values at the output to those at the input: the gradient of the convolution in its input."""
    sides = zip(conv.size, conv.kernel, conv.stride, conv.dilation, conv.padding[:2], strict=True)
    axes = [_phases(*side) for side in sides]
    low = [min((offset for _, found in axis for _, offset in found), default=0) for axis in axes]
    parts = []
    for (sy, (ny, found_y)), (sx, (nx, found_x)) in product(*(enumerate(axis) for axis in axes)):
        taps = tuple(Tap(0, oy - low[0], ox - low[1], (ky, kx)) for ky, oy in found_y for kx, ox in found_x)
        parts.append(Part((sy, sx), conv.stride, (ny, nx), taps))
    inputs, outputs = conv.out_channels // conv.groups, conv.channels // conv.groups
    sizes = (conv.out_size, conv.size)
    origins = ((low[0], low[1]),)
    return TapPlan(conv.batch, conv.groups, inputs, outputs, *sizes, (1, 1), origins, tuple(parts), True)


def _parities(kernel: int, stride: int, dilation: int) -> list[Pair]:
    """Of each tap: the parity that it reads, and at what offset."""
    return [(k * dilation % stride, k * dilation // stride) for k in range(kernel)]


def _phases(size: int, kernel: int, stride: int, dilation: int, padding: int) -> list[tuple[int, list[Pair]]]:
    """Of each phase of the input's positions: how many there are, and the taps with their offsets.

    Position ``i = phase + stride * p`` meets output position ``(i + padding - k dilation) / stride``; the order is that
    of rising offsets.
    """
    found = []
    for phase in range(stride):
        reached = [(k, phase + padding - k * dilation) for k in reversed(range(kernel))]
        taps = [(k, distance // stride) for k, distance in reached if distance % stride == 0]
        found.append((max(0, -(-(size - phase) // stride)), taps))
    return found


def pack(plan: TapPlan, weights: npt.NDArray[np.float32], block: int) -> npt.NDArray[np.float32]:
    """Weights ``(O, C / groups, kh, kw)`` as kernels read them: ``(groups, blocks, inputs, taps, block)``."""
    rows, columns = ([tap.at[axis] for tap in plan.taps] for axis in (0, 1))
    o, c = (plan.inputs, plan.outputs) if plan.transposed else (plan.outputs, plan.inputs)
    taps = weights.reshape(plan.groups, o, c, *weights.shape[2:])[..., rows, columns]
    taps = taps.transpose(0, 2, 1, 3) if plan.transposed else taps
    blocks = -(-plan.outputs // block)
    padded = np.pad(taps, ((0, 0), (0, blocks * block - plan.outputs), (0, 0), (0, 0)))
    blocked = padded.reshape(plan.groups, blocks, block, plan.inputs, len(plan.taps))
    return np.ascontiguousarray(blocked.transpose(0, 1, 3, 4, 2), np.float32)


def packed_shape(plan: TapPlan, block: int) -> tuple[int, ...]:
    """The shape that `pack` gives."""
    return plan.groups, -(-plan.outputs // block), plan.inputs, len(plan.taps), block


def weight_place(plan: TapPlan, g: Any, output: Any, i: Any, tap: Tap) -> tuple[Any, Any, int, int]:
    """Where in ``(O, C / groups, kh, kw)`` a packed weight comes from."""
    o, c = (i, output) if plan.transposed else (output, i)
    return g * (plan.inputs if plan.transposed else plan.outputs) + o, c, *tap.at
