"""Cortex-A72: three dispatch slots, two vector pipes, measured on an NXP LX2160A.

A 128-bit vector operation takes two of the three slots (hence 1.5 a cycle for those that either pipe takes, 2 of the
64-bit ones). F0 multiplies, F1 counts, shifts and sums pairwise; ``F`` stands for either, so what needs one of them in
particular takes ``F`` too. Q forms of floating point arithmetic run as two halves.
"""

from __future__ import annotations

from schedules.pipelines.model import Pipeline, halved, same

_VECTOR = {
    "logic": same(3, F=1),
    "simple": same(3, F=1),
    "simple3": same(3, F=1),
    "movi": same(3, F=1),
    "count": same(3, F1=1, F=1),
    "count3": same(3, F1=1, F=1),
    "adalp": same(4, 1, F1=1, F=1),
    "aba": halved(4, 2, F1=2, F=2),
    "across_b": same(6, F1=2, F=2),
    "across_h": same(6, F1=1, F=1),
    "across_s": same(3, F1=1, F=1),
    "shift": same(3, F1=1, F=1),
    "shift_acc": same(4, F1=1, F=1),
    "shift_acc_round": same(4, F1=1, F=1),
    "shift_sat": same(4, F1=1, F=1),
    "shift_insert": halved(3, F1=2, F=2),
    "shift_reg": halved(3, F1=2, F=2),
    "shift_reg_sat": halved(4, F1=2, F=2),
    "narrow": same(3, F=1),
    "narrow_add": same(3, F=1),
    "narrow_round": same(3, F=1),
    "shift_narrow": same(3, F1=1, F=1),
    "shift_narrow_sat": same(4, F1=1, F=1),
    "mul": halved(4, 2, F0=2, F=2),
    "mul_long": same(4, 1, F0=1, F=1),
    "tbl1": halved(6, F=3),
    "tbl2": halved(10, F=6),
    "tbl3": halved(13, F=10),
    "tbl4": halved(16, F=14),
    "tbx1": halved(6, F=3),
    "tbx2": halved(10, F=6),
    "tbx3": halved(13, F=10),
    "tbx4": halved(16, F=14),
    "dot": same(100, F=100),  # the core has none
    "fadd": halved(4, F=2),
    "faddp": halved(7, F=3),
    "fmul": halved(4, F=2),
    "fma": halved(7, 3, F=2),
    "fsimple": same(3, F=1),
    "fconv": halved(3, F0=2, F=2),
    "fdiv": halved(30, F0=32, F=32),  # as measured for the square root
    "fcmp": same(3, F1=1, F=1),
    "to_gpr": same(5, F1=1, F=1),
    "from_gpr": same(8, L=1, F=1),
    "from_gpr_lane": same(8, L=1, F=1),
}
_MEMORY = {
    "load": same(4, L=1),
    "load_pair": same(4, L=0.5),
    "store": same(1, S=1),
    "store_pair": same(1, S=1),
    "vload": same(5, L=1),
    "vload_pair": halved(5, L=1),
    "vload_lane": same(8, L=1, F=1),
    "vload2": same(11, L=1.35, F=1),
    "vload3": same(11, L=1.67, F=1),
    "vload4": same(12, L=1.5, F=1),
    "vstore": halved(1, S=2),
    "vstore_pair": halved(1, S=2),
    "vstore_lane": same(1, S=1),
    "vstore2": halved(1, S=2),
    "vstore3": halved(1, S=2.7),
    "vstore4": halved(1, S=3),
}
_SCALAR = {
    "alu": same(1, I=1),
    "alu_lsl": same(2, M=1),
    "alu_shift": same(2, M=1),
    "shift_imm": same(1, I=1),
    "shift_var": same(1, I=1),
    "insert": same(2, M=1),
    "mul_x": same(5, M=3),
    "mul_w": same(3, M=1),
    "mulh": same(6, M=4),
    "div": same(4, M=4),
    "branch": same(1, B=1),
    "nop": same(1),
    "system": same(1, I=1),
}

PIPELINE = Pipeline(
    in_order=False,
    issue=3,
    wide_slots=2,
    units={"F": 2, "F0": 1, "F1": 1, "L": 1, "S": 1, "I": 2, "M": 1, "B": 1},
    costs=_VECTOR | _MEMORY | _SCALAR,
    source="ocxtal/insn_bench_aarch64, NXP LX2160A",
)
