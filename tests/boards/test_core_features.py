"""An emulated core has the instructions of the real one, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from board_samples import ARM, export
from emulator import require_emulator
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.errors import LowbitError
from tvm_lowbit.boards.emulated import EmulatedBoard
from tvm_lowbit.linker import find_linker


def squares() -> tvm.IRModule:
    """Build ``out[i] = sum(a[4 i + j] ** 2 for j in range(4))`` as one SDOT instruction."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("squares")
        T.func_attr({"global_symbol": "squares", "tirx.noalias": True})
        a = T.arg("a", T.buffer((16,), "int8"))
        out = T.arg("out", T.buffer((4,), "int32"))
        lanes = tirx.BufferLoad(a, [tirx.Ramp(0, 1, 16)])
        zero = tirx.Broadcast(tirx.const(0, "int32"), 4)
        dots = tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", zero, lanes, lanes)
        T.buffer_store(out, dots, [tirx.Ramp(0, 1, 4)])
    return tvm.IRModule({"squares": builder.get()})


@pytest.mark.parametrize(("cpu", "has_dotprod"), [("cortex-a76", True), ("cortex-a72", False)])
def test_sdot_runs_only_where_the_core_has_it(cpu: str, has_dotprod: bool, tmp_path: Path) -> None:
    require_emulator()
    target = {**ARM, "mcpu": "cortex-a76", "mattr": ["+neon", "+dotprod"]}
    library = export(squares(), target, tmp_path / "squares.so", find_linker())
    values = np.arange(16, dtype="int8")
    with EmulatedBoard(cpu).open() as session:
        out = session.tensor(np.zeros(4, "int32"))
        function, a = session.load(library)["squares"], session.tensor(values)
        if has_dotprod:
            function(a, out)
            np.testing.assert_array_equal(out.numpy(), (values.astype("int32") ** 2).reshape(4, 4).sum(axis=1))
        else:
            with pytest.raises(LowbitError, match="instruction the emulated core lacks"), session.guarded("calling"):
                function(a, out)
