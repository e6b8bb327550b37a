"""How a network is computed does not change its explanation: techniques, fusion, layers left in float."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from random_graphs import SHAPE, Plan
from tvm import relax

import tvm_lowbit

PLAN = Plan(("conv", "nn.relu", "conv", "nn.silu", "overlapping max pool", "residual", "dense"), 2, 2, (0, 0))
X = np.random.default_rng(8).normal(size=SHAPE).astype(np.float32)
LAYERS = ("v1", "v4")


def explained(**options: Any) -> tuple[list[str], dict[str, Any]]:
    """The techniques of the layers, and every array of the explanations."""
    methods = [
        tvm_lowbit.DeepLift(target=1, reference=0.2, layers=LAYERS),
        tvm_lowbit.GradientXInput(target=1, reference=0.2),
    ]
    artifact = tvm_lowbit.build(PLAN.write(), "host", explain=methods, **options)
    arrays: dict[str, Any] = {}
    for key, found in artifact.run(X).explanations.items():
        arrays |= {f"{key}/{name}": array for name, array in found.values.items()}
        for layer in found.layers:
            arrays |= {f"{key}/{layer}/{name}": array for name, array in found.layers[layer].items()}
    return [row.technique for row in artifact.report.low_bit], arrays


@pytest.fixture(scope="module")
def plain() -> tuple[list[str], dict[str, Any]]:
    """As the compiler chooses."""
    return explained()


def same(arrays: dict[str, Any], others: dict[str, Any]) -> None:
    """Within 1e-6 of what is largest, at the input and at the layers."""
    assert set(arrays) == set(others)
    assert len(arrays) >= 10
    for name, array in arrays.items():
        largest = max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(others[name], array, rtol=0, atol=1e-6 * largest, err_msg=name)


@pytest.mark.parametrize("technique", ["reference", "portable", "bit_serial", "smlal"])
def test_techniques(technique: str, plain: Any) -> None:
    """Each is exact, so what is explained is the same network."""
    used, arrays = explained(technique=technique)
    assert len(used) == len(plain[0]) == 4
    assert technique in used or technique == "smlal"
    same(plain[1], arrays)


def test_without_fusion(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operator a kernel of its own."""
    left = tvm.transform.module_pass(lambda mod, context: mod, opt_level=0, name="Unfused")
    monkeypatch.setattr(relax.transform, "FuseOps", lambda: left)
    same(plain[1], explained()[1])


def test_a_layer_in_float(plain: Any) -> None:
    """Its products are those of the same values."""
    (layer,) = [row.name for row in tvm_lowbit.build(PLAN.write(), "host").report.low_bit][:1]
    used, arrays = explained(exclude=[layer])
    assert len(used) == 3
    same(plain[1], arrays)
