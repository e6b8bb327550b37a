"""Constants that repeat themselves: what is read stays the same bit for bit, and the table is small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from relax_models import module
from tvm import relax

from relay_passes.compile import compile_module
from relay_passes.memory import MemoryPlan
from relay_passes.ops import literal
from relay_passes.repeats import columns_of, share_columns

RNG = np.random.default_rng(4)


def bordered(shape: tuple[int, ...], dtype: str) -> Any:
    """Borders of two pixels, all different; the same pixel everywhere else."""
    array = RNG.integers(-90, 90, shape).astype(dtype)
    inner = tuple(slice(2, -2) if extent > 8 else slice(None) for extent in shape[2:])
    array[(slice(None), slice(None), *inner)] = array[(slice(None), slice(None), *[slice(3, 4)] * len(inner))]
    return array


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint8"])
@pytest.mark.parametrize("shape", [(1, 5, 20, 24), (1, 7, 400)])
def test_columns(shape: tuple[int, ...], dtype: str) -> None:
    array = bordered(shape, dtype)
    table, numbers = columns_of(array)
    np.testing.assert_array_equal(table[:, numbers][None], array)
    assert table.size < array.size / 2
    assert len(np.unique(table, axis=1)[0]) == len(table[0])


def test_signs_of_zero_and_nan_are_told_apart() -> None:
    """Columns are compared bit by bit."""
    array = np.array([0.0, -0.0, np.nan, 0.0, np.nan], np.float32).reshape(1, 1, 5)
    table, numbers = columns_of(array)
    assert table.shape == (1, 3)
    assert table[:, numbers].tobytes() == array.tobytes()


def test_a_network_that_reads_them() -> None:
    """The lookup is part of the kernel that reads it; another order of the same pixels cannot be shared and stays."""
    shape = (1, 16, 24, 40)
    alike, different = bordered(shape, "float32"), RNG.normal(size=shape).astype(np.float32)

    def network(emit: Any, x: Any) -> Any:
        y = emit(relax.op.subtract(x, literal(alike)), "difference")
        return emit(relax.op.multiply(y, literal(different)), "product")

    mod = module(network, shape)
    plans: list[MemoryPlan] = []
    executable = compile_module(mod, tvm.target.Target("llvm"), planned=plans.append)
    x = RNG.normal(size=shape).astype(np.float32)
    got = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_array_equal(got, (x - alike) * different)
    assert plans[0].weights < 1.5 * different.nbytes
    assert plans[0].activations == different.nbytes, "the result alone"
    text = str(share_columns(mod)["main"])
    assert text.count("tvm_lowbit.columns") == 1
