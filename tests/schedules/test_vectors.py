"""Sums of neighbouring lanes, as x86 has them: whatever the lanes hold, and without promises that do not hold."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.cores import CORES, host_core
from schedules.intrinsics import vload, vstore
from schedules.vectors import vectors

TYPES = [("int16", 8), ("uint16", 8), ("int32", 4)]


def pairs(dtype: str, lanes: int) -> Any:
    """A compiled function of (vector, vector, the sums of their pairs)."""
    core = CORES["x86-64"]
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        T.func_attr({"global_symbol": "main"})
        a, b, out = (T.arg(name, T.buffer((lanes,), dtype)) for name in ("a", "b", "out"))
        vstore(T, out, vectors(core).add_pairs(vload(a, [0], lanes), vload(b, [0], lanes), dtype, lanes), [0], lanes)
    return tvm.compile(tvm.IRModule({"main": builder.get()}), tvm.target.Target(core.target_dict()))


@pytest.mark.parametrize(("dtype", "lanes"), TYPES)
def test_pairs_are_added_in_lanes_that_cannot_carry(dtype: str, lanes: int) -> None:
    """``nuw`` on lanes twice as wide would be a false promise as soon as the lower of a pair carries into the upper."""
    text = pairs(dtype, lanes).mod.inspect_source("ll")
    added = re.findall(r"= add (.*)<(\d+) x i(\d+)>", text)
    assert added and all(size == dtype.lstrip("uint") and "nuw" not in flags for flags, _, size in added)


@pytest.mark.skipif(host_core().is_arm, reason="runs x86 code")
@pytest.mark.parametrize(("dtype", "lanes"), TYPES)
def test_pairs_of_any_values(dtype: str, lanes: int) -> None:
    limits = np.iinfo(dtype)
    # Sums of 16 bits may wrap; the other lanes' ends meet each other.
    ends = [limits.min, limits.max, -1 if limits.min else 1, 0, limits.max, 1, limits.max, limits.max]
    if dtype == "int32":
        ends = [limits.min, limits.max, -1, -1, limits.max, 0, -5, limits.min + 5]
    given = np.array(ends, np.int64).astype(dtype)
    a, b = np.resize(given, 2 * lanes)[:lanes], np.resize(given, 2 * lanes)[lanes:]
    tensors = [tvm.runtime.tensor(array) for array in (a, b, np.zeros(lanes, dtype))]
    pairs(dtype, lanes)["main"](*tensors)
    expected = np.concatenate([a, b]).astype(np.int64).reshape(-1, 2).sum(axis=1).astype(dtype)
    np.testing.assert_array_equal(tensors[-1].numpy(), expected)
