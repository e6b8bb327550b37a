"""Decoding held against words made by the GNU assembler, and their operands as the Arm manual has them."""

from __future__ import annotations

import pytest

from schedules.pipelines import KINDS
from tvm_lowbit.metering.decode import decode

# Word, assembler; class (.q: 128 bits), registers moved, read, written, accumulated onto, address register updated,
# bytes loaded and stored, where a branch goes.
ROWS = """
4e259483 | mla v3.16b, v4.16b, v5.16b                 | mul.q        1 v4,v5      v3             v3  -    0  0 -
6e206810 | uadalp v16.8h, v0.16b                      | adalp.q      1 v0         v16            v16 -    0  0 -
6e859483 | udot v3.4s, v4.16b, v5.16b                 | dot.q        1 v4,v5      v3             v3  -    0  0 -
4f85e883 | sdot v3.4s, v4.16b, v5.4b[2]               | dot.q        1 v4,v5      v3             v3  -    0  0 -
4e258083 | smlal2 v3.8h, v4.16b, v5.16b               | mul_long.q   1 v4,v5      v3             v3  -    0  0 -
0f752883 | smlal v3.4s, v4.4h, v5.h[7]                | mul_long.q   1 v4,v5      v3             v3  -    0  0 -
4fa51083 | fmla v3.4s, v4.4s, v5.s[1]                 | fma.q        1 v4,v5      v3             v3  -    0  0 -
1f051883 | fmadd s3, s4, s5, s6                       | fma          1 v4,v5      v3             v6  -    0  0 -
4e212883 | xtn2 v3.16b, v4.8h                         | narrow       1 v4,v3      v3             -   -    0  0 -
4e181ce3 | ins v3.d[1], x7                            | from_gpr_lane.q   1 x7,v3 v3             -   -    0  0 -
0e0b3c83 | umov w3, v4.b[5]                           | to_gpr       1 v4         x3             -   -    0  0 -
4e020c83 | dup v3.8h, w4                              | from_gpr.q   1 x4         v3             -   -    0  0 -
4e0523e3 | tbl v3.16b, {v31.16b, v0.16b}, v5.16b      | tbl2.q       1 v31,v0,v5  v3             -   -    0  0 -
0e051083 | tbx v3.8b, {v4.16b}, v5.8b                 | tbx1         1 v4,v5,v3   v3             -   -    0  0 -
6e651c83 | bsl v3.16b, v4.16b, v5.16b                 | count.q      1 v4,v5      v3             v3  -    0  0 -
4f009423 | orr v3.8h, #1                              | logic.q      1 v3         v3             -   -    0  0 -
4f00e4e3 | movi v3.16b, #7                            | movi.q       1 -          v3             -   -    0  0 -
3dc00483 | ldr q3, [x4, #16]                          | vload.q      1 x4         v3             -   -   16  0 -
3cc10483 | ldr q3, [x4], #16                          | vload.q      1 x4         v3             -   x4  16  0 -
fc656be3 | ldr d3, [sp, x5]                           | vload        1 sp,x5      v3             -   -    8  0 -
adc110a3 | ldp q3, q4, [x5, #32]!                     | vload_pair.q 2 x5         v3,v4          -   x5  32  0 -
3d800083 | str q3, [x4]                               | vstore.q     1 x4,v3      -              -   -    0 16 -
6dbf13e3 | stp d3, d4, [sp, #-16]!                    | vstore_pair  2 sp,v3,v4   -              -   sp   0 16 -
4cc6a0a3 | ld1 {v3.16b, v4.16b}, [x5], x6             | vload.q      2 x5,x6      v3,v4          -   x5  32  0 -
0d4008a3 | ld1 {v3.b}[2], [x5]                        | vload_lane   1 x5,v3      v3             -   -    1  0 -
4ddfc4a3 | ld1r {v3.8h}, [x5], #2                     | vload_lane   1 x5         v3             -   x5   2  0 -
0c4000be | ld4 {v30.8b, v31.8b, v0.8b, v1.8b}, [x5]   | vload4       4 x5         v30,v31,v0,v1  -   -   32  0 -
4c0088a3 | st2 {v3.4s, v4.4s}, [x5]                   | vstore2.q    2 x5,v3,v4   -              -   -    0 32 -
39400483 | ldrb w3, [x4, #1]                          | load         1 x4         x3             -   -    1  0 -
b8a57883 | ldrsw x3, [x4, x5, lsl #2]                 | load         1 x4,x5      x3             -   -    4  0 -
a8c113e3 | ldp x3, x4, [sp], #16                      | load_pair    2 sp         x3,x4          -   sp  16  0 -
29007ca3 | stp w3, wzr, [x5]                          | store_pair   2 x5,x3      -              -   -    0  8 -
58000203 | ldr x3, .+64                               | load         1 -          x3             -   -    8  0 -
c85ffc83 | ldaxr x3, [x4]                             | load         1 x4         x3             -   -    8  0 -
c805fc83 | stlxr w5, x3, [x4]                         | store        1 x4,x3      x5             -   -    0  8 -
c82a1883 | stxp w10, x3, x6, [x4]                     | store_pair   2 x4,x3,x6   x10            -   -    0 16 -
c87f1883 | ldxp x3, x6, [x4]                          | load_pair    2 x4         x3,x6          -   -   16  0 -
089ffc83 | stlrb w3, [x4]                             | store        1 x4,x3      -              -   -    0  1 -
f8e50083 | ldaddal x5, x3, [x4]                       | load         1 x4,x5      x3             -   -    8  8 -
7825009f | staddh w5, [x4]                            | load         1 x4,x5      -              -   -    2  2 -
b8e58083 | swpal w5, w3, [x4]                         | load         1 x4,x5      x3             -   -    4  4 -
f8bfc083 | ldapr x3, [x4]                             | load         1 x4         x3             -   -    8  0 -
88e5fc83 | casal w5, w3, [x4]                         | load         1 x4,x5,x3   x5             -   -    4  4 -
48267c82 | casp x6, x7, x2, x3, [x4]                  | load         1 x4,x6,x7,x2,x3 x6,x7      -   -   16 16 -
f9800080 | prfm pldl1keep, [x4]                       | nop          1 -          -              -   -    0  0 -
91000483 | add x3, x4, #1                             | alu          1 x4         x3             -   -    0  0 -
910043ff | add sp, sp, #16                            | alu          1 sp         sp             -   -    0  0 -
f100147f | cmp x3, #5                                 | alu          1 x3         flags          -   -    0  0 -
8b050c83 | add x3, x4, x5, lsl #3                     | alu_lsl      1 x4,x5      x3             -   -    0  0 -
8b25c883 | add x3, x4, w5, sxtw #2                    | alu_shift    1 x4,x5      x3             -   -    0  0 -
f2a000e3 | movk x3, #7, lsl #16                       | alu          1 x3         x3             -   -    0  0 -
9b051883 | madd x3, x4, x5, x6                        | mul_x        1 x4,x5,x6   x3             -   -    0  0 -
1b057c83 | mul w3, w4, w5                             | mul_w        1 x4,x5      x3             -   -    0  0 -
9bc57c83 | umulh x3, x4, x5                           | mulh         1 x4,x5      x3             -   -    0  0 -
9a851083 | csel x3, x4, x5, ne                        | alu          1 x4,x5,flags x3             -   -    0  0 -
d3431c83 | ubfx x3, x4, #3, #5                        | shift_imm    1 x4         x3             -   -    0  0 -
b37d1083 | bfi x3, x4, #3, #5                         | insert       1 x4,x3      x3             -   -    0  0 -
b5ffffc3 | cbnz x3, .-8                               | branch       1 x3         -              -   -    0  0 -8
54ffff81 | b.ne .-16                                  | branch       1 flags      -              -   -    0  0 -16
14000008 | b .+32                                     | branch       1 -          -              -   -    0  0 32
94000010 | bl .+64                                    | branch       1 -          x30            -   -    0  0 64
d65f03c0 | ret                                        | branch       1 x30        -              -   -    0  0 -
1e242060 | fcmp s3, s4                                | fcmp         1 v3,v4      flags          -   -    0  0 -
1e380083 | fcvtzs w3, s4                              | fconv        1 v4         x3             -   -    0  0 -
1e220083 | scvtf s3, w4                               | fconv        1 x4         v3             -   -    0  0 -
9e660083 | fmov x3, d4                                | to_gpr       1 v4         x3             -   -    0  0 -
4e218883 | frintn v3.4s, v4.4s                        | fconv.q      1 v4         v3             -   -    0  0 -
"""


def _names(registers: tuple[int, ...]) -> str:
    special = {31: "sp", 64: "flags"}
    return ",".join(special.get(r, f"v{r - 32}" if r >= 32 else f"x{r}") for r in registers) or "-"


def _one(value: int | None) -> str:
    return "-" if value is None else _names((value,))


@pytest.mark.parametrize("line", ROWS.strip().splitlines(), ids=lambda line: line.split("|")[1].strip())
def test_class_and_operands(line):
    word, _, expected = (part.strip() for part in line.split("|"))
    i = decode(int(word, 16))
    kind = f"{i.kind}.q" if i.wide else i.kind
    goes = "-" if i.displacement is None else str(i.displacement)
    registers = (_names(i.reads), _names(i.writes), _one(i.accumulates), _one(i.updates))
    assert [kind, str(i.count), *registers, str(i.loaded), str(i.stored), goes] == expected.split()


def test_any_word_is_of_some_class():
    # Multiples of an odd number, so that all bits take both values in all combinations of neighbours.
    for i in range(200_000):
        assert decode(i * 0x9E3779B1 & 0xFFFFFFFF).kind in KINDS
