"""Where ``smlal`` and ``sdot`` keep weights: as the bytes that are multiplied, or as several codes a byte.

Bytes are `pack_rows`. Codes of up to 4 bits share bytes, as in `pack_vectors`, and a call takes them apart first, which
costs as much as one product in `FEW` pixels; layers of fewer, which use each weight too seldom, keep bytes. Groups of
fewer channels than a block's four (depthwise) keep the rows of their channels only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.byte_dot import CHANNELS, STEP, pack_rows, row_place, unpack_rows
from schedules.compact import centred_value, expand_vectors, pack_vectors, per_byte, unpack_vectors, vector_code_at
from schedules.intrinsics import const, splat, vload, vstore
from schedules.registers import held
from schedules.vectors import part

Codes = npt.NDArray[np.uint8]
# The widest block of channels that a kernel reads.
NR_LIMIT = 8
# Layers of fewer output pixels store bytes whatever their width.
FEW = 32


@dataclass(frozen=True)
class ByteWeights:
    """The weights of one layer.

    Attributes
    ----------
    form : str
        ``smlal`` or ``sdot``: see `pack_rows`.
    groups, channels, k : int
        Groups, output channels of each, products of each.
    bits : int
        Width of a code.
    multiplier, offset : int
        A code's byte is ``multiplier * code + offset``.
    compact : bool
        Whether codes share bytes.
    """

    form: str
    groups: int
    channels: int
    k: int
    bits: int
    multiplier: int
    offset: int
    compact: bool

    @property
    def steps(self) -> int:
        """Steps of 16 products."""
        return -(-self.k // STEP)

    @property
    def lone(self) -> bool:
        """Whether the channels' rows are stored one after another, a group being less than a block."""
        return self.compact and self.channels < CHANNELS

    @property
    def _kept(self) -> int:
        """Blocks of four channels of a group that are stored; bytes also those that pad a kernel's widest block."""
        whole = CHANNELS if self.compact else NR_LIMIT
        return -(-self.channels // whole) * whole // CHANNELS

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the stored array."""
        per = per_byte(self.bits)
        if self.lone:
            return (-(-self.groups * self.channels * self.steps // per), STEP)
        if self.compact:
            return (self.groups, self._kept, -(-self.steps * CHANNELS // per), STEP)
        return (self.groups, self._kept, self.steps, CHANNELS, STEP)

    @property
    def dtype(self) -> str:
        """Of the stored array."""
        return "uint8" if self.compact else "int8"

    def pack(self, codes: Codes) -> npt.NDArray[Any]:
        """Codes ``(groups, channels, k)`` as they are stored."""
        more = 0 if self.lone else self._kept * CHANNELS - self.channels
        pad = ((0, 0), (0, more), (0, self.steps * STEP - self.k))
        if not self.compact:
            values = self.multiplier * codes.astype(np.int64) + self.offset
            return pack_rows(self.form, np.pad(values, pad).astype(np.int8))
        padded: Codes = np.pad(codes, pad)
        if self.lone:
            return pack_vectors(padded.reshape(-1, STEP), self.bits)
        rows = pack_rows(self.form, padded)
        return pack_vectors(rows.reshape(self.groups, self._kept, -1, STEP), self.bits)

    def unpack(self, stored: npt.NDArray[Any]) -> Codes:
        """The inverse of `pack`."""
        if self.lone:
            vectors = unpack_vectors(stored, self.bits, self.groups * self.channels * self.steps)
            return vectors.reshape(self.groups, self.channels, -1)[:, :, : self.k]
        if self.compact:
            vectors = unpack_vectors(stored, self.bits, self.steps * CHANNELS)
            stored = vectors.reshape(self.groups, self._kept, self.steps, CHANNELS, STEP)
        flat = unpack_rows(self.form, stored)[:, : self.channels, : self.k]
        if self.compact:
            return flat
        return ((flat.astype(np.int64) - self.offset) // self.multiplier).astype(np.uint8)

    def code_at(self, at: Callable[..., Any], group: Any, channel: Any, k: Any) -> Any:
        """One code as uint8; ``at(*indices)`` reads the stored array."""
        if self.lone:
            number = (group * self.channels + channel) * self.steps + k // STEP
            return vector_code_at(at, self.bits, number, k % STEP)
        block, step, row, lane = row_place(self.form, channel, k)
        if self.compact:
            return vector_code_at(lambda *i: at(group, block, *i), self.bits, step * CHANNELS + row, lane)
        value = at(group, block, step, row, lane).astype("int32") - const(self.offset)
        return (value // const(self.multiplier)).astype("uint8")

    def to_bytes(self, stored: Any, nr: int, loop: Any) -> Any:
        """Emit, once a call, what makes bytes ``(groups, blocks, steps, 4, 16)`` of the stored array; returns them.

        Blocks of ``nr`` channels are whole; ``loop`` is serial or parallel. All bytes are written: TVM shrinks a buffer
        to what it sees written or read, and what reads an address may be assembly.
        """
        if not self.compact:
            return stored
        per, blocks = per_byte(self.bits), -(-self.channels // nr) * nr // CHANNELS
        if self.lone:
            each = self.channels * self.steps
            groups = -(-self.shape[0] * per // each)
            wide = T.alloc_buffer((groups, blocks, self.steps, CHANNELS, STEP), "uint8")
            self._clear(wide, int(self.channels == 1), loop)
            with loop(0, self.shape[0]) as vector:
                for place, value in enumerate(self._values(stored, [vector, 0])):
                    number = vector * per + place
                    self._store_row(wide, number // each, number % each // self.steps, number % self.steps, value)
            return wide
        count = self.shape[2]
        wide = T.alloc_buffer((self.groups, blocks, -(-count * per // CHANNELS), CHANNELS, STEP), "uint8")
        self._clear(wide, self._kept, loop)
        with loop(0, self.groups * self._kept) as block, T.serial(0, count) as vector:
            g, b = block // self._kept, block % self._kept
            for place, value in enumerate(self._values(stored, [g, b, vector, 0])):
                at = vector * per + place
                vstore(T, wide, value, [g, b, at // CHANNELS, at % CHANNELS, 0], STEP)
        return wide

    def _clear(self, wide: Any, first: int, loop: Any) -> None:
        """Zeros for the blocks of each group from this one on."""
        groups, blocks, *rest, _ = map(int, wide.shape)
        if first < blocks:
            with loop(0, groups) as g, T.grid(blocks - first, *rest) as (b, *row):
                vstore(T, wide, splat(const(0, "uint8"), STEP), [g, first + b, *row, 0], STEP)

    def _values(self, stored: Any, at: list[Any]) -> list[Any]:
        packed = held(vload(stored, at, STEP), "uint8", STEP)
        return [centred_value(code, self.multiplier, self.offset) for code in expand_vectors(packed, self.bits)]

    def _store_row(self, wide: Any, group: Any, channel: Any, step: Any, value: Any) -> None:
        """Store a channel's 16 bytes; of a group's only channel, the zeros around it too."""
        row, zeros = held(value, "uint8", STEP), splat(const(0, "uint8"), STEP)
        if self.form == "smlal":
            vstore(T, wide, row, [group, 0, step, channel, 0], STEP)
        for i in range(self.form == "smlal", CHANNELS):
            if self.channels == 1:
                four = zeros if self.form == "smlal" else tirx.Shuffle([row, zeros], _quarter(i))
                vstore(T, wide, four, [group, 0, step, i, 0], STEP)
            elif self.form == "sdot":
                vstore(T, wide, part(row, 4 * i, 4), [group, 0, step, i, channel * 4], 4)


def _quarter(number: int) -> list[int]:
    """Lanes that put four bytes of the first vector before twelve of the second."""
    return [*range(4 * number, 4 * number + 4), *range(STEP, STEP + 12)]
