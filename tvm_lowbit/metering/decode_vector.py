"""Decoding vector and floating point instructions (Arm Architecture Reference Manual, C4.1.97).

The scalar forms of vector instructions have the same opcodes, and go through the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm_lowbit.metering.instruction import FLAGS, Instruction, bits, general, vector, vectors


@dataclass(frozen=True)
class _Row:
    """A class; whether the destination is added to; whether the instruction counts as 128 bits whatever Q says."""

    kind: str
    adds: bool = False
    wide: bool | None = None


def _table(text: str) -> Mapping[tuple[int, int], _Row]:
    """Rows ``U opcode kind flags``: U 0, 1 or ``-`` for both; ``+`` adds; ``w`` is always wide, ``n`` never."""
    table = {}
    for line in text.strip().splitlines():
        u, opcode, kind, *flags = line.split()
        row = _Row(kind, "+" in flags, True if "w" in flags else False if "n" in flags else None)
        for each in (0, 1) if u == "-" else (int(u),):
            table[each, int(opcode, 2)] = row
    return table


_THREE_SAME = _table("""
- 00000 simple
- 00001 simple3
- 00010 simple
- 00011 logic
- 00100 simple
- 00101 simple3
- 00110 simple
- 00111 simple
- 01000 shift_reg
- 01001 shift_reg_sat
- 01010 shift_reg_sat
- 01011 shift_reg_sat
- 01100 simple
- 01101 simple
- 01110 count3
- 01111 aba +
- 10000 simple
0 10001 simple3
1 10001 simple
- 10010 mul +
- 10011 mul
- 10100 simple
- 10101 simple
- 10110 mul
- 10111 simple3
- 11000 fsimple
- 11001 fma +
0 11010 fadd
1 11010 faddp
- 11011 fmul
- 11100 fsimple
- 11101 fsimple
- 11110 fsimple
0 11111 fma
1 11111 fdiv
""")
_THREE_DIFFERENT = _table("""
- 0000 simple3 w
- 0001 simple3 w
- 0010 simple3 w
- 0011 simple3 w
0 0100 narrow_add n
1 0100 narrow_round n
- 0101 adalp + w
0 0110 narrow_add n
1 0110 narrow_round n
- 0111 count3 w
- 1000 mul_long + w
- 1001 mul_long + w
- 1010 mul_long + w
- 1011 mul_long + w
- 1100 mul_long w
- 1101 mul_long w
- 1110 mul_long w
""")
_TWO_REGISTERS = _table("""
- 00000 simple
- 00001 simple
- 00010 count3
- 00011 simple3 +
- 00100 count
0 00101 count
1 00101 logic
- 00110 adalp +
- 00111 simple3
- 01000 simple
- 01001 simple
- 01010 simple
0 01011 count3
1 01011 simple
- 01100 fsimple
- 01101 fsimple
- 01110 fsimple
- 01111 fsimple
0 10010 narrow n
1 10010 shift_narrow_sat n
- 10011 shift w
- 10100 shift_narrow_sat n
- 10110 fconv w
- 10111 fconv w
1 11111 fdiv
""")
_SHIFTS = _table("""
- 00000 shift
- 00010 shift_acc +
- 00100 shift_sat
- 00110 shift_acc_round +
1 01000 shift_insert +
0 01010 shift
1 01010 shift_insert +
- 01100 shift_sat
- 01110 shift_sat
0 10000 shift_narrow n
1 10000 shift_narrow_sat n
- 10001 shift_narrow_sat n
- 10010 shift_narrow_sat n
- 10011 shift_narrow_sat n
- 10100 shift w
""")
_BY_ELEMENT = _table("""
1 0000 mul +
- 0001 fma +
- 0010 mul_long + w
- 0011 mul_long + w
1 0100 mul +
- 0101 fma +
- 0110 mul_long + w
- 0111 mul_long + w
0 1000 mul
- 1001 fmul
- 1010 mul_long w
0 1011 mul_long w
- 1100 mul
- 1101 mul
- 1110 dot +
0 1111 dot +
1 1111 mul +
""")
_ACROSS = {0: "across_b", 1: "across_h", 2: "across_s"}
_OTHER, _CONVERT = _Row("simple"), _Row("fconv")


def vector_operation(word: int) -> Instruction:
    """Any instruction of the group, bits 28 to 25 being x111."""
    if bits(word, 30, 30) == 0 and bits(word, 28, 28):
        return _floating(word)
    scalar = bool(bits(word, 28, 28))
    low = _indexed(word) if bits(word, 24, 24) else _plain(word, scalar)
    if scalar and low.wide:
        return Instruction(low.kind, False, 1, low.reads, low.writes, low.accumulates)
    return low


def _build(word: int, row: _Row, sources: tuple[int, ...]) -> Instruction:
    rd = vector(bits(word, 4, 0))
    wide = bool(bits(word, 30, 30)) if row.wide is None else row.wide
    if row.adds:
        return Instruction(row.kind, wide, 1, sources, rd, rd[0])
    keeps = rd if row.wide is False and bits(word, 30, 30) else ()  # XTN2 and its kin keep the lower half
    return Instruction(row.kind, wide, 1, sources + keeps, rd)


def _indexed(word: int) -> Instruction:
    """By element, modified immediates, and shifts by an immediate."""
    u, rn = bits(word, 29, 29), vector(bits(word, 9, 5))
    if bits(word, 10, 10) and not bits(word, 23, 23):
        if bits(word, 22, 19) == 0:
            rd, changes = vector(bits(word, 4, 0)), bits(word, 12, 12) and bits(word, 15, 12) < 12
            # ORR and BIC with an immediate change what is there; MOVI, MVNI and FMOV do not.
            kind, reads = ("logic", rd) if changes else ("movi", ())
            return Instruction(kind, bool(bits(word, 30, 30)), 1, reads, rd)
        return _build(word, _SHIFTS.get((u, bits(word, 15, 11)), _CONVERT), rn)
    rm = bits(word, 19, 16) if bits(word, 23, 22) == 1 else bits(word, 20, 16)
    return _build(word, _BY_ELEMENT.get((u, bits(word, 15, 12)), _OTHER), rn + vector(rm))


def _plain(word: int, scalar: bool) -> Instruction:
    u, rn, rm = bits(word, 29, 29), vector(bits(word, 9, 5)), vector(bits(word, 20, 16))
    if bits(word, 21, 21):
        if bits(word, 10, 10):
            opcode, high = bits(word, 15, 11), bits(word, 23, 23)
            row = _THREE_SAME[u, opcode]
            if opcode == 0b00011 and u and bits(word, 23, 22):
                row = _Row("count", adds=True)  # BSL, BIT, BIF
            elif opcode == 0b11010 and u and high:
                row = _Row("fadd")  # FABD
            return _build(word, row, rn + rm)
        if bits(word, 11, 10) == 0:
            return _build(word, _THREE_DIFFERENT.get((u, bits(word, 15, 12)), _OTHER), rn + rm)
        if bits(word, 20, 17) == 8 and not (scalar and bits(word, 16, 12) == 27):
            return _across(word, rn, scalar)
        return _build(word, _TWO_REGISTERS.get((u, bits(word, 16, 12)), _CONVERT), rn)
    if bits(word, 23, 21) == 0 and bits(word, 15, 15) == 0 and bits(word, 10, 10):
        return _copy(word, rn)
    if bits(word, 15, 15) and bits(word, 10, 10):  # SDOT, UDOT, SQRDMLAH
        row = _Row("dot" if bits(word, 14, 12) in (1, 3) else "mul", adds=True)
        return _build(word, row, rn + rm)
    if not u and not bits(word, 15, 15) and bits(word, 11, 10) == 0 and bits(word, 23, 22) == 0:
        return _look_up(word, rm)
    return _build(word, _OTHER, rn + rm)  # ZIP, UZP, TRN, EXT, and half precision


def _across(word: int, rn: tuple[int, ...], scalar: bool) -> Instruction:
    opcode, rd = bits(word, 16, 12), vector(bits(word, 4, 0))
    if scalar:  # ADDP, FADDP, FMAXP of two lanes
        return Instruction("faddp" if opcode == 0b01101 else "simple", False, 1, rn, rd)
    kind = "across_h" if opcode in (0b01100, 0b01111) else _ACROSS.get(bits(word, 23, 22), "across_s")
    return Instruction(kind, bool(bits(word, 30, 30)), 1, rn, rd)


def _copy(word: int, rn: tuple[int, ...]) -> Instruction:
    rd, scalar, operation = bits(word, 4, 0), general(bits(word, 9, 5)), bits(word, 14, 11)
    if bits(word, 29, 29) or operation == 0b0000:  # INS from an element, DUP of one
        inserts = bool(bits(word, 29, 29))
        reads = rn + (vector(rd) if inserts else ())
        return Instruction("simple", bool(bits(word, 30, 30)), 1, reads, vector(rd))
    if operation in (0b0001, 0b0011):  # DUP and INS from a general register
        lane = operation == 0b0011
        kind, reads = ("from_gpr_lane", scalar + vector(rd)) if lane else ("from_gpr", scalar)
        return Instruction(kind, bool(bits(word, 30, 30)), 1, reads, vector(rd))
    return Instruction("to_gpr", False, 1, rn, general(rd))  # SMOV, UMOV


def _look_up(word: int, indices: tuple[int, ...]) -> Instruction:
    length, keeps = bits(word, 14, 13) + 1, bits(word, 12, 12)
    rd, table = vector(bits(word, 4, 0)), vectors(bits(word, 9, 5), length)
    reads = table + indices + (rd if keeps else ())
    return Instruction(f"{'tbx' if keeps else 'tbl'}{length}", bool(bits(word, 30, 30)), 1, reads, rd)


def _floating(word: int) -> Instruction:
    """Floating point on scalars."""
    rd, rn, rm = bits(word, 4, 0), bits(word, 9, 5), bits(word, 20, 16)
    if bits(word, 24, 24):  # FMADD and its kin
        addend = vector(bits(word, 14, 10))
        return Instruction("fma", False, 1, vector(rn) + vector(rm), vector(rd), addend[0])
    if not bits(word, 21, 21):  # fixed point
        return _transfer("fconv", bits(word, 18, 16), rd, rn)
    if bits(word, 15, 10) == 0:
        moves = bits(word, 18, 16) >= 6
        kind = ("from_gpr" if bits(word, 16, 16) else "to_gpr") if moves else "fconv"
        return _transfer(kind, bits(word, 18, 16), rd, rn)
    if bits(word, 14, 10) == 0b10000:
        opcode = bits(word, 20, 15)
        kind = "fdiv" if opcode == 3 else "fsimple" if opcode < 3 else "fconv"
        return Instruction(kind, False, 1, vector(rn), vector(rd))
    if bits(word, 13, 10) == 0b1000:  # FCMP
        return Instruction("fcmp", False, 1, vector(rn) + vector(rm), (FLAGS,))
    if bits(word, 12, 10) == 0b100:
        return Instruction("movi", False, 1, (), vector(rd))
    if bits(word, 11, 10) == 1:
        return Instruction("fcmp", False, 1, vector(rn) + vector(rm) + (FLAGS,), (FLAGS,))
    if bits(word, 11, 10) == 3:  # FCSEL
        return Instruction("simple", False, 1, vector(rn) + vector(rm) + (FLAGS,), vector(rd))
    kind = {0: "fmul", 1: "fdiv", 2: "fadd", 3: "fadd", 8: "fmul"}.get(bits(word, 15, 12), "fsimple")
    return Instruction(kind, False, 1, vector(rn) + vector(rm), vector(rd))


def _transfer(kind: str, opcode: int, rd: int, rn: int) -> Instruction:
    """Between general and vector registers: opcodes 2, 3 and 7 read a general register, the others write one."""
    if opcode in (2, 3, 7):
        return Instruction(kind, False, 1, general(rn), vector(rd))
    return Instruction(kind, False, 1, vector(rn), general(rd))
