"""Tensors in one storage: none overlaps another that is needed at the same time."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from hypothesis import given
from hypothesis import strategies as st
from relax_models import const, module
from tvm import relax

from relay_passes.compile import compile_module
from relay_passes.memory import MemoryPlan
from relay_passes.storage import ALIGNMENT, Tensor, offsets

_LIVES = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 30), st.integers(0, 8)), min_size=1, max_size=25)


@given(_LIVES)
def test_what_is_needed_at_once_lies_side_by_side(lives: list[tuple[int, int, int]]) -> None:
    """Brute force over all pairs and all moments."""
    tensors = [Tensor(i, size * ALIGNMENT, first, first + more) for i, (size, first, more) in enumerate(lives)]
    places = offsets(tensors)
    ends = {t.var: places[t.var] + t.size for t in tensors}
    for a in tensors:
        assert places[a.var] % ALIGNMENT == 0
        for b in tensors:
            together = range(max(a.first, b.first), min(a.last, b.last) + 1)
            if a is not b and together:
                assert ends[a.var] <= places[b.var] or ends[b.var] <= places[a.var]
    needed = max(sum(t.size for t in tensors if t.first <= moment <= t.last) for moment in range(40))
    assert needed <= max(ends.values()) <= sum(t.size for t in tensors)


def test_a_large_tensor_holds_nothing_for_small_ones_after_it() -> None:
    """A large tensor, then small ones that are all needed in the end: they lie where it was."""
    extents = (1, 4096)

    def network(emit: Any, x: Any) -> Any:
        large = emit(relax.op.sort(relax.op.concat([x] * 8, axis=1)), "large")
        kept = [emit(relax.op.strided_slice(large, [1], [512 * i], [512 * (i + 1)]), f"part{i}") for i in range(4)]
        # Sorting and products are kernels of their own, so that all is written.
        kept = [emit(relax.op.matmul(part, const(np.eye(512, dtype=np.float32))), "product") for part in kept]
        for part in kept[1:]:
            kept[0] = emit(relax.op.sort(relax.op.add(kept[0], part)), "sum")
        return emit(relax.op.reshape(kept[0], relax.ShapeExpr([512])), "result")

    plans: list[MemoryPlan] = []
    executable = compile_module(module(network, extents), tvm.target.Target("llvm"), planned=plans.append)
    x = np.random.default_rng(0).normal(size=extents).astype(np.float32)
    got = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    whole = np.sort(np.concatenate([x] * 8, axis=1))
    want = whole[:, :512]
    for i in range(1, 4):
        want = np.sort(want + whole[:, 512 * i : 512 * (i + 1)])
    np.testing.assert_array_equal(got, want[0])
    large = 8 * x.nbytes
    # Joined and sorted, both are needed at once; all else fits where the first was.
    assert plans[0].activations <= 2 * large + 2048
