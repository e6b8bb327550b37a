"""Building small modules with an explanation, and one operator between a reference and an input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from relax_models import const, module
from tvm import relax

import tvm_lowbit

Array = npt.NDArray[Any]


def explain(mod: Any, x: Array, **options: Any) -> Any:
    """The explanation of a batch by a host build."""
    artifact = tvm_lowbit.build(mod, "host", explain=[tvm_lowbit.DeepLift(**({"target": 0} | options))])
    (explanation,) = artifact.run(np.ascontiguousarray(x, np.float32)).explanations.values()
    return explanation


def summed(body: Callable[..., Any], shape: Sequence[int], seed: int = 0) -> tuple[Any, Array]:
    """``body`` between the input and one output: a product with fixed random weights, given as well."""
    random = np.random.default_rng(seed)
    found: list[Array] = []

    def whole(emit: Any, x: Any) -> Any:
        y = body(emit, x)
        extents = [int(d) for d in y.ty.shape]
        count = int(np.prod(extents)) // shape[0]
        weights = random.normal(size=(count, 1)).astype(np.float32)
        found.append(weights.reshape(extents[1:]))
        flat = emit(relax.op.reshape(y, (shape[0], count)), "flat")
        return emit(relax.op.matmul(flat, const(weights)), "total")

    return module(whole, shape), found[-1]


def secant(f: Callable[[Array], Array], x: Array, x0: Array) -> Array:
    """Differences over differences; 0 where there is none."""
    dx, dy = x - x0, f(x) - f(x0)
    return np.divide(dy, dx, out=np.zeros_like(dx), where=dx != 0)


def explained(mod: Any, x: Array, *methods: Any) -> Any:
    """The explanations by several methods in one host build, by name."""
    return tvm_lowbit.build(mod, "host", explain=methods).run(np.ascontiguousarray(x, np.float32)).explanations
