"""Weights of few bits as several codes a byte, which vector shifts take apart: for kernels that multiply bytes.

For ``winograd`` a vector holds 16 input channels; its lanes hold as many codes of one input channel as fit a byte, in
order of ``tap * 4 + output channel of the block``. For ``smlal`` and ``sdot`` a lane holds the codes that stand there
in successive vectors of weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from schedules.intrinsics import const, splat
from schedules.registers import held

LANES, CHANNELS = 16, 4


def per_byte(bits: int) -> int:
    """Codes to a byte."""
    return 8 // bits


def vectors_of(bits: int, taps: int) -> int:
    """Vectors that the taps of a block of four output channels take for 16 input channels."""
    return -(-taps * CHANNELS // per_byte(bits))


def pack_compact(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Codes ``(O, C, taps)``, whole blocks of 4 and of 16, to ``(O / 4, C / 16, vectors, 16)``."""
    o, c, taps = codes.shape
    blocks = codes.reshape(o // CHANNELS, CHANNELS, c // LANES, LANES, taps).transpose(0, 2, 4, 1, 3)
    flat = blocks.reshape(o // CHANNELS, c // LANES, taps * CHANNELS, LANES)
    per, count = per_byte(bits), vectors_of(bits, taps)
    flat = np.pad(flat, ((0, 0), (0, 0), (0, count * per - flat.shape[2]), (0, 0)))
    places = flat.reshape(*flat.shape[:2], count, per, LANES).astype(np.uint8)
    shifts = (bits * np.arange(per, dtype=np.uint8))[:, None]
    return np.bitwise_or.reduce(places << shifts, axis=3).astype(np.uint8)


def unpack_compact(packed: npt.NDArray[np.uint8], bits: int, taps: int) -> npt.NDArray[np.uint8]:
    """The inverse of `pack_compact`."""
    per = per_byte(bits)
    shifts = (bits * np.arange(per, dtype=np.uint8))[:, None]
    places = (packed[:, :, :, None, :] >> shifts) & ((1 << bits) - 1)
    flat = places.reshape(*packed.shape[:2], -1, LANES)[:, :, : taps * CHANNELS]
    blocks = flat.reshape(*packed.shape[:2], taps, CHANNELS, LANES).transpose(0, 3, 1, 4, 2)
    return blocks.reshape(packed.shape[0] * CHANNELS, packed.shape[1] * LANES, taps).astype(np.uint8)


def compact_at(at: Any, bits: int, o: Any, c: Any, tap: Any) -> Any:
    """One code as uint8; ``at(*indices)`` reads the packed array."""
    number = tap * CHANNELS + o % CHANNELS
    byte = at(o // CHANNELS, c // LANES, number // per_byte(bits), c % LANES)
    shift = (number % per_byte(bits) * bits).astype("uint8")
    return (byte >> shift) & const((1 << bits) - 1, "uint8")


def expand(load: Any, bits: int, taps: int, channel: int) -> list[Any]:
    """Emit the codes of all taps of one output channel of a block as vectors; ``load(vector)`` reads one."""
    codes = []
    for tap in range(taps):
        vector, place = divmod(tap * CHANNELS + channel, per_byte(bits))
        code = load(vector)
        if place:
            code = code >> splat(const(place * bits, "uint8"), LANES)
        if (place + 1) * bits < 8:
            code = code & splat(const((1 << bits) - 1, "uint8"), LANES)
        codes.append(held(code, "uint8", LANES))
    return codes


def pack_vectors(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Vectors of codes ``(..., count, 16)`` to ``(..., fewer, 16)``."""
    per = per_byte(bits)
    more = -codes.shape[-2] % per
    padded = np.pad(codes, [(0, 0)] * (codes.ndim - 2) + [(0, more), (0, 0)])
    places = padded.reshape(*codes.shape[:-2], -1, per, LANES)
    shifts = (bits * np.arange(per, dtype=np.uint8))[:, None]
    return np.bitwise_or.reduce(places << shifts, axis=-2).astype(np.uint8)


def unpack_vectors(packed: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """The inverse of `pack_vectors`, for so many vectors."""
    shifts = (bits * np.arange(per_byte(bits), dtype=np.uint8))[:, None]
    places = (packed[..., None, :] >> shifts) & ((1 << bits) - 1)
    return places.reshape(*packed.shape[:-2], -1, LANES)[..., :count, :].astype(np.uint8)


def vector_code_at(at: Any, bits: int, number: Any, lane: Any) -> Any:
    """One code of `pack_vectors` as uint8: of a vector by its number; ``at(vector, lane)`` reads the packed array."""
    byte, place = at(number // per_byte(bits), lane), number % per_byte(bits)
    return (byte >> (place * bits).astype("uint8")) & const((1 << bits) - 1, "uint8")


def expand_vectors(packed: Any, bits: int) -> list[Any]:
    """The vectors of codes that one packed vector holds."""
    top = per_byte(bits) - 1
    codes = []
    for place in range(top + 1):
        code = packed >> splat(const(place * bits, "uint8"), LANES) if place else packed
        whole = place == top and (top + 1) * bits == 8
        codes.append(code if whole else code & splat(const((1 << bits) - 1, "uint8"), LANES))
    return codes


def centred_value(code: Any, multiplier: int, offset: int) -> Any:
    """``multiplier * code + offset`` modulo 256."""
    doubled = code + code if multiplier == 2 else code
    return doubled + splat(tirx.const(offset % 256, "uint8"), LANES) if offset else doubled
