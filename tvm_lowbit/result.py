"""What running a compiled model gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_lowbit.manifest import ExplanationRow

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Explanation:
    """An explanation of each item of a batch.

    Attributes
    ----------
    contributions, multipliers : float32, shape of the first input
        What each input element adds to the target's output beyond the reference's, and that per unit of difference.
    target : int64 ``(N,)``
        The explained class.
    gap : float32 ``(N,)``
        Sum of the contributions less the difference of the outputs; 0 but for float32 rounding.
    method : ExplanationRow
        How it was computed.
    """

    contributions: npt.NDArray[np.float32]
    multipliers: npt.NDArray[np.float32]
    target: npt.NDArray[np.int64]
    gap: npt.NDArray[np.float32]
    method: ExplanationRow


@dataclass(frozen=True)
class Result:
    """Outputs and explanations by name; ``codes`` of probed quantisers, int32."""

    outputs: Mapping[str, Array]
    explanations: Mapping[str, Explanation] = field(default_factory=dict)
    codes: Mapping[str, Array] = field(default_factory=dict)
