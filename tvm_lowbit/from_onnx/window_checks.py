"""What must hold of the windows of convolutions and pools; TVM's front end takes it for granted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from schedules.errors import LowbitError

# The axis of the weights that counts channels of the input, which a Conv has for each group; a pool has no weights.
WEIGHTS: Mapping[str, int] = MappingProxyType({"Conv": 1, "ConvTranspose": 0})
POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
OPERATORS = POOLS | WEIGHTS.keys()
# The smallest value, and the most entries that a window of n dimensions may have of it for each dimension.
SMALLEST: Mapping[str, int] = MappingProxyType(
    {"kernel_shape": 1, "strides": 1, "dilations": 1, "group": 1, "pads": 0, "output_padding": 0}
)
# Beyond this a window or its padding is larger than any picture.
LARGEST = 1 << 15


def check_window(where: str, kind: str, shapes: Sequence[Sequence[int] | None], attributes: Mapping[str, Any]) -> None:
    """Attributes have an entry for each dimension of the picture and sensible sizes, and fit the weights.

    Parameters
    ----------
    where : str
        The node.
    kind : str
        One of `OPERATORS`.
    shapes : sequence of shapes
        Those of the node's inputs: picture (N, C, ...), weights, bias; None for what is not given.
    attributes : mapping
        Those of the node.

    Raises
    ------
    LowbitError
        If one does not hold.
    """
    picture = shapes[0] or ()
    for name, smallest in SMALLEST.items():
        if name not in attributes:
            continue
        value = attributes[name]
        values = _numbers(value)
        count = 1 if name == "group" else (len(picture) - 2) * (2 if name == "pads" else 1)
        if len(values) != count or not all(smallest <= v <= LARGEST for v in values):
            what = "one number" if count == 1 else f"{count} numbers"
            raise LowbitError(f"{name} of {where}", f"{what} from {smallest} to {LARGEST}", str(values))
    kernel = _numbers(attributes.get("kernel_shape", ()))
    if kind in POOLS:
        if not kernel:
            raise LowbitError(f"kernel_shape of {where}", "a size for each dimension of the window", "none")
        pads = _numbers(attributes.get("pads", ()))
        if any(pad >= size for pad, size in zip(pads, kernel * 2, strict=bool(pads))):
            raise LowbitError(f"pads of {where}", f"less than the window's {kernel} on each side", str(pads))
    else:
        weights, bias = (*shapes[1:], None)[:2]
        _check_weights(where, kind, picture, weights or (), kernel, _numbers(attributes.get("group", 1))[0])
        channels = weights[0] if kind == "Conv" else weights[1] * _numbers(attributes.get("group", 1))[0]  # type: ignore[index]
        if bias is not None and list(bias) != [channels]:
            raise LowbitError(f"bias of {where}", f"shape ({channels},), a number for each channel", _shape(bias))


def _check_weights(
    where: str, kind: str, picture: Sequence[int], weights: Sequence[int], kernel: list[int], group: int
) -> None:
    if len(weights) != len(picture):
        raise LowbitError(f"weights of {where}", f"{len(picture)} dimensions, as the input has", _shape(weights))
    if kernel and kernel != list(weights[2:]):
        expected = f"{list(weights[2:])}, the size of weights of shape {_shape(weights)}"
        raise LowbitError(f"kernel_shape of {where}", expected, str(kernel), "leave the attribute out")
    axis = WEIGHTS[kind]
    channels = weights[axis] * (group if kind == "Conv" else 1)
    if channels != picture[1]:
        groups = f" and {group} groups" if group > 1 else ""
        expected = f"{channels} channels for weights of shape {_shape(weights)}{groups}"
        raise LowbitError(f"input of {where}", expected, str(picture[1]))
    if weights[0] % group:
        raise LowbitError(f"group of {where}", f"a divisor of the weights' {weights[0]} channels", str(group))


def _numbers(value: Any) -> list[int]:
    return [int(v) for v in (value if isinstance(value, list | tuple) else [value])]


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
