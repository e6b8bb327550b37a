"""``RULES``: where an integral from 0 to 1 is sampled, and with which weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def _gauss_legendre(steps: int) -> tuple[Float64, Float64]:
    points, weights = np.polynomial.legendre.leggauss(steps)
    return (points + 1) / 2, weights / 2


def _trapezoid(steps: int) -> tuple[Float64, Float64]:
    weights = np.full(steps + 1, 1 / steps)
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, steps + 1), weights


# Number of steps to points in [0, 1] and their weights, which sum to 1. The trapezoid rule needs both ends: steps + 1.
RULES: Mapping[str, Callable[[int], tuple[Float64, Float64]]] = MappingProxyType(
    {
        "midpoint": lambda steps: ((np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)),
        "gausslegendre": _gauss_legendre,
        "trapezoid": _trapezoid,
        "left": lambda steps: (np.arange(steps) / steps, np.full(steps, 1 / steps)),
        "right": lambda steps: ((np.arange(steps) + 1) / steps, np.full(steps, 1 / steps)),
    }
)
