"""Machine words to `Instruction`: what class they are of, what they read and write."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from tvm_lowbit.metering.decode_memory import memory
from tvm_lowbit.metering.decode_scalar import branch, immediate, register
from tvm_lowbit.metering.decode_vector import vector_operation
from tvm_lowbit.metering.instruction import Instruction

# Bits 28 to 25 choose the group: mask, value, decoder.
_GROUPS: tuple[tuple[int, int, Callable[[int], Instruction]], ...] = (
    (0b1110, 0b1000, immediate),
    (0b1110, 0b1010, branch),
    (0b0101, 0b0100, memory),
    (0b0111, 0b0101, register),
    (0b0111, 0b0111, vector_operation),
)


@lru_cache(maxsize=1 << 17)
def decode(word: int) -> Instruction:
    """Decode one word.

    Parameters
    ----------
    word : int
        32 bits, as in memory on a little-endian machine.

    Returns
    -------
    Instruction
        Of class ``system`` where the word is none of the instructions that compilers emit.
    """
    group = word >> 25 & 0b1111
    for mask, value, decoder in _GROUPS:
        if group & mask == value:
            return decoder(word)
    return Instruction("system")
