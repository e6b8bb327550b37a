"""Bytes that loads and stores are decoded to move, held against the accesses that QEMU sees, form by form."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from emulator import require

from schedules.cores import CORES
from tvm_lowbit.boards.board_compiler import find_compiler
from tvm_lowbit.metering import tools
from tvm_lowbit.metering.counting import run_job
from tvm_lowbit.metering.decode import decode
from tvm_lowbit.metering.job import Job

# x4 points into 4 KiB of stack, aligned to 64 bytes; x5 is 0. Kinds of addresses are those that compilers emit.
FORMS = """
ldrb w3, [x4, #1]
ldrsh x3, [x4], #2
ldr w3, [x4, #-4]!
ldrsw x3, [x4, x5, lsl #2]
ldur x3, [x4, #-3]
ldr x3, .
strb w3, [x4, #1]
strh w3, [x4, x5]
str w3, [x4], #4
stur x3, [x4, #-3]
ldp w3, w6, [x4]
ldp x3, x6, [x4], #16
ldpsw x3, x6, [x4]
ldnp x3, x6, [x4]
stp w3, wzr, [x4]
stp x3, x6, [x4, #-16]!
ldr b3, [x4]
ldr h3, [x4], #2
ldr s3, [x4, x5]
ldur d3, [x4, #-1]
ldr q3, [x4]
ldur q3, [x4, #-1]
ldr d3, .
str b3, [x4]
stur h3, [x4, #-1]
str s3, [x4]
str d3, [x4, x5, lsl #3]
str q3, [x4], #16
ldp s3, s5, [x4]
ldp d3, d5, [x4]
ldp q3, q5, [x4], #32
ldnp q3, q5, [x4]
stp s3, s5, [x4]
stp d3, d5, [x4]
stp q3, q5, [x4]
prfm pldl1keep, [x4]
prfum pldl1keep, [x4, #-1]
ldar x3, [x4]
ldarb w3, [x4]
stlr x3, [x4]
stlrh w3, [x4]
ldxr x3, [x4]; stxr w6, x3, [x4]
ldaxrb w3, [x4]; stlxrb w6, w3, [x4]
ldxp x3, x7, [x4]; stxp w6, x3, x7, [x4]
ldaxp w3, w7, [x4]; stlxp w6, w3, w7, [x4]
"""
# LD1 to LD4 and ST1 to ST4: how many registers they have (LD1 and ST1 any number), and the lanes of each size.
COUNTS = (("1", 1), ("1", 2), ("1", 3), ("1", 4), ("2", 2), ("3", 3), ("4", 4))
LANES = ("b", "h", "s", "d")
# Of Armv8.1 and 8.3, which Cortex-A76 has.
ATOMICS = """
ldadd x5, x3, [x4]
ldaddalb w5, w3, [x4]
stadd w5, [x4]
swph w5, w3, [x4]
ldset x5, x3, [x4]
ldapr x3, [x4]
cas x5, x3, [x4]
casalb w5, w3, [x4]
casp x6, x7, x2, x3, [x4]
caspal w6, w7, w2, w3, [x4]
"""


def forms(core: str) -> list[str]:
    """Each an instruction, or some of which all but the last are what the last needs."""
    rows = FORMS.strip().splitlines()
    for operation in ("ld", "st"):
        for structures, count in COUNTS:
            for shape in ("8b", "16b", "4h", "8h", "2s", "4s", "2d"):
                registers = ", ".join(f"v{(30 + i) % 32}.{shape}" for i in range(count))
                rows.append(f"{operation}{structures} {{{registers}}}, [x4]")
        for lane in LANES:
            for count in (1, 2, 3, 4):
                registers = ", ".join(f"v{i}.{lane}" for i in range(count))
                rows.append(f"{operation}{count} {{{registers}}}[1], [x4], x5")
    for shape in ("8b", "4h", "4s", "2d"):
        for count in (1, 2, 3, 4):
            registers = ", ".join(f"v{i}.{shape}" for i in range(count))
            rows.append(f"ld{count}r {{{registers}}}, [x4]")
    return rows + (ATOMICS.strip().splitlines() if core == "cortex-a76" else [])


def library(rows: list[str], folder: Path) -> Path:
    """A library whose function ``all`` calls, one after another, functions ``form0`` and so on: one for each row."""
    text = [".arch armv8.3-a", ".text"]

    def function(name: str, *body: str) -> None:
        text.extend([f".global {name}", f".type {name}, %function", f"{name}:", *body, f".size {name}, .-{name}"])

    for i, row in enumerate(rows):
        function(f"form{i}", *row.split("; "), "ret")
    calls = [
        line for i in range(len(rows)) for line in ("add x4, sp, #2048", "mov x5, #0", "mov x6, #0", f"bl form{i}")
    ]
    aligned = ["stp x29, x30, [sp, #-16]!", "mov x29, sp", "sub x9, sp, #1, lsl #12", "and sp, x9, #-64"]
    function("__tvm_ffi_all", *aligned, *calls, "mov sp, x29", "ldp x29, x30, [sp], #16", "mov w0, #0", "ret")
    source = folder / "forms.s"
    source.write_text("\n".join([*text, '.section .note.GNU-stack, "", %progbits', ""]))
    command = [*find_compiler()[1], "-shared", "-Wl,-Bsymbolic", "-o", str(folder / "forms.so"), str(source)]
    subprocess.run(command, check=True)
    return folder / "forms.so"


@pytest.mark.parametrize("core", ["cortex-a72", "cortex-a76"])
def test_every_form_moves_the_bytes_that_it_is_decoded_to_move(core, tmp_path):
    require(tools.missing())
    require(None if tools.find_plugin() else "QEMU that takes plugins: apt-get install qemu-user gcc")
    require(None if find_compiler() else "a C compiler for aarch64: pip install ziglang")
    rows = forms(core)
    job = Job(tmp_path)
    job.load(library(rows, tmp_path), [f"form{i}" for i in range(len(rows))])
    job.function("all")
    job.call(0, warm=False)
    counts = run_job(job, CORES[core], caches=True)
    assert counts.failure is None
    segment = counts.segments[0]
    calls = [call for call in segment.calls if call.kernel >= 0]
    assert [call.kernel for call in calls] == list(range(len(rows)))
    traced = {row: (call.traffic.loaded, call.traffic.stored) for row, call in zip(rows, calls, strict=True)}
    decoded = {}
    for row, call in zip(rows, calls, strict=True):
        ran = [decode(word) for number in call.counts for word in segment.blocks[number].words]
        assert len(ran) == row.count(";") + 2, row
        decoded[row] = (sum(i.loaded for i in ran), sum(i.stored for i in ran))
    assert decoded == traced
    # Not both wrong: the widest that there are, and one that moves nothing.
    assert traced["ldp q3, q5, [x4], #32"] == (32, 0) and traced["st4 {v0.d, v1.d, v2.d, v3.d}[1], [x4], x5"] == (0, 32)
    assert traced["ldxr x3, [x4]; stxr w6, x3, [x4]"] == (8, 8) and traced["prfm pldl1keep, [x4]"] == (0, 0)
