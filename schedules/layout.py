"""Physical layouts of low-bit activations, and how to read and write one code in each.

``nhwc``: uint8 codes ``(N, H, W, C)``, one byte a code.
``planes``: bit planes ``(N, H, W, groups, bits, bytes)``; bit ``j`` of byte ``b`` belongs to channel ``8 b + j`` of its
group, and the bits past the last channel are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Layout:
    """A physical layout; ``bits`` and ``groups`` matter to ``planes`` only."""

    kind: str = "nhwc"
    bits: int = 8
    groups: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("nhwc", "planes"):
            raise ValueError(f"layout kind must be nhwc or planes, got {self.kind}")
        if not (1 <= self.bits <= 8 and self.groups >= 1):
            raise ValueError(f"a layout has 1..8 bits and at least one group, got {self}")

    def __str__(self) -> str:
        if self.kind == "nhwc":
            return self.kind
        return f"{self.bits} {self.kind}" + (f" in {self.groups} groups" if self.groups > 1 else "")

    def shape(self, n: int, h: int, w: int, c: int) -> tuple[int, ...]:
        """The physical shape of a logical ``(n, h, w, c)`` tensor."""
        if self.kind == "nhwc":
            return (n, h, w, c)
        if c % self.groups:
            raise ValueError(f"{self.groups} groups must divide {c} channels")
        return (n, h, w, self.groups, self.bits, plane_bytes(c // self.groups))

    def load(self, at: Any, n: Any, h: Any, w: Any, c: Any, channels: int) -> Any:
        """The code at a logical position as an expression; ``at(*indices)`` reads the physical uint8 tensor."""
        if self.kind == "nhwc":
            return at(n, h, w, c)
        per_group = channels // self.groups
        group, channel = c // per_group, c % per_group
        code = None
        for plane in range(self.bits):
            byte = at(n, h, w, group, plane, channel // 8)
            bit = ((byte >> (channel % 8).astype("uint8")) & _u8(1)) << _u8(plane)
            code = bit if code is None else code | bit
        return code


def plane_bytes(channels: int) -> int:
    """Bytes that one bit plane of this many channels takes."""
    return -(-channels // 8)


def _u8(value: int) -> Any:
    from tvm import tirx

    return tirx.const(value, "uint8")


def pack_planes(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Bit planes of the last axis: ``(..., C)`` codes to ``(..., bits, ceil(C / 8))`` bytes, little end first."""
    planes = (codes[..., None, :] >> np.arange(bits, dtype=np.uint8)[:, None]) & 1
    return np.packbits(planes.astype(np.uint8), axis=-1, bitorder="little")


def pack(codes: npt.NDArray[np.uint8], layout: Layout) -> npt.NDArray[np.uint8]:
    """Codes ``(N, H, W, C)`` in the given physical layout."""
    if layout.kind == "nhwc":
        return codes
    n, h, w, c = codes.shape
    return pack_planes(codes.reshape(n, h, w, layout.groups, c // layout.groups), layout.bits)


def unpack(packed: npt.NDArray[np.uint8], layout: Layout, channels: int) -> npt.NDArray[np.uint8]:
    """The inverse of `pack`."""
    if layout.kind == "nhwc":
        return packed
    n, h, w = packed.shape[:3]
    planes = np.unpackbits(packed, axis=-1, bitorder="little", count=channels // layout.groups)
    weights = (1 << np.arange(layout.bits, dtype=np.uint8))[:, None]
    return (planes * weights).sum(axis=-2, dtype=np.uint8).reshape(n, h, w, channels)
