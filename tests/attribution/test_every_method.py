"""The rules of operators that are several, by every method: each carries something else through the same rules."""

from __future__ import annotations

import numpy as np
from random_graphs import SHAPE, Plan

import tvm_lowbit

STEPS = ("masks", "conv", "nn.leakyrelu", "layer_norm", "attention", "maximum", "quotient", "max", "nn.gelu")


def test_every_method() -> None:
    """Complete where a method is; finite and not nothing everywhere."""
    random = np.random.default_rng(1)
    x = random.normal(size=SHAPE).astype(np.float32)
    # Not one number: a norm of values that are all alike would make contributions of hundreds that cancel.
    x0 = random.normal(size=SHAPE[1:]).astype(np.float32)
    methods = [
        tvm_lowbit.DeepLift(target=1, reference=x0, name="rescale"),
        tvm_lowbit.DeepLift(target=1, reference=x0, rule="reveal_cancel", name="reveal_cancel"),
        tvm_lowbit.GradientXInput(target=1),
        tvm_lowbit.IntegratedGradients(target=1, steps=8),
        tvm_lowbit.SemiringPath(target=1),
        tvm_lowbit.SemiringEntropy(target=1),
    ]
    found = tvm_lowbit.build(Plan(STEPS, 3, 4, (0, 0)).write(), "host", explain=methods).run(x).explanations
    assert len(found) == len(methods)
    for name in ("rescale", "reveal_cancel"):
        assert np.all(np.abs(found[name].gap) <= 1e-5), name
    for name, explanation in found.items():
        for field, array in explanation.values.items():
            assert np.all(np.isfinite(array)), (name, field)
        assert max(np.abs(array).max() for array in explanation.values.values()) > 1e-3, name
