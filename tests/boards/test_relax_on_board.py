"""A Relax executable runs on a board through the virtual machine, with several outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tvm
from board_samples import ARM
from tvm import relax

from tvm_lowbit.boards.emulated import EmulatedSession
from tvm_lowbit.linker import find_linker


def two_outputs() -> tvm.IRModule:
    """Build ``x -> (relu(x @ w), exp(x))`` with a constant ``w``."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 8), "float32"))
    weights = relax.const(weight_values())
    with builder.function("main", [x]):
        with builder.dataflow():
            product = builder.emit(relax.op.nn.relu(relax.op.matmul(x, weights)))
            both = builder.emit_output(relax.Tuple([product, builder.emit(relax.op.exp(x))]))
        builder.emit_func_output(both)
    return builder.get()


def weight_values() -> np.ndarray:
    """Return small whole numbers, whose products are exact in any order."""
    return (np.arange(24).reshape(8, 3) % 5 - 2).astype("float32")


def test_virtual_machine_returns_both_outputs(emulated_board: EmulatedSession, tmp_path: Path) -> None:
    library = tmp_path / "model.so"
    tvm.compile(two_outputs(), tvm.target.Target(ARM)).export_library(str(library), fcompile=find_linker())
    machine = relax.VirtualMachine(emulated_board.load(library), emulated_board.device)
    x = (np.arange(16).reshape(2, 8) - 7).astype("float32")
    for scale in (1, 2):
        # A call returns its tuple as a reference that only the board can unpack; the stateful form has the outputs.
        machine.set_input("main", emulated_board.tensor(x * scale))
        machine.invoke_stateful("main")
        product, exponential = machine.get_outputs("main")
        np.testing.assert_array_equal(product.numpy(), np.maximum(x * scale @ weight_values(), 0))
        # float32 exp in vector form: within 4 units in the last place
        np.testing.assert_allclose(exponential.numpy(), np.exp(x * scale), rtol=4 * 2**-23)
    timing = machine.time_evaluator("invoke_stateful", emulated_board.device, number=2)("main")
    assert timing.mean > 0
