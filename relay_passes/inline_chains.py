"""``InlineChains``: a chain of elementwise operators is one loop over vectors, with nothing in between in memory.

Fusion puts a chain's operators into one PrimFunc, each still a loop of its own that writes all it computes. Here each
is written into the next, and the innermost axes, as many as it takes, become vectors: LLVM does not vectorise loops
with the fences of `pin_rounding` by itself.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferStore

from relay_passes.pin_rounding import reduces

# Nodes of the program that an expression may come to by being written wherever it is used.
LARGEST = 2000
# Elements from which on waking other threads pays.
PARALLEL_ELEMENTS = 1 << 18
# What TVM lowers to LLVM for single values and not for vectors.
SCALAR = frozenset({"tirx.cosh", "tirx.sinh"})


def inline_chains(mod: Any, lanes: int) -> Any:
    """Apply the pass.

    Parameters
    ----------
    mod : IRModule
        After fusion. PrimFuncs that have a schedule, or reduce, are left as they are.
    lanes : int
        Values of float32 that a vector of the core holds.
    """
    for gv, function in list(mod.functions.items()):
        found = as_loops(function)
        if found is not None:
            sch, blocks = found
            for block in blocks:
                _vectorise(sch, block, lanes)
            mod.update_func(gv, function.with_body(sch.mod["main"].body))
    return mod


def as_loops(function: Any) -> tuple[Any, list[Any]] | None:
    """A schedule of a chain whose operators are written into one another, and the blocks that are left.

    None of what is no PrimFunc, or has a schedule, reduces, or is written as statements.
    """
    if not isinstance(function, tirx.PrimFunc) or _scheduled(function) or reduces(function.body):
        return None
    sch = s_tir.Schedule(tvm.IRModule({"main": function}))
    try:
        root = sch.get_sblock("root")
    except s_tir.ScheduleError:  # written as statements, as TVM's cumulative sums are
        return None
    kept = []
    for block in sch.get_child_blocks(root):
        if not _grows(sch, block) and not _divided_below_conditions(sch, block):
            try:
                sch.compute_inline(block)
                continue
            except s_tir.ScheduleError:  # it writes a result of the function, or does more than to compute elements
                pass
        kept.append(block)
    return sch, kept


def _scheduled(function: Any) -> bool:
    return bool(function.attrs and function.attrs.get("tirx.is_scheduled", False))


def _grows(sch: Any, block: Any) -> bool:
    """Whether inlining a block would write a long expression more than once."""
    statement = sch.get(block)
    if len(statement.writes) != 1:
        return True
    buffer, uses = statement.writes[0].source, 0
    for other in sch.get_child_blocks(sch.get_sblock("root")):
        loads: list[Any] = []
        tvm_ffi.structural_walk(sch.get(other).body, (TensorLoad, loads.append))
        uses += sum(load.source.same_as(buffer) for load in loads)
    return uses > 1 and uses * _size(statement.body) > LARGEST


def _divided_below_conditions(sch: Any, block: Any) -> bool:
    """Whether a block divides an index, as reshapes and repeats do, and is read below a condition, as pads do.

    TVM 0.27 simplifies quotients of remainders wrongly where a condition bounds the remainder: of ``e`` from 0 to 287,
    ``e // 36 * 12 + (e % 36 - 5) // 3`` where ``6 <= e % 36`` became ``(e + 1) // 3 - 14``, outside of the tensor.
    """
    statement = sch.get(block)
    divisions: list[Any] = []
    tvm_ffi.structural_walk(statement.body, ((tirx.FloorDiv, tirx.FloorMod), divisions.append))
    if not divisions or len(statement.writes) != 1:
        return False
    buffer = statement.writes[0].source
    loads: list[Any] = []

    def below(call: Any) -> None:
        if isinstance(call.op, tvm.ir.Op) and call.op.name == "prim.if_then_else":
            for branch in call.args[1:]:
                tvm_ffi.structural_walk(branch, (TensorLoad, loads.append))

    for other in sch.get_child_blocks(sch.get_sblock("root")):
        tvm_ffi.structural_walk(sch.get(other).body, (tvm.ir.Call, below))
    return any(load.source.same_as(buffer) for load in loads)


def _size(body: Any) -> int:
    nodes: list[Any] = []
    tvm_ffi.structural_walk(body, (object, nodes.append))
    return len(nodes)


def _vectorise(sch: Any, block: Any, lanes: int) -> None:
    loops = list(sch.get_loops(block))
    extents = [int(sch.get(loop).extent) for loop in loops]
    inner, count = len(loops), 1
    while inner and count % lanes:
        inner -= 1
        count *= extents[inner]
    body = sch.get(block).body
    if not loops or count % lanes or scalar(body) or moves(body):
        return
    # Of bytes as many as fill a register: what computes them are several vectors, which need not wait for each other.
    narrow = all(str(region.source.dtype) in ("uint8", "int8") for region in sch.get(block).writes)
    together = next(n for n in (4, 2, 1) if count % (n * lanes) == 0) if narrow else 1
    outer, vector = sch.split(sch.fuse(*loops[inner:]), [None, together * lanes])
    sch.vectorize(vector)
    whole = sch.fuse(*loops[:inner], outer)
    if count * _product(extents[:inner]) >= PARALLEL_ELEMENTS:
        sch.parallel(whole)


def scalar(body: Any) -> bool:
    """Whether it calls a function that LLVM's back end knows of single values only."""
    calls: list[Any] = []
    tvm_ffi.structural_walk(body, (tvm.ir.Call, calls.append))
    return any(isinstance(call.op, tvm.ir.Op) and call.op.name in SCALAR for call in calls)


def moves(body: Any) -> bool:
    """Whether it only moves elements: without fences LLVM makes vectors of such loops itself, strided ones too."""
    return isinstance(body, BufferStore) and isinstance(body.value, TensorLoad)


def _product(extents: list[int]) -> int:
    result = 1
    for extent in extents:
        result *= extent
    return result
