"""Vector operations that cores spell differently: Arm's pairwise additions, and the same by shuffles elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.cores import CoreSpec
from schedules.intrinsics import const, splat, vload


class Vectors:
    """Shuffles and additions that LLVM lowers on any core."""

    def add_pairs(self, a: Any, b: Any, dtype: str, lanes: int) -> Any:
        """Sums of neighbouring lanes of ``a``, then of ``b`` (ADDP); both and the result have ``lanes`` lanes."""
        return _every(2, 0, [a, b], lanes) + _every(2, 1, [a, b], lanes)

    def widen_pairs(self, vector: Any, dtype: str, lanes: int) -> Any:
        """Sums of neighbouring lanes in lanes twice as wide (UADDLP, SADDLP); ``dtype, lanes`` are the result's."""
        wide = f"{dtype}x{lanes}"
        return _every(2, 0, [vector], lanes).astype(wide) + _every(2, 1, [vector], lanes).astype(wide)


class ArmVectors(Vectors):
    """Instructions of Armv8-A by name; an addition to the result of `widen_pairs` fuses to UADALP or SADALP."""

    def add_pairs(self, a: Any, b: Any, dtype: str, lanes: int) -> Any:
        """See `Vectors.add_pairs`."""
        return tirx.call_llvm_pure_intrin(f"{dtype}x{lanes}", f"llvm.aarch64.neon.addp.v{lanes}i{bits_of(dtype)}", a, b)

    def widen_pairs(self, vector: Any, dtype: str, lanes: int) -> Any:
        """See `Vectors.widen_pairs`."""
        bits = bits_of(dtype)
        name = f"llvm.aarch64.neon.{dtype[0].replace('i', 's')}addlp.v{lanes}i{bits}.v{2 * lanes}i{bits // 2}"
        return tirx.call_llvm_pure_intrin(f"{dtype}x{lanes}", name, vector)


class X86Vectors(Vectors):
    """PMADDWD by ones adds neighbouring 16-bit lanes; others are the halves of a lane twice as wide."""

    def add_pairs(self, a: Any, b: Any, dtype: str, lanes: int) -> Any:
        """See `Vectors.add_pairs`."""
        bits, half = bits_of(dtype), lanes // 2
        shift = splat(const(bits, f"uint{2 * bits}"), half)
        # Added in lanes of their own width: TVM has LLVM take additions of wider ones for free of overflow.
        upper = [tirx.reinterpret(f"uint{2 * bits}x{half}", vector) >> shift for vector in (a, b)]
        sums = [vector + tirx.reinterpret(f"{dtype}x{lanes}", odd) for vector, odd in zip((a, b), upper, strict=True)]
        return _every(2, 0, sums, lanes)

    def widen_pairs(self, vector: Any, dtype: str, lanes: int) -> Any:
        """See `Vectors.widen_pairs`."""
        if (dtype, lanes) != ("int32", 4):
            return super().widen_pairs(vector, dtype, lanes)
        return tirx.call_llvm_pure_intrin("int32x4", "llvm.x86.sse2.pmadd.wd", vector, splat(const(1, "int16"), 8))


def vectors(core: CoreSpec) -> Vectors:
    """The operations for a core."""
    if "asimd" in core.features:
        return ArmVectors()
    return X86Vectors() if core.mtriple.startswith("x86_64") else Vectors()


def bits_of(dtype: str) -> int:
    """Width of an integer type: 16 of uint16."""
    return int(dtype.lstrip("uint"))


def part(vector: Any, start: int, count: int) -> Any:
    """``count`` neighbouring lanes of a vector."""
    return tirx.Shuffle([vector], list(range(start, start + count)))


def _every(step: int, start: int, parts: Sequence[Any], lanes: int) -> Any:
    return tirx.Shuffle(list(parts), list(range(start, step * lanes, step)))


def transpose_sums(v: Vectors, sums: Sequence[Any], dtype: str, lanes: int) -> list[Any]:
    """Each vector's sum over its lanes, in order, as vectors of ``lanes`` sums; the last is filled by repetition."""
    level = [*sums, *[sums[-1]] * (-len(sums) % lanes)]
    for _ in range(lanes.bit_length() - 1):
        level = _halve(v, level, dtype, lanes)
    return level


def transpose_widening(v: Vectors, sums: Sequence[Any], levels: int) -> list[Any]:
    """The same of vectors of eight int16, as vectors of four int32; ``levels`` (up to 2) additions still fit int16."""
    level = [*sums, *[sums[-1]] * (-len(sums) % 4)]
    for _ in range(levels):
        level = _halve(v, level, "int16", 8)
    level = [v.widen_pairs(value, "int32", 4) for value in level]
    for _ in range(2 - levels):
        level = _halve(v, level, "int32", 4)
    return level


def _halve(v: Vectors, level: Sequence[Any], dtype: str, lanes: int) -> list[Any]:
    return [v.add_pairs(a, b, dtype, lanes) for a, b in zip(level[::2], level[1::2], strict=True)]


# Empty assembly: a value that LLVM must hold in a general register, and a loop that it will not unroll.
_ASSEMBLY = """
define internal i64 @lowbit_through_general(i64 %x) alwaysinline nounwind memory(none) {
  %y = call i64 asm "", "=r,0"(i64 %x)
  ret i64 %y
}
define internal i32 @lowbit_keep_rolled() alwaysinline nounwind willreturn memory(inaccessiblemem: readwrite) {
  call void asm sideeffect "", ""() nounwind willreturn memory(inaccessiblemem: readwrite)
  ret i32 0
}
"""


def in_order(core: CoreSpec) -> bool:
    """Whether the core is one (Cortex-A53) whose vector unit stands still while it loads, and issues in order."""
    return core.is_arm and core.throughput["ldr"] < 1


def shared_loads(pixels: int) -> float:
    """Cycles that an in-order core loads for each output of a block of four channels.

    Loops over one pixel are left to LLVM, which has the core wait for about as long again.
    """
    loads = (pixels + 4) / (4 * pixels)
    return loads if pixels > 1 else 2 * loads


def assembly(used: bool) -> Any:
    """Around a kernel's loops: what `through_general` and `keep_rolled` call, or nothing."""
    return T.attr(const(0), "pragma_import_llvm", _ASSEMBLY) if used else nullcontext()


class WrittenLoop(Protocol):
    """A loop written out in assembly: an LLVM function of addresses and of a place for each vector that it makes."""

    @property
    def name(self) -> str: ...  # noqa: D102 - the class says what each is
    @property
    def outputs(self) -> int: ...  # noqa: D102 - the class says what each is
    def definition(self) -> str: ...  # noqa: D102 - the class says what each is


def call_loop(loop: WrittenLoop, defined: set[str], operands: Sequence[Any], dtype: str, lanes: int) -> list[Any]:
    """Emit the call of a written loop, and its definition unless it is in ``defined``; returns what it makes."""
    fresh = loop.name not in defined
    defined.add(loop.name)
    # One buffer each: LLVM keeps them in registers.
    made = [T.alloc_buffer((lanes,), dtype) for _ in range(loop.outputs)]
    with T.attr(const(0), "pragma_import_llvm", loop.definition()) if fresh else nullcontext():
        T.evaluate(tirx.call_extern("int32", loop.name, *operands, *(tirx.address_of(b[0]) for b in made)))
    return [vload(b, [0], lanes) for b in made]


def keep_rolled(used: bool) -> None:
    """Emit, in a loop's body, what keeps LLVM from unrolling it: for in-order cores it does until registers spill."""
    if used:
        T.evaluate(tirx.call_extern("int32", "lowbit_keep_rolled"))


def through_general(eight: Any, kind: str) -> Any:
    """Eight loaded bytes that reach the vector unit from a general register.

    Cortex-A53's vector unit stands still for each 64 bits that it loads itself, but not while the integer side loads;
    moving them over takes half a slot (ncnn, docs/developer-guide/arm-a53-a55-dual-issue.md).
    """
    moved = tirx.call_extern("int64", "lowbit_through_general", tirx.reinterpret("int64", eight))
    return tirx.reinterpret(kind, moved)


def load_through_general(load: Any) -> Any:
    """16 bytes as uint8, the upper half as in `through_general`; ``load(byte, count)`` reads."""
    low = tirx.reinterpret("int64", load(0, 8))
    moved = tirx.call_extern("int64", "lowbit_through_general", tirx.reinterpret("int64", load(8, 8)))
    return tirx.reinterpret("uint8x16", tirx.Shuffle([low, moved], [0, 1]))
