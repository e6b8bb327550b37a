"""A block as text, instruction by instruction, with the units that each keeps busy: where the cycles go."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tvm_lowbit.metering.decode import decode
from tvm_lowbit.metering.estimate import HotBlock
from tvm_lowbit.metering.price import is_loop, pipeline_of

_DISASSEMBLERS = ("aarch64-linux-gnu-objdump", "objdump")


def disassemble(words: Sequence[int]) -> list[str]:
    """The instructions in assembler, or as their class where no disassembler for aarch64 is installed."""
    for program in _DISASSEMBLERS:
        if shutil.which(program) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "block"
            path.write_bytes(b"".join(word.to_bytes(4, "little") for word in words))
            command = [program, "-D", "-b", "binary", "-m", "aarch64", "--no-show-raw-insn", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        lines = [
            line.partition(":")[2].strip().replace("\t", " ") for line in done.stdout.splitlines() if ":\t" in line
        ]
        if done.returncode == 0 and len(lines) == len(words):
            return lines
    return [f"{decode(word).kind}{'.q' if decode(word).wide else ''}" for word in words]


def unit_use(words: Sequence[int], core: str) -> dict[str, float]:
    """Cycles that one run of a block keeps each unit busy, and its issue slots as cycles."""
    pipeline = pipeline_of(core)
    busy = dict.fromkeys((*pipeline.units, "issue"), 0.0)
    for word in words:
        instruction = decode(word)
        cost = pipeline.costs[instruction.kind]
        for unit, amount in (cost.wide if instruction.wide else cost.narrow).items():
            busy[unit] += amount * instruction.count / pipeline.units[unit]
        busy["issue"] += pipeline.slots(instruction.kind, instruction.wide) * instruction.count / pipeline.issue
    return busy


def listing(hot: HotBlock, core: str) -> str:
    """A hot block: how often it ran, what it costs, which units bound it, and its instructions."""
    use = ", ".join(f"{unit} {cycles:.1f}" for unit, cycles in unit_use(hot.words, core).items() if cycles)
    head = (
        f"  {hot.function} +{hot.address:#x}: {hot.count:,} times {hot.cycles / hot.count:.1f} cycles "
        f"(units alone {hot.throughput / hot.count:.1f}){', a loop' if is_loop([decode(w) for w in hot.words]) else ''}"
    )
    body = (
        f"      {text:40} {decode(word).kind}" for text, word in zip(disassemble(hot.words), hot.words, strict=True)
    )
    return "\n".join([head, f"    busy: {use}", *body])
