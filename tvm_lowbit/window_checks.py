"""What must hold of the windows of convolutions and pools; TVM's front end takes it for granted."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from schedules.errors import LowbitError

OPERATORS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})
# The smallest value, and the most entries that a window of n dimensions may have of it for each dimension.
SMALLEST: Mapping[str, int] = MappingProxyType(
    {"kernel_shape": 1, "strides": 1, "dilations": 1, "group": 1, "pads": 0, "output_padding": 0}
)
# Beyond this a window or its padding is larger than any picture.
LARGEST = 1 << 15


def check_window(where: str, rank: int, attributes: Mapping[str, Any]) -> None:
    """Sizes, strides, dilations and groups are at least 1, padding at least 0, one for each dimension of the picture.

    Raises
    ------
    LowbitError
        If one is not.
    """
    for name, smallest in SMALLEST.items():
        if name not in attributes:
            continue
        value = attributes[name]
        values = [int(v) for v in (value if isinstance(value, list | tuple) else [value])]
        count = 1 if name == "group" else (rank - 2) * (2 if name == "pads" else 1)
        if len(values) != count or not all(smallest <= v <= LARGEST for v in values):
            what = "one number" if count == 1 else f"{count} numbers"
            raise LowbitError(f"{name} of {where}", f"{what} from {smallest} to {LARGEST}", str(values))
