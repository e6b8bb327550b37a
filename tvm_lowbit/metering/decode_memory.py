"""Decoding loads and stores (Arm Architecture Reference Manual, C4.1.96)."""

from __future__ import annotations

from tvm_lowbit.metering.instruction import Instruction, address, bits, general, vector, vectors

_NOTHING = Instruction("nop")
# Structures and registers of LD1 to LD4 and ST1 to ST4 on whole registers, by opcode.
_STRUCTURES = {
    0b0000: (4, 4),
    0b0010: (1, 4),
    0b0100: (3, 3),
    0b0110: (1, 3),
    0b0111: (1, 1),
    0b1000: (2, 2),
    0b1010: (1, 2),
}


def memory(word: int) -> Instruction:
    """Any load or store."""
    if bits(word, 29, 27) == 0b111:
        return _single(word)
    if bits(word, 29, 27) == 0b101:
        return _pair(word)
    if bits(word, 29, 27) == 0b011:
        return _literal(word)
    if bits(word, 31, 31) == 0 and bits(word, 29, 26) == 0b0011:
        return _one_lane(word) if bits(word, 24, 24) else _structures(word)
    return _exclusive(word)


def _single(word: int) -> Instruction:
    rt, rn, size = bits(word, 4, 0), bits(word, 9, 5), bits(word, 31, 30)
    opcode, is_vector = bits(word, 23, 22), bits(word, 26, 26)
    indexed = not bits(word, 24, 24)
    reads, updates = address(rn), None
    if indexed and bits(word, 21, 21):
        if bits(word, 11, 10) != 2:
            return _atomic(word)
        reads += general(bits(word, 20, 16))
    elif indexed and bits(word, 10, 10):
        updates = rn
    if is_vector:
        width = 16 if opcode >= 2 else 1 << size
        return _moved(bool(opcode & 1), "v", width, vector(rt), reads, updates)
    if size == 3 and opcode == 2:  # PRFM
        return _NOTHING
    return _moved(opcode != 0, "", 1 << size, general(rt), reads, updates)


def _pair(word: int) -> Instruction:
    rt, rn, rt2 = bits(word, 4, 0), bits(word, 9, 5), bits(word, 14, 10)
    size, is_load = bits(word, 31, 30), bool(bits(word, 22, 22))
    updates = rn if bits(word, 23, 23) else None  # post- and pre-indexed
    if bits(word, 26, 26):
        return _moved(is_load, "v", 4 << size, vector(rt) + vector(rt2), address(rn), updates, "_pair", 2)
    width = 8 if size == 2 else 4
    return _moved(is_load, "", width, general(rt) + general(rt2), address(rn), updates, "_pair", 2)


def _literal(word: int) -> Instruction:
    rt, size = bits(word, 4, 0), bits(word, 31, 30)
    if bits(word, 26, 26):
        return _moved(True, "v", 4 << size, vector(rt), (), None)
    return _NOTHING if size == 3 else _moved(True, "", 8 if size == 1 else 4, general(rt), (), None)


def _moved(
    is_load: bool,
    prefix: str,
    width: int,
    registers: tuple[int, ...],
    reads: tuple[int, ...],
    updates: int | None,
    suffix: str = "",
    count: int = 1,
) -> Instruction:
    """``count`` registers of ``width`` bytes."""
    wide, size = bool(prefix) and width == 16, width * count
    if is_load:
        kind = f"{prefix}load{suffix}"
        return Instruction(kind, wide, count, reads, registers, updates=updates, loaded=size)
    return Instruction(f"{prefix}store{suffix}", wide, count, reads + registers, updates=updates, stored=size)


def _structures(word: int) -> Instruction:
    """LD1 to LD4, ST1 to ST4."""
    structures, count = _STRUCTURES.get(bits(word, 15, 12), (1, 1))
    suffix = "" if structures == 1 else str(structures)
    return _vectors(word, suffix, count, 16 if bits(word, 30, 30) else 8)


def _one_lane(word: int) -> Instruction:
    """LD1 to LD4 and ST1 to ST4 of one lane, and loads to all lanes."""
    count, opcode = 2 * bits(word, 13, 13) + bits(word, 21, 21) + 1, bits(word, 15, 14)
    size = bits(word, 11, 10)
    width = 1 << (size if opcode == 3 else 3 if opcode == 2 and size & 1 else opcode)
    return _vectors(word, "_lane", count, width)


def _vectors(word: int, suffix: str, count: int, width: int) -> Instruction:
    registers, reads = vectors(bits(word, 4, 0), count), address(bits(word, 9, 5))
    updates = bits(word, 9, 5) if bits(word, 23, 23) else None
    if updates is not None and bits(word, 20, 16) != 31:
        reads += general(bits(word, 20, 16))
    is_load = bool(bits(word, 22, 22))
    moved = _moved(is_load, "v", width, registers, reads, updates, suffix, count)
    if is_load and suffix == "_lane" and bits(word, 15, 14) != 3:  # the other lanes stay
        return Instruction(moved.kind, moved.wide, count, reads + registers, registers, None, updates, moved.loaded)
    return moved


def _atomic(word: int) -> Instruction:
    """LDADD, SWP and the like read and write; LDAPR, and LDRAA and LDRAB (bit 10), only read."""
    rt, rn, width = bits(word, 4, 0), bits(word, 9, 5), 1 << bits(word, 31, 30)
    if bits(word, 10, 10):
        return Instruction("load", reads=address(rn), writes=general(rt), loaded=width)
    stored = 0 if bits(word, 15, 12) == 0b1100 else width
    reads = address(rn) + general(bits(word, 20, 16))
    return Instruction("load", reads=reads, writes=general(rt), loaded=width, stored=stored)


def _exclusive(word: int) -> Instruction:
    """LDXR, STXR, LDAR, STLR, of pairs too, and compare and swap."""
    rt, rn, rs = bits(word, 4, 0), bits(word, 9, 5), bits(word, 20, 16)
    ordered, compares, is_load = bits(word, 23, 23), bits(word, 21, 21), bits(word, 22, 22)
    width, values, compared = 1 << bits(word, 31, 30), general(rt), general(rs)
    pair = compares and not ordered  # LDXP, STXP and CASP, whose sizes are 4 and 8 bytes each
    if pair:
        width = 8 << bits(word, 30, 30)
        values += general(rt + 1 if not bits(word, 31, 31) else bits(word, 14, 10))
    if compares and (ordered or not bits(word, 31, 31)):
        compared += general(rs + 1) if pair else ()
        return Instruction("load", reads=address(rn) + compared + values, writes=compared, loaded=width, stored=width)
    count, suffix = (2, "_pair") if pair else (1, "")
    if is_load:
        return Instruction(f"load{suffix}", count=count, reads=address(rn), writes=values, loaded=width)
    return Instruction(f"store{suffix}", count=count, reads=address(rn) + values, writes=compared, stored=width)
