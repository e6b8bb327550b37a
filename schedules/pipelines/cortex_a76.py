"""Cortex-A76, measured on its server sibling Neoverse N1 (AWS Graviton2).

Two vector pipes, of which V0 multiplies, divides and converts, and V1 shifts and sums pairwise; ``V`` stands for
either. Two loads a cycle, one 128-bit store.
"""

from __future__ import annotations

from schedules.pipelines.model import Pipeline, halved, same

_VECTOR = {
    "logic": same(2, V=1),
    "simple": same(2, V=1),
    "simple3": same(2, V=1),
    "movi": same(2, V=1),
    "count": same(2, V=1),
    "count3": same(2, V=1),
    "adalp": same(4, 1, V1=1, V=1),
    "aba": same(4, 1, V1=1, V=1),
    "across_b": same(6, V1=2, V=2),
    "across_h": same(6, V1=1.1, V=1.1),
    "across_s": same(3, V1=1, V=1),
    "shift": same(2, V1=1, V=1),
    "shift_acc": same(4, V1=1, V=1),
    "shift_acc_round": same(4, V1=1, V=1),
    "shift_sat": same(4, V1=1, V=1),
    "shift_insert": same(2, V1=1, V=1),
    "shift_reg": same(2, V1=1, V=1),
    "shift_reg_sat": same(4, V1=1, V=1),
    "narrow": same(2, V=1),
    "narrow_add": same(2, V=1),
    "narrow_round": same(2, V=1),
    "shift_narrow": same(2, V1=1, V=1),
    "shift_narrow_sat": same(4, V1=1, V=1),
    "mul": halved(5, 2, V0=2, V=2),
    "mul_long": same(4, 1, V0=1, V=1),
    "tbl1": same(2, V=1),
    "tbl2": same(2, V=1),
    "tbl3": same(4, V=2.1),
    "tbl4": same(4, V=3),
    "tbx1": same(2, V=1),
    "tbx2": same(4, V=2.1),
    "tbx3": same(6, V=3),
    "tbx4": same(6, V=5),
    "dot": same(3, 1, V=1),
    "fadd": same(2, V=1),
    "faddp": same(3, V=1),
    "fmul": same(3, V=1),
    "fma": same(4, 2, V=1),
    "fsimple": same(2, V=1),
    "fconv": halved(4, V0=2, V=2),
    "fdiv": halved(9, V0=7, V=7),  # as measured for the square root
    "fcmp": same(2, V0=1, V=1),
    "to_gpr": same(3, V1=1, V=1),
    "from_gpr": same(3, M=1),
    # Not measured: Arm's software optimization guide of Neoverse N1, "ASIMD transfer, gen reg to element".
    "from_gpr_lane": same(5, M=1, V=1),
}
_MEMORY = {
    "load": same(4, L=1),
    "load_pair": same(4, L=1),
    "store": same(1, S=1),
    "store_pair": same(1, S=1),
    "vload": same(5, L=1),
    "vload_pair": same(5, L=1),
    "vload_lane": same(7, L=1, V=1),
    "vload2": same(8, L=1, V=1),
    "vload3": same(10, L=1.33, V=1),
    "vload4": same(11, L=2.5, V=1),
    # Measured 0.33 a cycle, into one and the same line; two store units of 64 bits give 1.
    "vstore": halved(1, S=2),
    "vstore_pair": halved(1, S=2),
    "vstore_lane": same(1, S=2),
    "vstore2": halved(1, S=2),
    "vstore3": halved(1, S=2),
    "vstore4": halved(1, S=3),
}
_SCALAR = {
    "alu": same(1, I=1),
    "alu_lsl": same(1, I=1),
    "alu_shift": same(2, M=1, I=1),
    "shift_imm": same(1, I=1),
    "shift_var": same(1, I=1),
    "insert": same(2, M=1, I=1),
    "mul_x": same(4, M=3),
    "mul_w": same(2, M=1),
    "mulh": same(5, M=4),
    "div": same(5, M=5),
    "branch": same(1, B=1),
    "nop": same(1),
    "system": same(1, I=1),
}

PIPELINE = Pipeline(
    in_order=False,
    issue=4,
    wide_slots=1,
    units={"V": 2, "V0": 1, "V1": 1, "L": 2, "S": 2, "I": 3, "M": 1, "B": 1},
    costs=_VECTOR | _MEMORY | _SCALAR,
    source="ocxtal/insn_bench_aarch64, AWS Graviton2 (Neoverse N1)",
)
