"""References that contributions are measured from: from data, several, and shuffled sequences.

``channel_mean`` makes one from data; `References` and `DinucleotideShuffle` are given to ``DeepLift(reference=...)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from relay_passes.attribution.methods.references import DinucleotideShuffle, References
from schedules.errors import LowbitError
from tvm_lowbit.manifest import Manifest

__all__ = ["DinucleotideShuffle", "References", "channel_mean", "makers"]

Array = npt.NDArray[Any]


def channel_mean(x: Array) -> npt.NDArray[np.float32]:
    """The mean of each channel over data, as a reference.

    Parameters
    ----------
    x : array ``(N, C, ...)``
        Inputs of the model.

    Returns
    -------
    float32 ``(C, 1, ...)``
        Broadcasts to one input.

    Raises
    ------
    LowbitError
        If ``x`` has no channels or no items, NaN or infinity.
    """
    x = np.asarray(x)
    if x.ndim < 2 or x.size == 0:
        raise LowbitError("channel_mean", "inputs (N, C, ...)", str(x.shape))
    if not np.all(np.isfinite(x)):
        raise LowbitError("channel_mean", "finite numbers", "NaN or infinity")
    axes = (0, *range(2, x.ndim))
    return np.asarray(x.mean(axis=axes, dtype=np.float64).reshape(-1, *[1] * (x.ndim - 2)), np.float32)


def makers(manifest: Manifest) -> dict[str, Callable[[Array], Array]]:
    """Inputs that are made from the model's own where nobody gives them, by name."""
    found: dict[str, Callable[[Array], Array]] = {}
    for row in manifest.explanations:
        reference = row.settings.get("reference")
        if isinstance(reference, dict) and reference.get("shuffle") == "dinucleotide":
            found[f"{row.name}.reference"] = DinucleotideShuffle(reference["count"], reference["seed"]).shuffles
    return found
