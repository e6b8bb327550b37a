"""Decoding branches and arithmetic on general registers (Arm Architecture Reference Manual, C4.1.92 to C4.1.95)."""

from __future__ import annotations

from tvm_lowbit.metering.instruction import FLAGS, Instruction, address, bits, general, signed

_CONDITIONAL, _COMPARE, _TEST = 0b0101010, 0b011010, 0b011011


def immediate(word: int) -> Instruction:
    """Data processing with an immediate."""
    rd, rn, group = bits(word, 4, 0), bits(word, 9, 5), bits(word, 25, 23)
    flags = (FLAGS,)
    if group <= 1:  # ADR, ADRP
        return Instruction("alu", writes=general(rd))
    if group == 2:  # ADD, SUB: with flags, register 31 is no result
        sets = bits(word, 29, 29)
        return Instruction("alu", reads=address(rn), writes=general(rd) + flags if sets else address(rd))
    if group == 4:  # AND, ORR, EOR, ANDS
        sets = bits(word, 30, 29) == 3
        return Instruction("alu", reads=general(rn), writes=general(rd) + flags if sets else address(rd))
    if group == 5:  # MOVN, MOVZ, MOVK
        keeps = bits(word, 30, 29) == 3
        return Instruction("alu", reads=general(rd) if keeps else (), writes=general(rd))
    if group == 6:  # SBFM, BFM, UBFM
        inserts = bits(word, 30, 29) == 1
        reads = general(rn) + (general(rd) if inserts else ())
        return Instruction("insert" if inserts else "shift_imm", reads=reads, writes=general(rd))
    return Instruction("shift_imm", reads=general(rn) + general(bits(word, 20, 16)), writes=general(rd))  # EXTR


def branch(word: int) -> Instruction:
    """Branches, exceptions, and system instructions."""
    rt = bits(word, 4, 0)
    if bits(word, 30, 26) == 0b00101:  # B, BL
        writes = (30,) if bits(word, 31, 31) else ()
        return Instruction("branch", writes=writes, displacement=4 * signed(bits(word, 25, 0), 26))
    if bits(word, 31, 25) == _CONDITIONAL:
        return Instruction("branch", reads=(FLAGS,), displacement=4 * signed(bits(word, 23, 5), 19))
    if bits(word, 30, 25) == _COMPARE:  # CBZ, CBNZ
        return Instruction("branch", reads=general(rt), displacement=4 * signed(bits(word, 23, 5), 19))
    if bits(word, 30, 25) == _TEST:  # TBZ, TBNZ
        return Instruction("branch", reads=general(rt), displacement=4 * signed(bits(word, 18, 5), 14))
    if bits(word, 31, 25) == 0b1101011:  # BR, BLR, RET
        return Instruction("branch", reads=general(bits(word, 9, 5)))
    if bits(word, 31, 12) == 0xD5032:  # hints and barriers, NOP among them
        return Instruction("nop")
    reads_system = bits(word, 31, 20) == 0xD53
    return Instruction("system", writes=general(rt) if reads_system else ())


def register(word: int) -> Instruction:
    """Data processing on registers."""
    rd, rn, rm = bits(word, 4, 0), bits(word, 9, 5), bits(word, 20, 16)
    if not bits(word, 28, 28):
        return _shifted(word, rd, rn, rm)
    group = bits(word, 24, 21)
    flags = (FLAGS,)
    if group >= 8:
        return _multiply(word, rd, rn, rm)
    if group == 0:  # ADC, SBC
        sets = flags if bits(word, 29, 29) else ()
        return Instruction("alu", reads=general(rn) + general(rm) + flags, writes=general(rd) + sets)
    if group == 2:  # CCMP, CCMN: with a register or an immediate
        second = () if bits(word, 11, 11) else general(rm)
        return Instruction("alu", reads=general(rn) + second + flags, writes=flags)
    if group == 4:  # CSEL and its kin
        return Instruction("alu", reads=general(rn) + general(rm) + flags, writes=general(rd))
    if bits(word, 30, 30):  # RBIT, REV, CLZ, CLS
        return Instruction("alu", reads=general(rn), writes=general(rd))
    kind = "div" if bits(word, 15, 10) in (2, 3) else "shift_var"
    return Instruction(kind, reads=general(rn) + general(rm), writes=general(rd))


def _shifted(word: int, rd: int, rn: int, rm: int) -> Instruction:
    arithmetic, amount = bits(word, 24, 24), bits(word, 15, 10)
    sets = bits(word, 29, 29) if arithmetic else bits(word, 30, 29) == 3
    flags = (FLAGS,) if sets else ()
    if arithmetic and bits(word, 21, 21):  # extended register: UXTX and SXTX without a shift are plain
        plain = bits(word, 14, 13) == 3 and bits(word, 12, 10) == 0
        writes = general(rd) if sets else address(rd)
        return Instruction("alu" if plain else "alu_shift", reads=address(rn) + general(rm), writes=writes + flags)
    short = bits(word, 23, 22) == 0 and amount <= 4  # LSL by up to 4, which newer cores do for nothing
    kind = "alu" if amount == 0 else "alu_lsl" if short else "alu_shift"
    return Instruction(kind, reads=general(rn) + general(rm), writes=general(rd) + flags)


def _multiply(word: int, rd: int, rn: int, rm: int) -> Instruction:
    operation = bits(word, 23, 21)
    kind = {0: "mul_x" if bits(word, 31, 31) else "mul_w", 1: "mul_w", 5: "mul_w"}.get(operation, "mulh")
    addend = general(bits(word, 14, 10)) if kind != "mulh" else ()
    return Instruction(kind, reads=general(rn) + general(rm) + addend, writes=general(rd))
