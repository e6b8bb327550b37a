"""Between a ``dot`` call's attributes and the `DotProblem` that kernels are built for."""

from __future__ import annotations

from typing import Any

from relay_passes.quant_spec import QuantSpec
from schedules.dot_problem import DotProblem, Operand, Thresholds


def dot_attrs(name: str, a: QuantSpec, w: QuantSpec, conv: Any | None) -> dict[str, Any]:
    """Attributes of a ``dot`` call; ``conv`` are those of the convolution, None for a dense layer."""
    operands = {
        "a": [a.operand.bits, a.operand.multiplier, a.operand.offset, a.operand.offset_bound],
        "w": [w.operand.bits, w.operand.multiplier, 0, w.operand.offset_bound],
    }
    if conv is None:
        geometry: dict[str, Any] = {"stride": [1, 1], "dilation": [1, 1], "padding": [0, 0, 0, 0], "groups": 1}
    else:
        geometry = {
            "stride": [int(v) for v in conv.strides],
            "dilation": [int(v) for v in conv.dilation],
            "padding": [int(v) for v in conv.padding],
            "groups": int(conv.groups),
        }
    return {"layer": name, **operands, **geometry}


def dot_problem(
    shape: tuple[int, ...], weights: tuple[int, ...], attrs: Any, epilogue: Thresholds | None = None
) -> DotProblem:
    """The problem of codes ``(N, C, H, W)`` or ``(M, K)`` and weights ``(O, C / groups, kh, kw)``.

    The rows of a dense layer count as the pixels of one image row, so that kernels block over them.
    """
    batch, channels, height, width = shape if len(shape) == 4 else (1, shape[1], 1, shape[0])
    numbers = {key: tuple(int(v) for v in attrs[key]) for key in ("a", "w", "stride", "dilation", "padding")}
    return DotProblem(
        batch,
        height,
        width,
        channels,
        weights[0],
        Operand(*numbers["a"]),
        Operand(*numbers["w"]),
        (weights[2], weights[3]),
        (numbers["stride"][0], numbers["stride"][1]),
        (numbers["dilation"][0], numbers["dilation"][1]),
        (numbers["padding"][0], numbers["padding"][1], numbers["padding"][2], numbers["padding"][3]),
        int(attrs["groups"]),
        epilogue,
    )
