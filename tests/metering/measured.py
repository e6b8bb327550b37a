"""Instructions, as machine words, and how many of them cores start per cycle, measured by ocxtal/insn_bench_aarch64.

Cortex-A53 on a Raspberry Pi 3, Cortex-A72 on an NXP LX2160A, Neoverse N1 (for Cortex-A76) on an AWS Graviton2.
``-``: not measured as it would be used (stores into one and the same line).
"""

from __future__ import annotations

CORES = ("cortex-a53", "cortex-a72", "cortex-a76")

THROUGHPUT = """
4e221c20 | and v0.16b, v1.16b, v2.16b                           |     1   1.5     2
6e221c20 | eor v0.16b, v1.16b, v2.16b                           |     1   1.5     2
4e621c20 | bic v0.16b, v1.16b, v2.16b                           |     1   1.5     2
4e228420 | add v0.16b, v1.16b, v2.16b                           |     1   1.5     2
4e22bc20 | addp v0.16b, v1.16b, v2.16b                          |     1   1.5     2
4e023820 | zip1 v0.16b, v1.16b, v2.16b                          |     1   1.5     2
6e021820 | ext v0.16b, v1.16b, v2.16b, #3                       |     1   1.5     2
2e221020 | uaddw v0.8h, v1.8h, v2.8b                            |     1   1.5     2
6e221020 | uaddw2 v0.8h, v1.8h, v2.16b                          |     1   1.5     2
6e223420 | cmhi v0.16b, v1.16b, v2.16b                          |     1   1.5     2
6e226420 | umax v0.16b, v1.16b, v2.16b                          |     1   1.5     2
4e205820 | cnt v0.16b, v1.16b                                   |     1     1     2
6e202820 | uaddlp v0.8h, v1.16b                                 |     1     1     2
6e621c20 | bsl v0.16b, v1.16b, v2.16b                           |     1     1     2
4e20b820 | abs v0.16b, v1.16b                                   |     1     1     2
6e206820 | uadalp v0.8h, v1.16b                                 |   0.5     1     1
4e606820 | sadalp v0.4s, v1.8h                                  |   0.5     1     1
6e227c20 | uaba v0.16b, v1.16b, v2.16b                          |   0.5   0.5     1
4f0a5420 | shl v0.16b, v1.16b, #2                               |     1     1     1
6f0e0420 | ushr v0.16b, v1.16b, #2                              |     1     1     1
6f0e1420 | usra v0.16b, v1.16b, #2                              |     1     1     1
6f0e3420 | ursra v0.16b, v1.16b, #2                             |   0.5     1     1
6f0a5420 | sli v0.16b, v1.16b, #2                               |     1   0.5     1
6e224420 | ushl v0.16b, v1.16b, v2.16b                          |     1   0.5     1
2f08a420 | uxtl v0.8h, v1.8b                                    |     1     1     1
0e212820 | xtn v0.8b, v1.8h                                     |     2     2     2
0f0e8420 | shrn v0.8b, v1.8h, #2                                |     2     1     1
0e214820 | sqxtn v0.8b, v1.8h                                   |     2     1     1
2e212820 | sqxtun v0.8b, v1.8h                                  |     2     1     1
0f0e9c20 | sqrshrn v0.8b, v1.8h, #2                             |     2     1     1
0e224020 | addhn v0.8b, v1.8h, v2.8h                            |     1     2     2
2e224020 | raddhn v0.8b, v1.8h, v2.8h                           |   0.5     2     2
4e229c20 | mul v0.16b, v1.16b, v2.16b                           |     1   0.5   0.5
4e229420 | mla v0.16b, v1.16b, v2.16b                           |     1   0.5   0.5
6f520020 | mla v0.8h, v1.8h, v2.h[1]                            |     1   0.5   0.5
4ea2b420 | sqdmulh v0.4s, v1.4s, v2.4s                          |     1   0.5   0.5
2e22c020 | umull v0.8h, v1.8b, v2.8b                            |     1     1     1
0e228020 | smlal v0.8h, v1.8b, v2.8b                            |     1     1     1
4e228020 | smlal2 v0.8h, v1.16b, v2.16b                         |     1     1     1
0f722020 | smlal v0.4s, v1.4h, v2.h[3]                          |     1     1     1
4e020020 | tbl v0.16b, {v1.16b}, v2.16b                         |     1  0.67     2
4e032020 | tbl v0.16b, {v1.16b, v2.16b}, v3.16b                 |   0.5  0.33     2
4e056020 | tbl v0.16b, {v1.16b, v2.16b, v3.16b, v4.16b}, v5.16b |  0.25  0.14  0.67
4e22cc20 | fmla v0.4s, v1.4s, v2.4s                             |     1     1     2
6e22dc20 | fmul v0.4s, v1.4s, v2.4s                             |     1     1     2
4e22d420 | fadd v0.4s, v1.4s, v2.4s                             |     1     1     2
4e22f420 | fmax v0.4s, v1.4s, v2.4s                             |     1   1.5     2
1e222820 | fadd s0, s1, s2                                      |     2     2     2
4e21d820 | scvtf v0.4s, v1.4s                                   |     1   0.5   0.5
4e31b820 | addv b0, v1.16b                                      |     1   0.5   0.5
4eb1b820 | addv s0, v1.4s                                       |     1     1     1
4e070420 | dup v0.16b, v1.b[3]                                  |     1   1.5     2
4e010c20 | dup v0.16b, w1                                       |     2     1     1
3dc00020 | ldr q0, [x1]                                         |   0.5     1     2
ad400820 | ldp q0, q2, [x1]                                     |  0.25   0.5     1
4c402020 | ld1 {v0.16b, v1.16b, v2.16b, v3.16b}, [x1]           |  0.12  0.25   0.5
4c408020 | ld2 {v0.16b, v1.16b}, [x1]                           |  0.25  0.37     1
4c404020 | ld3 {v0.16b, v1.16b, v2.16b}, [x1]                   |  0.14  0.20   0.5
4c400020 | ld4 {v0.16b, v1.16b, v2.16b, v3.16b}, [x1]           |  0.11  0.17   0.2
4d40c020 | ld1r {v0.16b}, [x1]                                  |     1     1     2
f9400020 | ldr x0, [x1]                                         |     1     1     2
a9400820 | ldp x0, x2, [x1]                                     |   0.5     1     1
f9000020 | str x0, [x1]                                         |     1     1     2
3d800020 | str q0, [x1]                                         |     1   0.5     -
4c008020 | st2 {v0.16b, v1.16b}, [x1]                           |   0.5  0.25     -
4c004020 | st3 {v0.16b, v1.16b, v2.16b}, [x1]                   |  0.25  0.12     -
4c000020 | st4 {v0.16b, v1.16b, v2.16b, v3.16b}, [x1]           |   0.2 0.083     -
8b020020 | add x0, x1, x2                                       |     2     2     3
8b020820 | add x0, x1, x2, lsl #2                               |     2     1     3
8b024420 | add x0, x1, x2, lsl #17                              |     2     1     1
da820020 | csinv x0, x1, x2, eq                                 |     2     2     3
9ac22020 | lsl x0, x1, x2                                       |     1     2     3
b37e0820 | bfi x0, x1, #2, #3                                   |     2     1     1
9b027c20 | mul x0, x1, x2                                       |   0.5  0.33  0.33
9b227c20 | smull x0, w1, w2                                     |     1     1     1
9bc27c20 | umulh x0, x1, x2                                     |  0.25  0.25  0.25
9ac20c20 | sdiv x0, x1, x2                                      |  0.33  0.25   0.2
"""


def rows() -> list[tuple[int, str, dict[str, float]]]:
    """Word, assembler, and instructions per cycle by core."""
    table = []
    for line in THROUGHPUT.strip().splitlines():
        word, text, figures = (part.strip() for part in line.split("|"))
        rates = {core: float(figure) for core, figure in zip(CORES, figures.split(), strict=True) if figure != "-"}
        table.append((int(word, 16), text, rates))
    return table
