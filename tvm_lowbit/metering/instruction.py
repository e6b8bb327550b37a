"""``Instruction``: what pricing needs to know of one machine word."""

from __future__ import annotations

from dataclasses import dataclass

# Registers are numbers: x0 to x30, the stack pointer, v0 to v31, the flags. The zero register is none.
STACK, VECTORS, FLAGS = 31, 32, 64


@dataclass(frozen=True)
class Instruction:
    """A decoded word.

    Attributes
    ----------
    kind : str
        Its class, one of `schedules.pipelines.KINDS`.
    wide : bool
        Whether it works on 128-bit vectors.
    count : int
        Registers that a load or store moves; 1 for all else.
    reads, writes : tuple of int
        Registers.
    accumulates : int or None
        The register that it adds to; among ``reads`` only if it is an operand too.
    updates : int or None
        The address register that a load or store changes.
    loaded, stored : int
        Bytes.
    displacement : int or None
        Where a direct branch goes, in bytes from itself.
    """

    kind: str
    wide: bool = False
    count: int = 1
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    accumulates: int | None = None
    updates: int | None = None
    loaded: int = 0
    stored: int = 0
    displacement: int | None = None


def bits(word: int, high: int, low: int) -> int:
    """The field of these bits, both included."""
    return word >> low & (1 << high - low + 1) - 1


def signed(value: int, width: int) -> int:
    """A field of this width as a two's complement number."""
    return value - (1 << width) if value >> width - 1 else value


def general(number: int) -> tuple[int, ...]:
    """A general register, where 31 is the zero register."""
    return () if number == 31 else (number,)


def address(number: int) -> tuple[int, ...]:
    """A general register, where 31 is the stack pointer."""
    return (number,)


def vector(number: int) -> tuple[int, ...]:
    """A vector register."""
    return (VECTORS + number,)


def vectors(first: int, count: int) -> tuple[int, ...]:
    """Consecutive vector registers; v0 follows v31."""
    return tuple(VECTORS + (first + i) % 32 for i in range(count))
