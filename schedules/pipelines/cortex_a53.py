"""Cortex-A53: two instructions a cycle in program order, measured on a Raspberry Pi 3.

The vector unit has two ``lanes`` of 64 bits: a 128-bit operation takes both, two 64-bit ones share a cycle. Which
instructions pair is from ncnn's documentation (docs/developer-guide/arm-a53-a55-dual-issue.md): a 128-bit vector load
blocks the vector unit for 2 cycles, a 64-bit one pairs with a 64-bit operation but with no 128-bit one, scalar loads
pair with anything. ``solo`` states that: 128-bit operations and vector loads and stores have it one at a time.
"""

from __future__ import annotations

from schedules.pipelines.model import Cost, Pipeline, same


def _neon(latency: int, chain: int | None = None, /, *, wide: float = 1, narrow: float | None = None) -> Cost:
    """A vector operation: cycles of the whole unit in the 128-bit form, of one lane in the shorter one."""
    narrow = wide if narrow is None else narrow
    return Cost({"lanes": 2 * wide, "solo": wide}, {"lanes": narrow}, latency, chain)


def _whole(latency: int, chain: int | None = None, /, *, cycles: float = 1) -> Cost:
    """A vector operation that takes both lanes in any form."""
    return same(latency, chain, lanes=2 * cycles, solo=cycles)


def _vector_memory(wide: float, narrow: float, latency: int = 4, narrow_latency: int = 3) -> Cost:
    # Loads were measured with a move back to a general register, which takes 3 cycles: 5 there and back, less 2 there.
    units = {"ls": wide, "lanes": 2 * wide, "solo": wide}, {"ls": narrow, "lanes": narrow, "solo": narrow}
    return Cost(*units, latency, narrow_latency=narrow_latency)


_VECTOR = {
    "logic": _neon(1),
    "simple": _neon(2),
    "simple3": _neon(3),
    "movi": _neon(1),
    "count": _neon(2),
    "count3": _neon(3),
    "adalp": _whole(4, 2, cycles=2),
    "aba": _whole(4, 2, cycles=2),
    "across_b": _whole(3),
    "across_h": _whole(3),
    "across_s": _whole(3),
    "shift": _neon(2),
    "shift_acc": _neon(3),
    "shift_acc_round": _whole(4, cycles=2),
    "shift_sat": _neon(4),
    "shift_insert": _neon(2),
    "shift_reg": _neon(2),
    "shift_reg_sat": _neon(4),
    "narrow": same(2, lanes=1),
    "narrow_add": _whole(3),
    "narrow_round": _whole(4, cycles=2),
    "shift_narrow": same(2, lanes=1),
    "shift_narrow_sat": same(4, lanes=1),
    "mul": _neon(4, 1),
    "mul_long": _whole(4, 1),
    "tbl1": _neon(2),
    "tbl2": _neon(3, wide=2),
    "tbl3": _neon(4, wide=3),
    "tbl4": _neon(5, wide=4),
    "tbx1": _neon(3, wide=2),
    "tbx2": _neon(4, wide=3),
    "tbx3": _neon(5, wide=4),
    "tbx4": _neon(6, wide=5),
    "dot": _whole(100, cycles=100),  # the core has none
    "fadd": _neon(4),
    "faddp": _neon(4),
    "fmul": _neon(4),
    "fma": _neon(8, 4),
    "fsimple": _neon(4),
    "fconv": _neon(4),
    "fdiv": _whole(12, cycles=9),  # as measured for the square root
    "fcmp": _whole(1),
    "to_gpr": _whole(3),
    "from_gpr": same(2, lanes=1),
    "from_gpr_lane": same(2, lanes=1),
}
_MEMORY = {
    "load": same(3, ls=1),
    "load_pair": same(3, ls=1),
    "store": same(1, ls=1),
    "store_pair": same(1, ls=0.5),
    "vload": _vector_memory(2, 1),
    "vload_pair": _vector_memory(2, 1),
    "vload_lane": _vector_memory(1, 1),
    "vload2": _vector_memory(2, 1),
    "vload3": _vector_memory(2.33, 1.17),
    "vload4": _vector_memory(2.25, 1.12),
    "vstore": _vector_memory(1, 1),
    "vstore_pair": _vector_memory(1, 1),
    "vstore_lane": _vector_memory(1, 1),
    "vstore2": _vector_memory(1, 1),
    "vstore3": _vector_memory(1.33, 1.33),
    "vstore4": _vector_memory(1.25, 1.25),
}
_SCALAR = {
    "alu": same(1, I=1),
    "alu_lsl": same(2, I=1),
    "alu_shift": same(2, I=1),
    "shift_imm": same(2, I=1),
    "shift_var": same(1, I=2),
    "insert": same(2, I=1),
    "mul_x": same(4, M=2),
    "mul_w": same(3, M=1),
    "mulh": same(6, M=4),
    "div": same(3, M=3),
    "branch": same(1, B=1),
    "nop": same(1),
    "system": same(1, I=1),
}

PIPELINE = Pipeline(
    in_order=True,
    issue=2,
    wide_slots=1,
    units={"lanes": 2, "solo": 1, "ls": 1, "I": 2, "M": 1, "B": 1},
    costs=_VECTOR | _MEMORY | _SCALAR,
    source="ocxtal/insn_bench_aarch64, Raspberry Pi 3; pairing: ncnn's arm-a53-a55-dual-issue.md",
)
