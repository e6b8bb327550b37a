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

CHANNELS, FIELDS, WORD, BITS = 8, 3, 8, 2
CODES = FIELDS * WORD
# Bytes of a word of weights of eight channels, and of its activations.
SIZE, CODES_SIZE = CHANNELS * WORD, FIELDS * WORD
# Of a word, with a share of loading its activations.
INSTRUCTIONS = CHANNELS * (2 * FIELDS + 1) + FIELDS
# General registers; x18 and x19 are not everywhere free to use.
A, SUMS = ("x0", "x1", "x4"), tuple(f"x{i}" for i in (14, 15, 16, 17, 20, 21, 22, 23))
_MASK, _W, _TAKEN, _CHAINS = "x9", ("x5", "x6"), ("x7", "x12", "x13", "x28"), ("x24", "x25", "x26", "x27")
CLOBBERED = (*A, *SUMS, *_W, *_TAKEN, *_CHAINS)


def begin(weights: str, first: int, codes: str) -> list[str]:
    """What the first round needs: the mask, activations of its first word, and weights of its first two channels."""
    lines = [f"movz {_MASK}, #{0x0303}"] + [f"movk {_MASK}, #{0x0303}, lsl #{16 * i}" for i in (1, 2, 3)]
    lines += [f"ldr {register}, [{codes}, #{WORD * i}]" for i, register in enumerate(A)]
    return lines + [f"ldr {register}, [{weights}, #{first + WORD * i}]" for i, register in enumerate(_W)]


def products(words: int, weights: str, first: int, following: int | None, codes: str) -> list[str]:
    """A round: the products of all words, sums of four channels each packed in the first and the fifth of `SUMS`.

    ``first`` is where the round's weights begin, counted from the register ``weights``, ``following`` the next round's.
    """
    lines: list[str] = []
    # Channels go in pairs; what is left of a pair is done among the next one's products.
    left: list[str] = []
    for word in range(words):
        for pair in range(0, CHANNELS, 2):
            done = word * CHANNELS + pair + 2
            place = first + done * WORD if done < words * CHANNELS else following
            reloaded = (word + 1) % words * CODES_SIZE if pair + 2 == CHANNELS else None
            chains = _CHAINS[pair % 4 :][:2]
            lines += _pair(chains, weights, place, codes, reloaded, left)
            left = [_flush(SUMS[pair + i], chain, word == 0) for i, chain in enumerate(chains)]
    lines += left
    for half in (0, 4):
        to = SUMS[half]
        lines += [f"add {to}, {to}, {SUMS[half + i]}, lsl #{16 * i}" for i in (1, 2, 3)]
    return lines


def _pair(
    chains: tuple[str, ...], weights: str, place: int | None, codes: str, reloaded: int | None, left: list[str]
) -> list[str]:
    """A word's products with two channels; weights, and activations if they are to be, loaded anew after the last."""
    lines: list[str] = []
    for field in range(FIELDS):
        for i, chain in enumerate(chains):
            factors = f"{_TAKEN[2 * field - 2 + i] if field else _W[i]}, {A[field]}"
            lines.append(f"madd {chain}, {factors}, {chain}" if field else f"mul {chain}, {factors}")
            if field + 1 < FIELDS:
                lines.append(f"and {_TAKEN[2 * field + i]}, {_MASK}, {_W[i]}, lsr #{BITS * (field + 1)}")
            if field + 2 == FIELDS and place is not None:
                lines.append(f"ldr {_W[i]}, [{weights}, #{place + WORD * i}]")
            # By now the pair before is complete.
            lines += left[i : i + 1] if field == 0 else []
        if reloaded is not None:
            lines.append(f"ldr {A[field]}, [{codes}, #{reloaded + WORD * field}]")
    return lines


def _flush(to: str, chain: str, fresh: bool) -> str:
    """A top byte to a channel's sum."""
    return f"lsr {to}, {chain}, #56" if fresh else f"add {to}, {to}, {chain}, lsr #56"
