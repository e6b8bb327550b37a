"""What a kernel says of how it reads an operand, so that the operand may be computed where it is read.

`READS` is written on innermost loops that copy a row of an operand into a kernel's own planes, each element at most
once in all: whatever computes the operand element by element may take the operand's place there. A kernel that reads a
small operand again and again names it by `FIRST` instead: it may be computed first, into a scratch buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

# Annotation of a loop ``for i: plane[at + i] = operand[..., i]``.
READS = "tvm_lowbit.reads"
# Attribute of a PrimFunc: positions of the parameters that may be computed first.
FIRST = "tvm_lowbit.first"
# Bytes of such an operand: half of the smallest L1 of the cores, as the kernel's other operands pass through it too.
FIRST_BYTES = 16384


def read_row(extent: Any, copy: Callable[[Any], None]) -> None:
    """Emit the loop over a row of an operand; ``copy(i)`` emits the store of the element that it loads."""
    with T.serial(0, extent, annotations={READS: True}) as i:
        copy(i)
