"""Products of codes in general registers, beside a loop that keeps the vector unit of an in-order core busy.

Cortex-A53 starts two instructions a cycle, of which one at the most is a vector operation of 128 bits. Eight codes of
activations are the bytes of a register in reverse, so that the top byte of its product with eight codes of weights is
the sum of eight products (ULPPACK, Won et al., MLSys 2022, in 64 bits). A byte of weights has three codes, ``y0 + 4 y1
+ 16 y2``; of a whole register only ``y1`` and ``y2`` are taken out, by AND with a shifted operand, since modulo 2**64

    y0 A0 + y1 A1 + y2 A2 = (y0 + 4 y1 + 16 y2) A0 + y1 (A1 - 4 A0) + y2 (A2 - 16 A0),

whose factors are made once. Activations of a word of weights, 24 codes, stay in registers for eight channels.

Worst case: a byte of such a sum takes at most 24 products of 9, 216.
"""

from __future__ import annotations

from schedules.pipelines.cortex_a53 import PIPELINE

CHANNELS, FIELDS, WORD, BITS = 8, 3, 8, 2
CODES = FIELDS * WORD
# Numbers to a word's activations: its factors, and in the first word what is added to each channel's doubled sum.
FACTORS = 4
# General registers; x18 and x19 are not everywhere free to use.
A, SUMS = ("x0", "x1", "x4"), tuple(f"x{i}" for i in (14, 15, 16, 17, 20, 21, 22, 23))
_MASK, _W, _TAKEN, _CHAINS = "x9", ("x5", "x6"), ("x7", "x12", "x13", "x28"), ("x24", "x25", "x26", "x27")
_WEIGHTS = "x30"
# LLVM knows x30 by its other name only.
CLOBBERED = (*A, *SUMS, _MASK, *_W, *_TAKEN, *_CHAINS, "lr")
# A round of more words is more than a third of the cache of instructions.
MOST_WORDS = 48
# The farthest that a load of two registers reaches.
_REACH = 504
# Bytes of what is added to eight channels' sums.
_ADDED = 2 * CHANNELS


def size(words: int) -> int:
    """Bytes of eight channels' weights, ``(words, 8, 8)``, and of eight 16-bit numbers to add to their doubled sums."""
    return words * CHANNELS * WORD + _ADDED


def places(words: int) -> int:
    """Instructions of a round."""
    return words * (CHANNELS * 2 * FIELDS + CHANNELS // 2 + 2) + 16


def cycles(words: int) -> int:
    """Cycles that a round's multiplications take."""
    return words * CHANNELS * FIELDS * int(PIPELINE.costs["mul_x"].narrow["M"])


def begin(words: int, weights: str, first: int, codes: str) -> list[str]:
    """What the first round needs: the mask, activations of its first word, and weights of its first two channels.

    ``weights`` is the register that counts from the first block, in which the weights begin at ``first``.
    """
    lines = [f"movz {_MASK}, #{0x0303}"] + [f"movk {_MASK}, #{0x0303}, lsl #{16 * i}" for i in (1, 2, 3)]
    lines += [f"ldr {register}, [{codes}, #{WORD * i}]" for i, register in enumerate(A)]
    return [*lines, f"add {_WEIGHTS}, {weights}, #{first}", *([_next(_W)] if words else [])]


def products(words: int, apart: int, more: bool, codes: str) -> list[str]:
    """A round: the products of all words, doubled sums of four channels each packed in the first and fifth of `SUMS`.

    ``apart`` bytes lie between a block's weights and the next one's, of which there are ``more`` or not.
    """
    lines: list[str] = []
    # Channels go in pairs; what is left of a pair is done among the next one's products.
    left: list[str] = []
    for word in range(words):
        for pair in range(0, CHANNELS, 2):
            last = pair + 2 == CHANNELS
            reloaded = (word + 1) % words * FACTORS * WORD if last else None
            chains = _CHAINS[pair % 4 :][:2]
            lines += _pair(chains, not (last and word + 1 == words), codes, reloaded, left)
            left = [_flush(SUMS[pair + i], chain, word == 0) for i, chain in enumerate(chains)]
    added, common = _TAKEN[:2], _TAKEN[2]
    lines += [_next(added), *left, f"ldr {common}, [{codes}, #{FIELDS * WORD}]"]
    lines += [f"add {_WEIGHTS}, {_WEIGHTS}, #{apart}", *([_next(_W)] if words else [])] if more else []
    lines += [f"add {each}, {each}, {common}" for each in added]
    halves = list(zip((SUMS[0], SUMS[4]), added, strict=True))
    if not words:
        return [*lines, *(f"mov {to}, {each}" for to, each in halves)]
    lines += [f"add {to}, {each}, {to}, lsl #1" for to, each in halves]
    for i in (1, 2, 3):
        lines += [f"add {SUMS[half]}, {SUMS[half]}, {SUMS[half + i]}, lsl #{16 * i + 1}" for half in (0, 4)]
    return lines


def _next(registers: tuple[str, ...]) -> str:
    """The next two words of what is stored one after the other."""
    return f"ldp {registers[0]}, {registers[1]}, [{_WEIGHTS}], #{2 * WORD}"


def _pair(chains: tuple[str, ...], more: bool, codes: str, reloaded: int | None, left: list[str]) -> list[str]:
    """A word's products with two channels; weights, and activations if they are to be, loaded anew after the last."""
    lines: list[str] = []
    for field in range(FIELDS):
        for i, chain in enumerate(chains):
            factors = f"{_TAKEN[2 * field - 2 + i] if field else _W[i]}, {A[field]}"
            lines.append(f"madd {chain}, {factors}, {chain}" if field else f"mul {chain}, {factors}")
            if field + 1 < FIELDS:
                lines.append(f"and {_TAKEN[2 * field + i]}, {_MASK}, {_W[i]}, lsr #{BITS * (field + 1)}")
            # By now the pair before is complete.
            lines += left[i : i + 1] if field == 0 else []
        if field + 2 == FIELDS and more:
            lines.append(_next(_W))
        if reloaded is not None and field + 2 == FIELDS:
            lines += _both(codes, reloaded)
    if reloaded is not None:
        lines.append(f"ldr {A[2]}, [{codes}, #{reloaded + 2 * WORD}]")
    return lines


def _both(codes: str, at: int) -> list[str]:
    """The first two factors of a word."""
    if at <= _REACH:
        return [f"ldp {A[0]}, {A[1]}, [{codes}, #{at}]"]
    return [f"ldr {register}, [{codes}, #{at + WORD * i}]" for i, register in enumerate(A[:2])]


def _flush(to: str, chain: str, fresh: bool) -> str:
    """A top byte to a channel's sum."""
    return f"lsr {to}, {chain}, #56" if fresh else f"add {to}, {to}, {chain}, lsr #56"
