"""Vector operations that cores spell differently: Arm's pairwise additions, and the same by shuffles elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.cores import CoreSpec
from schedules.intrinsics import const


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


def vectors(core: CoreSpec) -> Vectors:
    """The operations for a core."""
    return ArmVectors() if "asimd" in core.features else Vectors()


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
    rest = -len(sums) % lanes
    level = [*sums, *[sums[-1]] * rest]
    while len(level) * lanes > len(sums) + rest:
        level = [v.add_pairs(a, b, dtype, lanes) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level


# A value that LLVM must hold in a general register: the assembly is empty.
_THROUGH_GENERAL = """
define internal i64 @lowbit_through_general(i64 %x) alwaysinline nounwind memory(none) {
  %y = call i64 asm "", "=r,0"(i64 %x)
  ret i64 %y
}
"""


def assembly(used: bool) -> Any:
    """Around a kernel's loops: what `through_general` calls, or nothing."""
    return T.attr(const(0), "pragma_import_llvm", _THROUGH_GENERAL) if used else nullcontext()


def through_general(eight: Any, kind: str) -> Any:
    """Eight loaded bytes that reach the vector unit from a general register.

    Cortex-A53's vector unit stands still for each 64 bits that it loads itself, but not while the integer side loads;
    moving them over takes half a slot (ncnn, docs/developer-guide/arm-a53-a55-dual-issue.md).
    """
    moved = tirx.call_extern("int64", "lowbit_through_general", tirx.reinterpret("int64", eight))
    return tirx.reinterpret(kind, moved)
